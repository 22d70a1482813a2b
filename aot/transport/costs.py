"""What it costs to carry one token to another: a metric on features, a distance on the grid, a time factor.

Source: AOT (CVPR 2026), sections 3.3 and 3.4; the squared Euclidean metric is the usual one of optimal transport,
in units in which tokens of equal length cost as much as under the cosine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..devices import widest
from ..tokens.matmul import scores

METRICS = ("cosine", "sqeuclidean")

LENGTH_FLOOR = 1e-8
"""Lengths below this count as this much, so that a zero vector has cosine 0 with everything."""

COSINE_LIMIT = 1 - 1e-6
"""Cosines between frames are clamped to this, as released."""


@dataclass(frozen=True)
class Points:
    """Tokens as points: what a cost is made of.

    Args:
        features: (B, M, D).
        lengths: (B, M) Euclidean lengths of the features, in the dtype of the cost, none under :data:`LENGTH_FLOOR`.
        places: (B or 1, M, 2) on a grid whose sides have length 1; None where no cost needs them.
        valid: (B, M) bool, False in padding; None where all are valid.
    """

    features: Tensor
    lengths: Tensor
    places: Tensor | None = None
    valid: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor, places: Tensor | None = None, valid: Tensor | None = None) -> Points:
        """Points whose lengths are still to be found.

        Args:
            features: (B, M, D).
            places: as the class has them.
            valid: as the class has them.
        """
        lengths = torch.linalg.vector_norm(features, dim=-1).clamp_(min=LENGTH_FLOOR)
        return cls(features, lengths, places, valid)


@dataclass(frozen=True)
class Cost:
    """``metric(x, a) + spatial_weight |p - q|``.

    Args:
        metric: "cosine", 1 - cos; or "sqeuclidean", ``|x - a|^2 / (2 s^2)`` with ``s^2`` the problem's mean squared
            length, which for tokens of equal length is 1 - cos as well.
        spatial_weight: of the distance between places on the unit square.
        limit: cosines are clamped to plus or minus this.
    """

    metric: str = "cosine"
    spatial_weight: float = 0.0
    limit: float = 1.0

    @property
    def largest(self) -> float | None:
        """No cost is above this; None where that depends on the tokens."""
        return 2 + math.sqrt(2) * self.spatial_weight if self.metric == "cosine" else None

    def features(self, sources: Points, targets: Points, pool: Points | None = None) -> Tensor:
        """The metric's part, (B, M, N).

        Args:
            sources: M tokens.
            targets: N tokens.
            pool: the tokens whose mean squared length is the unit of "sqeuclidean"; sources and targets by default.
        """
        product = scores(sources.features, targets.features).to(sources.lengths)
        if self.metric == "cosine":
            product /= sources.lengths[:, :, None]
            product /= targets.lengths[:, None, :]
            return torch.rsub(product.clamp_(-self.limit, self.limit), 1)
        unit = _mean_square(*((pool,) if pool is not None else (sources, targets)))
        product.mul_(-2).add_(sources.lengths.square()[:, :, None]).add_(targets.lengths.square()[:, None, :])
        return product.clamp_(min=0).div_(2 * unit.clamp(min=LENGTH_FLOOR**2)[:, None, None])

    def between(self, sources: Points, targets: Points) -> Tensor:
        """The whole cost, (B, M, N)."""
        cost = self.features(sources, targets)
        if not self.spatial_weight:
            return cost
        assert sources.places is not None and targets.places is not None
        return cost.add_(distances(sources.places, targets.places).to(cost), alpha=self.spatial_weight)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """(..., M, 2) and (..., N, 2) places to their Euclidean distances (..., M, N), exactly 0 where they coincide."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def time_factor(offset: float, scale: float) -> float:
    """``1 - exp(-dt^2 / (2 sigma^2))`` of a frame ``offset`` frames after its keyframe."""
    return -math.expm1(-(offset**2) / (2 * scale**2 + 1e-9))


def unit_places(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """(M, 2) row and column on a grid to float64 places on the unit square; what lies beyond counts as its edge."""
    sides = torch.tensor([max(1, side - 1) for side in grid], dtype=widest(cells.device), device=cells.device)
    return (cells / sides).clamp(max=1)


def _mean_square(*points: Points) -> Tensor:
    """(B,) mean squared length over all valid points."""
    total = count = points[0].lengths.new_zeros(())
    for group in points:
        valid = torch.ones_like(group.lengths) if group.valid is None else group.valid.to(group.lengths)
        total = total + (group.lengths.square() * valid).sum(1)
        count = count + valid.sum(1)
    return total / count.clamp(min=1)
