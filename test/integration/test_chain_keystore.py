"""Keystore V3 files: what is written is read again and by nobody else; anything wrong is one clear line."""

import json
import pickle

import pytest
from eth_account import Account

from depai_robot.adapters.keystore_signer import KeystoreSigner, write_keystore
from depai_robot.payment.signature import verify
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import BugError, ConfigError

KEY = DevelopmentSigner("keystore")
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "sub" / "key.json"
    assert write_keystore(path, KEY.secret, PASSWORD) == KEY.address
    return path


@pytest.fixture
def file(template, tmp_path):
    path = tmp_path / "key.json"
    path.write_bytes(template.read_bytes())
    path.chmod(0o600)
    return path


def test_opens_what_was_written_and_signs_like_any_signer(template):
    assert template.stat().st_mode & 0o777 == 0o600
    assert KEY.secret.hex() not in template.read_text()
    signer = KeystoreSigner(template, PASSWORD)
    assert (signer.address, signer.public_key) == (KEY.address, KEY.public_key)
    digest = b"\7" * 32
    assert signer.sign(digest) == KEY.sign(digest) == signer.sign(digest)
    verify(digest, signer.sign(digest), KEY.address)
    assert PASSWORD not in repr(signer)
    assert KEY.secret.hex() not in repr(vars(signer)).lower()
    with pytest.raises(BugError, match="32 bytes, got 5"):
        signer.sign(b"short")
    with pytest.raises(ConfigError, match="can't be copied"):
        pickle.dumps(signer)


def test_opens_what_another_wallet_wrote(tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(Account.encrypt(KEY.secret, PASSWORD, kdf="pbkdf2", iterations=1000)))
    path.chmod(0o400)
    assert KeystoreSigner(path, PASSWORD).address == KEY.address


def test_a_key_is_never_overwritten(file):
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="exists: a key is never overwritten"):
        write_keystore(file, DevelopmentSigner("other").secret, PASSWORD)
    assert file.read_bytes() == before


def test_no_password_no_keystore(tmp_path):
    with pytest.raises(ConfigError, match="expected a password"):
        write_keystore(tmp_path / "key.json", KEY.secret, "")
    assert not (tmp_path / "key.json").exists()


def refusal(path, password=PASSWORD):
    with pytest.raises(ConfigError) as error:
        KeystoreSigner(path, password)
    text = str(error.value)
    assert "\n" not in text
    assert PASSWORD not in text
    assert error.value.__cause__ is None or isinstance(error.value.__cause__, OSError)
    return text


def test_wrong_password(file):
    assert refusal(file, "guess").endswith("wrong password")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_file_that_others_can_read(file, mode):
    file.chmod(mode)
    assert f"has mode {mode:04o}, expected 0600" in refusal(file)


def test_no_file(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.json")
    (tmp_path / "folder").mkdir(mode=0o700)
    assert "Is a directory" in refusal(tmp_path / "folder")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text[:-1],
        lambda text: "[]",
        lambda text: "7",
        lambda text: "{}",
        lambda text: json.dumps({**json.loads(text), "version": 4}),
        lambda text: json.dumps({**json.loads(text), "crypto": None}),
        lambda text: json.dumps({**json.loads(text), "crypto": {}}),
        lambda text: text.replace("scrypt", "bcrypt"),
        lambda text: "\0" * 100_000,
        lambda text: "\xff\xfe",
    ],
    ids=range(12),
)
def test_a_file_that_is_no_keystore(file, spoil):
    file.write_text(spoil(file.read_text()))
    assert "not a keystore V3 file" in refusal(file)


def test_a_file_that_names_another_address(file):
    keystore = json.loads(file.read_text())
    file.write_text(json.dumps({**keystore, "address": "11" * 20}))
    assert "says address 0x1111" in refusal(file)
