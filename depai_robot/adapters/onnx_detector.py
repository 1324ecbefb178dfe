"""The dock detector: two models, a manifest and a golden vector.

A model is trusted for its hash: the bytes that are hashed are the bytes that are loaded, and a golden vector
shows at start that this machine computes with them what the training machine did. A provider that was not asked
for is never used in silence.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depai_robot.adapters.onnx_session import (
    CPU,
    FLOAT,
    ModelSession,
    RuntimeSettings,
    TensorSpec,
    runtime_version,
)
from depai_robot.perception.frame import Frame
from depai_robot.perception.manifest import (
    FINDER_NAME,
    GOLDEN_NAME,
    KEYPOINTS_NAME,
    MANIFEST_NAME,
    Manifest,
    parse_manifest,
    require_file,
)
from depai_robot.perception.network import (
    FINDER_SHAPE,
    KEYPOINTS_SHAPE,
    PRESENCE_SHAPE,
    decode_finder,
    decode_keypoints,
    is_close,
    next_region,
    visible_count,
)
from depai_robot.perception.observation import DockKeypoints
from depai_robot.perception.region import (
    CROP_PX,
    FINDER_HEIGHT_PX,
    FINDER_WIDTH_PX,
    GreyImage,
    Region,
    crop_pixels,
    finder_pixels,
    normalise,
)
from depai_robot.values.error import ConfigError, DeviceFailedError

__all__ = ["CPU", "OnnxDetector", "RuntimeSettings"]

OPSET = 17
CANDIDATE_SCORE_MIN = 0.08
CANDIDATE_COUNT_MAX = 4
PRESENCE_MIN = 0.5
STEP_BACK = 1.7
"""A finder that takes a covered or blurred dock for a smaller thing is corrected by a look at more around it."""

VISIBLE_ENOUGH = 8
"""Of twelve keypoints; with fewer, what is seen may be a piece of a dock that reaches out of the crop."""

_MANIFEST_BYTES_MAX = 2**20
_INPUT = "image"
_SHAPES: Mapping[str, tuple[tuple[int, ...], Mapping[str, tuple[int, ...]]]] = {
    FINDER_NAME: ((1, 1, FINDER_HEIGHT_PX, FINDER_WIDTH_PX), {"maps": FINDER_SHAPE}),
    KEYPOINTS_NAME: (
        (1, 1, CROP_PX, CROP_PX),
        {"keypoints": KEYPOINTS_SHAPE, "presence": PRESENCE_SHAPE},
    ),
}

Float = NDArray[np.float32]


class OnnxDetector:
    """Implements :class:`depai_robot.ports.Detector`. Use from one thread at a time."""

    def __init__(self, models: Path, *, settings: RuntimeSettings | None = None) -> None:
        """Loads and proves the models of a folder.

        Args:
            models: folder with ``manifest.json`` and the files that it names.
            settings: how to run them; one thread of the CPU by default.

        Raises:
            ConfigError: a file is missing, damaged or not what its manifest says; or no provider passes.
        """
        self._settings = settings or RuntimeSettings()
        self._models = models
        raw = _read(models / MANIFEST_NAME, _MANIFEST_BYTES_MAX)
        self._sha256 = hashlib.sha256(raw).hexdigest()
        self._manifest = parse_manifest(raw)
        self._covariance = self._manifest.make_covariance()
        self._files: dict[str, bytes] = {}
        for name, entry in self._manifest.files.items():
            self._files[name] = _read(models / name, entry.size_bytes)
            require_file(str(models / name), entry, self._files[name])
        self._golden = _load_golden(models / GOLDEN_NAME, self._files[GOLDEN_NAME])
        self._refusals: list[str] = []
        self._untried = list(self._settings.provider_names())
        self._open_next()

    def _open_next(self) -> None:
        """The first provider left that proves itself becomes the one in use.

        Raises:
            ConfigError: none does, or the first does not and the settings say that then nothing shall run.
        """
        while self._untried:
            provider = self._untried.pop(0)
            try:
                finder, keypoints = (self._open(name, provider) for name in (FINDER_NAME, KEYPOINTS_NAME))
                self._require_golden(finder, keypoints)
                for session in (finder, keypoints):
                    session.warm_up(self._settings.warm_up_runs)
            except (ConfigError, DeviceFailedError) as error:
                self._refusals.append(f"{provider}: {error}")
                if self._settings.fallback == "fail":
                    break
                continue
            self._finder, self._keypoints, self._provider = finder, keypoints, provider
            if not self._untried:
                self._files.clear()  # no other provider will ask for them: 2 MB
            return
        raise ConfigError(f"no execution provider serves; {'; '.join(self._refusals)}")

    def _open(self, name: str, provider: str) -> ModelSession:
        path, entry = self._models / name, self._manifest.files[name]
        image, outputs = _SHAPES[name]
        inputs = [TensorSpec(_INPUT, image)]
        gives = [TensorSpec(output, shape) for output, shape in outputs.items()]
        expected = (
            [(_INPUT, image, FLOAT)],
            [(output, shape, FLOAT) for output, shape in outputs.items()],
        )
        listed = (
            [(t.name, t.shape, t.type) for t in entry.inputs],
            [(t.name, t.shape, t.type) for t in entry.outputs],
        )
        if listed != expected or entry.opset != OPSET:
            raise ConfigError(
                f"{MANIFEST_NAME} gives {name} opset {entry.opset} and {listed}, "
                f"expected opset {OPSET} and {expected}"
            )
        return ModelSession(
            str(path),
            self._files[name],
            inputs=inputs,
            outputs=gives,
            provider=provider,
            settings=self._settings,
        )

    @property
    def model_sha256(self) -> str:
        """Hash of the manifest, which has those of the models."""
        return self._sha256

    @property
    def manifest(self) -> Manifest:
        """Of the models in use."""
        return self._manifest

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return self._provider

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why each provider before the one in use does not serve."""
        return tuple(self._refusals)

    @property
    def runtime(self) -> str:
        """Name and version of the runtime."""
        return f"onnxruntime {runtime_version()}"

    def detect(self, frame: Frame) -> DockKeypoints | None:
        """Keypoints of the best candidate, or None when there is none.

        Raises:
            DeviceFailedError: the runtime failed or gave a value that is not finite.
        """
        found = self.detect_all(frame, count_max=1)
        return found[0] if found else None

    def detect_all(self, frame: Frame, *, count_max: int = CANDIDATE_COUNT_MAX) -> tuple[DockKeypoints, ...]:
        """Keypoints of every dock in view, best first; stops looking when ``count_max`` are found.

        Raises:
            DeviceFailedError: the runtime failed or gave a value that is not finite.
        """
        grey = GreyImage(frame.grey)
        (maps,) = self._run(FINDER_NAME, normalise(finder_pixels(grey)))
        candidates = decode_finder(
            maps, grey.size_px, score_min=CANDIDATE_SCORE_MIN, count_max=CANDIDATE_COUNT_MAX
        )
        found: list[DockKeypoints] = []
        for candidate in candidates:
            keypoints = self._look(grey, candidate.region)
            if keypoints is not None:
                found.append(keypoints)
                if len(found) == count_max:
                    break
        return tuple(sorted(found, key=lambda keypoints: -keypoints.score))

    def detect_in(self, frame: Frame, region: Region, blur_px: float = 0.0) -> DockKeypoints | None:
        """Keypoints of a dock that is expected in a region, without a search.

        Args:
            frame: what is looked at.
            region: of it.
            blur_px: deviation of a Gaussian that softens the crop, in its pixels; 0 leaves it as it is.

        Raises:
            DeviceFailedError: the runtime failed or gave a value that is not finite.
        """
        found = self._keypoints_in(GreyImage(frame.grey), region, blur_px)
        return found if found.score >= PRESENCE_MIN else None

    def _look(self, grey: GreyImage, region: Region) -> DockKeypoints | None:
        keypoints = self._keypoints_in(grey, region)
        if keypoints.score < PRESENCE_MIN or visible_count(keypoints) < VISIBLE_ENOUGH:
            # The finder may have taken the dock for a smaller thing, or a part of it for the whole.
            wider = self._keypoints_in(grey, region.scaled(STEP_BACK))
            more = keypoints.score < PRESENCE_MIN or visible_count(wider) > visible_count(keypoints)
            if wider.score >= PRESENCE_MIN and more:
                keypoints, region = wider, region.scaled(STEP_BACK)
        if keypoints.score < PRESENCE_MIN:
            return None
        closer = next_region(keypoints)
        if closer is not None and not is_close(region, closer):
            again = self._keypoints_in(grey, closer)
            # A closer look that shows no dock went astray; what the first one gave is for the gate to judge.
            if again.score >= PRESENCE_MIN:
                keypoints = again
        return keypoints

    def _keypoints_in(self, grey: GreyImage, region: Region, blur_px: float = 0.0) -> DockKeypoints:
        crop = crop_pixels(grey, region, blur_px=blur_px)
        keypoints, presence = self._run(KEYPOINTS_NAME, normalise(crop))
        found = decode_keypoints(keypoints, presence, region)
        return replace(found, error_covariance=self._covariance)

    def _run(self, name: str, pixels: Float) -> list[Float]:
        """One inference; a provider that fails is replaced by the next one of the list, once each."""
        while True:
            session = self._finder if name == FINDER_NAME else self._keypoints
            try:
                return session.run({_INPUT: pixels})
            except DeviceFailedError as error:
                if self._settings.fallback == "fail" or not self._untried:
                    raise
                self._refusals.append(f"{self._provider}: {error}")
                try:
                    self._open_next()
                except ConfigError as none_left:
                    raise DeviceFailedError(str(none_left)) from error

    def _require_golden(self, finder: ModelSession, keypoint_finder: ModelSession) -> None:
        tolerance = self._manifest.golden_tolerance_of(finder.provider)
        (maps,) = finder.run({_INPUT: normalise(self._golden["finder_image"])})
        keypoints, presence = keypoint_finder.run({_INPUT: normalise(self._golden["keypoints_image"])})
        seen = {"maps": maps, "keypoints": keypoints, "presence": presence}
        for name, values in seen.items():
            difference = float(np.abs(values - self._golden[name]).max())
            if not difference <= tolerance:
                raise ConfigError(
                    f"output {name} differs from the golden vector by {difference:.2e}, expected at most "
                    f"{tolerance:.2e}: this machine does not compute what was trained"
                )


def _read(path: Path, size_max: int) -> bytes:
    """A whole file; one byte past the limit is enough to know that it is too long."""
    try:
        with path.open("rb") as file:
            data = file.read(size_max + 1)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror or error}") from error
    if len(data) > size_max:
        raise ConfigError(f"{path} is longer than the {size_max} bytes expected")
    return data


def _load_golden(path: Path, data: bytes) -> dict[str, NDArray[Any]]:
    shapes: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "finder_image": ((FINDER_HEIGHT_PX, FINDER_WIDTH_PX), np.uint8),
        "keypoints_image": ((CROP_PX, CROP_PX), np.uint8),
        "maps": (FINDER_SHAPE, np.float32),
        "keypoints": (KEYPOINTS_SHAPE, np.float32),
        "presence": (PRESENCE_SHAPE, np.float32),
    }
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            golden = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: not a golden vector: {error}") from error
    seen = {name: (values.shape, values.dtype.type) for name, values in golden.items()}
    if seen != shapes:
        raise ConfigError(f"{path}: a golden vector has {shapes}, got {seen}")
    return golden
