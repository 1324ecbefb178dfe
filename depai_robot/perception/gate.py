"""Whether a pose is good enough to publish: one probability, fitted on frames that trained nothing else.

Below the threshold nothing is published: a robot that waits for the next frame loses a tenth of a second, a
robot that follows a wrong pose hits something.
"""

import math
from dataclasses import dataclass

from depai_robot.values.error import ConfigError

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

_LOGIT_MAX = 12.0
_FLOOR = 1e-3


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
class Gate:
    """A logistic regression and two hard limits.

    Attributes:
        weights: one per entry of :data:`FEATURES`.
        threshold: least probability that is published, in (0, 1).
        tilt_max_rad: more than this from upright is no dock on our floor, in (0, pi/2].
    """

    weights: tuple[float, ...]
    threshold: float
    tilt_max_rad: float = 0.35

    def __post_init__(self) -> None:
        if len(self.weights) != len(FEATURES) or not all(math.isfinite(w) for w in self.weights):
            raise ConfigError(f"a gate has {len(FEATURES)} finite weights, got {self.weights}")
        if not 0 < self.threshold < 1:
            raise ConfigError(f"a gate's threshold lies in (0, 1), got {self.threshold}")
        if not 0 < self.tilt_max_rad <= math.pi / 2:
            raise ConfigError(f"a gate's tilt_max_rad lies in (0, pi/2], got {self.tilt_max_rad}")

    def probability(self, evidence: Evidence) -> float:
        """That the pose is usable, 0..1; 0 for a dock that does not stand upright or for NaN."""
        features = evidence.features()
        if not all(math.isfinite(f) for f in features) or not evidence.tilt_rad <= self.tilt_max_rad:
            return 0.0
        total = sum(w * f for w, f in zip(self.weights, features, strict=True))
        return 0.5 * (1.0 + math.tanh(0.5 * total))
