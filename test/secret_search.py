"""Looks for key material in anything that a run leaves: in every form that a slip could give it."""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

SAMPLE_CHARACTERS = 20
"""Base64 of part of a secret shows as this much of it, whatever stands before."""


def forms(secret: bytes) -> dict[str, bytes]:
    """How 32 bytes could be written: name of the form and the bytes to look for (in lower case, if so named)."""
    found = {
        "raw": secret,
        "raw, reversed": secret[::-1],
        "hex, any case": secret.hex().encode(),
        "hex in pairs": " ".join(f"{byte:02x}" for byte in secret).encode(),
        "hex with colons": ":".join(f"{byte:02x}" for byte in secret).encode(),
        "decimal": str(int.from_bytes(secret, "big")).encode(),
        "list of numbers": ", ".join(str(byte) for byte in secret).encode(),
        "list without spaces": ",".join(str(byte) for byte in secret).encode(),
        "repr": repr(secret)[2:-1].encode(),
        "mnemonic": mnemonic(secret)[:40].encode(),
        "base58": base58(secret)[:30].encode(),
    }
    for shift in range(3):
        # The same bytes at another place of a longer text have other letters: all three.
        text = base64.b64encode(bytes(shift) + secret)[4:-4].decode()
        found[f"base64, {shift}"] = text[:SAMPLE_CHARACTERS].encode()
        found[f"base64url, {shift}"] = text.translate(str.maketrans("+/", "-_"))[:SAMPLE_CHARACTERS].encode()
    return found


def mnemonic(secret: bytes) -> str:
    """BIP-39 words of 32 bytes, with the list that eth-account brings."""
    from eth_account.hdaccount.mnemonic import Mnemonic
    from eth_account.types import Language

    return str(Mnemonic(Language.ENGLISH).to_mnemonic(secret))


def base58(data: bytes) -> str:
    """Of a wallet's export."""
    letters = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = letters[digit] + text
    return text


class Search:
    """Secrets and passphrases, looked for together."""

    def __init__(self, secrets: Iterable[bytes], passphrases: Iterable[str] = ()) -> None:
        self.exact: dict[bytes, str] = {}
        self.lower: dict[bytes, str] = {}
        for secret in secrets:
            name = hashlib.sha256(secret).hexdigest()[:8]  # not the secret itself in a test's output
            for form, data in forms(secret).items():
                (self.lower if form.startswith("hex") else self.exact)[data] = f"key {name} as {form}"
        for passphrase in passphrases:
            name = hashlib.sha256(passphrase.encode()).hexdigest()[:8]
            self.exact[passphrase.encode()] = f"passphrase {name}"
            self.exact[base64.b64encode(passphrase.encode())[:-2].rstrip(b"=")] = (
                f"passphrase {name} in base64"
            )
            self.lower[passphrase.encode().hex().encode()] = f"passphrase {name} in hex"

    def in_bytes(self, data: bytes, place: str) -> list[str]:
        lowered = data.lower()
        return [f"{place}: {name}" for text, name in self.exact.items() if text in data] + [
            f"{place}: {name}" for text, name in self.lower.items() if text in lowered
        ]

    def in_folder(self, folder: Path, *, skip: Iterable[Path] = ()) -> tuple[list[str], int]:
        """Every file below; (findings, files looked at). A recording is looked at message by message too."""
        left_out = {path.resolve() for path in skip}
        found, count = [], 0
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.resolve() in left_out:
                continue
            count += 1
            found += self.in_bytes(path.read_bytes(), str(path.relative_to(folder)))
            found += self.in_bytes(str(path.relative_to(folder)).encode(), f"the name of {path.name[:8]}...")
            if path.suffix == ".mcap":
                for topic, data in messages(path):
                    found += self.in_bytes(data, topic)
        return found, count


def messages(path: Path) -> Iterator[tuple[str, bytes]]:
    """Topic and bytes of what was recorded; a recording is compressed. Pictures are left out."""
    from mcap.reader import make_reader

    with path.open("rb") as file:
        for _, channel, message in make_reader(file).iter_messages():
            if "image" not in channel.topic:
                yield channel.topic, message.data
