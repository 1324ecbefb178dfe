"""What an auditor believes: signed bytes out of a journal's file, opened by a decoder of its own.

Shares no code with the machines or with what they sign and verify (``charging``, ``payment``): it would share their
mistakes. SQLite, base64, JSON and two published standards are all it knows. Sources: RFC 7515 and RFC 8812 (JWS
ES256K), EIP-712, EIP-3009, x402 v2 scheme batch-settlement on EVM.
"""

import base64
import binascii
import contextlib
import hashlib
import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coincurve
from coincurve.ecdsa import cdata_to_der, deserialize_compact

from depai_robot.values.error import JournalError
from depai_robot.values.identity import keccak256

SEALED, RECEIVED = "MessageSealed", "MessageReceived"
_CHANNEL_FIELDS = ("payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token")
_CHANNEL_TYPE = keccak256(
    b"ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,"
    b"address token,uint40 withdrawDelay,bytes32 salt)"
)
_VOUCHER_TYPE = keccak256(b"Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
_DOMAIN_TYPE = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
_RECEIVE_TYPE = keccak256(
    b"ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    b"uint256 validBefore,bytes32 nonce)"
)
_TRANSFER_TYPE = keccak256(
    b"TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    b"uint256 validBefore,bytes32 nonce)"
)


@dataclass(frozen=True, slots=True)
class Message:
    """One signed message of a journal.

    Attributes:
        row: of the journal.
        sealed: written by the journal's owner; otherwise it came in.
        wall_s: when it was journalled.
        digest: of its bytes.
        sender: address of the key that signed it.
        id, session, kind: of the envelope.
        body: as JSON.
        own_milliwh: the robot's own meter at that moment, None where the row has none.
    """

    row: int
    sealed: bool
    wall_s: int
    digest: bytes
    sender: bytes
    id: str
    session: str
    kind: str
    body: dict[str, Any]
    own_milliwh: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """A journal as an auditor sees it.

    Attributes:
        name: of the file.
        owner: as the file says.
        messages: in order of their rows.
        findings: what could not be read or is not signed by whom it says.
        stated_milliwh: register of each of the station's own statements, as (session, transaction, mWh, wall s).
    """

    name: str
    owner: str
    messages: tuple[Message, ...]
    findings: tuple[str, ...]
    stated_milliwh: tuple[tuple[str, str, int, int], ...] = ()

    @property
    def is_robot(self) -> bool:
        """Whether it signs payments."""
        return any(item.sealed and item.kind in ("quote.request", "payment") for item in self.messages)


