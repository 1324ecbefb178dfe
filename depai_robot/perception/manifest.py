"""What ``models/manifest.json`` says of a set of models: decoded strictly, checked, frozen. No file is read here."""

import hashlib
import json
import re
from dataclasses import asdict

import msgspec
import numpy as np
from numpy.typing import NDArray

from depai_robot.perception.dock import DockModel
from depai_robot.perception.gate import FEATURES, OPINION_FEATURES, Gate, Opinions
from depai_robot.perception.observation import KEYPOINT_COUNT
from depai_robot.values.error import ConfigError

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1
FINDER_NAME = "finder.onnx"
KEYPOINTS_NAME = "keypoints.onnx"
GOLDEN_NAME = "golden.npz"
MODEL_BYTES_MAX = 64 * 2**20

_EIGENVALUE_MIN, _EIGENVALUE_MAX = 1e-3, 1e3
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class TensorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of a model.

    Attributes:
        name: in the graph.
        shape: static.
        type: as onnxruntime says it, ``tensor(float)``.
    """

    name: str
    shape: tuple[int, ...]
    type: str


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file beside the manifest.

    Attributes:
        sha256: of its bytes, lower-case hexadecimal.
        size_bytes: of the file.
        opset: of a model; 0 for other files.
        inputs: of a model.
        outputs: of a model.
    """

    sha256: str
    size_bytes: int
    opset: int = 0
    inputs: tuple[TensorEntry, ...] = ()
    outputs: tuple[TensorEntry, ...] = ()


class OpinionsEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fit over several looks.

    Attributes:
        features: names, in the order of the weights.
        weights: of the logistic.
        ask_below: confidence of the first look below which others are taken.
    """

    features: tuple[str, ...]
    weights: tuple[float, ...]
    ask_below: float


class GateEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gate's fit.

    Attributes:
        features: names, in the order of the weights.
        weights: of the logistic.
        threshold: least probability to publish.
        tilt_max_rad: largest tilt to publish.
        opinions: fit over several looks; none, and the first look is the only one.
    """

    features: tuple[str, ...]
    weights: tuple[float, ...]
    threshold: float
    tilt_max_rad: float
    opinions: OpinionsEntry | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A set of models that belong together.

    Attributes:
        version: of this form.
        name: of the set, for people.
        files: finder, keypoints and golden vector by file name.
        gate: fitted on these models' answers.
        golden_tolerance: largest difference from the golden vector's stored outputs.
        golden_tolerance_by_provider: the same for an execution provider that was measured to need another.
        keypoint_covariance: (24, 24) of the keypoints' errors in sigmas, as
            :attr:`DockKeypoints.error_covariance` has it; empty when they are taken to be independent.
        dock_sha256: of the geometry that the models were trained on; see :func:`dock_sha256`.
        seed: of the training data.
        command: that made the set.
        data_sha256: of the frames and labels that trained it; empty when not known.
    """

    version: int
    name: str
    files: dict[str, FileEntry]
    gate: GateEntry
    golden_tolerance: float
    dock_sha256: str
    seed: int
    command: str
    data_sha256: str = ""
    golden_tolerance_by_provider: dict[str, float] = {}
    keypoint_covariance: tuple[tuple[float, ...], ...] = ()

    def make_covariance(self) -> NDArray[np.float64] | None:
        """(24, 24) as perception uses it, or None."""
        return np.array(self.keypoint_covariance, dtype=np.float64) if self.keypoint_covariance else None

    def golden_tolerance_of(self, provider: str) -> float:
        """Largest difference from the golden vector that an execution provider may show."""
        return self.golden_tolerance_by_provider.get(provider, self.golden_tolerance)

    def make_gate(self) -> Gate:
        """The gate as perception uses it."""
        entry = self.gate.opinions
        opinions = Opinions(entry.weights, entry.ask_below) if entry is not None else None
        return Gate(self.gate.weights, self.gate.threshold, self.gate.tilt_max_rad, opinions)


def dock_sha256(dock: DockModel) -> str:
    """Hash of what a camera sees of a dock; the pads, and the comments of its file, don't count."""
    visible = {key: value for key, value in asdict(dock).items() if key != "pads"}
    return hashlib.sha256(json.dumps(visible, sort_keys=True).encode()).hexdigest()


