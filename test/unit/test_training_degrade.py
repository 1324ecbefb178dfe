"""What dirt, lens and sensor do: only what was asked for, and to the truth what they do to the image."""

import cv2
import numpy as np
import pytest

from training import degrade
from training.degrade import CONDITIONS, HEIGHT_PX, PLAIN_CONDITIONS, SINGLE_CONDITIONS, WIDTH_PX, Strengths

MATRIX = np.array([[465.0, 0, 319.5], [0, 465.0, 239.5], [0, 0, 1]])
LENS = (-0.12, 0.03, 0.0005, -0.0005, 0.0)
QUIET = Strengths(noise=0.0)


def rng():
    return np.random.default_rng(5)


def spots(points):
    """A dark image with a soft bright spot at each place."""
    canvas = np.zeros((HEIGHT_PX, WIDTH_PX), np.float32)
    for x, y in points:
        cv2.circle(canvas, (int(x), int(y)), 3, 1.0, -1)
    return cv2.GaussianBlur(canvas, (0, 0), 1.5)


def centre_near(image, point, reach=12):
    x, y = (round(float(v)) for v in point)
    part = image[y - reach : y + reach + 1, x - reach : x + reach + 1].astype(float)
    rows, columns = np.mgrid[y - reach : y + reach + 1, x - reach : x + reach + 1]
    return np.array([(part * columns).sum(), (part * rows).sum()]) / part.sum()


@pytest.mark.parametrize("condition", [*CONDITIONS, *PLAIN_CONDITIONS, *SINGLE_CONDITIONS, "mixed", "hard"])
def test_the_same_seed_gives_the_same_strengths(condition):
    assert degrade.draw_strengths(rng(), condition) == degrade.draw_strengths(rng(), condition)


def test_clean_has_no_blur_no_cover_no_lens():
    for seed in range(20):
        seen = degrade.draw_strengths(np.random.default_rng(seed), "clean")
        assert (seen.motion_px, seen.focus_px, seen.occlusion, seen.dirt, seen.jpeg) == (0, 0, 0, 0, 0)
        assert not any(seen.distortion)


def test_plain_conditions_have_neither_glare_nor_shadow():
    for condition in PLAIN_CONDITIONS:
        for seed in range(20):
            seen = degrade.draw_strengths(np.random.default_rng(seed), condition)
            assert (seen.glare, seen.shadows, seen.dirt, seen.occlusion) == (0, 0, 0, 0)
            assert seen.exposure >= 0.15


def test_what_covers_a_side_covers_its_share_of_the_box_and_begins_at_that_side():
    left, top, right, bottom = 200, 150, 400, 300
    sides = set()
    for seed in range(40):
        canvas, covered = (
            np.full((HEIGHT_PX, WIDTH_PX), 0.5, np.float32),
            np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8),
        )
        degrade.cover_side(canvas, covered, np.random.default_rng(seed), (left, top, right, bottom), 0.25)
        inside = covered[top:bottom, left:right]
        assert inside.mean() == pytest.approx(0.25, abs=0.02)
        assert (canvas[covered == 0] == 0.5).all(), "what is noted as covered is what was painted"
        whole = (inside[:, 0].all(), inside[:, -1].all(), inside[-1].all(), inside[0].all())
        assert sum(map(bool, whole)) == 1
        sides.add(whole.index(True))
    assert sides == {0, 1, 2, 3}


def test_a_lens_moves_the_image_where_it_moves_the_truth():
    points = np.array([[80.0, 70.0], [320.0, 240.0], [560.0, 410.0], [90.0, 400.0]])
    strengths = Strengths(noise=0.0, distortion=LENS)
    image = degrade.sense(spots(points), rng(), strengths, MATRIX, 240.0)
    for point, moved in zip(points, degrade.bend(points, MATRIX, LENS), strict=True):
        assert np.abs(centre_near(image, moved) - moved).max() < 0.2
        assert np.linalg.norm(moved - point) < 60


def test_a_rolling_shutter_moves_the_image_where_it_moves_the_truth():
    points = np.array([[100.0, 60.0], [300.0, 240.0], [500.0, 420.0]])
    image = degrade.sense(spots(points), rng(), Strengths(noise=0.0, rolling_px=16.0), MATRIX, 240.0)
    moved = degrade.roll(points, 16.0, 240.0)
    assert moved[1] == pytest.approx(points[1])
    assert moved[2, 0] - moved[0, 0] == pytest.approx(points[2, 0] - points[0, 0] + 12.0)
    for point in moved:
        assert np.abs(centre_near(image, point) - point).max() < 0.2


@pytest.mark.parametrize(
    "strengths", [Strengths(noise=0.0, motion_px=16.0), Strengths(noise=0.0, focus_px=3.0)]
)
def test_blur_widens_and_keeps_the_middle_and_the_light(strengths):
    point = np.array([[300.0, 200.0]])
    canvas = spots(point) * 0.8
    image = degrade.sense(canvas, rng(), strengths, MATRIX, 240.0)
    plain = degrade.sense(canvas, rng(), QUIET, MATRIX, 240.0)
    assert image.max() < 0.8 * plain.max()
    assert image.sum() == pytest.approx(plain.sum(), rel=0.05)
    assert np.abs(centre_near(image, point[0], 20) - point[0]).max() < 0.6


def test_noise_grows_with_light():
    canvas = np.full((HEIGHT_PX, WIDTH_PX), 0.1, np.float32)
    canvas[:, 320:] = 0.6
    image = degrade.sense(canvas, rng(), Strengths(noise=0.05), MATRIX, 240.0).astype(float)
    assert image[:, 320:].std() > 1.3 * image[:, :320].std()


def test_cover_notes_what_it_hides():
    canvas = np.full((HEIGHT_PX, WIDTH_PX), -1.0, np.float32)
    covered = np.zeros(canvas.shape, np.uint8)
    degrade.cover(canvas, covered, rng(), (200.0, 100.0, 400.0, 300.0), 0.25)
    assert ((canvas != -1.0) == (covered > 0)).all()
    assert 0.05 < covered[100:300, 200:400].mean() < 0.5


def test_dirt_stays_on_the_panel():
    canvas = np.ones((HEIGHT_PX, WIDTH_PX), np.float32)
    quad = np.array([[200.0, 100.0], [400.0, 120.0], [390.0, 260.0], [205.0, 250.0]])
    degrade.add_dirt(canvas, rng(), quad, 0.15)
    assert canvas.min() < 0.95
    assert (canvas[:90] == 1).all()
    assert (canvas[:, 410:] == 1).all()


def test_jpeg_changes_but_does_not_shift():
    points = np.array([[300.0, 200.0]])
    image = degrade.sense(spots(points), rng(), Strengths(noise=0.0, jpeg=20), MATRIX, 240.0)
    assert np.abs(centre_near(image, points[0]) - points[0]).max() < 0.3


def test_hard_frames_are_dark_or_smeared_more_often_than_mixed_ones():
    def share(condition):
        drawn = [degrade.draw_strengths(np.random.default_rng(seed), condition) for seed in range(300)]
        return np.mean([s.motion_px > 8 or s.exposure < 0.2 for s in drawn])

    assert share("hard") > 0.6 > 0.5 > share("mixed")
