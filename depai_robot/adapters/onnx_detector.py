"""The dock detector on onnxruntime. The only file that imports it.

A model is trusted for its hash: the bytes that are hashed are the bytes that are loaded, and a golden vector
shows at start that this machine computes with them what the training machine did. A provider that was not asked
for is never used in silence.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depai_robot.perception.frame import Frame
from depai_robot.perception.manifest import (
    FINDER_NAME,
    GOLDEN_NAME,
    KEYPOINTS_NAME,
    MANIFEST_NAME,
    FileEntry,
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
    next_region,
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

CPU = "CPUExecutionProvider"
OPSET = 17
CANDIDATE_SCORE_MIN = 0.15
CANDIDATE_COUNT_MAX = 4
PRESENCE_MIN = 0.5

_MANIFEST_BYTES_MAX = 2**20
_INPUT = "image"
_FLOAT = "tensor(float)"
_SHAPES: Mapping[str, tuple[tuple[int, ...], Mapping[str, tuple[int, ...]]]] = {
    FINDER_NAME: ((1, 1, FINDER_HEIGHT_PX, FINDER_WIDTH_PX), {"maps": FINDER_SHAPE}),
    KEYPOINTS_NAME: (
        (1, 1, CROP_PX, CROP_PX),
        {"keypoints": KEYPOINTS_SHAPE, "presence": PRESENCE_SHAPE},
    ),
}
# A tensor whose data lies in another file names it by an entry with the key "location" (onnx.proto,
# TensorProto.external_data): field 1, length 8, the key, then field 2. Our models never have one.
_EXTERNAL_DATA = b"\x0a\x08location\x12"

Float = NDArray[np.float32]


class OnnxDetector:
    """Implements :class:`depai_robot.ports.Detector`. Use from one thread at a time."""

    def __init__(self, models: Path, *, providers: Sequence[str] = (CPU,), threads: int = 1) -> None:
        """Loads and proves the models of a folder.

        Args:
            models: folder with ``manifest.json`` and the files that it names.
            providers: execution providers to try, one at a time, in this order; the first that passes serves.
            threads: of one inference.

        Raises:
            ConfigError: a file is missing, damaged or not what its manifest says; or no provider passes.
        """
        if threads < 1 or not providers:
            raise ConfigError(f"a detector needs a provider and a thread, got {providers} and {threads}")
        raw = _read(models / MANIFEST_NAME, _MANIFEST_BYTES_MAX)
        self._sha256 = hashlib.sha256(raw).hexdigest()
        self._manifest = parse_manifest(raw)
        files = {}
        for name, entry in self._manifest.files.items():
            files[name] = _read(models / name, entry.size_bytes)
            require_file(str(models / name), entry, files[name])
        golden = _load_golden(models / GOLDEN_NAME, files[GOLDEN_NAME])
        refusals = []
        for provider in providers:
            try:
                self._finder = _make_session(models / FINDER_NAME, files, self._manifest, provider, threads)
                self._keypoints = _make_session(
                    models / KEYPOINTS_NAME, files, self._manifest, provider, threads
                )
                self._require_golden(golden)
            except (ConfigError, DeviceFailedError) as error:
                refusals.append(f"{provider}: {error}")
                continue
            self._provider = provider
            break
        else:
            raise ConfigError(f"no execution provider serves; {'; '.join(refusals)}")
        self._refusals = tuple(refusals)

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
        return self._refusals

    def detect(self, frame: Frame) -> DockKeypoints | None:
        """Keypoints of the best candidate, or None when there is none. Some 6 ms on one core.

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
        grey = GreyImage.from_rgb(frame.image)
        (maps,) = self._run(self._finder, normalise(finder_pixels(grey)))
        candidates = decode_finder(
            maps, grey.size_px, score_min=CANDIDATE_SCORE_MIN, count_max=CANDIDATE_COUNT_MAX
        )
        found: list[DockKeypoints] = []
        for candidate in candidates:
            keypoints = self._look(grey, candidate.region, twice=True)
            if keypoints is not None:
                found.append(keypoints)
                if len(found) == count_max:
                    break
        return tuple(sorted(found, key=lambda keypoints: -keypoints.score))

    def detect_in(self, frame: Frame, region: Region) -> DockKeypoints | None:
        """Keypoints of a dock that is expected in a region, without a search. Some 2 ms on one core.

        Raises:
            DeviceFailedError: the runtime failed or gave a value that is not finite.
        """
        return self._look(GreyImage.from_rgb(frame.image), region, twice=False)

    def _look(self, grey: GreyImage, region: Region, *, twice: bool) -> DockKeypoints | None:
        keypoints = self._keypoints_in(grey, region)
        if keypoints.score < PRESENCE_MIN:
            return None
        closer = next_region(keypoints) if twice else None
        if closer is not None:
            keypoints = self._keypoints_in(grey, closer)
        return keypoints if keypoints.score >= PRESENCE_MIN else None

    def _keypoints_in(self, grey: GreyImage, region: Region) -> DockKeypoints:
        keypoints, presence = self._run(self._keypoints, normalise(crop_pixels(grey, region)))
        return decode_keypoints(keypoints, presence, region)

    def _run(self, session: Any, pixels: Float) -> list[Float]:
        try:
            outputs = session.run(None, {_INPUT: pixels})
        except Exception as error:  # the runtime's exceptions have no common root of their own
            raise DeviceFailedError(f"onnxruntime failed: {error}") from error
        for output in outputs:
            if not np.isfinite(output).all():
                raise DeviceFailedError("a model gave a value that is not finite, expected finite ones")
        return list(outputs)

    def _require_golden(self, golden: Mapping[str, NDArray[Any]]) -> None:
        (maps,) = self._run(self._finder, normalise(golden["finder_image"]))
        keypoints, presence = self._run(self._keypoints, normalise(golden["keypoints_image"]))
        seen = {"maps": maps, "keypoints": keypoints, "presence": presence}
        for name, values in seen.items():
            difference = float(np.abs(values - golden[name]).max())
            if not difference <= self._manifest.golden_tolerance:
                raise ConfigError(
                    f"output {name} differs from the golden vector by {difference:.2e}, expected at most "
                    f"{self._manifest.golden_tolerance:.2e}: this machine does not compute what was trained"
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


def _make_session(
    path: Path, files: Mapping[str, bytes], manifest: Manifest, provider: str, threads: int
) -> Any:
    """A session on one provider alone, with the inputs and outputs that manifest and program agree on."""
    # Builds from 1.32 on carry telemetry that is on by default on Linux too; a robot does not report to anybody.
    # Read once, when the library is loaded; disable_telemetry_events() comes too late.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    data, entry = files[path.name], manifest.files[path.name]
    if _EXTERNAL_DATA in data:
        raise ConfigError(f"{path} keeps tensors in other files, expected one file with all of them")
    if provider not in onnxruntime.get_available_providers():
        raise ConfigError(
            f"not in this build of onnxruntime, which has {onnxruntime.get_available_providers()}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider != CPU:
        # Otherwise a provider without its driver is replaced by the CPU in silence.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(data, options, providers=[provider])
    except Exception as error:  # the runtime's exceptions have no common root of their own
        raise ConfigError(f"{path} can't be loaded: {error}") from error
    if session.get_providers()[0] != provider:
        raise ConfigError(f"{path}: asked for {provider}, onnxruntime took {session.get_providers()}")
    _require_signature(path, entry, session)
    return session


def _require_signature(path: Path, entry: FileEntry, session: Any) -> None:
    image, outputs = _SHAPES[path.name]
    expected = ([(_INPUT, image, _FLOAT)], [(name, shape, _FLOAT) for name, shape in outputs.items()])
    listed = (
        [(t.name, t.shape, t.type) for t in entry.inputs],
        [(t.name, t.shape, t.type) for t in entry.outputs],
    )
    if listed != expected or entry.opset != OPSET:
        raise ConfigError(
            f"{MANIFEST_NAME} gives {path.name} opset {entry.opset} and {listed}, "
            f"expected opset {OPSET} and {expected}"
        )
    seen = (
        [(t.name, tuple(t.shape), t.type) for t in session.get_inputs()],
        [(t.name, tuple(t.shape), t.type) for t in session.get_outputs()],
    )
    if seen != expected:
        raise ConfigError(f"{path} has inputs and outputs {seen}, expected {expected}")
