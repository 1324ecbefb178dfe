"""What a cheat may change: every seam between an honest machine and its world, passed through unchanged by default.

A behaviour is a class that overrides one or a few of these. The machine inside it stays the honest one, so it knows
the protocol as well as the other side does; what it does not know is that its words, its meter, its transactions or
its body are being changed on their way. May import nothing of ``app``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from depai_robot.charging.message import Draft
    from depai_robot.charging.ocmf import Statement
    from depai_robot.charging.setting import RobotSettings, StationSettings
    from depai_robot.sim.adversary.agent import Agent
    from depai_robot.sim.adversary.arena import Arena

ROBOT, STATION = "robot", "station"
REGISTRY: dict[str, type[Behaviour]] = {}
"""Every behaviour by ``side/name``."""


class Behaviour:
    """Honest. Subclasses change one thing each, and say when they begin with ``arena.misdeed()``.

    Attributes:
        side: which side cheats.
        name: unique on its side.
        robots, stations: how many of each are in the arena; the first of its side is the cheat.
        energy_milliwh: that the first session of each robot wants.
        least_s, seconds: how long a run takes at least; and after that at most, until the honest side is at rest.
    """

    side: ClassVar[str] = ""
    name: ClassVar[str] = ""
    robots: ClassVar[int] = 1
    stations: ClassVar[int] = 1
    energy_milliwh: ClassVar[int] = 2500
    least_s: ClassVar[float] = 60.0
    seconds: ClassVar[float] = 3000.0

    def __init_subclass__(cls) -> None:
        if cls.name:
            REGISTRY[f"{cls.side}/{cls.name}"] = cls

    @classmethod
    def what(cls) -> str:
        """What it does, in one line."""
        return (cls.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip()

    def robot_settings(self, settings: RobotSettings) -> RobotSettings:
        """Of every robot in the arena."""
        return settings

    def station_settings(self, settings: StationSettings) -> StationSettings:
        """Of every station in the arena."""
        return settings

    def begin(self, arena: Arena) -> None:
        """Before time begins: plans what is done besides the machine."""
        del arena

    def fact(self, arena: Arena, agent: Agent, fact: Any) -> Any:
        """A fact before the cheat's machine sees it; None hides it."""
        del arena, agent
        return fact

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        """What is done of a wish of the cheat's machine."""
        del arena, agent
        return (effect,)

    def draft(self, arena: Arena, draft: Draft) -> Draft | None:
        """A message of the cheat before it is signed; None is never sent. Payments hold their true signatures."""
        del arena
        return draft

    def token(self, arena: Arena, draft: Draft, token: str) -> tuple[str, ...]:
        """Signed bytes of the cheat before they go out."""
        del arena, draft
        return (token,)

    def register(self, arena: Arena, true_milliwh: int) -> int:
        """What a cheating station's meter says."""
        del arena
        return true_milliwh

    def statement(self, arena: Arena, statement: Statement) -> Statement:
        """A statement of a cheating station's meter before it is signed."""
        del arena
        return statement

    def meter_key(self, arena: Arena) -> str:
        """Name of the key that signs statements."""
        del arena
        return "meter-a"

    def delivers(self, arena: Arena) -> bool:
        """Whether power really flows when a cheating station switches it on."""
        del arena
        return True

    def draws_w(self, arena: Arena, wanted_w: int) -> int:
        """What a cheating robot tries to draw."""
        del arena
        return wanted_w

    def heard(self, arena: Arena, agent: Agent, draft: Draft) -> None:
        """The cheat got a message; its machine gets it too."""
        del arena, agent, draft


class HonestStation(Behaviour):
    """Nothing: the control run with an honest station."""

    side = STATION
    name = "honest"


class HonestRobot(Behaviour):
    """Nothing: the control run with an honest robot."""

    side = ROBOT
    name = "honest"
