"""Phase I of AOT: token anchors in every frame, and the other tokens transported into them.

Anchors are the cells that receive most attention, locally (per window, shallow layer) and globally (deep
layer). The frame's other tokens are carried to them by optimal transport on feature and place, then the
frame is pooled to the language grid and the cells that anchors cover are kept. All of it is one W a frame,
composed before features are touched.

Source: AOT (CVPR 2026), sections 3.2 and 3.3, as released by its authors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..budget import split_evenly, tokens_for
from ..errors import InputError
from ..layout import pool_and_newlines
from ..tokens import Blocks, Layout, Role, VideoTokens, weight_dtype
from ..transport import cosine_similarity, sinkhorn, uniform_marginal
from .base import Reduction, Stage, option

COVERED = 0.5
"""A language-grid cell is kept where the pooled anchor mask reaches this."""

ROUNDING = 1e-9
"""Slack of that comparison, far above float64 rounding and far below one cell's share."""


@dataclass(frozen=True)
class IntraFrame(Stage):
    """Keep the cells of each frame that local and global anchors cover; transport the rest into them."""

    name = "intra"
    title = "Intra-Frame Anchor OT"
    node_id = "AOTIntraFrame"
    source = "AOT, CVPR 2026, phase I"
    language_grid = False

    budget: int = option(
        126,
        "Anchors per frame on the encoder's grid. The paper's LLaVA-OneVision counts for 10, 15, 20 and 25 % "
        "are 126, 144, 196 and 205. Not used where a retention is given.",
        low=1,
        high=1_000_000,
    )
    global_ratio: float = option(
        0.5,
        "Share of the anchors chosen over the whole frame by deep attention; the others are chosen window by "
        "window by shallow attention.",
        low=0,
        high=1,
        step=0.05,
    )
    scaling: float = option(
        1.0, "Lambda: weight of the transported tokens against the anchor itself.", low=0, high=1e6, step=0.1
    )
    eps: float = option(0.1, "Epsilon: entropic regularisation of the transport.", low=1e-4, high=10, step=0.01)
    spatial_weight: float = option(
        0.5, "Weight of the distance on the grid (sides of length 1) in the cost.", low=0, high=100, step=0.1
    )
    nearest_blend: float = option(
        0.1,
        "Share of the plain nearest-anchor mean blended into the transported anchor, as the authors released it.",
        low=0,
        high=1,
        step=0.05,
    )
    window: int = option(9, "Side of the windows that local anchors are chosen in, in cells.", low=1, high=256)
    max_iterations: int = option(100, "Sinkhorn iterations at most.", low=1, high=10_000)
    retention: float = option(
        0.0,
        "Share of the language grid to keep, met to the token in every frame. 0 keeps what the anchor budget "
        "covers, as the authors released it.",
        low=0,
        high=1,
        step=0.01,
    )

    def build(self, tokens: VideoTokens) -> Reduction:
        """One block a frame: (kept language-grid cells and newlines) x (encoder cells and newlines)."""
        layout = tokens.layout
        if tokens.pooled:
            done = tokens.history[-1].name if tokens.history else "an earlier stage"
            raise InputError(
                f"{self.title} chooses anchors on the encoder's grid, which {done} has already reduced to "
                f"{tokens.tokens_kept} tokens; put it directly behind Encode Video."
            )
        features = tokens.features.reshape(layout.frames, layout.sources, -1)[:, : layout.cells]
        counts = self._counts(layout)
        anchors = self._anchor_count(layout, counts)
        mask = select_anchors(tokens.shallow, tokens.deep, anchors, self.global_ratio, self.window, layout.grid).to(
            features.device
        )
        if not bool(mask.any()):
            raise InputError(
                f"{self.title}: a budget of {anchors} anchors gives none to any {self.window}x{self.window} window; "
                "raise the budget or the global ratio."
            )
        merged = anchor_weights(
            features,
            mask,
            layout.grid,
            eps=self.eps,
            spatial_weight=self.spatial_weight,
            scaling=self.scaling,
            nearest_blend=self.nearest_blend,
            max_iterations=self.max_iterations,
        )
        pooling = pool_and_newlines(layout).to(features.device)
        covered = mask.double() @ pooling[:, : layout.cells].T
        if counts is None:
            keep = covered >= COVERED - ROUNDING
        else:
            keep = _most_covered(covered, tokens.deep, pooling[:, : layout.cells], counts)
        places = layout.language_places().to(features.device)
        newline = places[:, 1] == layout.language_grid[1]
        return _compose(merged, mask, keep | newline, pooling.to(merged), places, newline, layout)

    def _counts(self, layout: Layout) -> tuple[int, ...] | None:
        if not self.retention:
            return None
        total = tokens_for(self.retention, layout.frames, layout.language_cells)
        if total < layout.frames:
            raise InputError(
                f"{self.title}: retention {self.retention:g} keeps {total} tokens of {layout.frames} frames, under "
                f"one a frame; give {1 / layout.language_cells:.2g} or more."
            )
        return split_evenly(total, layout.frames)

    def _anchor_count(self, layout: Layout, counts: tuple[int, ...] | None) -> int:
        most = layout.cells - 1
        if counts is None:
            if self.budget > most:
                raise InputError(
                    f"{self.title}: a budget of {self.budget} anchors is above what a {layout.grid[0]}x"
                    f"{layout.grid[1]} grid allows; give 1 to {most}."
                )
            return self.budget
        return max(1, min(most, round(max(counts) * layout.cells / layout.language_cells)))


