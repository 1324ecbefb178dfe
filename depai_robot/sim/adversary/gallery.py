"""Every cheat by name, and the page that says what came of each. ``depai-robot adversaries`` shows it."""

from collections.abc import Iterable

from depai_robot.sim.adversary import (  # noqa: F401 (each module registers its behaviours)
    block,
    kept,
    robot_body,
    robot_deposit,
    robot_money,
    robot_wire,
    station_meter,
    station_money,
    station_quote,
    station_silence,
    station_wire,
)
from depai_robot.sim.adversary.behaviour import REGISTRY, ROBOT, STATION, Behaviour
from depai_robot.sim.adversary.meeting import Outcome, meet
from depai_robot.values.error import ConfigError

SIDES = (STATION, ROBOT)
_COLUMNS = (
    "| behaviour | what it does | lost / bound | fee | locked | noticed as | stopped | settled | evidence |"
)

_HEAD = """# Adversaries

Written by `depai-robot adversaries --run --seeds 5 --markdown docs/adversaries.md`. Each named behaviour meets the
honest other side in the arena (`depai_robot/sim/adversary/`): the real machines, keys, envelopes and meter
statements, the settlement contract's rules, one virtual clock. After every step of the honest side the invariants of
the design are checked, and at the end its journal is folded again. Runs are functions of their seed.

How to read it: money is in atomic units (10⁻⁶ USDC); a start fee is 2,000, a tranche 400, the wanted energy costs
1,000. **lost** is the worst of the seeds: what the honest side paid (or was not paid) beyond the energy that truly
flowed and the fees it had agreed to, for good. **bound** is the most that the design allows: one tranche (where
energy is sold in blocks, one block) and the stated meter band against a station, nothing against a robot. **fee** is
a start fee that bought no energy: agreed, limited by the owner's policy, and the station is not asked again for a
while. **stopped** is the time from the first misdeed until the honest side signed (or gave) no more; **settled**,
until every atomic unit was back in its place (a withdrawal takes the channel's delay, 900 s here). **locked** is what
was not back when the run ended.
"""


def kinds(side: str = "") -> list[type[Behaviour]]:
    """All behaviours, or those of a side, by name; the honest control first."""
    every = [kind for kind in REGISTRY.values() if side in ("", kind.side)]
    return sorted(
        every, key=lambda kind: (SIDES.index(kind.side), not kind.name.startswith("honest"), kind.name)
    )


def find(name: str) -> list[type[Behaviour]]:
    """``side/name`` or ``name``. Raises ConfigError when there is none."""
    found = [kind for kind in kinds() if name in (kind.name, f"{kind.side}/{kind.name}")]
    if not found:
        raise ConfigError(f"no behaviour is called {name!r}; `depai-robot adversaries` lists them")
    return found


def worst(kind: type[Behaviour], seeds: Iterable[int]) -> Outcome:
    """The outcome with the greatest loss, then the most locked."""
    outcomes = [meet(kind, seed) for seed in seeds]
    return max(outcomes, key=lambda o: (o.lost_atomic - o.bound_atomic, o.lost_atomic, o.locked_atomic))


def _seconds(value: float) -> str:
    if value < 0:
        return ""
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ").replace("<", "&lt;")


def write_page(outcomes: list[Outcome], seeds: int) -> str:
    """The page in Markdown."""
    lines = [_HEAD, f"{len(outcomes)} behaviours, {seeds} seeds each.", ""]
    for side in SIDES:
        mine = [outcome for outcome in outcomes if outcome.side == side]
        if not mine:
            continue
        other = "robot" if side == STATION else "station"
        lost = max(mine, key=lambda o: o.lost_atomic)
        lines += [
            f"## Dishonest {side}s against an honest {other}",
            "",
            f"{len(mine)} behaviours; most lost: {lost.lost_atomic} ({lost.name}), allowed there: {lost.bound_atomic}.",
            "",
            _COLUMNS,
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for item in mine:
            kind = REGISTRY[f"{side}/{item.name}"]
            noticed = item.noticed or "nothing: it changes nothing, or lies within the band"
            if item.bystander:
                noticed += f" (an honest robot beside it: {item.bystander})"
            cells = (
                f"`{item.name}`",
                kind.what(),
                f"{item.lost_atomic} / {item.bound_atomic}",
                str(item.fee_atomic or ""),
                str(item.locked_atomic or ""),
                noticed,
                _seconds(item.stopped_s),
                _seconds(item.locked_s) if not item.locked_atomic else "not yet",
                item.evidence,
            )
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)
