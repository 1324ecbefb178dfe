"""Every cheat meets the honest other side: what is lost stays within the design's bound, and invariants hold."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from depai_robot.cli.adversaries import adversaries
from depai_robot.sim.adversary.audit import InvariantError
from depai_robot.sim.adversary.behaviour import Behaviour
from depai_robot.sim.adversary.gallery import find, kinds, worst, write_page
from depai_robot.sim.adversary.meeting import meet
from depai_robot.values.error import ConfigError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adversaries.md"
SEEDS = (1, 2)
NAMES = [f"{kind.side}/{kind.name}" for kind in kinds()]

NOTICED = {
    "station/over-meter": "is explained",
    "station/drift-over-sessions": "sessions the station counts",
    "station/no-power": "is explained",
    "station/dead-dock": "0 mWh in 60 s",
    "station/register-falls": "register fell",
    "station/register-stands-still": "is expected",
    "station/same-page": "two statements with pagination",
    "station/other-serial": "expected serial",
    "station/statement-of-another-session": "expected 's-1'",
    "station/meter-key-changes": "not signed by",
    "station/other-receiver": "payTo",
    "station/other-domain-name": "token name",
    "station/long-withdraw-delay": "withdraw delay",
    "station/huge-deposit": "minimum deposit",
    "station/lasting-deposit": "maxTimeoutSeconds",
    "station/dear-idle-fee": "idle fee",
    "station/raised-amount": "ahead of reconciled energy",
    "station/blank-cheque": "ahead of reconciled energy",
    "station/start-fee-twice": "reconciled energy and fees are",
    "station/payee-changes": "requirements changed within the session",
    "station/charges-more-than-added": "the voucher added",
    "station/wrong-sum": "station's sum is",
    "station/corrects-much": "at most",
    "station/corrective-with-forged-voucher": "at most",
    "station/claims-the-ceiling": "lost",
    "station/claims-at-once": "lost",
    "station/never-claims": "did not settle in time",
    "station/refuses-refund": "did not settle in time",
    "station/never-relays": "not seen on chain in time",
    "station/clock-fast": "time",
    "station/alg-none": "header",
    "station/kid-of-another": "key",
    "station/high-s-envelopes": "signature",
    "station/oversized-messages": "size",
    "station/block-not-delivered": "block 1 is paid, delivered are 0 of 1000 mWh: 0 mWh in 60 s",
    "station/block-denied": "block 1 is paid",
    "station/next-block-early": "asked for the next block",
    "station/dear-second-block": "requirements changed within the session",
    "station/lasting-block": "maxTimeoutSeconds",
    "station/block-to-another": "payTo",
    "station/kept-claims-the-ceiling": "lost",
    "station/kept-raises-the-base": "reconciled energy and fees are",
    "station/kept-refunds-unasked": "the kept channel holds 0",
    "robot/transfer-too-small": "value_mismatch",
    "robot/transfer-to-itself": "recipient_mismatch",
    "robot/transfer-forged": "signature",
    "robot/same-transfer-again": "invalid_transaction_state",
    "robot/draws-beyond-its-block": "LocalOutOfCredit",
    "robot/kept-without-start-fee": "cumulative_amount_mismatch",
    "robot/voucher-high-s": "voucher_signature",
    "robot/voucher-v-plus-10": "voucher_signature",
    "robot/ceiling-huge": "cumulative_exceeds_balance",
    "robot/ceiling-falls": "cumulative_amount_mismatch",
    "robot/zero-payer-authorizer": "payer_authorizer_mismatch",
    "robot/worthless-token": "token_mismatch",
    "robot/short-withdraw-delay": "withdraw_delay_mismatch",
    "robot/forged-deposit": "deposit_signature",
    "robot/draws-without-paying": "LocalOutOfCredit",
    "robot/guessed-proof": "probe does not match",
    "robot/sits-on-another-connector": "probe does not match",
    "robot/session-named-dash": "reserved",
    "robot/unplugs-under-current": "EVDisconnected",
    "robot/clock-slow": "time",
}
"""In the honest side's words; the other behaviours change nothing, or say it in several ways."""


