"""Still pictures of coloured shapes on textured backgrounds, whose contents are known exactly.

No public video LLM weights can be had where this project is built and tested, so its embedded model is
fitted and judged on pictures of its own. A picture is a pure function of its seed and settings: NumPy only,
signed distances for the outlines, so that it is the same on every machine and its edges are smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 222, 50),
    "green": (40, 160, 60),
    "blue": (40, 80, 215),
    "purple": (135, 45, 165),
    "white": (248, 248, 248),
    "black": (12, 12, 12),
}
KINDS = ("circle", "square", "triangle", "star", "cross", "diamond")

_TEXTURE_SCALES = ((4, 34.0), (13, 18.0), (41, 9.0))
_PLACING_ATTEMPTS = 200


@dataclass(frozen=True)
class Shape:
    """One coloured shape. ``x``, ``y`` (its centre) and ``radius`` (of its outer circle) are in pixels."""

    colour: str
    kind: str
    x: float
    y: float
    radius: float
    angle: float = 0.0


@dataclass(frozen=True)
class Still:
    """A picture: ``image`` uint8 (size, size, 3) RGB, and the shapes on it, which do not overlap."""

    image: np.ndarray
    shapes: tuple[Shape, ...]


def draw_still(
    seed: int,
    *,
    shapes: tuple[int, int] = (1, 4),
    radius: tuple[float, float] = (15.0, 60.0),
    size: int = 378,
) -> Still:
    """Draw the picture that belongs to ``seed``.

    ``shapes`` and ``radius`` (pixels) are inclusive ranges from which the number of shapes and their sizes
    are drawn. Fewer shapes than asked for are placed where no free place is left for another.
    """
    rng = np.random.default_rng(seed)
    image = _textured_background(rng, size)
    placed: list[Shape] = []
    wanted = int(rng.integers(shapes[0], shapes[1] + 1))
    for _ in range(_PLACING_ATTEMPTS):
        if len(placed) == wanted:
            break
        shape = _random_shape(rng, radius, size)
        if all(np.hypot(shape.x - o.x, shape.y - o.y) > shape.radius + o.radius + 2 for o in placed):
            placed.append(shape)
            alpha = coverage(shape, size)[..., None]
            colour = np.array(COLOURS[shape.colour]) + rng.normal(0, 6, 3)
            image = image * (1 - alpha) + colour * alpha
    return Still(np.clip(np.rint(image), 0, 255).astype(np.uint8), tuple(placed))


def coverage(shape: Shape, size: int = 378) -> np.ndarray:
    """The part of each pixel that ``shape`` covers: float64 (size, size) in [0, 1]."""
    alpha = np.zeros((size, size))
    rows, columns = (_pixels_near(at, shape.radius, size) for at in (shape.y, shape.x))
    x, y = np.meshgrid(np.arange(size)[columns] + 0.5 - shape.x, np.arange(size)[rows] + 0.5 - shape.y)
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    x, y = x * cos + y * sin, y * cos - x * sin
    if shape.kind == "circle":
        distance = np.hypot(x, y) - shape.radius
    else:
        distance = _distance_to_polygon(x, y, shape.radius * _outline(shape.kind))
    alpha[rows, columns] = np.clip(0.5 - distance, 0.0, 1.0)
    return alpha


def _pixels_near(centre: float, radius: float, size: int) -> slice:
    return slice(max(0, int(centre - radius) - 1), min(size, int(centre + radius) + 2))


def _random_shape(rng: np.random.Generator, radius: tuple[float, float], size: int) -> Shape:
    colour, kind = rng.choice(list(COLOURS)), rng.choice(KINDS)
    r = rng.uniform(*radius)
    x, y = rng.uniform(r, size - r, 2)
    return Shape(str(colour), str(kind), float(x), float(y), float(r), float(rng.uniform(-0.15, 0.15)))


def _textured_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Greyish noise at several scales, float64 (size, size, 3): no colour that has a name in COLOURS."""
    image = np.full((size, size, 3), rng.uniform(90, 165)) + rng.normal(0, 4, 3)
    for cells, amplitude in _TEXTURE_SCALES:
        grey = rng.normal(0, amplitude, (cells, cells, 1))
        tint = rng.normal(0, amplitude / 9, (cells, cells, 3))
        image = image + _enlarge(grey + tint, size)
    return np.clip(image, 45, 205)


def _enlarge(grid: np.ndarray, size: int) -> np.ndarray:
    """Bilinear interpolation of (n, n, 3) to (size, size, 3)."""
    n = grid.shape[0]
    at = np.linspace(0, n - 1, size)
    low = np.minimum(at.astype(int), n - 2)
    part = at - low
    rows = grid[low] * (1 - part)[:, None, None] + grid[low + 1] * part[:, None, None]
    return rows[:, low] * (1 - part)[None, :, None] + rows[:, low + 1] * part[None, :, None]


def _outline(kind: str) -> np.ndarray:
    """Corners of a shape of outer radius 1, (corners, 2) as x right and y down."""
    if kind == "cross":
        arm = np.array([(-0.32, -0.32), (-0.32, -0.95), (0.32, -0.95)])
        quarter_turn = np.array([(0, 1), (-1, 0)])
        return np.concatenate([arm @ np.linalg.matrix_power(quarter_turn, i) for i in range(4)])
    corners, first, inner = {
        "square": (4, np.pi / 4, 1.0),
        "diamond": (4, 0.0, 1.0),
        "triangle": (3, -np.pi / 2, 1.0),
        "star": (10, -np.pi / 2, 0.42),
    }[kind]
    turn = first + 2 * np.pi * np.arange(corners) / corners
    reach = np.where(np.arange(corners) % 2 == 0, 1.0, inner)
    points = np.stack([np.cos(turn), np.sin(turn)], 1) * reach[:, None]
    return points * (0.7, 1.0) if kind == "diamond" else points


def _distance_to_polygon(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance of each point to a polygon's outline, negative inside (even-odd rule)."""
    squared = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
    return np.where(inside, -1.0, 1.0) * np.sqrt(squared)
