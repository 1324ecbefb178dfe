"""A SoftHSM2 token of its own for tests: the PKCS#11 library of Debian's package softhsm2."""

import glob
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

PIN = "3141592653"
PLACES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/lib*/libsofthsm2.so")


@dataclass(frozen=True)
class Token:
    module: Path
    label: str


def find_module() -> Path | None:
    found = [path for place in PLACES for path in sorted(glob.glob(place))]
    return Path(found[0]).resolve() if found else None


def make_token(folder: Path, label: str = "robot") -> Token:
    """The library reads its place from the environment when it is first loaded, once per process."""
    module = find_module()
    assert module is not None
    if "SOFTHSM2_CONF" not in os.environ:
        (folder / "tokens").mkdir(parents=True)
        (folder / "softhsm2.conf").write_text(
            f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n"
        )
        os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", PIN]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return Token(module, label)


def make_keys(token: Token, *labels: str, curve: str = "secp256k1", extractable: bool = False) -> None:
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    with (
        pkcs11.lib(str(token.module))
        .get_token(token_label=token.label)
        .open(rw=True, user_pin=PIN) as session
    ):
        domain = session.create_domain_parameters(
            pkcs11.KeyType.EC,
            {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)},
            local=True,
        )
        private = {pkcs11.Attribute.EXTRACTABLE: extractable, pkcs11.Attribute.SENSITIVE: not extractable}
        for label in labels:
            domain.generate_keypair(store=True, label=label, private_template=private)
