"""Who is who: addresses, hashes and decentralised identifiers.

Addresses and hashes are bytes inside the program and hexadecimal text only at its edge.
"""

import re
from functools import lru_cache
from typing import NewType

from eth_hash.auto import keccak

from depai_robot.values.error import ConfigError

Address = NewType("Address", bytes)
"""20 bytes: the last 20 of keccak-256 of an uncompressed public key. Source: Ethereum yellow paper, § 4.1."""

ChannelId = NewType("ChannelId", bytes)
"""32 bytes: the EIP-712 hash of a ChannelConfig in the settlement contract's domain."""

RobotId = NewType("RobotId", str)
StationId = NewType("StationId", str)
SessionId = NewType("SessionId", str)

ADDRESS_ZERO = Address(bytes(20))

_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_DID_PKH_PATTERN = re.compile(r"did:pkh:eip155:([1-9][0-9]{0,17}):(0x[0-9a-fA-F]{40})\Z")


def keccak256(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it (not the later SHA3-256)."""
    return bytes(keccak(data))


def require_id(name: str, value: str) -> str:
    """A robot's, station's or session's id: 1 to 64 of ``A-Za-z0-9_.-``, safe inside an MQTT topic level.

    Raises:
        ConfigError: it is anything else.
    """
    if not isinstance(value, str) or _ID_PATTERN.match(value) is None:
        raise ConfigError(
            f"{name} must be 1 to 64 of A-Z a-z 0-9 _ . - and begin with a letter or digit, got {value!r}"
        )
    return value


def address_from_hex(text: str) -> Address:
    """Parses ``0x`` and 40 hexadecimal digits; a mixed-case text must carry a right EIP-55 checksum.

    Raises:
        ConfigError: wrong length, wrong digits or a wrong checksum.
    """
    if not isinstance(text, str) or re.match(r"0x[0-9a-fA-F]{40}\Z", text) is None:
        raise ConfigError(f"an address is 0x and 40 hexadecimal digits, got {text!r}")
    address = Address(bytes.fromhex(text[2:]))
    digits = text[2:]
    if digits not in (digits.lower(), digits.upper()) and address_to_hex(address) != text:
        raise ConfigError(f"address {text} has a wrong checksum, expected {address_to_hex(address)}")
    return address


@lru_cache(maxsize=4096)
def address_to_hex(address: bytes) -> str:
    """EIP-55 checksummed text of an address; the few that a program meets are remembered."""
    if len(address) != 20:
        raise ConfigError(f"an address has 20 bytes, got {len(address)}")
    digits = address.hex()
    hashed = keccak256(digits.encode()).hex()
    return "0x" + "".join(c.upper() if int(h, 16) >= 8 else c for c, h in zip(digits, hashed, strict=False))


def public_key_to_address(public_key: bytes) -> Address:
    """Address of an uncompressed secp256k1 public key: 64 bytes x||y, or 65 with the leading 0x04."""
    if len(public_key) == 65 and public_key[0] == 4:
        public_key = public_key[1:]
    if len(public_key) != 64:
        raise ConfigError(f"an uncompressed public key has 64 bytes x||y, got {len(public_key)}")
    return Address(keccak256(public_key)[12:])


def did_pkh(chain_id: int, address: bytes) -> str:
    """``did:pkh:eip155:<chain>:<checksummed address>``. Source: did:pkh method, CAIP-10."""
    return f"did:pkh:eip155:{chain_id}:{address_to_hex(address)}"


def parse_did_pkh(did: str) -> tuple[int, Address]:
    """The chain id and address of a ``did:pkh:eip155`` identifier.

    Raises:
        ConfigError: another method, namespace or form.
    """
    match = _DID_PKH_PATTERN.match(did) if isinstance(did, str) else None
    if match is None:
        raise ConfigError(f"expected did:pkh:eip155:<chain>:<address>, got {did!r}")
    return int(match[1]), address_from_hex(match[2])
