"""What light, dirt, lens and sensor do to a rendered frame. The same for every renderer, seeded, each thing named.

A frame comes in as (480, 640) float32, linear light, 1 is white; it leaves as uint8. :func:`draw_strengths` says how
much of everything a condition has; the functions that follow apply it in the order in which light meets it.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.backdrop import draw_pattern

WIDTH_PX, HEIGHT_PX = 640, 480
SIDES = ((0, True), (0, False), (1, False), (1, True))
"""Left, right, below, above: the image's axis, and whether from its low end on."""

SIDE_ODDS = (0.3, 0.3, 0.25, 0.15)
"""Little hangs before a dock from above."""

SIDE_MORE = 0.3
"""Of the box's width and height: how far what covers a side of it reaches beyond."""

CONDITIONS = ("clean", "blur8", "blur16", "low_light", "occluded", "noise", "combined")
"""Those of the table of targets, with the glare and shadows that any room may have."""

PLAIN_CONDITIONS = tuple(f"plain_{name}" for name in CONDITIONS)
"""The same, as mild as in the experiment that the targets come from; see :func:`_draw_plain`."""

SINGLE_CONDITIONS = ("glare", "shadow", "dirt", "focus", "rolling_shutter", "distorted", "jpeg")
"""One thing alone and strong; everything else as in ``clean``."""

Grey = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Strengths:
    """How much of what a frame has.

    Attributes:
        glare: spots of light on the panel.
        shadows: over parts of the image.
        dirt: share of the panel under spots and smears.
        occlusion: share of the dock's box in the image that something covers.
        side: share of that box that something before one of its sides covers.
        motion_px: length of the straight streak that a point leaves during the exposure.
        focus_px: radius of the disc that a point becomes.
        exposure: factor on the light.
        noise: deviation of a white pixel's noise, of 1.
        rolling_px: by how much the last row is shifted against the first.
        distortion: k1, k2, p1, p2, k3 of the lens.
        jpeg: quality 1..100; 0 for none.
        gamma: exponent of the sensor's curve.
    """

    glare: int = 0
    shadows: int = 0
    dirt: float = 0.0
    occlusion: float = 0.0
    side: float = 0.0
    motion_px: float = 0.0
    focus_px: float = 0.0
    exposure: float = 1.0
    noise: float = 0.004
    rolling_px: float = 0.0
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    jpeg: int = 0
    gamma: float = 1.0


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def draw_lens(rng: np.random.Generator) -> tuple[float, float, float, float, float]:
    """Distortion as an uncorrected lens of 70 degrees has it."""
    k1 = float(rng.uniform(-0.16, 0.1))
    return (k1, -0.3 * k1 + float(rng.normal(0, 0.01)), *(float(v) for v in rng.normal(0, 0.0008, 2)), 0.0)


def draw_strengths(rng: np.random.Generator, condition: str) -> Strengths:
    """Of a named condition; ``mixed`` has some of everything, in a third of the frames a lot of it.

    ``hard`` is long streaks and little light, which the networks learn last.
    """
    if condition == "mixed":
        return _draw_mixed(rng)
    if condition == "hard":
        return _draw_hard(rng)
    if condition in PLAIN_CONDITIONS:
        return _draw_plain(rng, condition.removeprefix("plain_"))
    dim = condition in ("low_light", "combined")
    noise = {"noise": 0.06, "combined": 0.02, "low_light": 0.015}
    return Strengths(
        glare=2 if condition == "glare" else int(rng.random() < 0.35),
        shadows=3 if condition == "shadow" else int(rng.random() < 0.4),
        dirt=0.15 if condition == "dirt" else 0.0,
        occlusion=0.25 if condition in ("occluded", "combined") else 0.0,
        motion_px={"blur8": 8.0, "blur16": 16.0, "combined": 6.0}.get(condition, 0.0),
        focus_px=3.0 if condition == "focus" else 0.0,
        exposure=float(rng.uniform(0.06, 0.18)) if dim else _between(rng, 0.45, 1.5),
        noise=noise.get(condition, 0.004),
        rolling_px=float(rng.choice([-16.0, 16.0])) if condition == "rolling_shutter" else 0.0,
        distortion=draw_lens(rng) if condition == "distorted" else (0.0, 0.0, 0.0, 0.0, 0.0),
        jpeg=20 if condition == "jpeg" else 0,
        gamma=float(rng.uniform(0.8, 1.2)),
    )


