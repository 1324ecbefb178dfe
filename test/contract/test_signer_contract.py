"""ports.Signer: one suite for the keystore, the hardware token and the development key."""

import pickle
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from depai_robot.adapters.keystore_signer import KeystoreSigner, write_keystore
from depai_robot.adapters.pkcs11_signer import Pkcs11Signer, recoverable
from depai_robot.app.config import KeyPart, Pkcs11Part
from depai_robot.app.part import open_signer
from depai_robot.payment.signature import CURVE_ORDER, HALF_ORDER, recover_public_key, verify
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import BugError, ConfigError, DeviceFailedError
from depai_robot.values.identity import public_key_to_address
from test.softhsm import PIN, find_module, make_keys, make_token

NO_TOKEN = "softhsm2 is not installed (Debian package softhsm2)"


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    if find_module() is None:
        pytest.skip(NO_TOKEN)
    pytest.importorskip("pkcs11")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SOFTHSM2_CONF", raising=False)
        folder = tmp_path_factory.mktemp("token")
        made = make_token(folder)
        make_token(folder, "other")
        # Keys first: PKCS#11 has one login a process, and the signers take it.
        make_keys(made, "voucher", "identity", "twice", "twice")
        make_keys(made, "nist", curve="secp256r1")
        make_keys(made, "loose", extractable=True)
        yield made


@pytest.fixture(scope="module", params=["development", "keystore", "pkcs11"])
def signer(request, tmp_path_factory):
    if request.param == "development":
        yield DevelopmentSigner("contract")
    elif request.param == "keystore":
        path = tmp_path_factory.mktemp("keys") / "key.json"
        write_keystore(path, DevelopmentSigner("contract").secret, "pass")
        yield KeystoreSigner(path, "pass")
    else:
        made = request.getfixturevalue("token")
        opened = Pkcs11Signer(made.module, made.label, "voucher", PIN)
        yield opened
        opened.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(digest=st.binary(min_size=32, max_size=32))
def test_every_signature_is_one_that_the_contract_takes(signer, digest):
    signature = signer.sign(digest)
    verify(digest, signature, signer.address)
    assert recover_public_key(digest, signature) == signer.public_key
    assert int.from_bytes(signature[32:64], "big") <= HALF_ORDER


def test_address_is_the_public_keys(signer):
    assert len(signer.public_key) == 64
    assert signer.address == public_key_to_address(signer.public_key)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_only_digests_are_signed(signer, length):
    with pytest.raises((BugError, ValueError), match="32 bytes"):
        signer.sign(bytes(length))


def test_many_threads_may_sign_at_once(signer):
    wrong = []

    def work(number: int) -> None:
        for count in range(20):
            digest = bytes([number, count]) * 16
            if recover_public_key(digest, signer.sign(digest)) != signer.public_key:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong


# --- what only a token has ---------------------------------------------------------------------------------------


def test_a_token_is_opened_from_a_configuration_file(token, tmp_path):
    (tmp_path / "pin").write_text(PIN + "\n")
    (tmp_path / "pin").chmod(0o600)
    part = KeyPart(
        pkcs11=Pkcs11Part(module=str(token.module), token=token.label, key="voucher"), password_file="pin"
    )
    signer = open_signer("keys.voucher", part, tmp_path / "wallet.yaml", 8453)
    assert isinstance(signer, Pkcs11Signer)
    verify(b"\7" * 32, signer.sign(b"\7" * 32), signer.address)
    assert PIN not in repr(signer)
    assert PIN not in repr(vars(signer))
    with pytest.raises(ConfigError, match="can't be copied"):
        pickle.dumps(signer)
    signer.close()
    with pytest.raises(DeviceFailedError, match="key robot/voucher"):
        signer.sign(bytes(32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token": "another"}, "token 'another'"),
        ({"key": "none"}, "the token has 0 private keys of that label"),
    ],
)
def test_what_can_not_be_opened_is_one_line_without_the_pin(token, change, words):
    values = {"module": token.module, "token": token.label, "key": "voucher", "pin": PIN, **change}
    with pytest.raises(ConfigError, match=words) as refused:
        Pkcs11Signer(**values)
    assert "\n" not in str(refused.value)
    assert values["pin"] not in str(refused.value)


def test_a_wrong_pin_is_one_line_without_it(token):
    with pytest.raises(ConfigError, match="wrong PIN") as refused:
        Pkcs11Signer(token.module, "other", "voucher", "000000")
    assert "000000" not in str(refused.value)


def test_keys_of_one_token_share_its_login_and_outlive_each_other(token):
    voucher = Pkcs11Signer(token.module, token.label, "voucher", PIN)
    identity = Pkcs11Signer(token.module, token.label, "identity", PIN)
    assert voucher.address != identity.address
    voucher.close()
    voucher.close()
    verify(b"\7" * 32, identity.sign(b"\7" * 32), identity.address)
    with pytest.raises(DeviceFailedError, match="was closed"):
        voucher.sign(bytes(32))
    identity.close()


def test_a_module_that_is_not_there(token, tmp_path):
    with pytest.raises(ConfigError, match="none.so"):
        Pkcs11Signer(tmp_path / "none.so", token.label, "voucher", PIN)


def test_two_keys_of_one_label_are_refused(token):
    with pytest.raises(ConfigError, match="2 private keys"):
        Pkcs11Signer(token.module, token.label, "twice", PIN)


def test_a_key_of_another_curve_is_refused(token):
    with pytest.raises(ConfigError, match="not secp256k1"):
        Pkcs11Signer(token.module, token.label, "nist", PIN)


def test_a_key_that_can_be_read_out_is_refused(token):
    with pytest.raises(ConfigError, match="can be read out"):
        Pkcs11Signer(token.module, token.label, "loose", PIN)


# --- low s and recovery id, without a token ----------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(digest=st.binary(min_size=32, max_size=32), high=st.booleans())
def test_high_s_is_made_low_and_v_is_found(digest, high):
    key = DevelopmentSigner("plain ecdsa")
    good = key.sign(digest)
    s = int.from_bytes(good[32:64], "big")
    raw = good[:32] + (CURVE_ORDER - s if high else s).to_bytes(32, "big")
    assert recoverable(digest, raw, key.public_key, "t/k") == good


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(64),
        bytes(63),
        b"\xff" * 64,
        bytes(31) + b"\1" + CURVE_ORDER.to_bytes(32, "big"),
        b"\1" * 64,
    ],
)
def test_what_is_no_signature_of_the_key_is_refused(raw):
    with pytest.raises(DeviceFailedError, match="key t/k"):
        recoverable(b"\7" * 32, raw, DevelopmentSigner("plain ecdsa").public_key, "t/k")


def test_a_signature_of_another_key_is_refused():
    raw = DevelopmentSigner("other").sign(b"\7" * 32)[:64]
    with pytest.raises(DeviceFailedError, match="not by its key"):
        recoverable(b"\7" * 32, raw, DevelopmentSigner("plain ecdsa").public_key, "t/k")
