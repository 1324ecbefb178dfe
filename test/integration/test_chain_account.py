"""Transactions on a real EVM: nonces over restarts, two in flight, a stuck one, replacements, losses, reorgs."""

import time

import pytest

from depai_robot.adapters import chain_account
from depai_robot.adapters.outbox import Outbox
from depai_robot.adapters.web3_chain import Web3Chain
from depai_robot.payment import eip712
from depai_robot.ports import TransactionStatus
from depai_robot.sim.rpc_proxy import RpcProxy
from depai_robot.values.error import FinalChainError, JournalError, RetryableChainError
from depai_robot.values.identity import address_to_hex
from test.chain_world import AnvilWorld, Party, send, settled

ESCROW = 10_000
CONFIRMED, PENDING, UNKNOWN = (
    TransactionStatus.CONFIRMED,
    TransactionStatus.PENDING,
    TransactionStatus.UNKNOWN,
)


@pytest.fixture
def world(tmp_path):
    world = AnvilWorld(tmp_path / "anvil")
    yield world
    world.close()


@pytest.fixture
def party(world):
    party = Party()
    world.fund(party.payer.address, 100 * ESCROW)
    for key in (party.receiver, party.voucher_key, party.payer):
        world.fund(key.address)
    return party


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(chain_account, "REPLACE_AFTER_S", 0.0)


def open_chain(world, party, tmp_path, **changes):
    """A process's adapter; opening it again is a restart."""
    return Web3Chain(
        world.network if not changes else _but(world.network, **changes), party.receiver, tmp_path / "outbox"
    )


def _but(network, **changes):
    values = {name: getattr(network, name) for name in network.__dataclass_fields__}
    return type(network)(**(values | changes))


def make_dear(world, wei):
    """The next block's base fee: what offers less waits."""
    world.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(wei))


def fees(world, tx_hash):
    found = world.anvil.rpc("eth_getTransactionByHash", "0x" + tx_hash.hex())
    return int(found["maxFeePerGas"], 16), int(found["maxPriorityFeePerGas"], 16)


def drop(world, tx_hash):
    world.anvil.rpc("anvil_dropTransaction", "0x" + tx_hash.hex())


# --- nonces --------------------------------------------------------------------------------------------------


def test_two_in_flight_then_a_restart_then_a_third(world, party, tmp_path):
    chain = open_chain(world, party, tmp_path)
    world.pause()
    first, second = (chain.prepare(party.deposit(5, salt=salt)) for salt in (1, 2))
    for transaction in (first, second):
        chain.broadcast(transaction)
    # Both vanish from the node's pool: it says that the next nonce is the first one's.
    for transaction in (second, first):
        drop(world, transaction.tx_hash)
    restarted = open_chain(world, party, tmp_path)
    third = restarted.prepare(party.deposit(5, salt=3))
    assert [item.nonce for item in (first, second, third)] == [0, 1, 2]
    restarted.broadcast(third)
    restarted.tend()
    world.mine()
    assert [restarted.outcome(item.tx_hash, 1).status for item in (first, second, third)] == [CONFIRMED] * 3


def test_signed_twice_over_a_crash_gives_the_same_bytes(world, party, tmp_path):
    """Killed between signing and journalling: the machine asks again, and there is one transaction, no gap."""
    before = open_chain(world, party, tmp_path).prepare(party.deposit(5))
    after = open_chain(world, party, tmp_path).prepare(party.deposit(5))
    assert after == before
    other = open_chain(world, party, tmp_path).prepare(party.deposit(6, salt=2))
    assert other.nonce == before.nonce + 1


def test_a_nonce_that_nobody_filled_is_filled(world, party, tmp_path, impatient, monkeypatch):
    chain = open_chain(world, party, tmp_path)
    lost, kept = chain.prepare(party.deposit(5)), chain.prepare(party.deposit(6, salt=2))
    chain.broadcast(kept)
    chain.tend()
    assert chain.outcome(kept.tx_hash, 1).status is PENDING
    monkeypatch.setattr(chain_account, "UNSENT_NONCE_S", 0.0)
    chain.tend()
    chain.tend()
    world.mine()
    assert chain.outcome(kept.tx_hash, 1).status is CONFIRMED
    assert chain.outcome(lost.tx_hash, 1).status is UNKNOWN
    assert chain.channel(party.id, 1).balance_atomic == 6


def test_another_program_that_uses_the_account(world, party, tmp_path):
    """Its transaction takes the nonce: final for ours, and asked for again it gets the next one."""
    chain = open_chain(world, party, tmp_path)
    ours = chain.prepare(party.deposit(5))
    sender = address_to_hex(party.receiver.address)
    world.anvil.rpc("anvil_impersonateAccount", sender)
    world.anvil.rpc("eth_sendTransaction", {"from": sender, "to": sender, "value": "0x0"})
    with pytest.raises(FinalChainError, match="was used by another transaction"):
        chain.broadcast(ours)
    again = chain.prepare(party.deposit(5))
    assert again.nonce == ours.nonce + 1
    chain.broadcast(again)
    assert chain.outcome(again.tx_hash, 1).status is CONFIRMED
    chain.tend()