def read_file(path: Path) -> tuple[str, list[bytes]]:
    """(owner, data of each row) of a journal's file, read-only.

    Raises:
        JournalError: it is none.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            meta = dict(database.execute("SELECT key, value FROM meta").fetchall())
            rows = database.execute("SELECT number, data FROM row ORDER BY number").fetchall()
    except sqlite3.Error as error:
        raise JournalError(f"{path} can't be read as a journal: {error}") from error
    if [number for number, _ in rows] != list(range(1, len(rows) + 1)):
        raise JournalError(f"{path}: rows are missing, expected 1 to {len(rows)} without gaps")
    return str(meta.get("owner", "")), [bytes(data) for _, data in rows]


def read_evidence(path: Path) -> Evidence:
    """Everything signed in a journal. Raises JournalError."""
    owner, rows = read_file(path)
    return read_rows(path.name, owner, rows)


def read_rows(name: str, owner: str, rows: list[bytes]) -> Evidence:
    """As :func:`read_evidence`, from rows that are at hand."""
    messages: list[Message] = []
    findings: list[str] = []
    stated: list[tuple[str, str, int, int]] = []
    for number, data in enumerate(rows, start=1):
        try:
            fact = json.loads(data)
            kind = fact["type"]
            if kind == "StatementMade":
                session, transaction, energy = parse_meter(fact["statement"])
                stated.append((session, transaction, energy, int(fact["at"][1])))
            if kind in (SEALED, RECEIVED):
                messages.append(_read_message(number, kind == SEALED, fact))
        except (ValueError, KeyError, TypeError, IndexError, binascii.Error) as error:
            findings.append(f"{name} row {number}: {type(error).__name__}: {error}"[:300])
    return Evidence(name, owner, tuple(messages), tuple(findings), tuple(stated))


def _read_message(row: int, sealed: bool, fact: dict[str, Any]) -> Message:
    token = fact["token"]
    header_text, payload_text, signature_text = token.split(".")
    header, payload = json.loads(_base64(header_text)), json.loads(_base64(payload_text))
    if header["alg"] != "ES256K":
        raise ValueError(f"algorithm {header['alg']!r}, expected ES256K")
    point = _base64(header["jwk"]["x"]) + _base64(header["jwk"]["y"])
    sender = keccak256(point)[12:]
    if header["kid"].rpartition(":")[2].lower() != "0x" + sender.hex():
        raise ValueError(f"key of {header['kid']} hashes to 0x{sender.hex()}")
    signed = f"{header_text}.{payload_text}".encode()
    der = cdata_to_der(deserialize_compact(_base64(signature_text)))
    if not coincurve.PublicKey(b"\x04" + point).verify(der, hashlib.sha256(signed).digest(), hasher=None):
        raise ValueError(f"message {payload['id']!r} is not signed by {header['kid']}")
    reading = fact.get("reading")
    return Message(
        row,
        sealed,
        int(fact["at"][1]),
        hashlib.sha256(token.encode()).digest(),
        sender,
        str(payload["id"]),
        str(payload["session"]),
        str(payload["type"]),
        payload["body"],
        None if reading is None else int(reading["pads_energy_milliwh"]),
    )


def _base64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def parse_meter(text: str) -> tuple[str, str, int]:
    """(session, transaction letter, register in mWh) of an OCMF text. Raises ValueError, KeyError."""
    head, payload, _ = text.split("|", 2)
    if head != "OCMF":
        raise ValueError(f"expected OCMF, got {head[:20]!r}")
    statement = json.loads(payload, parse_float=str)
    reading = statement["RD"][0]
    if reading["RU"] != "kWh":
        raise ValueError(f"register in {reading['RU']!r}, expected kWh")
    whole, _, part = str(reading["RV"]).partition(".")
    return statement["ID"], reading["TX"], int(whole) * 1_000_000 + int((part + "000000")[:6])


# --- what was signed ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Domains:
    """Where signatures count.

    Attributes:
        chain_id: EIP-155.
        settlement, collector, token: addresses.
        token_name, token_version: of the token's domain.
    """

    chain_id: int
    settlement: bytes
    collector: bytes
    token: bytes
    token_name: str = "USDC"  # noqa: S105 (a token's name, no password)
    token_version: str = "2"  # noqa: S105
    _cache: dict[str, bytes] = field(default_factory=dict, compare=False)

    @property
    def channels(self) -> bytes:
        """Domain separator of the settlement contract."""
        if "c" not in self._cache:
            self._cache["c"] = _domain("x402 Batch Settlement", "1", self.chain_id, self.settlement)
        return self._cache["c"]

    @property
    def money(self) -> bytes:
        """Domain separator of the token."""
        if "t" not in self._cache:
            self._cache["t"] = _domain(self.token_name, self.token_version, self.chain_id, self.token)
        return self._cache["t"]


@dataclass(frozen=True, slots=True)
class Voucher:
    """A signed ceiling, and what came with it.

    Attributes:
        message: that carried it.
        kind: deposit, voucher, closing (a voucher that adds nothing) or refund.
        channel: 32 bytes.
        payer, receiver: of the channel.
        ceiling: atomic units.
        signature: 65 bytes.
        charged: by the station so far, as the payment echoes it; -1 where it does not say.
        deposit: of the authorisation that came with it, 0 for none.
        nonce: of that authorisation.
        signed_by: address that the signature recovers to.
        should_sign: the channel's payerAuthorizer.
    """

    message: Message
    kind: str
    channel: bytes
    payer: bytes
    receiver: bytes
    ceiling: int
    signature: bytes
    charged: int
    deposit: int
    nonce: bytes
    signed_by: bytes
    should_sign: bytes
    deposit_signed_by: bytes = b""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A signed EIP-3009 transfer (x402 scheme exact)."""

    message: Message
    payer: bytes
    receiver: bytes
    amount: int
    nonce: bytes
    signature: bytes
    signed_by: bytes


