import pytest

from depai_robot.values.error import ConfigError
from depai_robot.values.identity import (
    ADDRESS_ZERO,
    address_from_hex,
    address_to_hex,
    did_pkh,
    keccak256,
    parse_did_pkh,
    public_key_to_address,
    require_id,
)

# Source: EIP-55, "Test Cases".
CHECKSUMMED = [
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
]


def test_keccak_is_not_sha3():
    # Source: the hash of nothing, Ethereum's empty code hash.
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@pytest.mark.parametrize("text", CHECKSUMMED)
def test_checksums_are_those_of_eip_55(text):
    assert address_to_hex(address_from_hex(text.lower())) == text
    assert address_from_hex(text) == bytes.fromhex(text[2:])


def test_wrong_checksum_is_refused_and_named():
    wrong = CHECKSUMMED[2].replace("BeAed", "beAed")
    with pytest.raises(ConfigError, match=CHECKSUMMED[2]):
        address_from_hex(wrong)


@pytest.mark.parametrize(
    "text", ["", "0x", "0x" + "0" * 39, "0x" + "0" * 40 + "\n", "0X" + "0" * 40, None, 5]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError):
        address_from_hex(text)


def test_address_of_a_known_key():
    # Source: the public key of secret 1 is the generator of secp256k1 (SEC 2, § 2.4.1).
    generator = bytes.fromhex(
        "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
        "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
    )
    expected = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
    assert address_to_hex(public_key_to_address(generator)) == expected
    assert address_to_hex(public_key_to_address(b"\x04" + generator)) == expected
    with pytest.raises(ConfigError, match="63"):
        public_key_to_address(generator[1:])


def test_did_round_trips():
    address = address_from_hex(CHECKSUMMED[4])
    assert parse_did_pkh(did_pkh(8453, address)) == (8453, address)


@pytest.mark.parametrize(
    "did",
    [
        "did:key:z6Mk",
        "did:pkh:eip155:0:" + CHECKSUMMED[4],
        "did:pkh:eip155:01:" + CHECKSUMMED[4],
        "did:pkh:solana:1:" + CHECKSUMMED[4],
        did_pkh(1, ADDRESS_ZERO) + "\n",
        "did:pkh:eip155:1:" + CHECKSUMMED[4].replace("D1220A", "d1220A"),
        None,
    ],
)
def test_other_dids_are_refused(did):
    with pytest.raises(ConfigError):
        parse_did_pkh(did)


@pytest.mark.parametrize("value", ["a", "station-1", "A.b_c-9", "x" * 64])
def test_ids_are_safe_in_a_topic(value):
    assert require_id("robot", value) == value


@pytest.mark.parametrize("value", ["", "-a", ".", "a/b", "a+b", "#", "a b", "x" * 65, "a\n", "ä", None, 7])
def test_other_ids_are_refused(value):
    with pytest.raises(ConfigError, match="robot"):
        require_id("robot", value)
