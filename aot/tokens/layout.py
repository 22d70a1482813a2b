"""How a video's tokens lie: the encoder's grid, the language grid, the pooling that joins them, the newlines."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError


@dataclass(frozen=True)
class Layout:
    """How a video's tokens lie: the encoder's grid, the language grid, the pooling between, the newlines.

    The source tokens are, frame after frame, ``cells`` grid cells in raster order and then the frame's
    ``newlines`` newline embeddings (only models that end every grid row with one have any).

    Args:
        frames: T.
        grid: (H, W) of the encoder.
        pooling: "bilinear" (to the ceiling of half, LLaVA-OneVision), "average" (2 x 2, remainder dropped,
            LLaVA-Video) or "none".
        newline: "none", "one_token" (one at the very end, added when answering) or "grid" (one per grid row).
        smaller: (h, w) of the language grid where it is made smaller than the model's own: means by area.
    """

    frames: int
    grid: tuple[int, int]
    pooling: str = "bilinear"
    newline: str = "one_token"
    smaller: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        sides = self.frames, *self.grid
        if min(sides) < 1 or self.pooling not in POOLINGS or self.newline not in ("none", "one_token", "grid"):
            raise InputError(
                f"Impossible token layout: {self.frames} frames of {self.grid}, pooling {self.pooling!r}, newline "
                f"{self.newline!r}; sizes start at 1, pooling is one of {', '.join(POOLINGS)}, newline none, "
                "one_token or grid."
            )
        if self.smaller and not all(1 <= new <= side for new, side in zip(self.smaller, self.own_grid, strict=True)):
            raise InputError(f"A language grid of {self.own_grid} cannot be made smaller to {self.smaller}.")

    @classmethod
    def unpooled(cls, frames: int, size: tuple[int, int], side: int) -> Layout:
        """Square tokens beside each other; no pooling is pending, and there are no newlines.

        Args:
            frames: T.
            size: (h, w) of a frame, in pixels.
            side: of a token, in pixels.
        """
        height, width = size
        return cls(frames, (height // side, width // side), "none", "none")

    @property
    def cells(self) -> int:
        """Encoder tokens a frame, N = H x W."""
        return self.grid[0] * self.grid[1]

    @property
    def language_grid(self) -> tuple[int, int]:
        """(h, w) after pooling: the grid that retention is measured on."""
        return self.smaller or self.own_grid

    @property
    def own_grid(self) -> tuple[int, int]:
        """(h, w) of the language grid as the model makes it."""
        height, width = self.grid
        if self.pooling == "bilinear":
            return math.ceil(height / 2), math.ceil(width / 2)
        return (height // 2, width // 2) if self.pooling == "average" else self.grid

    @property
    def language_cells(self) -> int:
        """Language-grid tokens a frame."""
        return self.language_grid[0] * self.language_grid[1]

    @property
    def newlines(self) -> int:
        """Newline embeddings a frame."""
        return self.language_grid[0] if self.newline == "grid" else 0

    @property
    def sources(self) -> int:
        """Source tokens a frame: cells and newlines."""
        return self.cells + self.newlines

    def pooling_matrix(self) -> Tensor:
        """(h w, H W) float64, row-stochastic: language-grid cells as means of encoder cells."""
        height, width = (POOLINGS[self.pooling](side) for side in self.grid)
        if self.smaller:
            down, across = (area_axis(*sides) for sides in zip(self.own_grid, self.smaller, strict=True))
            height, width = down @ height, across @ width
        return torch.kron(height, width)

    def pool(self, features: Tensor) -> Tensor:
        """(T, N, D) to (T, L, D), bit by bit as the stock models pool; the pooling matrix says the same of W."""
        height, width = self.grid
        images = features.reshape(-1, height, width, features.shape[-1]).permute(0, 3, 1, 2)
        if self.pooling == "bilinear":
            images = functional.interpolate(images, size=self.own_grid, mode="bilinear")
        elif self.pooling == "average":
            images = functional.avg_pool2d(images, 2)
        if self.smaller:
            down, across = (area_axis(*sides).to(images) for sides in zip(self.own_grid, self.smaller, strict=True))
            images = down @ images @ across.mT
        return images.permute(0, 2, 3, 1).flatten(1, 2)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON-ready types; without the size that it is made smaller to where it is not."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def index(self, place: Tensor) -> Tensor:
        """Places on the language grid as one number each, ``(frame h + y) w + x``.

        Args:
            place: (..., 3) long: frame, y and x of cells; no newlines, which have no number.

        Returns:
            (...) long, from 0 to T h w - 1.
        """
        height, width = self.language_grid
        frame, y, x = place.unbind(-1)
        return (frame * height + y) * width + x

    def place(self, index: Tensor) -> Tensor:
        """The way back from :meth:`index`.

        Args:
            index: (...) long, from 0 to T h w - 1.

        Returns:
            (..., 3) long: frame, y and x of each cell.
        """
        cells, width = self.language_cells, self.language_grid[1]
        return torch.stack((index // cells, index % cells // width, index % width), -1)

    def language_places(self) -> Tensor:
        """(L, 2) long: y and x of a pooled frame's tokens in reading order; a newline is at x = w."""
        height, width = self.language_grid
        columns = width + (1 if self.newlines else 0)
        return torch.cartesian_prod(torch.arange(height), torch.arange(columns)).reshape(-1, 2)


