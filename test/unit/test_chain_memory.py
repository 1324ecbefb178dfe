"""The chain in memory where it differs from a real one, and keystores' refusals that need no file."""

import pytest

from depai_robot.adapters.settlement_abi import ERROR_BY_SELECTOR, call_to_arguments, decode_event, name_error
from depai_robot.payment import eip712
from depai_robot.payment.channel import ChannelConfig, DepositAuthorization
from depai_robot.ports import DepositCall, SettleCall, TransactionStatus
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.memory_chain import MemoryChain, MemoryLedger
from depai_robot.values.error import BugError, FinalChainError, RetryableChainError
from depai_robot.values.identity import Address, keccak256

TOKEN = Address(b"\x07" * 20)
PAYER, KEY, RECEIVER = (DevelopmentSigner(name) for name in ("payer", "key", "receiver"))
CONFIG = ChannelConfig(PAYER.address, KEY.address, RECEIVER.address, RECEIVER.address, TOKEN, 900, bytes(32))


def make_world(now_s=lambda: 1000):
    ledger = MemoryLedger(TOKEN, clock_s=now_s)
    ledger.mint(PAYER.address, 100)
    return ledger, MemoryChain(ledger, RECEIVER)


def make_deposit(amount=60):
    channel = eip712.channel_id(CONFIG, eip712.settlement_domain(31337))
    words = {"amount_atomic": amount, "valid_after_s": 0, "valid_before_s": 2000, "salt": bytes(32)}
    digest = eip712.deposit_digest(
        eip712.domain_separator("USDC", "2", 31337, TOKEN), payer=PAYER.address, channel=channel, **words
    )
    return DepositCall(CONFIG, DepositAuthorization(**words, signature=PAYER.sign(digest)))


def test_a_chain_that_is_down_answers_nothing():
    ledger, chain = make_world()
    ledger.down = True
    for ask in (
        chain.check_pins,
        chain.head,
        lambda: chain.channel(bytes(32), 1),
        lambda: chain.token_balance(PAYER.address),
        lambda: chain.authorization_used(PAYER.address, bytes(32)),
        lambda: chain.prepare(make_deposit()),
        lambda: chain.outcome(bytes(32), 1),
    ):
        with pytest.raises(RetryableChainError, match="down"):
            ask()


def test_a_refused_call_changes_nothing():
    ledger, chain = make_world()
    with pytest.raises(FinalChainError, match="exceeds balance"):
        chain.prepare(make_deposit(101))
    assert ledger.state.channels == {}
    assert ledger.state.used == set()


def test_time_runs_with_the_clock_and_never_back():
    now = [1000]
    ledger, chain = make_world(lambda: now[0])
    now[0] = 900
    ledger.mine()
    assert chain.head().timestamp_s == 1001
    ledger.advance(500)
    assert chain.head().timestamp_s == 1501
    now[0] = 910
    ledger.mine()
    assert chain.head().timestamp_s == 1511


def test_an_authorization_runs_out_by_chain_time():
    ledger, chain = make_world()
    ledger.advance(1001)
    with pytest.raises(FinalChainError, match="expired"):
        chain.prepare(make_deposit())


def test_two_accounts_count_their_nonces_apart():
    ledger, chain = make_world()
    other = MemoryChain(ledger, PAYER)
    settle = SettleCall(RECEIVER.address, TOKEN)
    assert [chain.prepare(settle).nonce, chain.prepare(settle).nonce] == [0, 1]
    assert other.prepare(settle).nonce == 0


def test_a_later_nonce_waits_for_the_earlier():
    ledger, chain = make_world()
    settle = SettleCall(RECEIVER.address, TOKEN)
    first, second = chain.prepare(settle), chain.prepare(settle)
    chain.broadcast(second)
    assert chain.outcome(second.tx_hash, 1).status is TransactionStatus.PENDING
    chain.broadcast(first)
    ledger.mine()
    assert chain.outcome(second.tx_hash, 1).status is TransactionStatus.CONFIRMED


def test_a_reorganisation_deeper_than_the_chain():
    ledger, _ = make_world()
    with pytest.raises(BugError, match="1 of 1 blocks"):
        ledger.reorganise(1)


def test_events_of_others_are_not_ours():
    assert decode_event([], b"") is None
    assert decode_event([keccak256(b"Transfer(address,address,uint256)")], bytes(32)) is None


def test_events_are_decoded():
    topics = [keccak256(b"Claimed(bytes32,address,uint128,uint128)"), b"\x01" * 32, bytes(32)]
    event = decode_event(topics, (5).to_bytes(32, "big") + (12).to_bytes(32, "big"))
    assert (event.name, event.channel_id, event.amount_atomic) == ("Claimed", b"\x01" * 32, 12)


def test_errors_have_distinct_selectors_and_names():
    assert len(ERROR_BY_SELECTOR) == 27
    assert name_error(keccak256(b"ZeroRefund()")[:4]) == "ZeroRefund"
    assert name_error(b"") is None
    assert name_error(b"\0\0\0\0 more") is None


def test_what_is_no_call():
    with pytest.raises(BugError, match="no call"):
        call_to_arguments(object(), bytes(20))
