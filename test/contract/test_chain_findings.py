"""What running the real contract with the stock package showed and its specification does not say: each line a test.

Robot side:
channelId is the EIP-712 hash: test_chain_contracts.py::test_golden_digests_on_their_own_chain
a full refund resets no total: test_chain_contract.py::test_refund_gives_back_what_is_not_claimed_and_resets_no_total
.. and a payer that begins at zero again is refused: test_payment_voucher.py::test_any_other_ceiling_is_a_mismatch
ceilings are not monotone on the chain: test_the_highest_ceiling_ever_signed_is_what_can_be_claimed
.. so ours never fall: test_payment_ledger.py::test_a_ceiling_never_falls
2^128-1 is a blank cheque over top-ups: test_the_largest_ceiling_is_a_blank_cheque_over_later_top_ups
.. so ours stay within the escrow: test_payment_ledger.py::test_a_ceiling_never_exceeds_the_escrow
signing again gives the same bytes: test_payment_signature.py::test_signing_is_deterministic
a lost answer is asked for again: test_charging_ways.py::test_a_lost_answer_is_asked_for_again_and_costs_nothing
an answer that does not add up: test_charging_loop.py::test_an_answer_that_does_not_add_up
withdrawDelay is a JSON integer: test_payment_x402.py::test_withdraw_delay_is_a_json_integer_of_40_bits
minDeposit above the policy (huge-deposit): test_adversary_gallery.py::test_no_more_is_lost_than_the_design_allows
validBefore is compared with the chain's clock: test_expiry_is_judged_by_the_chains_clock
accepted is echoed byte for byte: test_payment_x402.py::test_accepted_is_echoed_byte_for_byte
a wrong domain name: test_chain_usdc.py::test_a_wrong_domain_name_is_found_before_anything_is_signed
.. and in a signature: test_chain_usdc.py::test_a_deposit_signed_in_the_wrong_domain_is_refused_by_the_simulation
anybody may relay a deposit: test_a_stranger_relays_a_deposit_into_its_own_channel_only
replays and altered salt, amount, channel: test_chain_contract.py::test_deposit_refused
.. and twice the same: test_chain_contract.py::test_deposit_is_not_repeated
finalising pays min(asked, balance - claimed):
test_chain_contract.py::test_withdrawal_by_the_voucher_key_after_the_delay
a refund shrinks or cancels it: test_chain_contract.py::test_a_refund_shrinks_or_cancels_a_pending_withdrawal
top-ups during it: test_chain_contract.py::test_a_top_up_during_a_withdrawal_is_accepted
a refund's voucher is exactly what is charged: test_payment_voucher.py::test_a_refund_voucher_is_exactly_what_is_charged

Station side:
high s, v of 0, 1 or + 10: test_chain_contract.py::test_claim_with_a_spoiled_signature
.. refused before they are taken:
test_payment_signature.py::test_what_the_contract_reverts_is_refused_with_the_part_named
.. one fails the whole batch: test_chain_contract.py::test_a_batch_stands_or_falls_together
.. and is found: test_chain_batch.py::test_the_bad_rows_are_found_and_the_others_claimed
no zero payerAuthorizer: test_payment_voucher.py::test_a_zero_authorizer_is_refused_whoever_signed
500,000 gas: test_how_many_rows_a_claim_takes
.. sized: test_a_batch_is_made_as_small_as_the_gas_allows
no voucher during a withdrawal: test_payment_voucher.py::test_no_voucher_while_a_withdrawal_is_pending
.. claim at once: test_charging_loop.py::test_a_withdrawal_makes_the_station_claim_at_once
.. WithdrawInitiated is watched: test_chain_withdrawals.py::test_withdrawals_are_seen_once_asked_for
a store that is fsynced before power:
test_fault_kill_station.py::test_a_kill_at_any_point_ends_settled_with_the_same_totals
rows at or below the record:
test_chain_contract.py::test_a_row_at_or_below_what_is_recorded_is_skipped_before_its_signature_is_looked_at
settle with nothing: test_chain_contract.py::test_claims_are_cumulative_and_settled_once
a blacklisted receiver: test_chain_usdc.py::test_a_blacklisted_receiver_is_not_paid_and_its_money_stays
"""

import collections
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from depai_robot.app.chain_worker import fit_rows
from depai_robot.ports import ClaimCall, DepositCall
from depai_robot.values.error import FinalChainError
from test.chain_world import AnvilWorld, MemoryWorld, Party, parties_use, send, signer
from test.usdc_token import UsdcWorld

ESCROW = 10_000
TESTS = Path(__file__).resolve().parents[1]


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


def open_channel(world, escrow=ESCROW, **changes):
    party = Party(**changes)
    world.fund(party.payer.address, 10 * ESCROW)
    world.fund(party.receiver.address)
    chain = world.chain(party.receiver)
    if escrow:
        send(chain, party.deposit(escrow))
    return party, chain


