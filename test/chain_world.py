"""A payment channel's parties on a chain, and the two chains that the contract suite runs on: memory and a real EVM."""

import contextlib
import itertools
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from depai_robot.adapters.anvil import (
    DEVELOPMENT_USDC,
    AnvilProcess,
    find_anvil,
    fund,
    place_contracts,
    read_artifact,
    start_anvil,
)
from depai_robot.adapters.web3_chain import NetworkConfig, Web3Chain
from depai_robot.app.resource import resource_path
from depai_robot.payment import eip712
from depai_robot.payment.channel import ChannelConfig, DepositAuthorization, Voucher
from depai_robot.ports import (
    Chain,
    ChainCall,
    ClaimCall,
    ClaimRow,
    DepositCall,
    FinalizeWithdrawCall,
    InitiateWithdrawCall,
    RefundCall,
    SettleCall,
    TransactionOutcome,
    TransactionStatus,
)
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.memory_chain import MemoryChain, MemoryLedger
from depai_robot.values.identity import keccak256

CHAIN_ID = 31337
DOMAIN = eip712.settlement_domain(CHAIN_ID)
TOKEN_DOMAIN = eip712.domain_separator("USDC", "2", CHAIN_ID, DEVELOPMENT_USDC)
FOR_EVER_S = 2**40
ARTIFACTS = resource_path("contracts", "artifacts")


def code_hash(name: str) -> bytes:
    return keccak256(bytes.fromhex(read_artifact(ARTIFACTS, name)["bytecode_runtime"][2:]))


def network_of(*urls: str, **changes) -> NetworkConfig:
    values = {
        "rpc_urls": urls,
        "chain_id": CHAIN_ID,
        "token": DEVELOPMENT_USDC,
        "token_name": "USDC",
        "token_version": "2",
        "settlement_code_hash": code_hash("settlement"),
        "collector_code_hash": code_hash("collector"),
    }
    return NetworkConfig(**(values | changes))


def require_anvil() -> None:
    """Skips where there is no anvil."""
    if find_anvil() is None:
        pytest.skip("anvil is absent: depai-robot setup chain, or set DEPAI_ANVIL to the program")


def start_chain(folder: Path, **options) -> AnvilProcess:
    """anvil with our contracts."""
    require_anvil()
    anvil = start_anvil(folder, **options)
    try:
        place_contracts(anvil.url, ARTIFACTS)
    except BaseException:
        anvil.stop()
        raise
    return anvil


class MemoryWorld:
    name = "memory"

    def __init__(self) -> None:
        self.ledger = MemoryLedger(DEVELOPMENT_USDC)

    def chain(self, signer=None) -> Chain:
        return MemoryChain(self.ledger, signer)

    def fund(self, holder: bytes, usdc_atomic: int = 0) -> None:
        self.ledger.mint(holder, usdc_atomic)

    def advance(self, seconds: int) -> None:
        self.ledger.advance(seconds)

    def mine(self, count: int = 1) -> None:
        self.ledger.mine(count)

    def pause(self) -> None:
        self.ledger.automine = False

    def reorganise(self, depth: int) -> None:
        self.ledger.reorganise(depth)

    def close(self) -> None:
        pass


class AnvilWorld:
    name = "anvil"

    def __init__(self, folder: Path) -> None:
        self.anvil = start_chain(folder)
        self.network = network_of(self.anvil.url)
        self._chains: dict = {}

    def chain(self, signer=None) -> Chain:
        if signer not in self._chains:
            self._chains[signer] = Web3Chain(self.network, signer)
        return self._chains[signer]

    def fund(self, holder: bytes, usdc_atomic: int = 0) -> None:
        fund(self.anvil.url, holder, usdc_atomic=usdc_atomic)

    def advance(self, seconds: int) -> None:
        self.anvil.rpc("evm_increaseTime", seconds)
        self.mine()

    def mine(self, count: int = 1) -> None:
        self.anvil.rpc("anvil_mine", hex(count))

    def pause(self) -> None:
        self.anvil.rpc("evm_setAutomine", False)

    def reorganise(self, depth: int) -> None:
        self.anvil.rpc("anvil_reorg", depth, [])

    def close(self) -> None:
        self.anvil.stop()


