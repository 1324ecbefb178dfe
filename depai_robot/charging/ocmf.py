"""Signed meter statements in OCMF 1.4: composing the text to sign, and checking what came in, strictly.

The payload's bytes are signed and checked as sent, never re-serialised. Signing needs a key and is a port;
checking needs none and is here. No float: a register is kWh with six decimals, that is milliwatt-hours.

Source: Open Charge Metering Format (OCMF) 1.4, S.A.F.E. e.V.: sections "General format", tables 1 to 8.
"""

import datetime as dt
import hashlib
import re
from decimal import Decimal
from typing import Any

import coincurve
import msgspec
from msgspec import Struct

from depai_robot.values.error import ConfigError, RemoteError
from depai_robot.values.identity import parse_did_pkh, public_key_to_address

FORMAT_VERSION = "1.4"
SIGNATURE_ALGORITHM = "ECDSA-secp256k1-SHA256"
OBIS_IMPORT_TOTAL = "01-0B:01.08.00*FF"
"""Total imported energy. Source: OCMF 1.4, table 25 (OBIS 1.8.0)."""
STATEMENT_BYTES_MAX = 8192

BEGIN, RUNNING, END = "B", "C", "E"

_SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_SECP256K1_MULTICODEC = b"\xe7\x01"
"""Source: multicodec table, ``secp256k1-pub`` 0xe7 as a varint."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}[+-]\d{4} [UISR]\Z")


class StatementError(RemoteError):
    """A meter statement is not one, or is not signed by the meter that was agreed on.

    Attributes:
        reason: a word for counting: ``form``, ``signature``, ``meter``, ``session``, ``unit``, ``status``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"meter statement refused ({reason}): {message}")
        self.reason = reason


class _Reading(Struct, frozen=True, forbid_unknown_fields=True):
    TM: str
    TX: str
    RV: Decimal
    RI: str
    RU: str
    RT: str
    EF: str
    ST: str


class _Payload(Struct, frozen=True, forbid_unknown_fields=True):
    FV: str
    GI: str
    GS: str
    GV: str
    PG: str
    MV: str
    MM: str
    MS: str
    MF: str
    IS: bool
    IL: str
    IF: list[str]
    IT: str
    ID: str
    TT: str
    RD: list[_Reading]


class _Signature(Struct, frozen=True, forbid_unknown_fields=True):
    SA: str
    SE: str
    SM: str
    SD: str


_PAYLOAD_DECODER = msgspec.json.Decoder(_Payload)
_SIGNATURE_DECODER = msgspec.json.Decoder(_Signature)


class Statement(Struct, frozen=True):
    """What a meter stated.

    Attributes:
        gateway: the station's id (OCMF GI).
        serial: of the meter (MS).
        pagination: counts the meter's statements, +1 each (PG without its letter).
        session: whom the energy is for (ID).
        transaction: B begin, C running, E end (TX).
        energy_milliwh: the cumulative register (RV).
        current_type: AC or DC (RT).
        time: as written (TM).
        tariff: text (TT).
    """

    gateway: str
    serial: str
    pagination: int
    session: str
    transaction: str
    energy_milliwh: int
    current_type: str
    time: str
    tariff: str = ""


