import math

import numpy as np
import pytest

from depai_robot.perception.network import decode_finder, decode_keypoints, next_region
from depai_robot.perception.observation import DockKeypoints
from depai_robot.perception.region import (
    CROP_PX,
    GreyImage,
    Region,
    crop_pixels,
    finder_pixels,
    normalise,
    region_of,
)
from depai_robot.values.error import BugError


def test_crop_and_image_pixels_are_inverse():
    region = Region(100.25, 50.5, 77.0)
    points = np.array([[0.0, 0.0], [63.5, 63.5], [10.1, 120.2]])
    np.testing.assert_allclose(region.to_crop(region.to_image(points)), points, atol=1e-9)
    np.testing.assert_allclose(region.to_image(np.array([[63.5, 63.5]])), [[100.25, 50.5]])


@pytest.mark.parametrize("side_px", [40.0, 128.0, 200.0, 300.0, 620.0])
def test_a_crop_shows_what_its_coordinates_say(side_px):
    """A soft blob at a known place is found again where the region's own arithmetic puts it."""
    rows, columns = np.mgrid[:480, :640]
    x, y, width = 310 - side_px / 33, 250 - side_px / 41, side_px / 16
    blob = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * width**2))
    region = Region(310.0, 250.0, side_px)
    # What lies outside of the image is grey in the crop; its share of the blob is nothing.
    crop = crop_pixels(GreyImage(np.round(blob).astype(np.uint8)), region).astype(float)
    i, j = np.mgrid[:CROP_PX, :CROP_PX]
    near = np.hypot(j - 60, i - 60) < 45
    weight = np.where(near, crop, 0.0)
    centre = np.array([[(weight * j).sum(), (weight * i).sum()]]) / weight.sum()
    np.testing.assert_allclose(region.to_image(centre), [[x, y]], atol=0.004 * side_px + 0.05)


def test_outside_of_the_image_is_grey():
    crop = crop_pixels(GreyImage(np.zeros((480, 640), np.uint8)), Region(-500.0, 0.0, 50.0))
    assert (crop == 127).all()


def test_a_softened_crop_has_its_edges_smeared_over_so_many_pixels():
    half = np.zeros((480, 640), np.uint8)
    half[:, 320:] = 200
    region = Region(320.0, 240.0, 128.0)
    hard, soft = (
        crop_pixels(GreyImage(half), region, blur_px=blur_px)[64].astype(float) for blur_px in (0.0, 2.0)
    )
    assert set(hard) <= {0.0, 100.0, 200.0}
    steps = np.diff(soft) / 200
    places = np.arange(len(steps))
    centre = (steps * places).sum()
    assert np.sqrt((steps * (places - centre) ** 2).sum()) == pytest.approx(2.0, abs=0.1)


def test_any_size_of_image_fits_the_finder():
    for height, width in ((480, 640), (720, 1280), (1080, 1440), (120, 160), (641, 479)):
        pixels = finder_pixels(GreyImage(np.full((height, width), 9, np.uint8)))
        assert pixels.shape == (240, 320)
        assert pixels[0, 0] == 9


def test_normalised_pixels_are_float32_even_when_flat():
    flat = normalise(np.full((4, 4), 200, np.uint8))
    assert flat.dtype == np.float32
    assert flat.shape == (1, 1, 4, 4)
    assert (flat == 0).all()


@pytest.mark.parametrize("side_px", [0.0, -1.0, math.nan, math.inf])
def test_a_region_has_a_size(side_px):
    with pytest.raises(BugError):
        Region(0.0, 0.0, side_px)


def maps_with(*peaks):
    maps = np.zeros((1, 5, 30, 40), np.float32)
    maps[0, 0] = -9.0
    for row, column, logit, width_px in peaks:
        maps[0, 0, row, column] = logit
        maps[0, 3, row, column] = math.log(width_px)
        maps[0, 4, row, column] = math.log(width_px / 2)
    return maps


def test_a_finder_peak_becomes_a_region():
    maps = maps_with((10, 20, 3.0, 40.0))
    maps[0, 1, 10, 20], maps[0, 2, 10, 20] = 0.25, -0.5
    (candidate,) = decode_finder(maps, (640, 480), score_min=0.2, count_max=4)
    # Cell (10, 20) has its centre at finder pixel (163.5, 83.5), i.e. image pixel (327.5, 167.5).
    assert candidate.region.x_px == pytest.approx(327.5 + 0.25 * 16)
    assert candidate.region.y_px == pytest.approx(167.5 - 0.5 * 16)
    assert candidate.region.side_px == pytest.approx(1.3 * 80)
    assert candidate.score == pytest.approx(1 / (1 + math.exp(-3)))


def test_peaks_come_best_first_apart_and_not_too_many():
    maps = maps_with((5, 5, 1.0, 20.0), (5, 30, 3.0, 20.0), (25, 20, 2.0, 40.0), (25, 22, 1.5, 40.0))
    found = decode_finder(maps, (640, 480), score_min=0.2, count_max=4)
    assert [round(c.region.x_px) for c in found] == [488, 328, 88]
    assert len(decode_finder(maps, (640, 480), score_min=0.2, count_max=2)) == 2
    assert decode_finder(maps, (640, 480), score_min=0.99, count_max=2) == ()


def test_an_absurd_size_stays_finite():
    maps = maps_with((5, 5, 1.0, 20.0))
    maps[0, 3, 5, 5] = 88.0
    (candidate,) = decode_finder(maps, (640, 480), score_min=0.2, count_max=1)
    assert candidate.region.side_px < 5000


def test_keypoints_come_in_image_pixels_with_a_standard_deviation():
    rows = np.zeros((1, 12, 4), np.float32)
    rows[0, :, :2] = 63.5
    rows[0, :, 3] = 50.0
    found = decode_keypoints(rows, np.array([[0.0]], np.float32), Region(200.0, 100.0, 256.0))
    np.testing.assert_allclose(found.points_px, [[200.0, 100.0]] * 12)
    np.testing.assert_allclose(found.sigma_px, math.sqrt(2) * 2.0)
    np.testing.assert_allclose(found.visibility, 1.0)
    assert found.score == 0.5


def test_the_next_look_needs_four_visible_keypoints():
    points = np.column_stack([np.linspace(100, 210, 12), np.full(12, 50.0)])
    visible = np.zeros(12)
    visible[:3] = 1
    seen = DockKeypoints(points, np.ones(12), visible, 0.9)
    assert next_region(seen) is None
    visible[:] = 1
    assert next_region(seen) == region_of(points)
    assert region_of(points).side_px == pytest.approx(1.3 * 110)