def parse_manifest(data: bytes) -> Manifest:
    """Decodes a manifest.

    Raises:
        ConfigError: it is not JSON of this form; the message names the field.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{MANIFEST_NAME}: {error}") from error
    if manifest.version != MANIFEST_VERSION:
        raise ConfigError(f"{MANIFEST_NAME}: version must be {MANIFEST_VERSION}, got {manifest.version}")
    expected = {FINDER_NAME, KEYPOINTS_NAME, GOLDEN_NAME}
    if set(manifest.files) != expected:
        raise ConfigError(f"{MANIFEST_NAME}: files must be {sorted(expected)}, got {sorted(manifest.files)}")
    for name, entry in manifest.files.items():
        if _SHA256.match(entry.sha256) is None:
            raise ConfigError(
                f"{MANIFEST_NAME}: sha256 of {name} must be 64 lower-case hexadecimal digits, "
                f"got {entry.sha256!r}"
            )
        if not 0 < entry.size_bytes <= MODEL_BYTES_MAX:
            raise ConfigError(
                f"{MANIFEST_NAME}: size_bytes of {name} must be in 1..{MODEL_BYTES_MAX}, "
                f"got {entry.size_bytes}"
            )
    named: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
        ("gate.features", manifest.gate.features, FEATURES)
    ]
    if manifest.gate.opinions is not None:
        named.append(("gate.opinions.features", manifest.gate.opinions.features, OPINION_FEATURES))
    for name, seen, wanted in named:
        if seen != wanted:
            raise ConfigError(f"{MANIFEST_NAME}: {name} must be {list(wanted)}, got {list(seen)}")
    tolerances = {"": manifest.golden_tolerance, **manifest.golden_tolerance_by_provider}
    for provider, tolerance in tolerances.items():
        if not 0 < tolerance < 1:
            name = f"golden_tolerance_by_provider.{provider}" if provider else "golden_tolerance"
            raise ConfigError(f"{MANIFEST_NAME}: {name} must be in (0, 1), got {tolerance}")
    manifest.make_gate()
    _require_covariance(manifest.keypoint_covariance)
    return manifest


def _require_covariance(rows: tuple[tuple[float, ...], ...]) -> None:
    if not rows:
        return
    side = 2 * KEYPOINT_COUNT
    if len(rows) != side or any(len(row) != side for row in rows):
        raise ConfigError(f"{MANIFEST_NAME}: keypoint_covariance must be {side} rows of {side}")
    matrix = np.array(rows)
    if not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T, atol=1e-9):
        raise ConfigError(f"{MANIFEST_NAME}: keypoint_covariance must be finite and symmetric")
    least, largest = (float(v) for v in np.linalg.eigvalsh(matrix)[[0, -1]])
    if not _EIGENVALUE_MIN <= least <= largest <= _EIGENVALUE_MAX:
        raise ConfigError(
            f"{MANIFEST_NAME}: eigenvalues of keypoint_covariance must be in {_EIGENVALUE_MIN}..{_EIGENVALUE_MAX}, "
            f"got {least:.3g} to {largest:.3g}"
        )


def require_file(name: str, entry: FileEntry, data: bytes) -> None:
    """The bytes are the ones that the manifest means.

    Raises:
        ConfigError: their hash is another; the message has both.
    """
    seen = hashlib.sha256(data).hexdigest()
    if seen != entry.sha256:
        raise ConfigError(
            f"{name}: sha256 is {seen} ({len(data)} bytes), {MANIFEST_NAME} expects {entry.sha256} "
            f"({entry.size_bytes} bytes); the file is damaged or not of this set"
        )


def require_dock(manifest: Manifest, dock: DockModel) -> None:
    """The dock is the one that the models know: a pose from another geometry is wrong without a sign of it.

    Raises:
        ConfigError: it is another.
    """
    seen = dock_sha256(dock)
    if seen != manifest.dock_sha256:
        raise ConfigError(
            f"dock.yaml: its geometry has hash {seen[:16]}..., the models {manifest.name} were trained for "
            f"{manifest.dock_sha256[:16]}...; train anew or use the dock.yaml that came with them"
        )
