"""The search for secrets finds what it must: a search that finds nothing proves nothing."""

import base64

import pytest

from depai_robot.sim.key import DevelopmentSigner
from test.secret_search import Search, base58, mnemonic

SECRET = DevelopmentSigner("to be found").secret
PASS = "correct horse battery staple"
SEARCH = Search([SECRET], [PASS])


@pytest.mark.parametrize(
    "leak",
    [
        SECRET,
        b"key=0x" + SECRET.hex().encode(),
        SECRET.hex().upper().encode(),
        str(int.from_bytes(SECRET, "big")).encode(),
        repr(list(SECRET)).encode(),
        f"{SECRET!r}".encode(),
        base64.b64encode(SECRET),
        base64.b64encode(b"k" + SECRET),
        base64.b64encode(b"ke" + SECRET + b"more"),
        base64.urlsafe_b64encode(b"key" + SECRET),
        SECRET.hex(":").encode(),
        SECRET.hex(" ").upper().encode(),
        mnemonic(SECRET).encode(),
        base58(SECRET).encode(),
        SECRET[::-1],
        f"password: {PASS}".encode(),
        base64.b64encode(PASS.encode()),
        PASS.encode().hex().encode(),
    ],
    ids=range(18),
)
def test_every_form_is_found(leak):
    assert SEARCH.in_bytes(b"before " + leak + b" after", "log")


def test_what_is_public_is_not():
    key = DevelopmentSigner("to be found")
    public = b" ".join(
        [key.address.hex().encode(), key.public_key.hex().encode(), key.sign(bytes(32)).hex().encode()]
    )
    assert SEARCH.in_bytes(public, "log") == []


def test_files_and_their_names_are_looked_at(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "log").write_text(f"x {SECRET.hex()}")
    (tmp_path / f"journal-{SECRET.hex()}").write_text("")
    (tmp_path / "pass").write_text(PASS)
    found, count = SEARCH.in_folder(tmp_path, skip=[tmp_path / "pass"])
    assert count == 2
    assert len(found) == 2
    assert SECRET.hex() not in " ".join(found)
