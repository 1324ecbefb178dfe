import cv2
import numpy as np
import pytest

from depai_robot.perception.observation import DockKeypoints
from depai_robot.perception.tag import read_tag

CORNERS = np.array([(200.0, 150.0), (290.0, 160.0), (286.0, 252.0), (204.0, 238.0)])


def draw(tag_id, corners=CORNERS, white=220, black=30):
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    tag = cv2.aruco.generateImageMarker(dictionary, tag_id, 160)
    page = np.full((240, 240), 255, np.uint8)
    page[40:200, 40:200] = tag
    page = (black + page.astype(float) * (white - black) / 255).astype(np.uint8)
    source = np.array([(40, 40), (200, 40), (200, 200), (40, 200)], np.float32) - 0.5
    matrix = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    return cv2.warpPerspective(page, matrix, (640, 480), flags=cv2.INTER_AREA, borderValue=white)


def seen(corners=CORNERS):
    points = np.zeros((12, 2))
    points[8:] = corners
    return DockKeypoints(points, np.ones(12), np.ones(12), 0.99)


@pytest.mark.parametrize("tag_id", range(5))
def test_a_tag_is_read_though_keypoints_err(tag_id):
    image = draw(tag_id)
    rng = np.random.default_rng(tag_id)
    for _ in range(5):
        assert read_tag(image, seen(CORNERS + rng.normal(0, 1.0, (4, 2)))) == tag_id


def test_in_the_dark_too():
    assert read_tag(draw(3, white=60, black=8), seen()) == 3


def test_what_is_no_tag_reads_none():
    rng = np.random.default_rng(1)
    flat = np.full((480, 640), 90, np.uint8)
    assert read_tag(flat, seen()) is None
    for _ in range(200):
        assert read_tag(rng.integers(0, 256, (480, 640), np.uint8), seen()) is None


def test_a_turned_tag_is_no_tag():
    assert read_tag(draw(2, np.roll(CORNERS, 1, axis=0)), seen()) is None


def test_useless_corners_read_none():
    image = draw(1)
    assert read_tag(image, seen(CORNERS * np.nan)) is None
    assert read_tag(image, seen(CORNERS * 0)) is None
    assert read_tag(image, seen(CORNERS[[0, 2, 1, 3]])) is None