def _draw_mixed(rng: np.random.Generator) -> Strengths:
    odds = 2.2 if rng.random() < 0.35 else 1.0

    def happens(share: float) -> bool:
        return bool(rng.random() < share * odds)

    everything = rng.random() < 0.15  # dark, covered, moving and noisy at once
    motion_px = float(rng.uniform(2, 20)) if happens(0.36) else 0.0
    return Strengths(
        glare=int(happens(0.3)) + int(happens(0.1)),
        shadows=int(happens(0.3)) + int(happens(0.1)),
        dirt=float(rng.uniform(0.01, 0.2)) if happens(0.2) else 0.0,
        occlusion=float(rng.uniform(0.03, 0.32)) if everything or happens(0.33) else 0.0,
        motion_px=float(rng.uniform(3, 12)) if everything else motion_px,
        focus_px=float(rng.uniform(0.5, 3.5)) if happens(0.2) and not everything else 0.0,
        exposure=float(rng.uniform(0.05, 0.2)) if everything or happens(0.2) else _between(rng, 0.4, 1.6),
        noise=_between(rng, 0.001, 0.07) if everything or happens(0.4) else _between(rng, 0.001, 0.02),
        rolling_px=float(rng.uniform(-20, 20)) if happens(0.2) else 0.0,
        distortion=draw_lens(rng) if happens(0.2) else (0.0, 0.0, 0.0, 0.0, 0.0),
        jpeg=int(rng.integers(12, 90)) if happens(0.2) else 0,
        gamma=float(rng.uniform(0.6, 1.5)),
    )


def _draw_plain(rng: np.random.Generator, condition: str) -> Strengths:
    """One thing at a time, in a room without glare or shadows.

    The strengths were chosen by what AprilTag 3 reads of such frames (docs/decisions/0012).
    """
    light = {"low_light": (0.15, 0.3), "combined": (0.3, 0.6)}
    noise = {"noise": 0.06, "combined": 0.015, "low_light": 0.006}
    return Strengths(
        side=0.25 if condition in ("occluded", "combined") else 0.0,
        motion_px={"blur8": 8.0, "blur16": 16.0, "combined": 3.0}.get(condition, 0.0),
        exposure=float(rng.uniform(*light.get(condition, (0.8, 1.2)))),
        noise=noise.get(condition, 0.004),
        gamma=float(rng.uniform(0.8, 1.2)),
    )


def _draw_hard(rng: np.random.Generator) -> Strengths:
    dark = rng.random() < 0.5
    return Strengths(
        glare=int(rng.random() < 0.35),
        shadows=int(rng.random() < 0.4),
        dirt=float(rng.uniform(0.01, 0.15)) if rng.random() < 0.1 else 0.0,
        occlusion=float(rng.uniform(0.05, 0.3)) if rng.random() < 0.35 else 0.0,
        motion_px=float(rng.uniform(4, 20)) if rng.random() < 0.75 else 0.0,
        focus_px=float(rng.uniform(0.5, 3.0)) if rng.random() < 0.1 else 0.0,
        # A dark room at a fiftieth of the light is a few grey levels in all.
        exposure=_between(rng, 0.02, 0.25) if dark else _between(rng, 0.25, 1.5),
        noise=_between(rng, 0.004, 0.025 if dark else 0.05),
        rolling_px=float(rng.uniform(-10, 10)) if rng.random() < 0.1 else 0.0,
        gamma=float(rng.uniform(0.75, 1.25)),
    )


# --- in the scene -----------------------------------------------------------------------------------------


def add_glare(canvas: Grey, rng: np.random.Generator, quad_px: Array) -> None:
    """A lamp's reflection somewhere on the panel (top left, top right, bottom right, bottom left)."""
    centre = quad_px[0] + rng.random() * (quad_px[1] - quad_px[0]) + rng.random() * (quad_px[3] - quad_px[0])
    size = float(np.linalg.norm(quad_px[1] - quad_px[0])) * rng.uniform(0.05, 0.35) + 1
    stretch, power = rng.uniform(0.4, 2.5), rng.uniform(0.3, 1.5)
    # Beyond 3.2 sizes nothing of it is left.
    reach = 3.2 * size * np.array([1.0, stretch])
    left, top = np.clip(np.floor(centre - reach), 0, [WIDTH_PX, HEIGHT_PX]).astype(int)
    right, bottom = np.clip(np.ceil(centre + reach) + 1, 0, [WIDTH_PX, HEIGHT_PX]).astype(int)
    if right <= left or bottom <= top:
        return
    columns = np.exp(-(((np.arange(left, right) - centre[0]) / size) ** 2))
    rows = np.exp(-(((np.arange(top, bottom) - centre[1]) / (size * stretch)) ** 2))
    canvas[top:bottom, left:right] += (power * np.outer(rows, columns)).astype(np.float32)