def area_axis(side: int, new: int) -> Tensor:
    """(new, side) float64, row-stochastic: parts of equal length as means of what they cover.

    Args:
        side: cells along an axis.
        new: parts of it.
    """
    edge = torch.arange(new + 1, dtype=torch.float64)[:, None] * side / new
    cell = torch.arange(side, dtype=torch.float64)
    overlap = (torch.minimum(edge[1:], cell + 1) - torch.maximum(edge[:-1], cell)).clamp(min=0)
    return overlap / overlap.sum(1, keepdim=True)


def _bilinear_axis(side: int) -> Tensor:
    """(ceil(n/2), n): bilinear halving with half-pixel centres, clamped at the first and last cell."""
    half = math.ceil(side / 2)
    centre = ((torch.arange(half, dtype=torch.float64) + 0.5) * side / half - 0.5).clamp(min=0)
    low = centre.floor().long()
    high = (low + 1).clamp(max=side - 1)
    fraction = (centre - low)[:, None]
    matrix = torch.zeros(half, side, dtype=torch.float64)
    matrix.scatter_add_(1, low[:, None], 1 - fraction)
    matrix.scatter_add_(1, high[:, None], fraction)
    return matrix


def _average_axis(side: int) -> Tensor:
    """(n // 2, n): means of neighbouring pairs; an odd last cell is dropped."""
    half = side // 2
    matrix = torch.zeros(half, side, dtype=torch.float64)
    index = torch.arange(half)
    matrix[index, 2 * index] = 0.5
    matrix[index, 2 * index + 1] = 0.5
    return matrix


def _identity_axis(side: int) -> Tensor:
    return torch.eye(side, dtype=torch.float64)


POOLINGS = MappingProxyType({"bilinear": _bilinear_axis, "average": _average_axis, "none": _identity_axis})


def pool_and_newlines(layout: Layout) -> Tensor:
    """(h (w + 1), cells + newlines) float64: a frame's pooled tokens, each grid row ended by its newline.

    Without newlines it is the plain pooling matrix.
    """
    pooling = layout.pooling_matrix()
    if not layout.newlines:
        return pooling
    height, width = layout.language_grid
    weights = torch.zeros(height, width + 1, layout.sources, dtype=torch.float64)
    weights[:, :width, : layout.cells] = pooling.reshape(height, width, layout.cells)
    row = torch.arange(height)
    weights[row, width, layout.cells + row] = 1
    return weights.reshape(height * (width + 1), layout.sources)


@lru_cache(maxsize=16)
def pooling_on(layout: Layout, device: torch.device, dtype: torch.dtype) -> Tensor:
    """:func:`pool_and_newlines` where it is wanted. Shared: not to be changed.

    Args:
        layout: of the tokens; its number of frames does not matter.
        device: of the result.
        dtype: of the result, floating.
    """
    return pool_and_newlines(layout).to(device, dtype)


@lru_cache(maxsize=16)
def language_places_on(layout: Layout, device: torch.device) -> Tensor:
    """(T L, 3) long: frame, y and x of all pooled tokens, newlines among them. Shared: not to be changed.

    Args:
        layout: of the tokens.
        device: of the result.
    """
    places = layout.language_places()
    frame = torch.arange(layout.frames)[:, None, None].expand(-1, len(places), 1)
    return torch.cat((frame, places.expand(layout.frames, -1, -1)), 2).flatten(0, 1).to(device)


@lru_cache(maxsize=16)
def newlines_on(layout: Layout, device: torch.device) -> Tensor:
    """(L,) bool: which of a pooled frame's tokens are newlines. Shared: not to be changed.

    Args:
        layout: of the tokens.
        device: of the result.
    """
    return (layout.language_places()[:, 1] == layout.language_grid[1]).to(device)


@lru_cache(maxsize=16)
def cells_on(layout: Layout, device: torch.device) -> Tensor:
    """(T, L) long: which of all pooled tokens are cells, in raster order. Shared: not to be changed.

    Args:
        layout: of the tokens.
        device: of the result.
    """
    newline = newlines_on(layout, torch.device("cpu"))
    within = (~newline).nonzero()[:, 0]
    return (torch.arange(layout.frames)[:, None] * len(newline) + within).to(device)


@lru_cache(maxsize=16)
def ends_on(layout: Layout, device: torch.device) -> Tensor:
    """(T h,) long: which of all pooled tokens are newlines; empty where a layout has none. Shared: not to be changed.

    Args:
        layout: of the tokens.
        device: of the result.
    """
    newline = newlines_on(layout, torch.device("cpu"))
    return newline.repeat(layout.frames).nonzero()[:, 0].to(device)
