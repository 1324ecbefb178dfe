"""Any detector with a card on the real runtime: one that is all arithmetic, and one that nobody here trained."""

import hashlib
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from depai_robot.adapters.onnx_objects import OnnxObjectDetector
from depai_robot.adapters.onnx_session import RuntimeSettings
from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.values.error import ConfigError

BOXES = Path(__file__).parents[1] / "data" / "objects" / "boxes.onnx"


def make_frame(image):
    height, width = image.shape[:2]
    return Frame(image, 1, CameraIntrinsics(width, height, 465.0, 465.0, width / 2, height / 2))


def card_of(path, /, **changes):
    return {
        "version": 1,
        "name": "boxes",
        "model": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "input": {"name": "image", "width_px": 64, "height_px": 64},
        "output": {"form": "boxes", "boxes": "boxes", "scores": "scores", "classes": "classes"},
        "classes": ["person", "cart"],
        "score_min": 0.3,
        **changes,
    }


@pytest.fixture
def write(tmp_path):
    def write(card, model=BOXES):
        (tmp_path / model.name).write_bytes(model.read_bytes())
        path = tmp_path / "card.yaml"
        path.write_text(yaml.safe_dump(card), encoding="utf-8")
        return path

    return write


def test_boxes_come_in_the_images_pixels_best_first_without_doubles(write):
    detector = OnnxObjectDetector(write(card_of(BOXES)))
    white = make_frame(np.full((240, 320, 3), 255, np.uint8))
    person, cart = detector.detect(white)
    assert (person.name, cart.name) == ("person", "cart")
    assert person.score == pytest.approx(0.9)
    # 320 x 240 is brought to 64 x 48: one input pixel is five of the image.
    assert (person.left_px, person.top_px, person.right_px, person.bottom_px) == (40, 40, 120, 240)
    assert (cart.left_px, cart.bottom_px) == (200, 60)
    assert detector.detect(make_frame(np.zeros((240, 320, 3), np.uint8))) == ()
    assert detector.provider == "CPUExecutionProvider"
    assert detector.model_sha256 == hashlib.sha256(BOXES.read_bytes()).hexdigest()


def test_bound_buffers_change_nothing(write):
    path = write(card_of(BOXES))
    frame = make_frame(np.full((64, 64, 3), 200, np.uint8))
    bound = OnnxObjectDetector(path, settings=RuntimeSettings(io_binding=True))
    assert bound.detect(frame) == OnnxObjectDetector(path).detect(frame)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "ab" * 32}, "sha256 is .* expects abab"),
        ({"input": {"name": "picture", "width_px": 64, "height_px": 64}}, "has inputs .* expected"),
        ({"input": {"name": "image", "width_px": 96, "height_px": 64}}, "has inputs .* expected"),
        (
            {"input": {"name": "image", "width_px": 64, "height_px": 64, "layout": "nhwc"}},
            "has inputs .* expected",
        ),
        (
            {"input": {"name": "image", "width_px": 64, "height_px": 64, "channels": "grey"}},
            "has inputs .* expected",
        ),
        (
            {"output": {"form": "boxes", "boxes": "boxes", "scores": "scores", "classes": "labels"}},
            r"has no outputs \['labels'\], it has",
        ),
        (
            {"output": {"form": "boxes", "boxes": "scores", "scores": "boxes", "classes": "classes"}},
            "have shapes .* expected",
        ),
        ({"output": {"form": "map", "map": "boxes"}, "classes": ["x"]}, r"a map is finite \(1, 1, H, W\)"),
        ({"classes": ["person"]}, r"gave classes \[0.0, 1.0\], expected 0 to 0"),
        ({"model": "../boxes.onnx"}, "must be a file beside the card"),
        ({"output": {"form": "grid"}}, "grid"),
        ({"extra": 1}, "unknown field `extra`"),
    ],
)
def test_a_model_of_another_form_does_not_start(write, changes, words):
    with pytest.raises(ConfigError, match=words):
        OnnxObjectDetector(write(card_of(BOXES, **changes)))


def test_a_damaged_or_absent_model_does_not_start(write, tmp_path):
    path = write(card_of(BOXES))
    (tmp_path / "boxes.onnx").write_bytes(BOXES.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="sha256 is"):
        OnnxObjectDetector(path)
    (tmp_path / "boxes.onnx").unlink()
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        OnnxObjectDetector(path)


def test_a_provider_that_does_not_serve_is_named_or_fatal(write):
    path = write(card_of(BOXES))
    detector = OnnxObjectDetector(path, settings=RuntimeSettings(providers=("cuda", "cpu")))
    assert "CUDAExecutionProvider" in detector.refusals[0]
    with pytest.raises(ConfigError, match="no execution provider runs .* CUDA"):
        OnnxObjectDetector(path, settings=RuntimeSettings(providers=("cuda", "cpu"), fallback="fail"))


# --- a model that nobody here trained -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_model():
    """A text detector of the package rapidocr (Apache-2.0, weights too); 9.9 MB, open shapes, one map out."""
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or spec.origin is None:
        pytest.skip("pip install 'depai_robot[test]': rapidocr carries the model")
    return Path(spec.origin).parent / "models" / "PP-OCRv6_det_small.onnx"


def test_a_strangers_model_runs_by_its_card_alone(text_model, write):
    card = card_of(
        text_model,
        name="text",
        input={
            "name": "x",
            "width_px": 640,
            "height_px": 480,
            "channels": "bgr",
            "mean": [0.5],
            "deviation": [0.5],
        },
        output={"form": "map", "map": "fetch_name_0", "threshold": 0.3, "area_min_px": 40},
        classes=["text"],
        score_min=0.5,
    )
    detector = OnnxObjectDetector(write(card, text_model), settings=RuntimeSettings(threads=2))
    picture = np.full((480, 640, 3), 235, np.uint8)
    assert detector.detect(make_frame(picture)) == ()
    for (x, y), words in {(60, 120): "CHARGING DOCK 3", (260, 380): "DO NOT BLOCK"}.items():
        cv2.putText(picture, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (20, 20, 20), 3)
    found = detector.detect(make_frame(picture))
    rows = sorted((seen.top_px + seen.bottom_px) / 2 for seen in found)
    assert all(seen.name == "text" and 0.5 <= seen.score <= 1 for seen in found)
    assert any(abs(row - 107) < 20 for row in rows), rows
    assert any(abs(row - 367) < 20 for row in rows), rows
    assert detector.detect(make_frame(picture)) == found
