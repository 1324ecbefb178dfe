"""Compiles the development contracts with Vyper: ``python -m contracts.compile [--check]``.

``--check`` compiles again and compares with the shipped artifacts; exit code 1 when they differ.
"""

import argparse
import json
import sys
from pathlib import Path

import vyper

HERE = Path(__file__).parent
ARTIFACTS = HERE / "artifacts"
NAMES = ("settlement", "collector", "usdc", "multicall3")


def compile_contract(name: str) -> str:
    """The artifact's JSON text: compiler, ABI and runtime bytecode (placed without a constructor)."""
    source = (HERE / f"{name}.vy").read_text(encoding="utf-8")
    out = vyper.compile_code(source, output_formats=["abi", "bytecode_runtime"])
    artifact = {
        "contract": name,
        "compiler": f"vyper {vyper.__version__.split('+')[0]}",
        "development_only": True,
        "abi": out["abi"],
        "bytecode_runtime": out["bytecode_runtime"],
    }
    return json.dumps(artifact, indent=1, sort_keys=True) + "\n"


def main() -> int:
    """Writes or compares; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    status = 0
    ARTIFACTS.mkdir(exist_ok=True)
    for name in NAMES:
        text = compile_contract(name)
        path = ARTIFACTS / f"{name}.json"
        if not check:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(HERE.parent)}: {len(text)} bytes")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(
                f"{path.relative_to(HERE.parent)} is not what contracts/{name}.vy compiles to",
                file=sys.stderr,
            )
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