def totals(chain, party):
    state = chain.channel(party.id, 1)
    return state.balance_atomic, state.total_claimed_atomic


def test_each_line_names_a_test_that_there_is():
    here = Path(__file__).read_text()
    named = re.findall(r"(?:(test_\w+\.py)::)?(test_\w+)$", __doc__, re.MULTILINE)
    assert len(named) > 30
    files = collections.defaultdict(str)
    for path in TESTS.rglob("test_*.py"):
        files[path.name] += path.read_text()
    missing = [
        name for name in named if f"def {name[1]}" not in (files.get(name[0], "") if name[0] else here)
    ]
    assert not missing


def test_the_highest_ceiling_ever_signed_is_what_can_be_claimed(world):
    """A lower voucher after a higher one revokes nothing."""
    party, chain = open_channel(world)
    high, low = party.row(5000), party.row(4000)
    assert send(chain, ClaimCall((low,))) == [("Claimed", 4000)]
    assert send(chain, ClaimCall((high,))) == [("Claimed", 5000)]
    assert send(chain, ClaimCall((low,))) == []
    # The ceiling bounds, the receiver chooses: it may claim less than it holds, and the rest later.
    late, chain = open_channel(world)
    assert send(chain, late.claim(10, ceiling=5000)) == [("Claimed", 10)]
    assert send(chain, late.claim(5000, ceiling=5000)) == [("Claimed", 5000)]


def test_the_largest_ceiling_is_a_blank_cheque_over_later_top_ups(world):
    party, chain = open_channel(world)
    blank = 2**128 - 1
    assert send(chain, party.claim(ESCROW, ceiling=blank)) == [("Claimed", ESCROW)]
    send(chain, party.deposit(2 * ESCROW, salt=2))
    assert send(chain, party.claim(3 * ESCROW, ceiling=blank)) == [("Claimed", 3 * ESCROW)]
    assert totals(chain, party) == (3 * ESCROW, 3 * ESCROW)


def test_expiry_is_judged_by_the_chains_clock(world):
    """Good by the wall clock and gone by the chain's, and the other way round."""
    party, chain = open_channel(world, escrow=0)
    world.advance(3600)
    chain_s = chain.head().timestamp_s
    assert chain_s > time.time() + 1800
    with pytest.raises(FinalChainError, match="expired"):
        chain.prepare(party.deposit(ESCROW, before_s=int(time.time()) + 900))
    early = party.deposit(ESCROW, salt=2, after_s=int(time.time()) + 1000, before_s=chain_s + 900)
    assert ("Deposited", ESCROW) in send(chain, early)


def test_a_stranger_relays_a_deposit_into_its_own_channel_only(world):
    party, chain = open_channel(world, escrow=0)
    stranger = signer("stranger")
    world.fund(stranger.address)
    relay = world.chain(stranger)
    elsewhere = Party(payer=party.payer, receiver=stranger)
    for stolen in (
        DepositCall(elsewhere.config, party.authorization(ESCROW)),
        DepositCall(replace(party.config, salt=b"\1" * 32), party.authorization(ESCROW)),
    ):
        with pytest.raises(FinalChainError, match="invalid signature"):
            relay.prepare(stolen)
    assert send(relay, party.deposit(ESCROW)) == [("ChannelCreated", 0), ("Deposited", ESCROW)]
    assert totals(chain, party) == (ESCROW, 0)
    with pytest.raises(FinalChainError, match="authorization is used"):
        relay.prepare(party.deposit(ESCROW))


@pytest.fixture
def batch(world):
    receiver = signer("receiver")
    parties = [open_channel(world, receiver=receiver)[0] for _ in range(24)]
    return world.chain(receiver), tuple(party.row(1000) for party in parties)


def test_how_many_rows_a_claim_takes(world, batch):
    """Rows cost alike: 21,300 each on the canonical contract (memory has its figures), 39,500 on the stand-in.

    So a fixed number of rows is no limit of gas: a batch is simulated and sized.
    """
    chain, rows = batch
    gas = [chain.simulate(ClaimCall(rows[:count])) for count in (1, 2, 18, 24)]
    per_row = gas[1] - gas[0]
    assert gas[3] - gas[2] == pytest.approx(6 * per_row, rel=0.05)
    if world.name == "memory":
        assert gas[2] <= 500_000 < gas[3]
    else:
        assert 20_000 < per_row < 45_000


def test_a_batch_is_made_as_small_as_the_gas_allows(batch):
    chain, rows = batch
    for gas_max in (1, 60_000, 200_000, 500_000, 10**7):
        fit = fit_rows(chain, rows, gas_max)
        assert rows[: len(fit)] == fit
        assert len(fit) == 1 or chain.simulate(ClaimCall(fit)) <= gas_max
        if len(fit) < len(rows):
            assert chain.simulate(ClaimCall(rows[: len(fit) + 1])) > gas_max
    assert len(send(chain, ClaimCall(fit))) == len(fit)
