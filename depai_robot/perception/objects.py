"""Any detector of a stated ONNX form: what its card says, pixels in, boxes with class and score out.

A card is YAML beside the model. Two forms of output are known, and a model of another form is refused:

- ``boxes``: three outputs, boxes (1, N, 4) or (N, 4), scores (1, N) or (N), classes likewise (float or integer); N may
  differ from image to image.
- ``map``: one output (1, 1, H, W) with the probability of each pixel, at the input's size or a part of it; connected
  areas above the threshold become boxes of the one class.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import cv2
import msgspec
import numpy as np
import yaml
from msgspec import Meta, Struct
from numpy.typing import NDArray

from depai_robot.values.error import ConfigError, DeviceFailedError

_SIDE_MAX_PX = 4096
_Side = Annotated[int, Meta(ge=8, le=_SIDE_MAX_PX)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_AREAS_MAX = 5000


class InputForm(Struct, frozen=True, forbid_unknown_fields=True):
    """How the picture is given to the model: (1, C, H, W) or (1, H, W, C) float32.

    Attributes:
        name: of the tensor.
        width_px, height_px: that the image is brought to, its aspect kept, padded at the right and below.
        layout: order of the dimensions.
        channels: of the picture.
        mean, deviation: subtracted, then divided by, after division by 255; one number for all channels or one each.
    """

    name: _Name
    width_px: _Side
    height_px: _Side
    layout: Literal["nchw", "nhwc"] = "nchw"
    channels: Literal["rgb", "bgr", "grey"] = "rgb"
    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)] = (0.0,)
    deviation: Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)] = (1.0,)

    def shape(self) -> tuple[int, int, int, int]:
        """Of the tensor."""
        count = 1 if self.channels == "grey" else 3
        if self.layout == "nchw":
            return (1, count, self.height_px, self.width_px)
        return (1, self.height_px, self.width_px, count)


class BoxesForm(Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="boxes"):
    """Three outputs.

    Attributes:
        boxes, scores, classes: names of the tensors.
        corners: ``xyxy`` two corners, ``cxcywh`` centre and size.
        normalised: 0 to 1 of the padded input instead of its pixels.
        overlap_max: of two boxes of a class that share more (intersection over union), the better one stays.
    """

    boxes: _Name
    scores: _Name
    classes: _Name
    corners: Literal["xyxy", "cxcywh"] = "xyxy"
    normalised: bool = False
    overlap_max: _Share = 0.5


class MapForm(Struct, frozen=True, forbid_unknown_fields=True, tag_field="form", tag="map"):
    """One output.

    Attributes:
        map: name of the tensor.
        threshold: of a pixel.
        area_min_px: smaller areas are noise, in pixels of the map.
    """

    map: _Name
    threshold: Annotated[float, Meta(gt=0, lt=1)] = 0.3
    area_min_px: Annotated[int, Meta(ge=1)] = 12


class ObjectCard(Struct, frozen=True, forbid_unknown_fields=True):
    """A detector's card.

    Attributes:
        version: of this form.
        name: for people and messages.
        model: file beside the card.
        sha256: of its bytes, lower-case hexadecimal.
        input: what it is given.
        output: what it gives.
        classes: names, by number.
        score_min: below, nothing is said.
        count_max: of an image; the best stay.
    """

    version: Annotated[int, Meta(ge=1, le=1)]
    name: _Name
    model: _Name
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    input: InputForm
    output: BoxesForm | MapForm
    classes: Annotated[tuple[str, ...], Meta(min_length=1, max_length=10_000)]
    score_min: _Share = 0.5
    count_max: Annotated[int, Meta(ge=1, le=1000)] = 100


@dataclass(frozen=True, slots=True)
class SeenObject:
    """One object in one image, in its pixels.

    Attributes:
        name: class.
        score: 0..1.
        left_px, top_px, right_px, bottom_px: inside the image.
    """

    name: str
    score: float
    left_px: float
    top_px: float
    right_px: float
    bottom_px: float


def parse_card(text: str, name: str = "card") -> ObjectCard:
    """Reads a card's YAML.

    Raises:
        ConfigError: not YAML, not a card, or a model outside of its folder.
    """
    try:
        card = msgspec.convert(yaml.safe_load(text), ObjectCard)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from error
    if re.match(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z", card.model) is None:
        raise ConfigError(f"{name}: model must be a file beside the card, got {card.model!r}")
    form = card.input
    if not all(math.isfinite(v) for v in (*form.mean, *form.deviation)) or min(form.deviation) <= 0:
        raise ConfigError(f"{name}: input.mean and deviation must be finite, deviation above 0")
    count = 1 if form.channels == "grey" else 3
    if any(len(values) not in (1, count) for values in (form.mean, form.deviation)):
        raise ConfigError(f"{name}: input.mean and deviation have 1 or {count} numbers for {form.channels}")
    if isinstance(card.output, MapForm) and len(card.classes) != 1:
        raise ConfigError(f"{name}: a map has one class, got {list(card.classes)}")
    return card


def input_scale(card: ObjectCard, width_px: int, height_px: int) -> float:
    """Input pixels per image pixel."""
    return min(card.input.width_px / width_px, card.input.height_px / height_px)


def make_input(image: NDArray[np.uint8], card: ObjectCard) -> NDArray[np.float32]:
    """The model's input from an (H, W, 3) uint8 RGB image."""
    form = card.input
    if form.channels == "grey":
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]  # type: ignore[assignment]
    elif form.channels == "bgr":
        image = np.ascontiguousarray(image[:, :, ::-1])
    height, width = image.shape[:2]
    scale = input_scale(card, width, height)
    new = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = image if new == (width, height) else cv2.resize(image, new, interpolation=interpolation)
    values = small.astype(np.float32).reshape(new[1], new[0], -1) / np.float32(255)
    values = (values - np.asarray(form.mean, np.float32)) / np.asarray(form.deviation, np.float32)
    padded = np.zeros((form.height_px, form.width_px, values.shape[2]), np.float32)
    padded[: new[1], : new[0]] = values
    tensor = padded.transpose(2, 0, 1) if form.layout == "nchw" else padded
    return np.ascontiguousarray(tensor[None], dtype=np.float32)


