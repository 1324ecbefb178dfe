"""One frame through detector, tag, pose, gate and tracker: what the dock detector node runs on each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from depai_robot.adapters.onnx_detector import OnnxDetector, RuntimeSettings
from depai_robot.perception.dock import DockModel, parse_dock
from depai_robot.perception.fit import DecalFit, measure_decal
from depai_robot.perception.frame import Frame
from depai_robot.perception.gate import Gate
from depai_robot.perception.looks import publish, surest_look
from depai_robot.perception.manifest import require_dock
from depai_robot.perception.observation import DockKeypoints, DockObservation
from depai_robot.perception.pose import UP_IN_LEVEL_CAMERA
from depai_robot.perception.relief import ReliefFit, measure_relief
from depai_robot.perception.subpixel import DecalCorners, find_decal_corners
from depai_robot.perception.tag import read_tag
from depai_robot.perception.track import TrackLimits, TrackState, expected_region, step
from depai_robot.values.error import ConfigError
from depai_robot.values.geometry import Vector3


@dataclass(frozen=True, slots=True)
class Health:
    """What the diagnostics say of the observer beside frames and errors.

    Attributes:
        values: (key, value), in the order to be shown.
        warning: what works otherwise than was asked for; empty when all is well.
    """

    values: tuple[tuple[str, str], ...] = ()
    warning: str = ""


class DockObserver:
    """Call it with each frame, from one thread.

    Attributes:
        tag_id: of the dock that is wanted; docks whose tag reads otherwise are passed over, docks whose tag
            can't be read are not. None takes any dock.
        fit: the decal's size against its panel's, over the images of the dock that is tracked.
        relief: how far the base stands out of the panel, over the newest images.
        seen_tag_id: what the tag of the last frame's dock read, or None. A hint, never an identity.
    """

    def __init__(
        self,
        detector: OnnxDetector,
        dock: DockModel,
        *,
        gate: Gate,
        limits: TrackLimits | None = None,
        up_in_camera: Vector3 = UP_IN_LEVEL_CAMERA,
    ) -> None:
        self.tag_id: int | None = None
        self.seen_tag_id: int | None = None
        self.fit = DecalFit()
        self.relief = ReliefFit()
        self._detector = detector
        self._dock = dock
        self._gate = gate
        self._limits = limits or TrackLimits()
        self._up = up_in_camera
        self._track = TrackState()
        self._stamp_ns = 0

    @property
    def model_sha256(self) -> str:
        """Of the models in use."""
        return self._detector.model_sha256

    def health(self) -> Health:
        """Which runtime and provider work, what was refused before them, and whether the dock is as its file says."""
        detector, fit = self._detector, self.fit
        warnings = []
        if detector.refusals:
            warnings.append(f"runs on {detector.provider}; {'; '.join(detector.refusals)}")
        if fit.is_wrong:
            warnings.append(
                f"this dock's decal is {fit.width:.3f} as wide and {fit.height:.3f} as high on its panel as dock.yaml "
                f"says (sigma {fit.sigma:.3f}): poses are wrong by as much; measure panel and decal"
            )
        if self.relief.is_picture(self._stamp_ns):
            warnings.append(
                f"what looks like the dock has {self.relief.share:.2f} of its depth (sigma {self.relief.sigma:.2f}): a "
                "picture of one, or a base that is not as deep as dock.yaml says; no pose is given"
            )
        values = [("provider", detector.provider), ("runtime", detector.runtime)]
        if fit.count:
            values += [("decal_width_ratio", f"{fit.width:.4f}"), ("decal_height_ratio", f"{fit.height:.4f}")]
        return Health(tuple(values), "; ".join(warnings))

    def __call__(self, frame: Frame) -> tuple[DockKeypoints | None, DockObservation | None]:
        """Keypoints of the dock in the frame, if any, and its pose, if it is to be published.

        Raises:
            DeviceFailedError: the inference runtime failed.
        """
        self._stamp_ns = frame.stamp_ns
        keypoints = self._detect(frame)
        observation = None
        if keypoints is not None:
            keypoints, observation = self._estimate(keypoints, frame)
        if observation is not None:
            observation = self._if_solid(observation, keypoints, frame)
        was_tracked = self._track.accepted is not None
        self._track, published = step(self._track, observation, frame.stamp_ns, self._limits)
        if was_tracked and self._track.accepted is None:
            self.fit = DecalFit()  # what comes next may be another dock
        return keypoints, published

    def _estimate(
        self, keypoints: DockKeypoints, frame: Frame
    ) -> tuple[DockKeypoints | None, DockObservation | None]:
        """Keypoints of the surest look, and its pose if the gate lets it pass; nothing of a dock that is not wanted."""
        seen = surest_look(
            keypoints,
            partial(self._detector.detect_in, frame),
            frame.intrinsics,
            self._dock,
            gate=self._gate,
            up_in_camera=self._up,
        )
        if seen.keypoints is not keypoints and not self._wanted(frame, seen.keypoints):
            return None, None
        corners = self._measure(seen.keypoints, frame)
        return seen.keypoints, publish(
            seen,
            frame.intrinsics,
            self._dock,
            gate=self._gate,
            stamp_ns=frame.stamp_ns,
            model_sha256=self._detector.model_sha256,
            corners=corners,
        )

    def _measure(self, keypoints: DockKeypoints, frame: Frame) -> DecalCorners | None:
        """The decal by its edges, where it is near; what it says of the dock's dimensions is kept."""
        corners = find_decal_corners(frame.grey, keypoints, frame.intrinsics)
        if corners is not None:
            ratio = measure_decal(keypoints, corners, frame.intrinsics, self._dock)
            if ratio is not None:
                self.fit = self.fit.add(ratio)
        return corners

    def _if_solid(
        self, observation: DockObservation, keypoints: DockKeypoints | None, frame: Frame
    ) -> DockObservation | None:
        """The pose, unless the newest images say that the dock in them has not a dock's depth."""
        if keypoints is not None:
            relief = measure_relief(keypoints, frame.intrinsics, self._dock, observation.dock_in_camera)
            if relief is not None:
                self.relief = self.relief.add(relief, frame.stamp_ns)
        return None if self.relief.is_picture(frame.stamp_ns) else observation

    def _detect(self, frame: Frame) -> DockKeypoints | None:
        """The tracked dock where it is expected; otherwise the best of all that may be the wanted one."""
        if self._track.accepted is not None:
            region = expected_region(self._track.accepted, frame.intrinsics, self._dock)
            keypoints = self._detector.detect_in(frame, region) if region is not None else None
            if keypoints is not None and self._wanted(frame, keypoints):
                return keypoints
        unread: DockKeypoints | None = None
        for keypoints in self._detector.detect_all(frame, count_max=1 if self.tag_id is None else 4):
            if not self._wanted(frame, keypoints):
                continue
            if self.tag_id is None or self.seen_tag_id == self.tag_id:
                return keypoints
            unread = unread or keypoints
        self.seen_tag_id = None
        return unread

    def _wanted(self, frame: Frame, keypoints: DockKeypoints) -> bool:
        self.seen_tag_id = read_tag(frame.grey, keypoints)
        return self.tag_id is None or self.seen_tag_id in (None, self.tag_id)


def make_observer(
    models: Path,
    dock_file: Path,
    *,
    settings: RuntimeSettings | None = None,
    report: Path | None = None,
    report_keys: Sequence[str] = (),
) -> DockObserver:
    """An observer from files.

    Args:
        models: their folder.
        dock_file: geometry of the dock.
        settings: how to run the models.
        report: of ``depai-robot model gate``; by default ``report.jws`` beside the models.
        report_keys: addresses, 0x and 40 digits, of those whose report lets models run; none demands none.

    Raises:
        ConfigError: a file is missing or damaged, the models were trained for another dock, or they have no report
            that a trusted key signed.
    """
    try:
        text = dock_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{dock_file} can't be read: {error}") from error
    dock = parse_dock(text)
    detector = OnnxDetector(models, settings=settings)
    require_dock(detector.manifest, dock)
    if report_keys:
        # A robot without this demand need not hold the libraries that signatures stand on.
        from depai_robot.app.model_gate import REPORT_NAME, require_report
        from depai_robot.values.identity import address_from_hex

        trusted = tuple(address_from_hex(key) for key in report_keys)
        require_report(report or models / REPORT_NAME, detector.model_sha256, trusted)
    return DockObserver(detector, dock, gate=detector.manifest.make_gate())