_names = itertools.count()
_tokens = [DEVELOPMENT_USDC]


@contextlib.contextmanager
def parties_use(token: bytes):
    """Parties that are made within pay with this token."""
    _tokens.append(token)
    try:
        yield
    finally:
        _tokens.pop()


def signer(role: str) -> DevelopmentSigner:
    """A new key each time, so that tests on one chain do not meet."""
    return DevelopmentSigner(f"{role} {next(_names)}")


@dataclass
class Party:
    """Payer, voucher key and receiver of one channel, and the calls that they make."""

    payer: DevelopmentSigner = field(default_factory=lambda: signer("payer"))
    voucher_key: DevelopmentSigner = field(default_factory=lambda: signer("voucher"))
    receiver: DevelopmentSigner = field(default_factory=lambda: signer("receiver"))
    delay_s: int = 900
    salt: bytes = bytes(32)
    token: bytes = field(default_factory=lambda: _tokens[-1])
    token_name: str = "USDC"

    @property
    def config(self) -> ChannelConfig:
        return ChannelConfig(
            self.payer.address,
            self.voucher_key.address,
            self.receiver.address,
            self.receiver.address,
            self.token,
            self.delay_s,
            self.salt,
        )

    @property
    def id(self) -> bytes:
        return eip712.channel_id(self.config, DOMAIN)

    def authorization(self, amount: int, salt: int = 1, after_s: int = 0, before_s: int = FOR_EVER_S):
        words = {
            "amount_atomic": amount,
            "valid_after_s": after_s,
            "valid_before_s": before_s,
            "salt": salt.to_bytes(32, "big"),
        }
        domain = eip712.domain_separator(self.token_name, "2", CHAIN_ID, self.token)
        digest = eip712.deposit_digest(domain, payer=self.payer.address, channel=self.id, **words)
        return DepositAuthorization(**words, signature=self.payer.sign(digest))

    def deposit(self, amount: int, salt: int = 1, **times: int) -> DepositCall:
        return DepositCall(self.config, self.authorization(amount, salt, **times))

    def voucher(self, ceiling: int) -> Voucher:
        digest = eip712.voucher_digest(self.id, ceiling, DOMAIN)
        return Voucher(self.id, ceiling, self.voucher_key.sign(digest))

    def row(self, total: int, ceiling: int | None = None) -> ClaimRow:
        return ClaimRow(self.config, self.voucher(total if ceiling is None else ceiling), total)

    def claim(self, total: int, ceiling: int | None = None) -> ClaimCall:
        return ClaimCall((self.row(total, ceiling),))

    def settle(self) -> SettleCall:
        return SettleCall(self.receiver.address, self.token)

    def refund(self, amount: int) -> RefundCall:
        return RefundCall(self.config, amount)

    def initiate(self, amount: int) -> InitiateWithdrawCall:
        return InitiateWithdrawCall(self.config, amount)

    def finalize(self) -> FinalizeWithdrawCall:
        return FinalizeWithdrawCall(self.config)


def with_signature(call, signature: bytes):
    """The same deposit or one-row claim with another signature."""
    if isinstance(call, DepositCall):
        return replace(call, authorization=replace(call.authorization, signature=signature))
    (row,) = call.rows
    return ClaimCall((replace(row, voucher=replace(row.voucher, signature=signature)),))


def settled(
    chain: Chain, tx_hash: bytes, confirmations: int = 1, timeout_s: float = 10.0
) -> TransactionOutcome:
    """The outcome once there is one."""
    deadline = time.monotonic() + timeout_s
    while True:
        outcome = chain.outcome(tx_hash, confirmations)
        if outcome.status in (TransactionStatus.CONFIRMED, TransactionStatus.REVERTED):
            return outcome
        if time.monotonic() > deadline:
            raise AssertionError(f"still {outcome.status} after {timeout_s} s")
        time.sleep(0.005)


def send(chain: Chain, call: ChainCall) -> list[tuple[str, int]]:
    """Prepares, broadcasts and waits; the events as (name, amount)."""
    transaction = chain.prepare(call)
    chain.broadcast(transaction)
    outcome = settled(chain, transaction.tx_hash)
    assert outcome.status is TransactionStatus.CONFIRMED
    return [(event.name, event.amount_atomic) for event in outcome.events]
