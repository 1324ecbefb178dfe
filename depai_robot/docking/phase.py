"""Where docking is, and every legal move: the table that the machine obeys and the docs draw."""

from enum import Enum


class Phase(str, Enum):
    """Where docking is."""

    IDLE = "IDLE"
    TRAVELLING = "TRAVELLING"
    SEARCHING = "SEARCHING"
    STAGING = "STAGING"
    APPROACHING = "APPROACHING"
    TOUCHING = "TOUCHING"
    RETRYING = "RETRYING"
    DOCKED = "DOCKED"
    UNDOCKING = "UNDOCKING"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


P = Phase
DRIVING = frozenset({P.TRAVELLING, P.SEARCHING, P.STAGING, P.APPROACHING, P.TOUCHING, P.RETRYING})
"""On the way to a dock."""
BUMPED = "touched on the way"
MOVES: tuple[tuple[Phase, str, Phase], ...] = (
    *(
        move
        for phase in (P.IDLE, P.FAILED)
        for move in (
            (phase, "dock asked", P.TRAVELLING),
            (phase, "in contact already", P.TOUCHING),
            (phase, "too near a dock", P.RETRYING),
            (phase, "undock asked", P.UNDOCKING),
        )
    ),
    (P.TRAVELLING, "near the place to look from", P.SEARCHING),
    (P.TRAVELLING, "dock seen", P.STAGING),
    (P.TRAVELLING, "too slow", P.RETRYING),
    (P.SEARCHING, "dock seen", P.STAGING),
    (P.SEARCHING, "not found", P.RETRYING),
    *((phase, BUMPED, P.RETRYING) for phase in (P.TRAVELLING, P.SEARCHING, P.STAGING)),
    (P.STAGING, "in front of the dock", P.APPROACHING),
    (P.STAGING, "sight lost", P.RETRYING),
    (P.STAGING, "too near", P.RETRYING),
    (P.STAGING, "too slow", P.RETRYING),
    (P.APPROACHING, "near", P.TOUCHING),
    (P.APPROACHING, "contact", P.TOUCHING),
    (P.APPROACHING, "sight lost", P.RETRYING),
    (P.APPROACHING, "too far beside", P.RETRYING),
    (P.APPROACHING, "too slow", P.RETRYING),
    (P.TOUCHING, "contact held", P.DOCKED),
    (P.TOUCHING, "no contact", P.RETRYING),
    (P.RETRYING, "backed off", P.SEARCHING),
    (P.RETRYING, "far from the dock", P.TRAVELLING),
    (P.RETRYING, "tries used up", P.FAILED),
    (P.DOCKED, "undock asked", P.UNDOCKING),
    (P.DOCKED, "contact lost", P.FAILED),
    (P.UNDOCKING, "clear of the dock", P.IDLE),
    (P.UNDOCKING, "too slow", P.FAILED),
    (P.UNDOCKING, "stop asked", P.FAILED),
    (P.UNDOCKING, "odometry jumped", P.FAILED),
    (P.STOPPED, "released", P.IDLE),
    *(
        move
        for phase in P
        if phase in DRIVING
        for move in (
            (phase, "stop asked", P.IDLE),
            (phase, "took too long", P.FAILED),
            (phase, "odometry jumped", P.FAILED),
        )
    ),
    *((phase, "emergency stop", P.STOPPED) for phase in P if phase is not P.STOPPED),
)
"""Every legal move: (from, why, to). A move that is not here raises and leaves the state as it was."""
