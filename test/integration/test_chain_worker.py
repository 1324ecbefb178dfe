"""The chain's thread: what it watches to its end and beyond, on a chain in memory and, for fees, on a real EVM."""

import queue
import time

import pytest

from depai_robot.adapters import chain_account
from depai_robot.app import chain_worker
from depai_robot.app.chain_worker import ChainWorker
from depai_robot.charging import effect as wish
from depai_robot.charging.fact import (
    ChainFailed,
    ChannelObserved,
    Instant,
    TransactionConfirmed,
    TransactionSigned,
    WithdrawalsObserved,
)
from depai_robot.values.identity import address_to_hex
from test.chain_world import DOMAIN, AnvilWorld, MemoryWorld, Party, send

ESCROW = 10_000


@pytest.fixture(params=["memory", "anvil"])
def world(request, tmp_path):
    world = MemoryWorld() if request.param == "memory" else AnvilWorld(tmp_path)
    yield world
    world.close()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(chain_worker, "CHAIN_POLL_S", 0.01)
    monkeypatch.setattr(chain_worker, "REBROADCAST_S", 0.02)
    monkeypatch.setattr(chain_worker, "TEND_S", 0.05)


class Desk:
    """A worker, and the facts that it posts."""

    def __init__(self, world):
        self.world = world
        self.party = Party()
        world.fund(self.party.payer.address, 10 * ESCROW)
        for key in (self.party.receiver, self.party.payer):
            world.fund(key.address)
        self.chain = world.chain(self.party.receiver)
        self.facts = queue.Queue()
        self.worker = ChainWorker(self.chain, DOMAIN, self.facts.put, lambda: Instant(0, 0))

    def next(self, kind, timeout_s=10.0):
        fact = self.facts.get(timeout=timeout_s)
        assert isinstance(fact, kind), fact
        return fact

    def deposit(self, amount, salt=1):
        given = self.party.authorization(amount, salt)
        return wish.DepositWish(
            self.channel(), amount, given.valid_after_s, given.valid_before_s, given.salt, given.signature
        )

    def channel(self):
        config = self.party.config
        return wish.ChannelJson(*(getattr(config, name) for name in config.__dataclass_fields__))

    def sign(self, purpose, call):
        self.worker.ask(wish.PrepareTransaction(purpose, call))
        fact = self.next(TransactionSigned)
        return wish.BroadcastTransaction(purpose, fact.raw, fact.tx_hash, fact.nonce, 2)

    def until(self, condition, timeout_s=10.0):
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def desk(world, quick):
    desk = Desk(world)
    yield desk
    desk.worker.stop()


def test_signed_sent_confirmed_with_its_events(desk):
    effect = desk.sign("s:deposit", desk.deposit(ESCROW))
    desk.worker.ask(effect)
    desk.until(lambda: desk.chain.channel(desk.party.id, 1).balance_atomic)
    time.sleep(0.1)
    assert desk.facts.empty(), "one block is not two"
    desk.world.mine()
    fact = desk.next(TransactionConfirmed)
    assert (fact.purpose, fact.tx_hash) == ("s:deposit", effect.tx_hash)
    assert [(name, amount) for name, _, amount in fact.events] == [
        ("ChannelCreated", 0),
        ("Deposited", ESCROW),
    ]


def test_a_reorganisation_after_the_confirmation_is_mended_and_told_once(desk):
    desk.world.mine(3)
    effect = desk.sign("s:deposit", desk.deposit(ESCROW))
    desk.worker.ask(effect)
    desk.until(lambda: desk.chain.channel(desk.party.id, 1).balance_atomic)
    desk.world.mine(2)
    desk.next(TransactionConfirmed)
    desk.world.pause()
    desk.world.reorganise(4)
    assert desk.chain.channel(desk.party.id, 1).balance_atomic == 0

    def back():
        desk.world.mine()
        return desk.chain.channel(desk.party.id, 1).balance_atomic == ESCROW

    desk.until(back)
    # Deep enough at last, nobody looks after it any more.
    desk.world.mine(20)
    desk.until(lambda: not desk.worker._watched)
    assert desk.facts.empty()


def test_a_final_no_is_told_once(desk):
    """Somebody else's deposit takes the authorization: ours reverts, and the worker forgets it."""
    effect = desk.sign("s:deposit", desk.deposit(ESCROW))
    other = desk.world.chain(desk.party.payer)
    send(other, desk.party.deposit(ESCROW))
    desk.worker.ask(effect)
    desk.until(lambda: desk.chain.outcome(effect.tx_hash, 1).block_number)
    desk.world.mine(2)
    fact = desk.next(ChainFailed)
    assert fact.final
    assert "reverted" in fact.message
    time.sleep(0.2)
    assert desk.facts.empty()
    assert not desk.worker._watched


def test_withdrawals_and_channels_are_told(desk):
    desk.worker.ask(desk.sign("s:deposit", desk.deposit(ESCROW)))
    desk.until(lambda: desk.chain.channel(desk.party.id, 1).balance_atomic)
    desk.world.mine(2)
    desk.next(TransactionConfirmed)
    desk.worker.ask(wish.ReadWithdrawals("watch", (bytes(desk.party.id),), 0))
    first = desk.next(WithdrawalsObserved)
    assert first.channel_ids == ()
    send(desk.world.chain(desk.party.payer), desk.party.initiate(7))
    desk.worker.ask(wish.ReadWithdrawals("watch", (bytes(desk.party.id),), first.until_block))
    seen = desk.next(WithdrawalsObserved)
    assert (seen.purpose, seen.channel_ids) == ("watch", (bytes(desk.party.id),))
    desk.worker.ask(wish.ReadChannel("look", bytes(desk.party.id), 1))
    assert desk.next(ChannelObserved).withdraw_requested_at_s > 0


def test_a_replacement_is_told_by_its_own_hash(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(chain_account, "REPLACE_AFTER_S", 0.0)
    world = AnvilWorld(tmp_path)
    desk = Desk(world)
    try:
        effect = desk.sign("s:deposit", desk.deposit(ESCROW))
        world.pause()
        desk.worker.ask(effect)
        desk.until(lambda: len(desk.chain._account.alike(effect.tx_hash)) > 1)
        monkeypatch.setattr(chain_account, "REPLACE_AFTER_S", 60.0)
        time.sleep(0.2)
        world.mine(2)
        fact = desk.next(TransactionConfirmed)
        assert fact.tx_hash in desk.chain._account.alike(effect.tx_hash)[1:]
        assert desk.chain.channel(desk.party.id, 1).balance_atomic == ESCROW
    finally:
        desk.worker.stop()
        world.close()


def test_a_nonce_taken_by_another_program_ends_the_wish_and_the_next_try_works(tmp_path, quick):
    world = AnvilWorld(tmp_path)
    desk = Desk(world)
    try:
        effect = desk.sign("s:deposit", desk.deposit(ESCROW))
        sender = address_to_hex(desk.party.receiver.address)
        world.anvil.rpc("anvil_impersonateAccount", sender)
        world.anvil.rpc("eth_sendTransaction", {"from": sender, "to": sender, "value": "0x0"})
        desk.worker.ask(effect)
        fact = desk.next(ChainFailed)
        assert fact.final
        assert "was used by another transaction" in fact.message
        desk.worker.ask(desk.sign("s:deposit", desk.deposit(ESCROW)))
        desk.until(lambda: desk.chain.channel(desk.party.id, 1).balance_atomic)
        world.mine(2)
        desk.next(TransactionConfirmed)
    finally:
        desk.worker.stop()
        world.close()