def add_dirt(canvas: Grey, rng: np.random.Generator, quad_px: Array, share: float) -> None:
    """Spots and smears on the panel, about a share of it, from thin film to mud."""
    side = 96
    film = np.ones((side, side), np.float32)
    left = share * side * side
    while left > 0:
        x, y = rng.uniform(0, side, 2)
        if rng.random() < 0.7:
            radius = _between(rng, 1.5, 14)
            cv2.ellipse(
                film,
                (int(x), int(y)),
                (max(1, int(radius)), max(1, int(radius * rng.uniform(0.4, 1)))),
                float(rng.uniform(0, 180)),
                0,
                360,
                float(rng.uniform(0.25, 0.9)),
                -1,
            )
            left -= 2.2 * radius * radius
        else:
            angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(8, 60)
            wide = int(rng.integers(1, 6))
            end = (int(x + length * np.cos(angle)), int(y + length * np.sin(angle)))
            cv2.line(film, (int(x), int(y)), end, float(rng.uniform(0.3, 0.95)), wide)
            left -= length * wide
    if rng.random() < 0.5:
        film = cv2.GaussianBlur(film, (0, 0), float(rng.uniform(0.5, 3)))
    source = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, quad_px.astype(np.float32))
    whole = cv2.warpPerspective(
        film,
        matrix,
        (WIDTH_PX, HEIGHT_PX),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=1,
    )
    canvas *= whole


