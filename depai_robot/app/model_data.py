"""Labelled frames from a folder: ``labels.jsonl`` and PNG files, from whoever drew or photographed them.

One JSON object a line::

    {"image", "fx", "fy", "cx", "cy", "distortion": [k1, k2, p1, p2, k3], "condition",
     "dock": null | {"position_m": [x, y, z], "quaternion_xyzw": [...]}}

the pose of the dock frame (origin at the centre of the panel's front face, x into the dock, z up) in the camera's
optical frame. A set is named by its hash: of the labels and of every image, so that nobody measures on another one.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import cv2
import msgspec
import numpy as np
from msgspec import Meta, Struct

from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.values.error import ConfigError
from depai_robot.values.geometry import Pose3

LABELS_NAME = "labels.jsonl"
FRAMES_MAX = 200_000
_LABELS_BYTES_MAX = 2**28
_IMAGE_BYTES_MAX = 2**26

Number = Annotated[float, Meta(ge=-1e6, le=1e6)]


class DockLabel(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the dock is, in the camera's optical frame."""

    position_m: tuple[Number, Number, Number]
    quaternion_xyzw: tuple[Number, Number, Number, Number]

    def pose(self) -> Pose3:
        """As a value; the quaternion is brought to length 1."""
        length = float(np.linalg.norm(self.quaternion_xyzw))
        if not 0.99 < length < 1.01:
            raise ConfigError(f"a quaternion has length 1, got {self.quaternion_xyzw}")
        x, y, z, w = (v / length for v in self.quaternion_xyzw)
        return Pose3(self.position_m, (x, y, z, w))


class Label(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of ``labels.jsonl``."""

    image: Annotated[str, Meta(min_length=1, max_length=255)]
    fx: Number
    fy: Number
    cx: Number
    cy: Number
    condition: Annotated[str, Meta(max_length=64)]
    dock: DockLabel | None
    distortion: tuple[Number, Number, Number, Number, Number] = (0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """A frame and what is in it.

    Attributes:
        frame: stamped with its number.
        condition: a word for tables.
        dock_in_camera: the truth; None for a frame without a dock.
    """

    frame: Frame
    condition: str
    dock_in_camera: Pose3 | None


class DataSet:
    """A folder of labelled frames."""

    def __init__(self, folder: Path) -> None:
        """Reads the labels and hashes everything.

        Raises:
            ConfigError: no labels, a line of another form, or an image that is not there.
        """
        self._folder = folder
        path = folder / LABELS_NAME
        raw = _read(path, _LABELS_BYTES_MAX)
        decoder = msgspec.json.Decoder(Label)
        labels = []
        for number, line in enumerate(raw.splitlines(), 1):
            if not line.strip():
                continue
            try:
                labels.append(decoder.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path}, line {number}: {error}") from error
        if not 0 < len(labels) <= FRAMES_MAX:
            raise ConfigError(f"{path} has {len(labels)} frames, expected 1 to {FRAMES_MAX}")
        self.labels = tuple(labels)
        whole = hashlib.sha256(hashlib.sha256(raw).digest())
        for label in self.labels:
            whole.update(hashlib.sha256(self._image(label)).digest())
        self.sha256 = whole.hexdigest()

    def __iter__(self) -> Iterator[LabelledFrame]:
        for number, label in enumerate(self.labels):
            data = np.frombuffer(self._image(label), np.uint8)
            # OpenCV gives an empty array or None for what is no image, by version.
            decoded = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
            if decoded is None:
                raise ConfigError(f"{self._folder / label.image} is not an image that OpenCV reads")
            grey = np.asarray(decoded, dtype=np.uint8)
            height, width = grey.shape
            intrinsics = CameraIntrinsics(
                width, height, label.fx, label.fy, label.cx, label.cy, label.distortion
            )
            frame = Frame(np.repeat(grey[:, :, None], 3, axis=2), number, intrinsics)
            yield LabelledFrame(frame, label.condition, label.dock.pose() if label.dock else None)

    def _image(self, label: Label) -> bytes:
        name = PurePosixPath(label.image)
        if name.is_absolute() or ".." in name.parts:
            raise ConfigError(f"{LABELS_NAME}: {label.image!r} is not inside of the folder")
        return _read(self._folder / name, _IMAGE_BYTES_MAX)


def _read(path: Path, size_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(size_max + 1)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror or error}") from error
    if len(data) > size_max:
        raise ConfigError(f"{path} is longer than the {size_max} bytes expected")
    return data
