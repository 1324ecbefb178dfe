"""Whether a pose is good enough to publish: one probability, fitted on frames that trained nothing else.

Below the threshold nothing is published: a robot that waits for the next frame loses a tenth of a second, a
robot that follows a wrong pose hits something.
"""

import math
from dataclasses import dataclass

from depai_robot.values.error import BugError, ConfigError

FEATURES = (
    "one",
    "score_logit",
    "residual_log",
    "keypoint_sigma_log",
    "position_sigma_log",
    "yaw_sigma_log",
    "used_share",
)
"""What the logistic sees, in this order; :meth:`Evidence.features` computes them."""

POSITION_TOLERANCE_M = 0.05
POSITION_TOLERANCE_SHARE = 0.05
YAW_TOLERANCE_RAD = math.radians(10.0)
"""A pose is usable within max(5 cm, 5 % of the range) and 10 degrees: what the approach can still correct."""

OTHERS = 3
"""Looks beside the first that judge a pose which the first is not sure of."""

OPINION_FEATURES = (
    "one",
    "surest_logit",
    "distance_log",
    "others_logit",
)
"""What the logistic over several looks sees, in this order; :meth:`Agreement.features` computes them."""

_LOGIT_MAX = 12.0
_FLOOR = 1e-3

_UNSEEN_LOGIT = -8.0
_DISTANCE_MAX = 4.0
_DISTANCE_FLOOR = 0.03
"""Tolerances: looks agree better than this by chance."""


def position_tolerance_m(range_m: float) -> float:
    """Largest position error of a usable pose at a range."""
    return max(POSITION_TOLERANCE_M, POSITION_TOLERANCE_SHARE * range_m)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for and against a pose.

    Attributes:
        score: of the network that a dock is there, 0..1.
        residual_median: median over the used keypoints of the distance between seen and projected, in sigmas.
        keypoint_sigma_share: mean predicted sigma of the used keypoints over the dock's size in the image.
        position_sigma_share: predicted position sigma over its tolerance.
        yaw_sigma_share: predicted yaw sigma over its tolerance.
        used_share: keypoints used over keypoints there are.
        tilt_rad: between the dock's and the camera's upward directions.
    """

    score: float
    residual_median: float
    keypoint_sigma_share: float
    position_sigma_share: float
    yaw_sigma_share: float
    used_share: float
    tilt_rad: float

    def features(self) -> tuple[float, ...]:
        """In the order of :data:`FEATURES`."""
        score = min(max(self.score, 1e-9), 1 - 1e-9)
        logit = min(max(math.log(score / (1 - score)), -_LOGIT_MAX), _LOGIT_MAX)
        return (
            1.0,
            logit,
            math.log(_FLOOR + self.residual_median),
            math.log(_FLOOR + self.keypoint_sigma_share),
            math.log(_FLOOR + self.position_sigma_share),
            math.log(_FLOOR + self.yaw_sigma_share),
            self.used_share,
        )


@dataclass(frozen=True, slots=True)
class Agreement:
    """How several looks at one dock agree.

    Attributes:
        surest: the highest confidence that a look's own pose has, 0..1.
        others: of each of the :data:`OTHERS` looks beside it, its confidence and how far its pose is from the
            surest one: the larger of the distances in position and in yaw, each over its tolerance. None for a
            look that gave no pose.
    """

    surest: float
    others: tuple[tuple[float, float] | None, ...]

    def features(self) -> tuple[float, ...]:
        """In the order of :data:`OPINION_FEATURES`."""
        seen = [other or (0.0, _DISTANCE_MAX) for other in self.others]
        logs = [math.log(_DISTANCE_FLOOR + min(distance, _DISTANCE_MAX)) for _, distance in seen]
        logits = [_clipped_logit(confidence) for confidence, _ in seen]
        return (1.0, _clipped_logit(self.surest), sum(logs) / len(logs), sum(logits) / len(logits))


@dataclass(frozen=True, slots=True)
class Opinions:
    """A logistic regression over what several looks say.

    Attributes:
        weights: one per entry of :data:`OPINION_FEATURES`.
        ask_below: a first look that is less sure than this is not believed alone, in (0, 1).
    """

    weights: tuple[float, ...]
    ask_below: float

    def __post_init__(self) -> None:
        _require_weights("opinions", self.weights, OPINION_FEATURES)
        if not 0 < self.ask_below < 1:
            raise ConfigError(f"ask_below lies in (0, 1), got {self.ask_below}")

    def probability(self, agreement: Agreement) -> float:
        """That the surest look's pose is usable, 0..1: never more than its own confidence, however many agree.

        What is seen the same way four times may still be a thing that is like a dock.

        Raises:
            BugError: not as many looks as it was fitted for.
        """
        if len(agreement.others) != OTHERS:
            raise BugError(f"opinions are of {OTHERS} other looks, got {len(agreement.others)}")
        return min(agreement.surest, _logistic(self.weights, agreement.features()))


@dataclass(frozen=True, slots=True)
class Gate:
    """A logistic regression and two hard limits.

    Attributes:
        weights: one per entry of :data:`FEATURES`.
        threshold: least probability that is published, in (0, 1).
        tilt_max_rad: more than this from upright is no dock on our floor, in (0, pi/2].
        opinions: judge several looks together; None where the first is the only one.
    """

    weights: tuple[float, ...]
    threshold: float
    tilt_max_rad: float = 0.35
    opinions: Opinions | None = None

    def __post_init__(self) -> None:
        _require_weights("gate", self.weights, FEATURES)
        if not 0 < self.threshold < 1:
            raise ConfigError(f"a gate's threshold lies in (0, 1), got {self.threshold}")
        if not 0 < self.tilt_max_rad <= math.pi / 2:
            raise ConfigError(f"a gate's tilt_max_rad lies in (0, pi/2], got {self.tilt_max_rad}")

    def probability(self, evidence: Evidence) -> float:
        """That the pose is usable, 0..1; 0 for a dock that does not stand upright or for NaN."""
        features = evidence.features()
        if not evidence.tilt_rad <= self.tilt_max_rad:
            return 0.0
        return _logistic(self.weights, features)


def _require_weights(of: str, weights: tuple[float, ...], features: tuple[str, ...]) -> None:
    if len(weights) != len(features) or not all(math.isfinite(w) for w in weights):
        raise ConfigError(f"{of}: {len(features)} finite weights are needed, got {weights}")


def _clipped_logit(confidence: float) -> float:
    """Natural logarithm of the odds, within what the fit has seen."""
    odds = (confidence + 1e-6) / (1 - confidence + 1e-6)
    return min(max(math.log(odds), _UNSEEN_LOGIT), -_UNSEEN_LOGIT)


def _logistic(weights: tuple[float, ...], features: tuple[float, ...]) -> float:
    """0..1; 0 for features that are not finite."""
    if not all(math.isfinite(f) for f in features):
        return 0.0
    total = sum(w * f for w, f in zip(weights, features, strict=True))
    return 0.5 * (1.0 + math.tanh(0.5 * total))