def cover(
    canvas: Grey,
    covered: NDArray[np.uint8],
    rng: np.random.Generator,
    box_px: tuple[float, float, float, float],
    share: float,
) -> None:
    """Covers a share of a box (left, top, right, bottom) with one or two opaque shapes; notes where."""
    left, top, right, bottom = box_px
    width, height = max(right - left, 4), max(bottom - top, 4)
    count = int(rng.integers(1, 3))
    for _ in range(count):
        area = share * width * height / count
        aspect = np.exp(rng.uniform(-1, 1))
        w, h = np.sqrt(area * aspect), np.sqrt(area / aspect)
        x, y = left + rng.random() * width, top + rng.random() * height
        mask = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
        if rng.random() < 0.5:
            quad = np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) / 2 + rng.normal(0, 0.08, (4, 2)) * (w, h)
            cv2.fillPoly(mask, [np.round(quad + np.array((x, y))).astype(np.int32)], 1)
        else:
            axes = (int(w * 0.56) + 1, int(h * 0.56) + 1)
            cv2.ellipse(mask, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        _paint(canvas, covered, rng, mask)


def cover_side(
    canvas: Grey,
    covered: NDArray[np.uint8],
    rng: np.random.Generator,
    box_px: tuple[float, float, float, float],
    share: float,
) -> None:
    """Covers a share of a box (left, top, right, bottom) from one of its sides on, as a crate or a leg does."""
    low, high = np.array(box_px[:2]), np.array(box_px[2:])
    size = np.maximum(high - low, 4)
    axis, from_low = SIDES[int(rng.choice(len(SIDES), p=SIDE_ODDS))]
    # It reaches beyond the box on the other three sides.
    outer_low, outer_high = low - SIDE_MORE * size, high + SIDE_MORE * size
    if from_low:
        outer_high[axis] = low[axis] + share * size[axis]
    else:
        outer_low[axis] = high[axis] - share * size[axis]
    mask = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    a, b = (tuple(np.round(v).astype(int).tolist()) for v in (outer_low, outer_high))
    cv2.rectangle(mask, a, b, 1, -1)
    _paint(canvas, covered, rng, mask)


def _paint(
    canvas: Grey, covered: NDArray[np.uint8], rng: np.random.Generator, mask: NDArray[np.uint8]
) -> None:
    """Something with a pattern, opaque."""
    chosen = mask.astype(bool)
    patch = cv2.resize(draw_pattern(rng, 64), (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_LINEAR)
    canvas[chosen] = (patch[chosen] * rng.uniform(0.2, 1) + rng.uniform(0, 0.3)).astype(np.float32)
    covered |= mask


def add_light(canvas: Grey, rng: np.random.Generator, strengths: Strengths) -> None:
    """Shadows, graded light, exposure."""
    for _ in range(strengths.shadows):
        mask = np.ones((HEIGHT_PX // 4, WIDTH_PX // 4), np.float32)
        centre = rng.uniform((0, 0), (WIDTH_PX / 4, HEIGHT_PX / 4))
        quad = centre + rng.normal(0, 60, (4, 2))
        hull = cv2.convexHull(quad.astype(np.float32)).astype(np.int32)
        cv2.fillConvexPoly(mask, hull, float(rng.uniform(0.35, 0.85)))
        if rng.random() < 0.5:
            mask = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(1, 12)))
        canvas *= cv2.resize(mask, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        rows = np.linspace(-0.5, 0.5, HEIGHT_PX, dtype=np.float32)[:, None]
        columns = np.linspace(-0.5, 0.5, WIDTH_PX, dtype=np.float32)[None]
        a, b = rng.normal(0, 0.4, 2)
        canvas *= np.clip(1 + a * rows + b * columns, 0.2, 2).astype(np.float32)
    canvas *= np.float32(strengths.exposure)


# --- lens and sensor --------------------------------------------------------------------------------------


def bend(points_px: Array, matrix: Array, distortion: tuple[float, ...]) -> Array:
    """(N, 2) pixels of a straight camera to where a lens puts them."""
    if not any(distortion):
        return points_px
    rays = np.concatenate([points_px, np.ones((len(points_px), 1))], axis=1) @ np.linalg.inv(matrix).T
    # Far outside of the image the polynomial folds over; nothing there is used.
    rays[:, :2] = np.clip(rays[:, :2], -1.2, 1.2)
    pixels = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), matrix, np.array(distortion))[0]
    return np.asarray(pixels, np.float64)[:, 0]


def _bend_image(canvas: Grey, matrix: Array, distortion: tuple[float, ...]) -> Grey:
    # The map is smooth: every eighth pixel is enough.
    columns, rows = np.meshgrid(np.arange(0, WIDTH_PX + 8, 8.0), np.arange(0, HEIGHT_PX + 8, 8.0))
    places = np.stack([columns, rows], axis=-1).reshape(-1, 1, 2)
    straight = cv2.undistortPoints(places, matrix, np.array(distortion), P=matrix).reshape(*columns.shape, 2)
    grid = cv2.resize(
        straight.astype(np.float32), None, fx=8, fy=8, interpolation=cv2.INTER_LINEAR
    )  # sample i of the coarse grid lands at 8 i + 3.5
    shift = np.float32([[1, 0, -3.5], [0, 1, -3.5]])
    grid = cv2.warpAffine(
        grid, shift, (WIDTH_PX, HEIGHT_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return cv2.remap(canvas, grid, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def roll(points_px: Array, rolling_px: float, row_px: float) -> Array:
    """Where a rolling shutter puts points; the row that the pose is of stays where it is."""
    moved = points_px.copy()
    moved[:, 0] += rolling_px * (points_px[:, 1] - row_px) / HEIGHT_PX
    return moved


def sense(
    canvas: Grey, rng: np.random.Generator, strengths: Strengths, matrix: Array, row_px: float
) -> NDArray[np.uint8]:
    """Lens, motion, shutter, noise, curve and compression. ``row_px``: whose exposure is the frame's time."""
    if any(strengths.distortion):
        canvas = _bend_image(canvas, matrix, strengths.distortion)
    if strengths.motion_px:
        canvas = cv2.filter2D(canvas, -1, _streak(strengths.motion_px, rng))
    if strengths.focus_px:
        canvas = cv2.filter2D(canvas, -1, _disc(strengths.focus_px))
    if strengths.rolling_px:
        slant = strengths.rolling_px / HEIGHT_PX
        matrix_px = np.float32([[1, slant, -slant * row_px], [0, 1, 0]])
        canvas = cv2.warpAffine(
            canvas,
            matrix_px,
            (WIDTH_PX, HEIGHT_PX),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    # Shot noise grows with the square root of the light, read noise does not.
    grain = rng.standard_normal((HEIGHT_PX, WIDTH_PX), dtype=np.float32)
    canvas = canvas + grain * (strengths.noise * (0.4 + np.sqrt(np.clip(canvas, 0, 1.5))))
    image = (np.clip(canvas, 0, 1) ** np.float32(strengths.gamma) * 255 + 0.5).astype(np.uint8)
    if strengths.jpeg:
        _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, strengths.jpeg])
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE), np.uint8)
    return image


def _streak(length_px: float, rng: np.random.Generator) -> Grey:
    """Kernel of a straight motion during the exposure, mostly sideways as a turning robot has it."""
    size = max(3, int(np.ceil(length_px)) | 1)
    kernel = np.zeros((size * 4, size * 4), np.float32)
    angle = rng.normal(0, 0.35) if rng.random() < 0.7 else rng.uniform(0, np.pi)
    middle = size * 2
    reach = np.array([np.cos(angle), np.sin(angle)]) * length_px * 2
    a = tuple(np.round(middle - reach).astype(int).tolist())
    b = tuple(np.round(middle + reach).astype(int).tolist())
    cv2.line(kernel, a, b, 1.0, 4)
    kernel = cv2.resize(kernel, (size, size), interpolation=cv2.INTER_AREA)
    return kernel / kernel.sum()


def _disc(radius_px: float) -> Grey:
    """Kernel of a lens out of focus: a disc with a soft edge of a pixel."""
    reach = int(np.ceil(radius_px)) + 1
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    kernel = np.clip(radius_px + 0.5 - np.hypot(rows, columns), 0, 1).astype(np.float32)
    return kernel / kernel.sum()