def test_a_node_that_lies_about_what_is_pending_makes_no_gap(world, party, tmp_path):
    proxy = RpcProxy(world.anvil.url)
    try:
        proxy.lie(
            "eth_getTransactionCount",
            lambda question: {"result": hex(10**6)} if question["params"][1] == "pending" else None,
        )
        chain = open_chain(world, party, tmp_path, rpc_urls=(proxy.url,))
        assert chain.prepare(party.deposit(5)).nonce == 0
    finally:
        proxy.stop()


# --- fees ----------------------------------------------------------------------------------------------------


def test_a_stuck_one_in_the_middle_is_replaced_and_those_behind_it_follow(world, party, tmp_path, impatient):
    chain = open_chain(world, party, tmp_path)
    done = chain.prepare(party.deposit(1))
    chain.broadcast(done)
    world.pause()
    stuck, behind = (chain.prepare(party.deposit(5, salt=salt)) for salt in (2, 3))
    for transaction in (stuck, behind):
        chain.broadcast(transaction)
    old = fees(world, stuck.tx_hash)
    make_dear(world, old[0] + 1)
    world.mine()
    # anvil forgets what is too cheap for a block; other nodes keep it waiting.
    assert chain.outcome(stuck.tx_hash, 1).status in (PENDING, UNKNOWN)
    chain.tend()
    # The waiting one is asked for by the hash that the journal knows; the replacement is what is mined.
    world.mine()
    outcome = chain.outcome(stuck.tx_hash, 1)
    assert outcome.status is CONFIRMED
    assert outcome.tx_hash != stuck.tx_hash
    new = fees(world, outcome.tx_hash)
    assert all(after * 1000 >= before * 1125 for before, after in zip(old, new, strict=True))
    assert chain.outcome(outcome.tx_hash, 1) == outcome
    # A restarted process knows its replacements.
    assert open_chain(world, party, tmp_path).outcome(stuck.tx_hash, 1) == outcome
    chain.tend()
    world.mine()
    assert chain.outcome(behind.tx_hash, 1).status is CONFIRMED
    assert chain.channel(party.id, 1).balance_atomic == 11


def test_the_first_bytes_count_when_they_are_the_ones_mined(world, party, tmp_path, impatient):
    chain = open_chain(world, party, tmp_path)
    world.pause()
    first = chain.prepare(party.deposit(5))
    chain.broadcast(first)
    chain.tend()
    newest = chain._account.alike(first.tx_hash)[-1]
    assert newest != first.tx_hash
    drop(world, newest)
    world.anvil.rpc("eth_sendRawTransaction", "0x" + first.raw.hex())
    world.mine()
    outcome = chain.outcome(first.tx_hash, 1)
    assert (outcome.status, outcome.tx_hash) == (CONFIRMED, first.tx_hash)


def test_replacements_stop_at_the_cap(world, party, tmp_path, impatient):
    chain = open_chain(world, party, tmp_path)
    world.pause()
    transaction = chain.prepare(party.deposit(5))
    chain.broadcast(transaction)
    found = world.anvil.rpc("eth_getTransactionByHash", "0x" + transaction.tx_hash.hex())
    gas = int(found["gas"], 16)
    cap = 2 * gas * fees(world, transaction.tx_hash)[0]
    capped = open_chain(world, party, tmp_path, fee_max_wei=cap)
    for _ in range(10):
        capped.tend()
    hashes = capped._account.alike(transaction.tx_hash)
    assert 4 <= len(hashes) <= 7  # 1.125 to the sixth is 2.03
    assert cap / 1.3 < fees(world, hashes[-1])[0] * gas <= cap
    # It still waits, and is mined when blocks are cheap again.
    world.mine()
    assert chain.outcome(transaction.tx_hash, 1).status is CONFIRMED


def test_a_replacement_that_cant_be_kept_does_not_leave(world, party, tmp_path, impatient, monkeypatch):
    chain = open_chain(world, party, tmp_path)
    world.pause()
    transaction = chain.prepare(party.deposit(5))
    chain.broadcast(transaction)

    def fail(*_, **__):
        raise JournalError("disk is full")

    monkeypatch.setattr(Outbox, "add", fail)
    with pytest.raises(JournalError):
        chain.tend()
    with pytest.raises(JournalError):
        chain.prepare(party.deposit(6, salt=2))
    content = world.anvil.rpc("txpool_content")["pending"]
    assert [len(item) for item in content.values()] == [1]
    assert fees(world, transaction.tx_hash)


# --- losses and reorganisations ------------------------------------------------------------------------------


def test_a_dropped_one_is_sent_again_as_it_was(world, party, tmp_path):
    chain = open_chain(world, party, tmp_path)
    world.pause()
    transaction = chain.prepare(party.deposit(5))
    chain.broadcast(transaction)
    drop(world, transaction.tx_hash)
    assert chain.outcome(transaction.tx_hash, 1).status is UNKNOWN
    chain.tend()
    assert chain.outcome(transaction.tx_hash, 1).status is PENDING
    world.mine()
    assert chain.outcome(transaction.tx_hash, 1).tx_hash == transaction.tx_hash


