"""Where a passphrase may come from, who may read it there, and that no message says it."""

import os

import pytest

from depai_robot.app.config import KeyPart, read_yaml
from depai_robot.app.passphrase import read_passphrase
from depai_robot.values.error import ConfigError

SECRET = "correct horse battery"


def write(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return path


def read(tmp_path, **part):
    return read_passphrase(KeyPart(keystore="k.json", **part), tmp_path / "wallet.yaml", "keys.voucher")


def refused(tmp_path, **part):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, **part)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None or isinstance(error.value.__cause__, OSError)
    return str(error.value)


def test_a_file(tmp_path):
    write(tmp_path / "pass", SECRET + "\nignored\n")
    assert read(tmp_path, password_file="pass") == SECRET
    write(tmp_path / "pass", SECRET, 0o640)
    assert "mode 0640, expected 0600" in refused(tmp_path, password_file="pass")


def test_the_mode_is_that_of_the_file_behind_a_link(tmp_path):
    write(tmp_path / "real", SECRET, 0o644)
    (tmp_path / "link").symlink_to("real")
    assert "expected 0600" in refused(tmp_path, password_file="link")
    assert "expected a file" in refused(tmp_path, password_file="/dev/null")


@pytest.mark.parametrize(
    "line",
    [f"VOUCHER={SECRET}", f'export VOUCHER="{SECRET}"', f"  VOUCHER = '{SECRET}'  ", f"VOUCHER={SECRET}\r"],
)
def test_an_env_file(tmp_path, line):
    write(tmp_path / "env", f"# VOUCHER=no\nOTHER=x\n{line}\n")
    assert read(tmp_path, password_env_file="env", password_name="VOUCHER") == SECRET


def test_an_env_file_says_what_is_missing_and_no_value(tmp_path):
    write(tmp_path / "env", f"A={SECRET}\nA={SECRET}\nB=\n")
    part = {"password_env_file": "env"}
    assert "one line A=..., found 2" in refused(tmp_path, **part, password_name="A")
    assert "one line C=..., found 0" in refused(tmp_path, **part, password_name="C")
    assert "B: expected one line of 1 to" in refused(tmp_path, **part, password_name="B")
    assert "go together" in refused(tmp_path, **part)
    write(tmp_path / "env", f"A={SECRET}", 0o604)
    assert "expected 0600" in refused(tmp_path, **part, password_name="A")


def test_an_inherited_descriptor_is_read_once_and_closed(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, SECRET.encode() + b"\n")
    os.close(writing)
    assert read(tmp_path, password_fd=reading) == SECRET
    assert f"file descriptor {reading}: Bad file descriptor" in refused(tmp_path, password_fd=reading)


def test_a_systemd_credential(tmp_path, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "LoadCredential=voucher:/path" in refused(tmp_path, password_credential="voucher")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    write(tmp_path / "voucher", SECRET, 0o440)
    assert read(tmp_path, password_credential="voucher") == SECRET
    write(tmp_path / "voucher", SECRET, 0o444)
    assert "others can read it" in refused(tmp_path, password_credential="voucher")


def test_exactly_one_way(tmp_path):
    assert "it names none" in refused(tmp_path)
    assert "names password_file, password_fd" in refused(tmp_path, password_file="a", password_fd=3)


def test_bytes_that_are_no_text_do_not_travel_in_an_error(tmp_path):
    (tmp_path / "pass").write_bytes(SECRET.encode() + b"\xff")
    (tmp_path / "pass").chmod(0o600)
    assert "expected UTF-8" in refused(tmp_path, password_file="pass")


def test_a_credential_can_not_leave_its_folder(tmp_path):
    write(tmp_path / "key.yaml", "{keystore: k, password_credential: ../../etc/shadow}")
    with pytest.raises(ConfigError, match="password_credential"):
        read_yaml(tmp_path / "key.yaml", KeyPart)
