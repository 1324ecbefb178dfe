"""One suite for ports.Chain: the rules in memory, web3 on a real EVM, and the same with the real USDC code."""

import random
from dataclasses import replace

import pytest

from depai_robot.payment import eip712
from depai_robot.payment.signature import CURVE_ORDER
from depai_robot.ports import (
    ClaimCall,
    ClaimRow,
    DepositCall,
    SettleCall,
    SignedTransaction,
    TransactionStatus,
)
from depai_robot.values.error import BugError, ChainError, FinalChainError
from depai_robot.values.identity import ADDRESS_ZERO
from test.chain_world import (
    FOR_EVER_S,
    AnvilWorld,
    MemoryWorld,
    Party,
    parties_use,
    send,
    settled,
    signer,
    with_signature,
)
from test.usdc_token import UsdcWorld

ESCROW = 10_000


@pytest.fixture(scope="module")
def anvil_world(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


@pytest.fixture(scope="module")
def usdc_world(tmp_path_factory):
    world = UsdcWorld(tmp_path_factory.mktemp("usdc"))
    yield world
    world.close()


@pytest.fixture(params=["memory", "anvil", "usdc"])
def world(request):
    if request.param == "memory":
        yield MemoryWorld()
        return
    world = request.getfixturevalue(f"{request.param}_world")
    with parties_use(world.network.token):
        yield world


@pytest.fixture(params=["memory", "anvil"])
def own_world(request, tmp_path):
    """One that the test may stop mining on."""
    world = MemoryWorld() if request.param == "memory" else AnvilWorld(tmp_path)
    yield world
    world.close()


def open_channel(world, escrow=ESCROW, **changes):
    party = Party(**changes)
    world.fund(party.payer.address, 10 * ESCROW)
    world.fund(party.receiver.address)
    world.fund(party.voucher_key.address)
    chain = world.chain(party.receiver)
    if escrow:
        send(chain, party.deposit(escrow))
    return party, chain


def totals(chain, party):
    state = chain.channel(party.id, 1)
    return state.balance_atomic, state.total_claimed_atomic


def refused(chain, call, error):
    with pytest.raises(FinalChainError, match=error):
        chain.prepare(call)


def spoil(signature, part):
    r, s, v = signature[:32], int.from_bytes(signature[32:64], "big"), signature[64]
    return {
        "high s": r + (CURVE_ORDER - s).to_bytes(32, "big") + bytes([55 - v]),
        "v of 0 or 1": signature[:64] + bytes([v - 27]),
        "v + 10": signature[:64] + bytes([v + 10]),
        "other v": signature[:64] + bytes([55 - v]),
        "64 bytes": signature[:64],
        "66 bytes": signature + b"\0",
        "empty": b"",
        "zeros": bytes(65),
    }[part]


# --- reading -------------------------------------------------------------------------------------------------


def test_pins_hold_and_the_head_moves(world):
    chain = world.chain()
    chain.check_pins()
    before = chain.head()
    world.mine(2)
    after = chain.head()
    assert after.number == before.number + 2
    assert after.timestamp_s >= before.timestamp_s
    assert len(after.block_hash) == 32
    assert after.block_hash != before.block_hash


def test_who_only_reads_prepares_nothing(world):
    with pytest.raises(BugError, match="only reads"):
        world.chain().prepare(Party().settle())


def test_a_channel_that_nobody_opened_is_empty(world):
    state = world.chain().channel(Party().id, 1)
    assert (state.balance_atomic, state.total_claimed_atomic, state.refund_nonce) == (0, 0, 0)
    assert state.withdraw_requested_at_s == 0


# --- deposit -------------------------------------------------------------------------------------------------


def test_deposit_by_anybody_into_the_channel_it_was_signed_for(world):
    party, chain = open_channel(world, escrow=0)
    call = party.deposit(ESCROW)
    nonce = eip712.deposit_nonce(party.id, call.authorization.salt)
    assert not chain.authorization_used(party.payer.address, nonce)
    before = chain.token_balance(party.payer.address)
    assert send(chain, call) == [("ChannelCreated", 0), ("Deposited", ESCROW)]
    assert chain.authorization_used(party.payer.address, nonce)
    assert before - chain.token_balance(party.payer.address) == ESCROW
    assert totals(chain, party) == (ESCROW, 0)
    assert send(chain, party.deposit(500, salt=2)) == [("Deposited", 500)]
    assert totals(chain, party) == (ESCROW + 500, 0)


def test_deposit_is_not_repeated(world):
    party, chain = open_channel(world)
    refused(chain, party.deposit(ESCROW), "authorization is used")


def altered_deposits():
    yield "salt", lambda a, b: DepositCall(a.config, _but(a, salt=bytes(31) + b"\7")), "invalid signature"
    yield "amount", lambda a, b: DepositCall(a.config, _but(a, amount_atomic=2)), "invalid signature"
    yield "channel", lambda a, b: DepositCall(b.config, a.authorization(1, 9)), "invalid signature"
    yield "expired", lambda a, b: a.deposit(1, 9, before_s=1), "expired"
    yield "too early", lambda a, b: a.deposit(1, 9, after_s=FOR_EVER_S - 1), "not yet valid"
    yield "too much", lambda a, b: a.deposit(100 * ESCROW, 9), "exceeds balance"
    yield "nothing", lambda a, b: a.deposit(0, 9), "ZeroDeposit"
    for part, error in {
        "high s": "'s' value",
        "v of 0 or 1": "'v' value",
        "other v": "invalid signature",
        "64 bytes": "signature length",
        "66 bytes": "signature length",
        "zeros": "'v' value",
    }.items():
        yield part, lambda a, b, p=part: _spoiled(a.deposit(1, 9), p), error


def _but(party, **changes):
    return replace(party.authorization(1, 9), **changes)


def _spoiled(call, part):
    old = call.authorization.signature if isinstance(call, DepositCall) else call.rows[0].voucher.signature
    return with_signature(call, spoil(old, part))


@pytest.mark.parametrize(
    ("name", "make", "error"), list(altered_deposits()), ids=lambda value: str(value)[:20]
)
def test_deposit_refused(world, name, make, error):
    party, chain = open_channel(world, escrow=0)
    other = Party(payer=party.payer)
    refused(chain, make(party, other), error)
    assert totals(chain, party) == (0, 0)


@pytest.mark.parametrize(
    ("delay_s", "error"), [(899, "WithdrawDelayOutOfRange"), (30 * 86400 + 1, "WithdrawDelayOutOfRange")]
)
def test_deposit_with_a_delay_out_of_range(world, delay_s, error):
    party, chain = open_channel(world, escrow=0, delay_s=delay_s)
    refused(chain, party.deposit(1), error)


@pytest.mark.parametrize("role", ["payer", "receiver", "receiver_authorizer", "token"])
def test_deposit_into_a_channel_without(world, role):
    party, chain = open_channel(world, escrow=0)
    config = replace(party.config, **{role: ADDRESS_ZERO})
    refused(chain, DepositCall(config, party.authorization(1)), "InvalidChannel")


def test_deposit_overflow(world):
    party, chain = open_channel(world)
    refused(chain, party.deposit(2**128 - 1, salt=2), "DepositOverflow")


# --- claim and settle ----------------------------------------------------------------------------------------


def test_claims_are_cumulative_and_settled_once(world):
    party, chain = open_channel(world)
    assert send(chain, party.claim(3000)) == [("Claimed", 3000)]
    assert send(chain, party.claim(4500, ceiling=6000)) == [("Claimed", 4500)]
    assert totals(chain, party) == (ESCROW, 4500)
    assert chain.token_balance(party.receiver.address) == 0
    assert send(chain, party.settle()) == [("Settled", 4500)]
    assert chain.token_balance(party.receiver.address) == 4500
    assert send(chain, party.settle()) == []
    send(chain, party.claim(5000))
    stranger = signer("stranger")
    world.fund(stranger.address)
    assert send(world.chain(stranger), party.settle()) == [("Settled", 500)]


def test_a_row_at_or_below_what_is_recorded_is_skipped_before_its_signature_is_looked_at(world):
    party, chain = open_channel(world)
    send(chain, party.claim(3000))
    assert send(chain, with_signature(party.claim(3000), b"junk")) == []
    assert send(chain, with_signature(party.claim(1), b"")) == []
    assert totals(chain, party) == (ESCROW, 3000)


@pytest.mark.parametrize(
    ("part", "error"),
    list(
        {
            "high s": "ECDSAInvalidSignatureS",
            "v of 0 or 1": "ECDSAInvalidSignature$",
            "v + 10": "ECDSAInvalidSignature$",
            "64 bytes": "ECDSAInvalidSignatureLength",
            "66 bytes": "ECDSAInvalidSignatureLength",
            "empty": "ECDSAInvalidSignatureLength",
            "zeros": "ECDSAInvalidSignature$",
            "other v": "reverts: (ECDSA)?InvalidSignature$",
        }.items()
    ),
)
def test_claim_with_a_spoiled_signature(world, part, error):
    party, chain = open_channel(world)
    refused(chain, _spoiled(party.claim(3000), part), error)


def test_claim_refused(world):
    party, chain = open_channel(world)
    other = Party(payer=party.payer, receiver=party.receiver)
    refused(chain, party.claim(3001, ceiling=3000), "ClaimExceedsCeiling")
    refused(chain, party.claim(ESCROW + 1), "ClaimExceedsBalance")
    refused(chain, ClaimCall(()), "EmptyBatch")
    refused(chain, ClaimCall((ClaimRow(party.config, other.voucher(5), 5),)), "InvalidSignature")
    stranger = signer("stranger")
    world.fund(stranger.address)
    refused(world.chain(stranger), party.claim(1), "NotAuthorizedToClaim")


def test_a_batch_stands_or_falls_together(world):
    receiver = signer("receiver")
    parties = [open_channel(world, receiver=receiver)[0] for _ in range(3)]
    chain = world.chain(receiver)
    rows = [party.row(1000 + n) for n, party in enumerate(parties)]
    bad = with_signature(ClaimCall((rows[1],)), bytes(65)).rows[0]
    refused(chain, ClaimCall((rows[0], bad, rows[2])), "ECDSAInvalidSignature")
    assert totals(chain, parties[0]) == (ESCROW, 0)
    assert send(chain, ClaimCall(tuple(rows))) == [("Claimed", 1000), ("Claimed", 1001), ("Claimed", 1002)]
    assert send(chain, SettleCall(receiver.address, parties[0].token)) == [("Settled", 3003)]


# --- refund --------------------------------------------------------------------------------------------------


def test_refund_gives_back_what_is_not_claimed_and_resets_no_total(world):
    party, chain = open_channel(world)
    send(chain, party.claim(4000))
    before = chain.token_balance(party.payer.address)
    assert send(chain, party.refund(1000)) == [("Refunded", 1000)]
    assert send(chain, party.refund(2**128 - 1)) == [("Refunded", 5000)]
    assert chain.token_balance(party.payer.address) - before == 6000
    assert totals(chain, party) == (4000, 4000)
    assert chain.channel(party.id, 1).refund_nonce == 2
    assert send(chain, party.refund(1)) == []
    assert chain.channel(party.id, 1).refund_nonce == 3
    # The channel goes on where it was: a payer that begins at zero again is refused.
    assert send(chain, party.deposit(1000, salt=2)) == [("Deposited", 1000)]
    assert send(chain, party.claim(1000)) == []
    assert send(chain, party.claim(4600)) == [("Claimed", 4600)]


def test_refund_refused(world):
    party, chain = open_channel(world)
    refused(chain, party.refund(0), "ZeroRefund")
    refused(world.chain(party.payer), party.refund(1), "NotAuthorizedToRefund")


def test_a_channel_that_was_never_claimed_from_closes(world):
    party, chain = open_channel(world)
    assert send(chain, party.refund(ESCROW)) == [("Refunded", ESCROW), ("ChannelClosed", 0)]
    assert totals(chain, party) == (0, 0)
    assert send(chain, party.deposit(7, salt=2)) == [("ChannelCreated", 0), ("Deposited", 7)]


# --- withdrawal ----------------------------------------------------------------------------------------------


def test_withdrawal_by_the_voucher_key_after_the_delay(world):
    party, chain = open_channel(world)
    robot = world.chain(party.voucher_key)
    assert send(robot, party.initiate(ESCROW)) == [("WithdrawInitiated", ESCROW)]
    assert abs(chain.channel(party.id, 1).withdraw_requested_at_s - chain.head().timestamp_s) <= 1
    refused(robot, party.initiate(1), "WithdrawalAlreadyPending")
    refused(robot, party.finalize(), "WithdrawDelayNotElapsed")
    refused(chain, party.finalize(), "NotAuthorizedToFinalizeWithdraw")
    # The receiver claims what it has earned while it may.
    send(chain, party.claim(2500))
    world.advance(party.delay_s)
    before = chain.token_balance(party.payer.address)
    assert send(robot, party.finalize()) == [("WithdrawFinalized", 7500)]
    assert chain.token_balance(party.payer.address) - before == 7500
    assert totals(chain, party) == (2500, 2500)
    assert chain.channel(party.id, 1).withdraw_requested_at_s == 0
    refused(robot, party.finalize(), "WithdrawalNotPending")
    refused(chain, party.claim(2501), "ClaimExceedsBalance")


def test_withdrawal_refused(world):
    party, chain = open_channel(world)
    refused(world.chain(party.payer), party.initiate(0), "NothingToWithdraw")
    refused(world.chain(party.payer), party.initiate(ESCROW + 1), "WithdrawAmountExceedsAvailable")
    refused(chain, party.initiate(1), "InvalidChannel")


def test_a_refund_shrinks_or_cancels_a_pending_withdrawal(world):
    party, chain = open_channel(world)
    robot = world.chain(party.voucher_key)
    send(robot, party.initiate(5000))
    send(chain, party.refund(2000))
    assert chain.channel(party.id, 1).withdraw_requested_at_s > 0
    world.advance(party.delay_s)
    assert send(robot, party.finalize()) == [("WithdrawFinalized", 3000)]
    send(robot, party.initiate(5000))
    send(chain, party.refund(5000))
    assert chain.channel(party.id, 1).withdraw_requested_at_s == 0
    refused(robot, party.finalize(), "WithdrawalNotPending")


def test_a_top_up_during_a_withdrawal_is_accepted(world):
    party, chain = open_channel(world)
    robot = world.chain(party.voucher_key)
    send(robot, party.initiate(ESCROW))
    send(chain, party.deposit(500, salt=2))
    world.advance(party.delay_s)
    assert send(robot, party.finalize()) == [("WithdrawFinalized", ESCROW)]
    assert totals(chain, party) == (500, 0)


# --- transactions --------------------------------------------------------------------------------------------


def test_a_transaction_from_unknown_over_pending_to_confirmed(own_world):
    party, chain = open_channel(own_world)
    own_world.pause()
    transaction = chain.prepare(party.claim(1000))
    assert chain.outcome(transaction.tx_hash, 1).status is TransactionStatus.UNKNOWN
    chain.broadcast(transaction)
    chain.broadcast(transaction)
    pending = chain.outcome(transaction.tx_hash, 1)
    assert (pending.status, pending.block_number, pending.events) == (TransactionStatus.PENDING, 0, ())
    own_world.mine()
    mined = chain.outcome(transaction.tx_hash, 1)
    assert mined.status is TransactionStatus.CONFIRMED
    assert mined.block_number == chain.head().number
    assert mined.gas_used > 21_000
    assert [event.channel_id for event in mined.events] == [party.id]
    assert chain.outcome(transaction.tx_hash, 3).status is TransactionStatus.PENDING
    assert chain.channel(party.id, 3).total_claimed_atomic == 0
    own_world.mine(2)
    assert chain.outcome(transaction.tx_hash, 3).status is TransactionStatus.CONFIRMED
    assert chain.channel(party.id, 3).total_claimed_atomic == 1000
    chain.broadcast(transaction)
    assert chain.channel(party.id, 1).total_claimed_atomic == 1000


def test_reverted_is_told_only_when_it_is_deep_enough(own_world):
    party, chain = open_channel(own_world)
    robot = own_world.chain(party.voucher_key)
    own_world.pause()
    first, second = robot.prepare(party.initiate(1)), robot.prepare(party.initiate(2))
    assert second.nonce == first.nonce + 1
    robot.broadcast(first)
    robot.broadcast(second)
    own_world.mine()
    assert robot.outcome(first.tx_hash, 1).status is TransactionStatus.CONFIRMED
    assert robot.outcome(second.tx_hash, 2).status is TransactionStatus.PENDING
    late = robot.outcome(second.tx_hash, 1)
    assert (late.status, late.events) == (TransactionStatus.REVERTED, ())


def test_a_reorganisation_loses_a_transaction_and_the_same_bytes_bring_it_back(own_world):
    party, chain = open_channel(own_world, escrow=0)
    transaction = chain.prepare(party.deposit(ESCROW))
    own_world.pause()
    own_world.mine(2)
    chain.broadcast(transaction)
    own_world.mine(2)
    assert chain.outcome(transaction.tx_hash, 2).status is TransactionStatus.CONFIRMED
    head = chain.head()
    own_world.reorganise(3)
    assert chain.head().block_hash != head.block_hash
    assert chain.outcome(transaction.tx_hash, 1).status is TransactionStatus.UNKNOWN
    assert totals(chain, party) == (0, 0)
    chain.broadcast(transaction)
    own_world.mine()
    assert settled(chain, transaction.tx_hash).status is TransactionStatus.CONFIRMED
    assert totals(chain, party) == (ESCROW, 0)


def test_bytes_that_are_no_transaction(own_world):
    party, chain = open_channel(own_world, escrow=0)
    good = chain.prepare(party.deposit(1))
    with pytest.raises((ChainError, BugError)):
        chain.broadcast(SignedTransaction(good.raw[:-1], good.tx_hash[:-1] + b"\0", good.nonce))


# --- the two agree, call by call ------------------------------------------------------------------------------


def random_call(random_, parties):
    party = random_.choice(parties)
    amount = random_.choice([0, 1, 500, 3000, ESCROW, ESCROW + 1])
    kind = random_.randrange(7)
    if kind == 0:
        return party.payer, party.deposit(amount, salt=random_.randrange(4)), party
    if kind in (1, 2):
        ceiling = random_.choice([amount, amount, amount + 1, max(0, amount - 1)])
        sender = random_.choice([party.receiver, party.receiver, party.payer])
        return sender, party.claim(amount, ceiling), party
    if kind == 3:
        return party.payer, party.settle(), party
    if kind == 4:
        return random_.choice([party.receiver, party.receiver, party.payer]), party.refund(amount), party
    sender = random_.choice([party.payer, party.voucher_key, party.receiver])
    return sender, party.initiate(amount) if kind == 5 else party.finalize(), party


def attempt(world, sender, call):
    try:
        return send(world.chain(sender), call)
    except FinalChainError as error:
        return str(error).replace("execution reverted: ", "")


@pytest.mark.parametrize("seed", [1, 2])
def test_memory_and_contract_agree_and_no_token_is_lost(anvil_world, seed):
    random_ = random.Random(seed)
    worlds = [MemoryWorld(), anvil_world]
    receiver = signer("receiver")
    parties = [Party(receiver=receiver), Party(receiver=receiver), Party()]
    for world in worlds:
        for party in parties:
            world.fund(party.payer.address, 3 * ESCROW)
            for key in (party.voucher_key, party.receiver):
                world.fund(key.address)
    memory, chain = [world.chain() for world in worlds]
    floor = chain.token_balance(eip712.SETTLEMENT)
    receivers = {party.receiver.address for party in parties}
    outcomes = set()
    for step in range(60):
        if random_.random() < 0.1:
            for world in worlds:
                world.advance(1000)
        sender, call, party = random_call(random_, parties)
        seen = [attempt(world, sender, call) for world in worlds]
        assert seen[0] == seen[1], call
        outcomes.add(str(seen[0])[:40])
        assert totals(memory, party) == totals(chain, party)
        if step % 10 == 9:
            rows = [totals(chain, party) for party in parties]
            held, claimed = sum(b - c for b, c in rows), sum(c for _, c in rows)
            for c, start in ((memory, 0), (chain, floor)):
                paid = sum(c.token_balance(receiver) for receiver in receivers)
                assert c.token_balance(eip712.SETTLEMENT) - start == held + claimed - paid
                assert sum(c.token_balance(p.payer.address) for p in parties) == 9 * ESCROW - held - claimed
    for party in parties:
        ours, theirs = (c.channel(party.id, 1) for c in (memory, chain))
        assert ours.refund_nonce == theirs.refund_nonce
        assert bool(ours.withdraw_requested_at_s) == bool(theirs.withdraw_requested_at_s)
    assert len(outcomes) >= 10
