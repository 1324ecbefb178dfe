"""Whether something that the robot must not drive at stands in its way. A check that pauses, never one that permits.

This is no safety function in the sense of a standard: a camera's detector misses people. Bumpers, scanners and a slow
approach stay what keeps people safe; this only makes a robot polite.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from depai_robot.perception.objects import SeenObject
from depai_robot.values.error import ConfigError

_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class WaySettings:
    """What stops the robot.

    Attributes:
        names: classes that do.
        corridor_share: middle share of the image's width that the robot drives into, (0, 1].
        height_share_min: a box lower than this share of the image's height is far away, [0, 1].
        score_min: less is not believed, [0, 1].
        clear_s: the way must look clear for this long before it is, >= 0.
        stale_s: without an image for this long it is not clear, > 0.
    """

    names: tuple[str, ...] = ("person",)
    corridor_share: float = 0.6
    height_share_min: float = 0.25
    score_min: float = 0.4
    clear_s: float = 1.0
    stale_s: float = 1.0

    def __post_init__(self) -> None:
        shares = (self.height_share_min, self.score_min)
        if not self.names or not 0 < self.corridor_share <= 1 or not all(0 <= v <= 1 for v in shares):
            raise ConfigError(f"a way has names, a corridor in (0, 1] and shares in [0, 1], got {self}")
        if not (0 <= self.clear_s < 60 and 0 < self.stale_s < 60):
            raise ConfigError(f"a way's clear_s and stale_s lie below 60 s, got {self}")


@dataclass(frozen=True, slots=True)
class WayState:
    """What was seen of the way.

    Attributes:
        seen_ns: stamp of the newest image, None before the first.
        blocked_ns: stamp of the last one with something in the way.
        since_ns: of the first image.
    """

    seen_ns: int | None = None
    blocked_ns: int | None = None
    since_ns: int = 0


def is_in_way(objects: Sequence[SeenObject], width_px: int, height_px: int, settings: WaySettings) -> bool:
    """Whether one of the objects stands in the corridor and is near."""
    left = width_px * (1 - settings.corridor_share) / 2
    right = width_px - left
    return any(
        seen.name in settings.names
        and seen.score >= settings.score_min
        and seen.right_px > left
        and seen.left_px < right
        and seen.bottom_px - seen.top_px >= settings.height_share_min * height_px
        for seen in objects
    )


def look(state: WayState, *, blocked: bool, stamp_ns: int) -> WayState:
    """With one image more; an older one changes nothing."""
    if state.seen_ns is not None and stamp_ns <= state.seen_ns:
        return state
    first = state.seen_ns is None
    state = replace(state, seen_ns=stamp_ns, since_ns=stamp_ns if first else state.since_ns)
    return replace(state, blocked_ns=stamp_ns) if blocked else state


def is_clear(state: WayState, now_ns: int, settings: WaySettings) -> bool:
    """Whether the robot may drive: fresh images, and none of the last ``clear_s`` showed anything."""
    if state.seen_ns is None or now_ns - state.seen_ns > settings.stale_s * _NS_PER_S:
        return False
    clear_ns = settings.clear_s * _NS_PER_S
    last_ns = state.since_ns if state.blocked_ns is None else state.blocked_ns
    return state.seen_ns - last_ns >= clear_ns
