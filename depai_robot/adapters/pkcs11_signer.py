"""ports.Signer by a PKCS#11 token or HSM, with python-pkcs11: the key never is in this process.

Needs the extra ``pkcs11`` and the vendor's library. The token makes plain ECDSA over secp256k1 (CKM_ECDSA on a digest);
low s and the recovery id, which Ethereum wants and PKCS#11 does not know, are made here from the public key.

Sources: PKCS #11 v2.40, mechanisms, § 2.3 (CKM_ECDSA, r || s); SEC 1, § 4.1.6 (recovery); EIP-2 (low s).
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depai_robot.payment.signature import CURVE_ORDER, HALF_ORDER, SignatureError, recover_public_key
from depai_robot.values.error import BugError, ConfigError, DeviceFailedError
from depai_robot.values.identity import Address, address_to_hex, public_key_to_address

DIGEST_BYTES = 32
SECP256K1_DER = bytes.fromhex("06052b8104000a")
"""OBJECT IDENTIFIER 1.3.132.0.10. Source: SEC 2, appendix A.2.1."""


class Pkcs11Signer:
    """Logs in once, and signs with a key of the token. Each signature blocks as long as the token takes.

    Args:
        module: path of the vendor's library.
        token: label of the token.
        key: label of the private key; its public key has the same.
        pin: of the token's user.

    Raises:
        ConfigError: no such library, token or key, a wrong PIN, a key of another curve, or one that can be read out.
    """

    def __init__(self, module: Path, token: str, key: str, pin: str) -> None:
        pkcs11 = _library()
        self._name = f"{token}/{key}"
        self._login = _log_in(pkcs11, str(module.resolve()), token, pin)  # loaded once, by one name
        try:
            with self._login.lock:
                self._key, self._public_key = _find_key(pkcs11, self._login.session, self._name, key)
        except ConfigError:
            _log_out(self._login)
            raise
        except pkcs11.exceptions.PKCS11Error as error:
            _log_out(self._login)
            raise ConfigError(f"key {self._name}: {_words(error)}") from error
        self._closed = False
        self._address = public_key_to_address(self._public_key)
        self._error: type[Exception] = pkcs11.exceptions.PKCS11Error
        self._mechanism = pkcs11.Mechanism.ECDSA

    def __repr__(self) -> str:
        """Names token, key and address only."""
        return f"Pkcs11Signer({self._name}, {address_to_hex(self._address)})"

    def __reduce__(self) -> Any:
        """A session with a token is never pickled. Raises ConfigError."""
        raise ConfigError("a signer can't be copied to another process")

    @property
    def address(self) -> Address:
        """See ports.Signer."""
        return self._address

    @property
    def public_key(self) -> bytes:
        """See ports.Signer."""
        return self._public_key

    def sign(self, digest: bytes) -> bytes:
        """See ports.Signer. Most tokens sign with fresh randomness: the same digest gives other bytes each time.

        Raises:
            DeviceFailedError: the token does not answer, or not with a signature of its key.
        """
        if len(digest) != DIGEST_BYTES:
            raise BugError(f"a digest has {DIGEST_BYTES} bytes, got {len(digest)}")
        try:
            with self._login.lock:
                if self._closed:
                    raise DeviceFailedError(f"key {self._name}: its signer was closed")
                raw = bytes(self._key.sign(digest, mechanism=self._mechanism))
        except self._error as error:
            raise DeviceFailedError(f"key {self._name}: {_words(error)}") from error
        return recoverable(digest, raw, self._public_key, self._name)

    def close(self) -> None:
        """Logs out, when no other signer of this process uses the token."""
        if not self._closed:
            self._closed = True
            _log_out(self._login)


@dataclass(slots=True)
class _Login:
    """A token that this process is logged in to; PKCS#11 knows one login for all sessions of a process.

    Attributes:
        place: library and label.
        session: one for all keys; not safe for threads.
        lock: around each use of it.
        signers: that use it.
    """

    place: tuple[str, str]
    session: Any
    lock: threading.Lock
    signers: int = 0


_logins: dict[tuple[str, str], _Login] = {}
_logins_lock = threading.Lock()


def _log_in(pkcs11: Any, module: str, token: str, pin: str) -> _Login:
    place = (module, token)
    with _logins_lock:
        login = _logins.get(place)
        if login is None:
            try:
                session = pkcs11.lib(module).get_token(token_label=token).open(user_pin=pin)
            except pkcs11.exceptions.PinIncorrect:
                raise ConfigError(f"token {token!r}: wrong PIN (it locks after a few)") from None
            except (pkcs11.exceptions.PKCS11Error, RuntimeError) as error:
                raise ConfigError(f"token {token!r} of {module}: {_words(error)}") from None
            login = _logins[place] = _Login(place, session, threading.Lock())
        login.signers += 1
        return login


def _log_out(login: _Login) -> None:
    with _logins_lock, login.lock:
        login.signers -= 1
        if login.signers == 0:
            del _logins[login.place]
            login.session.close()


def recoverable(digest: bytes, raw: bytes, public_key: bytes, name: str) -> bytes:
    """Makes r || s || v with low s of a token's r || s; the recovery id is found by trial.

    Raises:
        DeviceFailedError: it is no signature of that key.
    """
    if len(raw) != 64:
        raise DeviceFailedError(f"key {name}: a signature of {len(raw)} bytes, expected r || s of 64")
    s = int.from_bytes(raw[32:], "big")
    if s > HALF_ORDER:
        s = CURVE_ORDER - s
    if s <= 0:
        raise DeviceFailedError(f"key {name}: s is not between 1 and n - 1")
    for v in (27, 28):
        signature = raw[:32] + s.to_bytes(32, "big") + bytes([v])
        try:
            if recover_public_key(digest, signature) == public_key:
                return signature
        except SignatureError:
            continue
    raise DeviceFailedError(f"key {name}: the token's signature is not by its key")


def _library() -> Any:
    try:
        import pkcs11
        import pkcs11.exceptions
    except ImportError as error:
        raise ConfigError(
            "a key of a token needs python-pkcs11: pip install 'depai_robot[pkcs11]'"
        ) from error
    return pkcs11


def _words(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()


def _find_key(pkcs11: Any, session: Any, name: str, label: str) -> tuple[Any, bytes]:
    found = {}
    for kind in (pkcs11.ObjectClass.PRIVATE_KEY, pkcs11.ObjectClass.PUBLIC_KEY):
        items = list(session.get_objects({pkcs11.Attribute.CLASS: kind, pkcs11.Attribute.LABEL: label}))
        if len(items) != 1:
            words = "private" if kind == pkcs11.ObjectClass.PRIVATE_KEY else "public"
            raise ConfigError(
                f"key {name}: the token has {len(items)} {words} keys of that label, expected 1"
            )
        found[kind] = items[0]
    private, public = found[pkcs11.ObjectClass.PRIVATE_KEY], found[pkcs11.ObjectClass.PUBLIC_KEY]
    if bytes(public[pkcs11.Attribute.EC_PARAMS]) != SECP256K1_DER:
        raise ConfigError(f"key {name}: its curve is not secp256k1")
    if private[pkcs11.Attribute.EXTRACTABLE] or not private[pkcs11.Attribute.SENSITIVE]:
        raise ConfigError(
            f"key {name}: it can be read out of the token, expected CKA_SENSITIVE and no CKA_EXTRACTABLE"
        )
    point = bytes(public[pkcs11.Attribute.EC_POINT])
    # A DER OCTET STRING around the uncompressed point; some tokens leave it out.
    if len(point) == 67 and point[:2] == b"\x04\x41":
        point = point[2:]
    if len(point) != 65 or point[0] != 4:
        raise ConfigError(f"key {name}: expected an uncompressed public key of 65 bytes, got {len(point)}")
    return private, point[1:]