def test_there_are_at_least_thirty_of_each_side():
    for side in ("robot", "station"):
        mine = kinds(side)
        assert len(mine) > 30
        assert len({kind.name for kind in mine}) == len(mine)
        assert all(kind.what().endswith(".") and len(kind.what()) < 120 for kind in mine)


@pytest.mark.parametrize("name", NAMES)
def test_no_more_is_lost_than_the_design_allows(name):
    for outcome in (meet(find(name)[0], seed) for seed in SEEDS):
        assert outcome.lost_atomic <= outcome.bound_atomic, outcome
        if outcome.side == "robot":
            assert outcome.lost_atomic == 0
        assert outcome.fee_atomic <= 2000
        assert NOTICED.get(name, "") in outcome.noticed, outcome.noticed


@pytest.mark.parametrize("side", ["station", "robot"])
def test_honest_ones_lose_nothing_and_accuse_nobody(side):
    for seed in range(1, 8):
        outcome = meet(find(f"{side}/honest")[0], seed)
        assert (outcome.lost_atomic, outcome.fee_atomic, outcome.locked_atomic) == (0, 0, 0)
        assert outcome.evidence.startswith("journal")
        assert outcome.noticed in ("", "EnergyLimitReached")
        assert outcome.energy_milliwh > 2500


@pytest.mark.parametrize("side", ["station", "robot"])
def test_honest_ones_on_a_kept_channel_lose_nothing_and_accuse_nobody(side):
    for seed in range(1, 5):
        outcome = meet(find(f"{side}/honest-kept-channel")[0], seed)
        assert (outcome.lost_atomic, outcome.fee_atomic) == (0, 0)
        assert outcome.evidence.startswith("journal")
        assert outcome.energy_milliwh > 4000


def test_a_rest_that_a_cheat_holds_comes_back():
    """All that was kept with a station that claimed too much, and with one that went silent."""
    for name in ("station/kept-claims-the-ceiling", "station/kept-ignores-closing", "station/never-claims"):
        outcome = meet(find(name)[0])
        assert outcome.locked_atomic == 0, outcome


def test_a_run_is_a_function_of_its_seed():
    kind = find("station/ten-percent")[0]
    assert meet(kind, 5) == meet(kind, 5)


def test_what_convicts_is_kept_with_the_agreement():
    outcome = meet(find("station/over-meter")[0])
    assert outcome.evidence.startswith("kept: offer, quote, ")
    assert "session.event" in outcome.evidence


def test_the_auditor_sees_a_breach():
    """An honest machine whose books are spoiled must not pass."""

    class Blind(Behaviour):
        side = "station"

        def begin(self, arena):
            def mint() -> None:
                arena.chain.state.balances[b"thief"] = 1

            arena.later(10_000_000_000, mint)

    with pytest.raises(InvariantError, match="invariant 6"):
        meet(Blind)


def test_the_page_names_every_behaviour():
    page = PAGE.read_text(encoding="utf-8")
    for kind in kinds():
        assert f"`{kind.name}`" in page


def test_the_command_lists_and_runs(tmp_path):
    runner = CliRunner()
    listed = runner.invoke(adversaries, ["--side", "robot"])
    assert listed.exit_code == 0
    assert "robot/voucher-high-s" in listed.output
    target = tmp_path / "page.md"
    options = ["--run", "--seeds", "1", "--markdown", str(target), "station/over-meter", "voucher-high-s"]
    ran = runner.invoke(adversaries, options)
    assert ran.exit_code == 0, ran.output
    assert "ok" in ran.output
    assert "| `over-meter` |" in target.read_text(encoding="utf-8")


def test_an_unknown_name_is_said():
    with pytest.raises(ConfigError, match="no behaviour is called 'nice'"):
        find("nice")


def test_a_page_of_few_has_only_their_sides():
    outcome = worst(find("robot/alg-none")[0], (1,))
    page = write_page([outcome], 1)
    assert "## Dishonest robots against an honest station" in page
    assert "Dishonest stations" not in page