def select_anchors(
    shallow: Tensor,
    deep: Tensor,
    budget: int,
    global_ratio: float = 0.5,
    window: int = 9,
    grid: tuple[int, int] = (27, 27),
) -> Tensor:
    """Phase 0: the cells that receive most attention, window by window and then over the frame.

    ``local = int(budget (1 - global_ratio))`` anchors are shared by the non-overlapping windows, by shallow
    importance; the other ``budget - local`` are the best of what is left by deep importance. Cells beyond
    the last whole window take no part in the local choice.

    Args:
        shallow, deep: (T, N) attention received, N = H x W.
        budget: anchors a frame.

    Returns:
        (T, N) bool. As released, ``local`` is rounded down to a multiple of the windows, so a frame may have
        fewer anchors than the budget.
    """
    frames, cells = shallow.shape
    height, width = grid
    rows, columns = height // window, width // window
    local = int(budget * (1 - global_ratio))
    each = min(local // (rows * columns), window * window) if rows * columns else 0
    mask = torch.zeros(frames, cells, dtype=torch.bool, device=shallow.device)
    if each:
        index = torch.arange(cells, device=shallow.device).reshape(height, width)
        index = index[: rows * window, : columns * window].reshape(rows, window, columns, window)
        index = index.transpose(1, 2).reshape(rows * columns, window * window)
        best = _top(shallow[:, index], each)
        mask.scatter_(1, index.expand(frames, -1, -1).gather(2, best).flatten(1), True)
    left = deep.masked_fill(mask, -torch.inf)
    return mask.scatter(1, _top(left, budget - local), True)


def anchor_weights(
    features: Tensor,
    mask: Tensor,
    grid: tuple[int, int],
    *,
    eps: float = 0.1,
    spatial_weight: float = 0.5,
    scaling: float = 1.0,
    nearest_blend: float = 0.1,
    max_iterations: int = 100,
) -> Tensor:
    """Phase I: each anchor as a weighted mean of its frame's tokens.

    The cost is ``1 - cos + spatial_weight |p - q|``, the plan T has total mass 1, and anchor j becomes
    ``(1 - b) (a_j + lambda sum_i T_ij x_i) / (1 + lambda sum_i T_ij)`` plus ``b`` times the mean of itself
    and the tokens it is the nearest anchor of.

    Args:
        features: (T, N, D).
        mask: (T, N) bool, the same number n of anchors in every frame.

    Returns:
        (T, n, N) row-stochastic, anchors in raster order; float64 for float64 features, float32 otherwise.
    """
    index = mask.nonzero()[:, 1].reshape(len(features), -1)
    anchors = features.flatten(0, 1).index_select(0, mask.flatten().nonzero()[:, 0])
    anchors = anchors.reshape(*index.shape, -1)
    similarity = cosine_similarity(features, anchors).to(weight_dtype(features))
    cost = torch.add(1 - similarity, grid_distances(grid, similarity)[index].mT, alpha=spatial_weight)
    every = mask.new_ones(index.shape)
    plan = sinkhorn(
        cost, uniform_marginal(~mask), uniform_marginal(every), eps=eps, max_iterations=max_iterations
    ).plan.mT
    transported = (1 - nearest_blend) / (1 + scaling * plan.sum(2))
    nearest = similarity.argmax(2).masked_fill(mask, -1)
    followers = torch.zeros_like(transported).scatter_add_(1, nearest.clamp(min=0), (nearest >= 0).to(transported))
    gathered = nearest_blend / (1 + followers)

    weights = (plan * (scaling * transported)[:, :, None]).contiguous()
    weights.scatter_add_(2, index[:, :, None], (transported + gathered)[:, :, None])
    share = gathered.gather(1, nearest.clamp(min=0)) * (nearest >= 0)
    return weights.scatter_add_(1, nearest.clamp(min=0)[:, None], share[:, None])


def grid_distances(grid: tuple[int, int], like: Tensor) -> Tensor:
    """(N, N) Euclidean distances between cells of a grid whose sides have length 1, in ``like``'s dtype."""
    height, width = grid
    y = torch.linspace(0, 1, height, dtype=torch.float64)
    x = torch.linspace(0, 1, width, dtype=torch.float64)
    places = torch.cartesian_prod(y, x)
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist").to(like)


def _top(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest scores of the last axis; of equal ones, the earlier cell's first."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]


def _most_covered(covered: Tensor, deep: Tensor, pooling: Tensor, counts: tuple[int, ...]) -> Tensor:
    """(T, L) bool with exactly ``counts[t]`` cells: most covered by anchors first, then by deep attention."""
    importance = deep.to(pooling) @ pooling.T
    importance = importance / importance.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    by_importance = importance.sort(dim=1, descending=True, stable=True).indices
    ordered = covered.gather(1, by_importance).sort(dim=1, descending=True, stable=True).indices
    ranked = by_importance.gather(1, ordered)
    chosen = (
        torch.arange(covered.shape[1], device=covered.device) < torch.tensor(counts, device=covered.device)[:, None]
    )
    return torch.zeros_like(chosen).scatter(1, ranked, chosen)


def _compose(
    merged: Tensor,
    mask: Tensor,
    keep: Tensor,
    pooling: Tensor,
    places: Tensor,
    newline: Tensor,
    layout: Layout,
) -> Reduction:
    """Anchor weights, pooling and the choice of cells as one block a frame.

    Args:
        merged: (T, n, N); mask: (T, N); keep: (T, L) bool over pooled tokens, newlines among them.
        pooling: (L, N + newlines); places: (L, 2); newline: (L,) bool.
    """
    frames, cells = layout.frames, layout.cells
    counts = keep.sum(1)
    most = int(counts.max())
    chosen = keep.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
    weights = pooling[chosen]
    index = mask.nonzero()[:, 1].reshape(frames, -1)
    share = weights.gather(2, index[:, None, :].expand(-1, most, -1))
    weights[:, :, :cells].masked_fill_(mask[:, None, :], 0)
    weights[:, :, :cells].baddbmm_(share, merged)
    weights.masked_fill_((torch.arange(most, device=counts.device) >= counts[:, None])[:, :, None], 0)
    rows = tuple(counts.tolist())
    frame, place = keep.nonzero(as_tuple=True)
    role = torch.where(newline[place], int(Role.NEWLINE), int(Role.KEPT)).to(torch.uint8)
    return Reduction(
        factor=Blocks(weights, rows, (layout.sources,) * frames),
        place=torch.cat((frame[:, None], places[place]), 1).cpu(),
        role=role.cpu(),
    )