def test_a_swallowed_one_reaches_the_other_endpoint(world, party, tmp_path):
    proxy = RpcProxy(world.anvil.url)
    try:
        proxy.swallow()
        chain = open_chain(world, party, tmp_path, rpc_urls=(proxy.url, world.anvil.url))
        assert [name for name, _ in send(chain, party.deposit(5))] == ["ChannelCreated", "Deposited"]
        alone = open_chain(world, party, tmp_path, rpc_urls=(proxy.url,))
        transaction = alone.prepare(party.deposit(6, salt=2))
        alone.broadcast(transaction)
        assert alone.outcome(transaction.tx_hash, 1).status is UNKNOWN
        proxy.heal()
        alone.tend()
        assert settled(alone, transaction.tx_hash).status is CONFIRMED
    finally:
        proxy.stop()


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_confirmed_gone_and_mined_again(world, party, tmp_path, depth):
    """A reorganisation undoes a deposit and a claim: both are unknown again, come back, and count once."""
    chain = open_chain(world, party, tmp_path)
    # Mined, not only taken: before that a claim is more than there is.
    send(chain, party.deposit(ESCROW))
    claim = chain.prepare(party.claim(3000))
    world.pause()
    world.mine(5)
    chain.broadcast(claim)
    world.mine(depth)
    assert chain.outcome(claim.tx_hash, depth).status is CONFIRMED
    world.reorganise(depth)
    assert chain.outcome(claim.tx_hash, 1).status is not CONFIRMED
    assert chain.channel(party.id, 1).total_claimed_atomic == 0
    assert chain.channel(party.id, 1).balance_atomic == ESCROW
    chain.tend()
    world.mine(depth)
    assert chain.outcome(claim.tx_hash, depth).status is CONFIRMED
    assert chain.channel(party.id, depth).total_claimed_atomic == 3000
    # Claims are cumulative: the same again changes nothing.
    world.anvil.rpc("evm_setAutomine", True)
    assert send(chain, party.claim(3000)) == []


def test_the_same_authorization_is_submitted_again_after_a_reorganisation(world, party, tmp_path):
    chain = open_chain(world, party, tmp_path)
    world.mine(5)
    call = party.deposit(ESCROW)
    nonce = eip712.deposit_nonce(party.id, call.authorization.salt)
    send(chain, call)
    assert chain.authorization_used(party.payer.address, nonce)
    world.pause()
    world.mine(2)
    world.reorganise(3)
    assert not chain.authorization_used(party.payer.address, nonce)
    # By another account: anybody may relay it, and it pays once.
    other = Web3Chain(world.network, party.voucher_key)
    again = other.prepare(call)
    other.broadcast(again)
    chain.tend()
    world.mine()
    assert other.outcome(again.tx_hash, 1).status in (CONFIRMED, TransactionStatus.REVERTED)
    assert chain.channel(party.id, 1).balance_atomic == ESCROW
    assert chain.token_balance(party.payer.address) == 99 * ESCROW


# --- the outbox ----------------------------------------------------------------------------------------------


def test_the_outbox_keeps_what_it_was_given(tmp_path):
    path = tmp_path / "outbox"
    box = Outbox(path, 1, b"\1" * 20)
    for number in range(3):
        box.add(number, bytes([number]) * 32, b"raw", bytes(32), sent=number != 1)
    box.add(2, b"\7" * 32, b"more", bytes(32), sent=True)
    box.add(2, b"\7" * 32, b"else", bytes(32))
    again = Outbox(path, 1, b"\1" * 20)
    assert [(item.nonce, item.raw, item.sent) for item in again.live(1)] == [
        (1, b"raw", False),
        (2, b"raw", True),
        (2, b"more", True),
    ]
    assert [item.tx_hash for item in again.alike(b"\2" * 32)] == [b"\2" * 32, b"\7" * 32]
    again.forget(b"\1" * 32)
    again.forget(b"\2" * 32)
    assert [item.nonce for item in again.live(0)] == [0, 2, 2]
    again.prune(1001)
    assert [item.nonce for item in again.live(0)] == [2, 2]
    assert Outbox(path, 2, b"\1" * 20).live(0) == []
    assert Outbox(path, 1, b"\2" * 20).live(0) == []
    assert again.live(0)[0].since_s <= time.monotonic()


def test_a_file_that_is_no_outbox_is_refused(tmp_path):
    path = tmp_path / "outbox"
    path.write_bytes(b"something else, and long enough to be looked at" * 10)
    with pytest.raises(JournalError, match="outbox"):
        Outbox(path, 1, b"\1" * 20)


def test_without_endpoints_nothing_is_signed(world, party, tmp_path):
    chain = open_chain(world, party, tmp_path)
    world.anvil.stop()
    with pytest.raises(RetryableChainError):
        chain.prepare(party.deposit(5))
    with pytest.raises(RetryableChainError):
        chain.tend()
    assert Outbox(tmp_path / "outbox", 31337, party.receiver.address).live(0) == []