def read_payment(message: Message, domains: Domains) -> Voucher | Transfer:
    """What a ``payment`` says. Raises ValueError, KeyError, TypeError for one that no payment can be."""
    payload = message.body["payload"]
    accepted, inner = payload["accepted"], payload["payload"]
    if accepted["scheme"] == "exact":
        return _read_transfer(message, inner, domains)
    config = inner["channelConfig"]
    words = b"".join(_word(bytes.fromhex(config[name][2:])) for name in _CHANNEL_FIELDS)
    words += _uint(int(config["withdrawDelay"])) + bytes.fromhex(config["salt"][2:])
    channel = _digest(domains.channels, _CHANNEL_TYPE + words)
    voucher = inner["voucher"]
    if voucher["channelId"].lower() != "0x" + channel.hex():
        raise ValueError(f"channel {voucher['channelId']}, its config is of 0x{channel.hex()}")
    ceiling = int(voucher["maxClaimableAmount"])
    signature = bytes.fromhex(voucher["signature"][2:])
    kind = inner["type"]
    if kind == "voucher" and accepted["amount"] == "0":
        kind = "closing"
    payer = bytes.fromhex(config["payer"][2:])
    deposit, nonce, deposit_signed_by = 0, b"", b""
    if "deposit" in inner:
        authorization = inner["deposit"]["authorization"]["erc3009Authorization"]
        deposit = int(inner["deposit"]["amount"])
        nonce = keccak256(channel + bytes.fromhex(authorization["salt"][2:]))
        words = _word(payer) + _word(domains.collector) + _uint(deposit)
        words += _uint(int(authorization["validAfter"])) + _uint(int(authorization["validBefore"])) + nonce
        digest = _digest(domains.money, _RECEIVE_TYPE + words)
        deposit_signed_by = recover(digest, bytes.fromhex(authorization["signature"][2:]))
    state = accepted["extra"].get("channelState") or {}
    return Voucher(
        message,
        kind,
        channel,
        payer,
        bytes.fromhex(config["receiver"][2:]),
        ceiling,
        signature,
        int(state.get("chargedCumulativeAmount", -1)),
        deposit,
        nonce,
        recover(_digest(domains.channels, _VOUCHER_TYPE + channel + _uint(ceiling)), signature),
        bytes.fromhex(config["payerAuthorizer"][2:]),
        deposit_signed_by,
    )


def _read_transfer(message: Message, inner: dict[str, Any], domains: Domains) -> Transfer:
    given = inner["authorization"]
    payer, receiver = bytes.fromhex(given["from"][2:]), bytes.fromhex(given["to"][2:])
    nonce = bytes.fromhex(given["nonce"][2:])
    words = _word(payer) + _word(receiver) + _uint(int(given["value"]))
    words += _uint(int(given["validAfter"])) + _uint(int(given["validBefore"])) + nonce
    signature = bytes.fromhex(inner["signature"][2:])
    signer = recover(_digest(domains.money, _TRANSFER_TYPE + words), signature)
    return Transfer(message, payer, receiver, int(given["value"]), nonce, signature, signer)


def recover(digest: bytes, signature: bytes) -> bytes:
    """Address that signed; empty when nobody did."""
    if len(signature) != 65 or signature[64] not in (27, 28):
        return b""
    raw = signature[:64] + bytes([signature[64] - 27])
    try:
        key = coincurve.PublicKey.from_signature_and_message(raw, digest, hasher=None)
    except Exception:  # noqa: BLE001 (the library has no type of its own for a bad signature)
        return b""
    return keccak256(key.format(compressed=False)[1:])[12:]


def _domain(name: str, version: str, chain_id: int, contract: bytes) -> bytes:
    words = keccak256(name.encode()) + keccak256(version.encode()) + _uint(chain_id) + _word(contract)
    return keccak256(_DOMAIN_TYPE + words)


def _digest(domain: bytes, encoded: bytes) -> bytes:
    return keccak256(b"\x19\x01" + domain + keccak256(encoded))


def _word(address: bytes) -> bytes:
    return address.rjust(32, b"\0")


def _uint(value: int) -> bytes:
    return value.to_bytes(32, "big")