def decode_objects(
    outputs: dict[str, NDArray[Any]], card: ObjectCard, *, width_px: int, height_px: int
) -> tuple[SeenObject, ...]:
    """Boxes in the image's pixels, best first.

    Args:
        outputs: by name.
        card: of the model.
        width_px: of the image.
        height_px: of the image.

    Raises:
        DeviceFailedError: the outputs are not of the card's form.
    """
    if isinstance(card.output, MapForm):
        boxes, scores, classes = _decode_map(outputs, card, card.output)
    else:
        boxes, scores, classes = _decode_boxes(outputs, card, card.output)
    boxes = boxes / input_scale(card, width_px, height_px)
    boxes = np.clip(boxes, 0, [width_px, height_px, width_px, height_px])
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & (scores >= card.score_min)
    order = np.flatnonzero(solid)[np.argsort(-scores[solid], kind="stable")]
    overlap_max = card.output.overlap_max if isinstance(card.output, BoxesForm) else 1.0
    kept: list[int] = []
    for index in order:
        if len(kept) == card.count_max:
            break
        rivals = [other for other in kept if classes[other] == classes[index]]
        if all(_overlap(boxes[index], boxes[other]) <= overlap_max for other in rivals):
            kept.append(int(index))
    return tuple(
        SeenObject(card.classes[int(classes[i])], min(float(scores[i]), 1.0), *(float(v) for v in boxes[i]))
        for i in kept
    )


_Decoded = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


def _decode_boxes(outputs: dict[str, NDArray[Any]], card: ObjectCard, form: BoxesForm) -> _Decoded:
    boxes, scores, classes = (
        np.asarray(outputs[name], dtype=np.float64) for name in (form.boxes, form.scores, form.classes)
    )
    shapes = (boxes.shape, scores.shape, classes.shape)
    count = boxes.size // 4
    if boxes.shape[-1:] != (4,) or boxes.shape not in ((count, 4), (1, count, 4)):
        raise DeviceFailedError(
            f"{card.name}: boxes, scores, classes have shapes {shapes}, expected (N, 4), (N), (N)"
        )
    if any(values.shape not in ((count,), (1, count)) for values in (scores, classes)):
        raise DeviceFailedError(
            f"{card.name}: boxes, scores, classes have shapes {shapes}, expected (N, 4), (N), (N)"
        )
    boxes, scores, numbers = boxes.reshape(-1, 4), scores.ravel(), classes.ravel()
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all() and np.isfinite(numbers).all()):
        raise DeviceFailedError(f"{card.name} gave a value that is not finite")
    # A class beyond the list is not of this model: the card and the file do not belong together.
    if count and not ((numbers >= 0) & (numbers < len(card.classes)) & (numbers == np.round(numbers))).all():
        raise DeviceFailedError(
            f"{card.name} gave classes {np.unique(numbers)[:5].tolist()}, expected 0 to {len(card.classes) - 1}"
        )
    if form.corners == "cxcywh":
        half = boxes[:, 2:] / 2
        boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    if form.normalised:
        size = (card.input.width_px, card.input.height_px)
        boxes = boxes * np.array([*size, *size])
    return boxes, scores, numbers.astype(np.int64)


def _decode_map(outputs: dict[str, NDArray[Any]], card: ObjectCard, form: MapForm) -> _Decoded:
    values = np.asarray(outputs[form.map], dtype=np.float32)
    if values.ndim != 4 or values.shape[:2] != (1, 1) or not np.isfinite(values).all():
        raise DeviceFailedError(f"{card.name}: a map is finite (1, 1, H, W), got {values.shape}")
    plane = values[0, 0]
    mask = (plane > form.threshold).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count > _AREAS_MAX:  # noise all over: nothing can be said, and it must not take seconds
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)
    sums = np.bincount(labels.ravel(), weights=plane.ravel(), minlength=count)
    large = np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= form.area_min_px) + 1
    left, top = stats[large, cv2.CC_STAT_LEFT], stats[large, cv2.CC_STAT_TOP]
    right, bottom = left + stats[large, cv2.CC_STAT_WIDTH], top + stats[large, cv2.CC_STAT_HEIGHT]
    scale = np.array([card.input.width_px / plane.shape[1], card.input.height_px / plane.shape[0]] * 2)
    boxes = np.stack([left, top, right, bottom], axis=1).astype(np.float64) * scale
    scores = sums[large] / stats[large, cv2.CC_STAT_AREA]
    return boxes, scores, np.zeros(len(large), np.int64)


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Intersection over union."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.maximum(high - low, 0.0)))
    areas = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]))
    return shared / max(areas - shared, 1e-9)
