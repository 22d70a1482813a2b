"""Coloured shapes and textured backgrounds, drawn from numbers alone.

Outlines are signed distances in NumPy: pictures are the same on every machine, have smooth edges, and their content is
known exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

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

RAY_REACH = 1.7
"""Outer end of the rays of a flashing shape, in radii."""

_STROKES = {
    "top": ((-0.3, -0.55), (0.3, -0.55)),
    "middle": ((-0.3, 0.0), (0.3, 0.0)),
    "bottom": ((-0.3, 0.55), (0.3, 0.55)),
    "upper left": ((-0.3, -0.55), (-0.3, 0.0)),
    "lower left": ((-0.3, 0.0), (-0.3, 0.55)),
    "upper right": ((0.3, -0.55), (0.3, 0.0)),
    "lower right": ((0.3, 0.0), (0.3, 0.55)),
}
"""The strokes of a digit on a seven-segment display, from end to end, in radii of the shape that bears it."""
_RIGHT = ("upper right", "lower right")
DIGITS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "one": _RIGHT,
        "four": ("upper left", "middle", *_RIGHT),
        "seven": ("top", *_RIGHT),
        "eight": tuple(_STROKES),
    }
)
"""The digits that a shape may bear, each with its strokes."""
_STROKE = 0.13
"""Half the width of a stroke, in radii."""
_INKS = np.array((8.0, 8.0, 8.0), np.float32), np.array((250.0, 250.0, 250.0), np.float32)
"""Of a digit on a light colour, and on a dark one."""
_DARK = 128.0
"""Mean of its channels below which a colour is dark."""

_TEXTURES = ((126.0, 34.0), (31.5, 18.0), (9.5, 9.0))
"""Pixels between the grid points of a background's noise, and its amplitude in grey levels."""
_RAYS = 8
_RAY_START = 1.18
_RAY_COLOUR = np.array((252.0, 250.0, 236.0), np.float32)


@dataclass(frozen=True)
class Shape:
    """One coloured shape.

    ``x``, ``y`` (its centre) and ``radius`` (of its outer circle) are in pixels, ``angle`` in radians; one that
    is ``flashing`` has rays around it; ``digit`` is the name of the one that it bears, "" if none.
    """

    colour: str
    kind: str
    x: float
    y: float
    radius: float
    angle: float = 0.0
    flashing: bool = False
    digit: str = ""


def paint(picture: np.ndarray, shape: Shape) -> None:
    """Paint ``shape`` into ``picture``, float32 (height, width, 3) grey levels, in place."""
    if shape.flashing:
        rows, columns, alpha = _drawn(shape, RAY_REACH, _ray_coverage, picture.shape[:2])
        _blend(picture, rows, columns, alpha, _RAY_COLOUR)
    rows, columns, alpha = _drawn(shape, 1.0, _inside_coverage, picture.shape[:2])
    _blend(picture, rows, columns, alpha, np.array(COLOURS[shape.colour], np.float32))
    if shape.digit:
        rows, columns, alpha = _drawn(shape, 1.0, _digit_coverage, picture.shape[:2])
        _blend(picture, rows, columns, alpha, _INKS[int(np.mean(COLOURS[shape.colour]) < _DARK)])


def coverage(shape: Shape, size: int) -> np.ndarray:
    """The part of each pixel that ``shape`` covers, without rays: (size, size) float64 in [0, 1]."""
    covered = np.zeros((size, size))
    rows, columns, alpha = _drawn(shape, 1.0, _inside_coverage, covered.shape)
    covered[rows, columns] = alpha
    return covered


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Greyish noise at several scales, float32 (height, width, 3): no colour that has a name in COLOURS."""
    picture = np.full((height, width, 3), rng.uniform(90, 165), np.float32) + rng.normal(0, 4, 3).astype(np.float32)
    for spacing, amplitude in _TEXTURES:
        rows, columns = (int(np.ceil(side / spacing)) + 1 for side in (height, width))
        grey = rng.normal(0, amplitude, (rows, columns, 1))
        tint = rng.normal(0, amplitude / 9, (rows, columns, 3))
        picture += _enlarge((grey + tint).astype(np.float32), spacing, height, width)
    return np.clip(picture, 45, 205)


Covered = Callable[[Shape, np.ndarray, np.ndarray], np.ndarray]


def _drawn(shape: Shape, reach: float, covered: Covered, within: tuple[int, int]) -> tuple[slice, slice, np.ndarray]:
    """The rows and columns a shape may touch, and what part of each of their pixels it covers."""
    extent = shape.radius * reach
    rows = slice(max(0, int(shape.y - extent) - 1), min(within[0], int(shape.y + extent) + 2))
    columns = slice(max(0, int(shape.x - extent) - 1), min(within[1], int(shape.x + extent) + 2))
    x, y = np.meshgrid(np.arange(within[1])[columns] + 0.5 - shape.x, np.arange(within[0])[rows] + 0.5 - shape.y)
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    return rows, columns, covered(shape, x * cos + y * sin, y * cos - x * sin)


def _inside_coverage(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if shape.kind == "circle":
        distance = np.hypot(x, y) - shape.radius
    else:
        distance = _distance_to_polygon(x, y, shape.radius * _outline(shape.kind))
    return np.clip(0.5 - distance, 0.0, 1.0)


def _ray_coverage(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Straight rays at equal angles, from just outside the shape's outer circle."""
    sector = 2 * np.pi / _RAYS
    away = np.hypot(x, y)
    turn = (np.arctan2(y, x) + sector / 2) % sector - sector / 2
    aside = away * np.abs(np.sin(turn)) - 0.09 * shape.radius
    along = np.maximum(_RAY_START * shape.radius - away, away - RAY_REACH * shape.radius)
    return np.clip(0.5 - np.maximum(aside, along), 0.0, 1.0)


def _digit_coverage(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squared = np.full(x.shape, np.inf)
    for stroke in DIGITS[shape.digit]:
        start, end = (np.array(point) * shape.radius for point in _STROKES[stroke])
        squared = np.minimum(squared, _squared_to_line(x, y, start, end))
    return np.clip(0.5 + _STROKE * shape.radius - np.sqrt(squared), 0.0, 1.0)


def _blend(picture: np.ndarray, rows: slice, columns: slice, alpha: np.ndarray, colour: np.ndarray) -> None:
    part = alpha[..., None].astype(np.float32)
    picture[rows, columns] = picture[rows, columns] * (1 - part) + colour * part


def _enlarge(grid: np.ndarray, spacing: float, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation of (rows, columns, 3) grid points ``spacing`` pixels apart."""
    rows, down = _between(spacing, height)
    columns, across = _between(spacing, width)
    tall = grid[rows] * (1 - down)[:, None, None] + grid[rows + 1] * down[:, None, None]
    return tall[:, columns] * (1 - across)[None, :, None] + tall[:, columns + 1] * across[None, :, None]


def _between(spacing: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    at = (np.arange(length) / spacing).astype(np.float32)
    low = at.astype(int)
    return low, at - low


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
    for start, end in zip(corners, np.roll(corners, -1, 0), strict=True):
        squared = np.minimum(squared, _squared_to_line(x, y, start, end))
        (ax, ay), (bx, by) = start, end
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return np.where(inside, -1.0, 1.0) * np.sqrt(squared)


def _squared_to_line(x: np.ndarray, y: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Squared distance of each point to the line from ``start`` to ``end``, each (2,)."""
    (ax, ay), (ex, ey) = start, end - start
    along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
    return (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2