def format_time(wall_s: int) -> str:
    """Unix seconds as OCMF writes a synchronised UTC time: ``2018-07-24T13:22:04,000+0000 S``."""
    moment = dt.datetime.fromtimestamp(wall_s, tz=dt.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S,000+0000 S")


def encode_payload(statement: Statement, *, vendor: str = "depai", model: str = "pad meter") -> str:
    """The JSON text that the meter signs."""
    kwh = f"{statement.energy_milliwh // 1_000_000}.{statement.energy_milliwh % 1_000_000:06d}"
    quote = _quote
    return (
        f'{{"FV":"{FORMAT_VERSION}","GI":{quote(statement.gateway)},"GS":{quote(statement.gateway)},"GV":"1",'
        f'"PG":"T{statement.pagination}","MV":{quote(vendor)},"MM":{quote(model)},"MS":{quote(statement.serial)},'
        f'"MF":"1","IS":true,"IL":"VERIFIED","IF":[],"IT":"LOCAL","ID":{quote(statement.session)},'
        f'"TT":{quote(statement.tariff)},"RD":[{{"TM":{quote(statement.time)},"TX":{quote(statement.transaction)},'
        f'"RV":{kwh},"RI":"{OBIS_IMPORT_TOTAL}","RU":"kWh","RT":{quote(statement.current_type)},"EF":"","ST":"G"}}]}}'
    )


def _quote(text: str) -> str:
    if "|" in text:
        raise ConfigError(f"OCMF parts its sections with '|', so no field may hold one, got {text!r}")
    return msgspec.json.encode(text).decode()


def digest_payload(payload: str) -> bytes:
    """SHA-256 over the payload's bytes: what the meter's key signs."""
    return hashlib.sha256(payload.encode()).digest()


def assemble(payload: str, signature: bytes) -> str:
    """The OCMF text.

    Args:
        payload: as from :func:`encode_payload`.
        signature: r || s, 64 bytes; a 65th (v) is ignored.
    """
    if len(signature) not in (64, 65):
        raise ConfigError(f"a signature has 64 or 65 bytes r || s || v, got {len(signature)}")
    der = _encode_der(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"))
    return f'OCMF|{payload}|{{"SA":"{SIGNATURE_ALGORITHM}","SE":"hex","SM":"application/x-der","SD":"{der.hex()}"}}'


def parse_statement(text: str) -> Statement:
    """Reads a statement without checking who signed it (for replay of what was checked before).

    Raises:
        StatementError: it is not OCMF, or holds what our profile does not allow.
    """
    return _parse(text)[0]


def check_statement(text: str, *, key: str, serial: str, session: str) -> Statement:
    """Reads a statement and checks that the agreed meter signed it for this session.

    Args:
        text: OCMF.
        key: ``did:key`` (secp256k1) or ``did:pkh`` of the meter.
        serial: of the meter.
        session: the session's id.

    Raises:
        StatementError: anything is not as agreed.
    """
    statement, payload, r, s = _parse(text)
    if not _is_signed_by(digest_payload(payload), r, s, key):
        raise StatementError("signature", f"not signed by {key}")
    if statement.serial != serial:
        raise StatementError("meter", f"expected serial {serial!r}, got {statement.serial!r}")
    if statement.session != session:
        raise StatementError("session", f"expected {session!r}, got {statement.session!r}")
    return statement


def _parse(text: str) -> tuple[Statement, str, int, int]:
    if len(text) > STATEMENT_BYTES_MAX:
        raise StatementError("form", f"expected at most {STATEMENT_BYTES_MAX} characters, got {len(text)}")
    parts = text.split("|")
    if len(parts) != 3 or parts[0] != "OCMF":
        raise StatementError("form", f"expected OCMF|payload|signature, got {text[:40]!r}")
    payload = _decode(_PAYLOAD_DECODER, parts[1])
    signature = _decode(_SIGNATURE_DECODER, parts[2])
    expected = (SIGNATURE_ALGORITHM, "hex", "application/x-der")
    if expected != (signature.SA, signature.SE, signature.SM):
        raise StatementError(
            "form", f"expected {expected}, got {(signature.SA, signature.SE, signature.SM)!r}"
        )
    if re.match(r"(?:[0-9a-f]{2}){8,72}\Z", signature.SD) is None:
        raise StatementError("form", "expected a DER signature in lower-case hexadecimal")
    r, s = _decode_der(bytes.fromhex(signature.SD))
    if re.match(r"T(0|[1-9][0-9]{0,15})\Z", payload.PG) is None:
        raise StatementError("form", f"expected a pagination like T17, got {payload.PG!r}")
    if payload.FV != FORMAT_VERSION:
        raise StatementError("form", f"expected format {FORMAT_VERSION}, got {payload.FV!r}")
    if len(payload.RD) != 1:
        raise StatementError("form", f"expected one reading, got {len(payload.RD)}")
    reading = payload.RD[0]
    if reading.TX not in (BEGIN, RUNNING, END) or reading.RT not in ("AC", "DC"):
        raise StatementError(
            "form", f"expected TX B, C or E and RT AC or DC, got {reading.TX!r}, {reading.RT!r}"
        )
    if _TIME.match(reading.TM) is None:
        raise StatementError(
            "form", f"expected a time like 2018-07-24T13:22:04,000+0200 S, got {reading.TM!r}"
        )
    if (reading.RI, reading.RU) != (OBIS_IMPORT_TOTAL, "kWh"):
        raise StatementError(
            "unit", f"expected {OBIS_IMPORT_TOTAL} in kWh, got {reading.RI!r} in {reading.RU!r}"
        )
    if reading.ST != "G" or reading.EF:
        raise StatementError(
            "status", f"expected a good reading without error flags, got {reading.ST!r}, {reading.EF!r}"
        )
    statement = Statement(
        gateway=payload.GI,
        serial=payload.MS,
        pagination=int(payload.PG[1:]),
        session=payload.ID,
        transaction=reading.TX,
        energy_milliwh=_register_milliwh(reading.RV),
        current_type=reading.RT,
        time=reading.TM,
        tariff=payload.TT,
    )
    return statement, parts[1], r, s


def _decode(decoder: Any, text: str) -> Any:
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StatementError("form", str(error)) from error


def _register_milliwh(kwh: Decimal) -> int:
    # The exponent is bounded before any arithmetic: 1E+999999 would make a gigantic integer.
    sign, digits, exponent = kwh.as_tuple()
    if sign or not isinstance(exponent, int) or not -6 <= exponent <= 0 or len(digits) > 16:
        raise StatementError("unit", f"expected kWh, not negative, with at most six decimals, got {kwh}")
    return int(kwh.scaleb(6))


def _is_signed_by(digest: bytes, r: int, s: int, key: str) -> bool:
    s = min(s, _SECP256K1_ORDER - s)  # a meter need not know Ethereum's low-s rule; the other half is as good
    compact = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    try:
        if key.startswith("did:key:"):
            public = coincurve.PublicKey(did_key_to_public_key(key))
            return bool(public.verify(_encode_der(r, s), digest, hasher=None))
        _, address = parse_did_pkh(key)
    except ConfigError as error:
        raise StatementError("meter", str(error)) from error
    for recovery in (0, 1):
        try:
            found = coincurve.PublicKey.from_signature_and_message(
                compact + bytes([recovery]), digest, hasher=None
            )
        except Exception:  # noqa: BLE001, S112 - the library raises bare Exception when there is no such point
            continue
        if public_key_to_address(found.format(compressed=False)) == address:
            return True
    return False


def public_key_to_did_key(public_key: bytes) -> str:
    """``did:key`` of an uncompressed secp256k1 public key (64 bytes x || y)."""
    compressed = bytes([2 + (public_key[63] & 1)]) + public_key[:32]
    number = int.from_bytes(_SECP256K1_MULTICODEC + compressed, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return f"did:key:z{text}"


def did_key_to_public_key(did: str) -> bytes:
    """The 33-byte compressed key of a secp256k1 ``did:key``.

    Raises:
        ConfigError: another method, base or curve. Source: did:key method, v0.7.
    """
    match = re.match(r"did:key:z([1-9A-HJ-NP-Za-km-z]{40,60})\Z", did)
    number = 0
    for char in match[1] if match else "":
        number = number * 58 + _BASE58.index(char)
    data = number.to_bytes(64, "big").lstrip(b"\0")
    if (
        match is None
        or len(data) != 35
        or not data.startswith(_SECP256K1_MULTICODEC)
        or data[2] not in (2, 3)
    ):
        raise ConfigError(f"expected did:key:z... of a secp256k1 key, got {did[:80]!r}")
    try:
        coincurve.PublicKey(data[2:])
    except ValueError as error:
        raise ConfigError(f"{did} names a point that is not on the curve") from error
    return data[2:]


def require_meter_key(key: str) -> str:
    """A key that statements can be checked with.

    Raises:
        ConfigError: neither ``did:key`` (secp256k1) nor ``did:pkh``.
    """
    if key.startswith("did:key:"):
        did_key_to_public_key(key)
    else:
        parse_did_pkh(key)
    return key


def _encode_der(r: int, s: int) -> bytes:
    body = b"".join(_encode_der_integer(value) for value in (r, s))
    return bytes([0x30, len(body)]) + body


def _encode_der_integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "big")  # a leading zero where the top bit is set
    return bytes([0x02, len(data)]) + data


def _decode_der(data: bytes) -> tuple[int, int]:
    """Strict: the shortest form only, so that one signature has one text. Raises StatementError."""
    try:
        r_end = 4 + data[3]
        r, s = int.from_bytes(data[4:r_end], "big"), int.from_bytes(data[r_end + 2 :], "big")
    except IndexError:
        r = s = 0
    if not (0 < r < _SECP256K1_ORDER and 0 < s < _SECP256K1_ORDER) or _encode_der(r, s) != data:
        raise StatementError("signature", "expected a DER sequence of two integers within the curve's order")
    return r, s
