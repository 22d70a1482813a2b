"""Phase I of AOT: token anchors in every frame, and the other tokens transported into them.

Anchors are the cells that receive most attention, locally (per window, shallow layer) and globally (deep
layer). The frame's other tokens are carried to them by optimal transport on feature and place, then the
frame is pooled to the language grid and the cells that anchors cover are kept. All of it is one W a frame,
composed before features are touched.

Source: AOT (CVPR 2026), sections 3.2 and 3.3, as released by its authors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ....devices import counts_on, to_device, widened, widest
from ....errors import InputError
from ....tokens.factors import slots
from ....tokens.layout import language_places_on, newlines_on, pooling_on
from ....tokens.token_map import TokenMap
from ....tokens.video_tokens import Blocks, Layout, VideoTokens, language_roles_on
from ....transport.costs import LENGTH_FLOOR, Cost, Points, distances, unit_places
from ....transport.solvers import Solver
from ...base import Budgeted, Part, Reduction
from ...budget import split_evenly
from ...options import KEEP_TOKENS, RETENTION, Setting
from ...toolkit.ranking import first_mask, ranked, top_k, true_indices
from .settings import (
    AGGREGATION,
    EPS,
    MARGINALS,
    MASS,
    MAX_ITERATIONS,
    METRIC,
    RELAXATION,
    SCALING,
    SOLVER,
    TOLERANCE,
    TransportStage,
)

COVERED = 0.5
"""A language-grid cell is kept where the pooled anchor mask reaches this."""

ROUNDING = MappingProxyType({torch.float64: 1e-9, torch.float32: 1e-5})
"""Slack of that comparison by dtype, far above its rounding and far below one cell's share."""


@dataclass(frozen=True)
class IntraFrame(TransportStage, Budgeted):
    """Keep the cells of each frame that local and global anchors cover; transport the rest into them."""

    name = "intra"
    title = "Intra-Frame Anchor OT"
    node_id = "AOTIntraFrame"
    fixes_budget = ("budget",)
    source = "AOT, CVPR 2026, phase I"
    language_grid = False

    budget: int = Setting(
        126,
        "Anchors per frame on the encoder's grid. The paper's LLaVA-OneVision counts for 10, 15, 20 and 25 % "
        "are 126, 144, 196 and 205. Not used where a retention is given.",
        low=1,
        high=1_000_000,
    ).field()
    global_ratio: float = Setting(
        0.5,
        "Share of the anchors chosen over the whole frame by deep attention; the others are chosen window by "
        "window by shallow attention.",
        low=0,
        high=1,
        step=0.05,
    ).field()
    scaling: float = SCALING.field()
    eps: float = EPS.field()
    spatial_weight: float = Setting(
        0.5,
        "Weight of the distance on the grid (sides of length 1) in the cost.",
        low=0,
        high=100,
        step=0.1,
        advanced=True,
    ).field()
    nearest_blend: float = Setting(
        0.1,
        "Aggregation released: share of the plain nearest-anchor mean blended into the transported anchor.",
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ).field()
    window: int = Setting(
        9,
        "Side of the windows that local anchors are chosen in, in cells; where the grid is no multiple of it they are "
        "a little larger, and a smaller grid is one window.",
        low=1,
        high=256,
        advanced=True,
    ).field()
    max_iterations: int = MAX_ITERATIONS.field()
    retention: float = RETENTION.field(
        default=0.0,
        help="Share of the language grid to keep, met to the token in every frame. 0 keeps what the anchor budget "
        "covers, as the authors released it.",
    )
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
    solver: str = SOLVER.field()
    aggregation: str = AGGREGATION.field()
    metric: str = METRIC.field()
    marginals: str = MARGINALS.field()
    tolerance: float = TOLERANCE.field()
    relaxation: float = RELAXATION.field()
    mass: float = MASS.field()
    choice: str = Setting(
        "attention",
        "What anchors are chosen by: the attention they receive, or random, to see what the choice is worth.",
        choices=("attention", "random"),
        advanced=True,
    ).field()
    random_seed: int = Setting(0, "Choice random: which random anchors.", low=0, high=2**32 - 1, advanced=True).field()

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A frame at a time, unless the solver looks at all of them together."""
        return None if self.transport.looks_at_the_batch else (1,) * layout.frames

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """One block a frame: (kept language-grid cells and newlines) x (encoder cells and newlines)."""
        layout = tokens.layout
        if tokens.pooled:
            done = tokens.history[-1].name if tokens.history else "an earlier stage"
            raise InputError(
                f"{self.title} chooses anchors on the encoder's grid, which {done} has already reduced to "
                f"{tokens.tokens_kept} tokens; put it directly after Encode Video."
            )
        counts = self.counts(layout, part)
        if counts is None or max(counts) - min(counts) <= 1:
            return self._of_frames(tokens, part, counts)
        alike = [[t for t, each in enumerate(counts) if each == count] for count in sorted(set(counts))]
        parts = [self._of_frames(_picked(tokens, frames), part, tuple(counts[t] for t in frames)) for frames in alike]
        return _in_order(parts, alike, layout)

    def _of_frames(self, tokens: VideoTokens, part: Part, counts: tuple[int, ...] | None) -> Reduction:
        """What becomes of frames that keep about the same number of tokens, fresh from the encoder."""
        layout = tokens.layout
        anchors = self._anchor_count(layout, counts)
        shallow, deep = (attention.to(tokens.features.device) for attention in (tokens.shallow, tokens.deep))
        by = (shallow, deep) if self.choice == "attention" else self._random(layout, part, deep)
        number = anchor_number(anchors, self.global_ratio, self.window, layout.grid)
        if not number:
            raise InputError(
                f"{self.title}: a budget of {anchors} anchors gives none to any {self.window}x{self.window} window; "
                "raise the budget or the global ratio."
            )
        mask = select_anchors(*by, anchors, self.global_ratio, self.window, layout.grid)
        index = true_indices(mask, number)
        by_frame = (layout.frames, layout.sources)
        frames = Points(
            tokens.features.reshape(*by_frame, -1)[:, : layout.cells],
            tokens.lengths.clamp(min=LENGTH_FLOOR).reshape(by_frame)[:, : layout.cells],
        )
        others, own = ~mask, torch.ones_like(index, dtype=torch.bool)
        merged = anchor_weights(
            frames,
            others,
            index,
            layout.grid,
            self.cost(),
            self.transport,
            u=self.marginal(deep, others),
            v=self.marginal(deep.gather(1, index), own),
            scaling=self.scaling,
            aggregation=self.aggregation,
            nearest_blend=self.nearest_blend,
        )
        pooling = pooling_on(layout, mask.device, widest(mask.device))
        covered = widened(mask) @ pooling[:, : layout.cells].T
        if counts is None:
            keep = covered >= COVERED - ROUNDING[covered.dtype]
        else:
            keep = _most_covered(covered, by[1], pooling[:, : layout.cells], counts)
        if layout.newlines:
            keep = keep | newlines_on(layout, mask.device)
        known = keep.sum(1).tolist() if counts is None else [count + layout.newlines for count in counts]
        return _compose(merged, others, index, keep, tuple(known), layout)

    def _random(self, layout: Layout, part: Part, like: Tensor) -> tuple[Tensor, Tensor]:
        """In place of the attention received, (T, N) twice: numbers that depend on the seed and the frame only."""
        drawn = [
            np.random.default_rng((self.random_seed, part.first + frame)).random((2, layout.cells))
            for frame in range(layout.frames)
        ]
        shallow, deep = torch.from_numpy(np.stack(drawn, 1)).to(like)
        return shallow, deep

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


def _picked(tokens: VideoTokens, frames: Sequence[int]) -> VideoTokens:
    """Some of the frames of tokens fresh from the encoder, as a video of their own, without what stages see beside."""
    layout = dataclasses.replace(tokens.layout, frames=len(frames))
    index = counts_on(tuple(frames), tokens.features.device)
    features = tokens.features.unflatten(0, (-1, layout.sources)).index_select(0, index).flatten(0, 1)
    shallow, deep = (each.index_select(0, index.to(each.device)) for each in (tokens.shallow, tokens.deep))
    kept = slice(len(features))
    return dataclasses.replace(
        tokens,
        features=features,
        levels=(),
        map=TokenMap(len(features)),
        place=tokens.place[kept],
        role=tokens.role[kept],
        layout=layout,
        shallow=shallow,
        deep=deep,
        timestamps=tokens.timestamps[list(frames)],
        extras={},
        counts=(layout.sources,) * len(frames),
        question=None,
        given=None,
    )


def _in_order(parts: Sequence[Reduction], frames: Sequence[Sequence[int]], layout: Layout) -> Reduction:
    """Reductions of some of the frames each, as one of all frames in order.

    Args:
        parts: one block a frame.
        frames: which frames each is of.
        layout: of the video.
    """
    blocks = Blocks.concatenate([cast(Blocks, each.factor) for each in parts])
    number = [frame for each in frames for frame in each]
    device = blocks.weights.device
    order = np.argsort(number)
    weights = blocks.weights.index_select(0, to_device(order, device))
    counts = tuple(blocks.rows[at] for at in order)
    of_frame = counts_on(tuple(number), device).repeat_interleave(counts_on(blocks.rows, device))
    of_frame, by_frame = of_frame.sort(stable=True)
    place = torch.cat([each.place for each in parts])[by_frame]
    return Reduction(
        factor=Blocks(weights, counts, (layout.sources,) * layout.frames),
        place=torch.cat((of_frame[:, None], place[:, 1:]), 1),
        role=torch.cat([each.role for each in parts])[by_frame],
        kept=sum(counts) - layout.frames * layout.newlines,
        counts=counts,
    )


def anchor_number(budget: int, global_ratio: float, window: int, grid: tuple[int, int]) -> int:
    """Anchors that :func:`select_anchors` finds in every frame.

    Args:
        budget: anchors a frame.
        global_ratio: share of the anchors chosen over the whole frame, from 0 to 1.
        window: side of a window, in cells.
        grid: (H, W).
    """
    local, each = _local_anchors(budget, global_ratio, window, grid)
    return each * len(window_cells(grid, window)) + budget - local


def _local_anchors(budget: int, global_ratio: float, window: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Anchors meant to be chosen window by window, and how many each window gives."""
    windows = window_cells(grid, window)
    local = int(budget * (1 - global_ratio))
    return local, min(local // len(windows), int((windows >= 0).sum(1).min()))


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
        shallow: (T, N) floating, attention received at the shallow layer, N = H x W.
        deep: (T, N) floating, attention received at the deep layer.
        budget: anchors a frame.
        global_ratio: share of the anchors chosen over the whole frame, from 0 to 1.
        window: side of a window, in cells.
        grid: (H, W).

    Returns:
        (T, N) bool. As released, ``local`` is rounded down to a multiple of the windows, so a frame may have
        fewer anchors than the budget.
    """
    frames, cells = shallow.shape
    local, each = _local_anchors(budget, global_ratio, window, grid)
    left = deep
    mask = torch.zeros(frames, cells, dtype=torch.bool, device=shallow.device)
    if each:
        windows, padding = _windows_on(grid, window, shallow.device)
        scores = shallow[:, windows]
        best = top_k(scores if padding is None else scores.masked_fill(padding, -torch.inf), each)
        mask.scatter_(1, windows.expand(frames, -1, -1).gather(2, best).flatten(1), True)
        left = deep.masked_fill(mask, -torch.inf)
    return mask.scatter_(1, top_k(left, budget - local), True)


@lru_cache(maxsize=16)
def window_cells(grid: tuple[int, int], window: int) -> np.ndarray:
    """(windows, n) int64: the cells of each window in raster order; -1 after those of a smaller one. Shared.

    The grid is cut into as many whole windows of side ``window`` as fit, at least one each way, and they share its
    rows and columns evenly: where the sides are multiples of the window, as released.

    Args:
        grid: (H, W).
        window: side of a window, in cells.
    """
    counts = [max(1, side // window) for side in grid]
    row, column = (
        np.repeat(np.arange(count), split_evenly(side, count)) for side, count in zip(grid, counts, strict=True)
    )
    owner = (row[:, None] * counts[1] + column).flatten()
    members = [np.flatnonzero(owner == number) for number in range(counts[0] * counts[1])]
    most = max(map(len, members))
    return np.stack([np.pad(cells, (0, most - len(cells)), constant_values=-1) for cells in members])


@lru_cache(maxsize=16)
def _windows_on(grid: tuple[int, int], window: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The cells of each window, 0 in padding, and where padding is, None without any. Shared: not to be changed."""
    cells = torch.from_numpy(window_cells(grid, window))
    padding = (cells < 0).to(device) if bool((cells < 0).any()) else None
    return cells.clamp(min=0).to(device), padding


def anchor_weights(
    frames: Points,
    others: Tensor,
    index: Tensor,
    grid: tuple[int, int],
    cost: Cost,
    solver: Solver,
    *,
    u: Tensor,
    v: Tensor,
    scaling: float = 1.0,
    aggregation: str = "released",
    nearest_blend: float = 0.1,
) -> Tensor:
    """Phase I: each anchor as a weighted mean of its frame's tokens.

    With the plan T, of total mass 1, and its shares p, anchor j becomes, by ``aggregation``,

    - "released": ``(1 - b) (a_j + lambda sum_i T_ij x_i) / (1 + lambda sum_i T_ij)`` plus b times the mean of itself
      and the tokens it is the nearest anchor of;
    - "paper": the same with b = 0;
    - "counts": ``(a_j + lambda sum_i p_ij x_i) / (1 + lambda sum_i p_ij)``, every token weighing as one.

    Args:
        frames: features (T, N, D) and lengths (T, N).
        others: (T, N) bool, the tokens that are no anchors.
        index: (T, n) long, the anchors of every frame in raster order.
        grid: (H, W), N = H x W.
        cost: of carrying a token to an anchor.
        solver: how the T problems are solved.
        u: (T, N) floating, mass of each token: of sum 1, 0 of anchors.
        v: (T, n) floating, mass of each anchor: of sum 1.
        scaling: lambda, weight of the transported tokens.
        aggregation: "released", "paper" or "counts".
        nearest_blend: b, for "released".

    Returns:
        (T, n, N) row-stochastic, anchors in raster order; float64 for float64 features, float32 otherwise.
    """
    plan, nearest = _solve(frames, index, grid, cost, solver, u, v, shares=aggregation == "counts")
    blend = nearest_blend if aggregation == "released" else 0.0
    transported = (1 - blend) / (1 + scaling * plan.sum(1))
    weights = (plan.mT * (scaling * transported)[:, :, None]).contiguous()
    if not blend:
        return weights.scatter_add_(2, index[:, :, None], transported[:, :, None])
    follows = others.to(transported.dtype)
    gathered = blend / torch.ones_like(transported).scatter_add_(1, nearest, follows)
    weights.scatter_add_(2, index[:, :, None], (transported + gathered)[:, :, None])
    share = gathered.gather(1, nearest) * follows
    return weights.scatter_add_(1, nearest[:, None], share[:, None])


def _solve(
    frames: Points,
    index: Tensor,
    grid: tuple[int, int],
    cost: Cost,
    solver: Solver,
    u: Tensor,
    v: Tensor,
    *,
    shares: bool,
) -> tuple[Tensor, Tensor]:
    """The plan (T, N, n), or its shares, and the number of each token's nearest anchor (T, N)."""
    frame = torch.arange(len(index), device=index.device)[:, None]
    anchors = Points(frames.features[frame, index], frames.lengths.gather(1, index))
    apart = cost.features(frames, anchors, pool=frames)
    del anchors  # with half-precision tokens it is larger than all that follows
    nearest = apart.argmin(2)
    apart.add_(grid_distances(grid, apart.dtype, apart.device)[index].mT, alpha=cost.spatial_weight)
    return solver.plan(apart, u, v, shares=shares, largest=cost.largest), nearest


@lru_cache(maxsize=16)
def grid_distances(grid: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(N, N) Euclidean distances between cells of a grid whose sides have length 1. Shared: not to be changed.

    Args:
        grid: (H, W), N = H x W.
        dtype: of the result, floating.
        device: of the result.
    """
    places = unit_places(torch.cartesian_prod(*(torch.arange(side) for side in grid)), grid)
    return distances(places, places).to(device, dtype)


def _most_covered(covered: Tensor, deep: Tensor, pooling: Tensor, counts: tuple[int, ...]) -> Tensor:
    """(T, L) bool with exactly ``counts[t]`` cells: most covered by anchors first, then by deep attention."""
    by_importance = ranked(deep.to(pooling) @ pooling.T)
    steps = (covered / ROUNDING[covered.dtype]).round()
    order = by_importance.gather(1, ranked(steps.gather(1, by_importance)))
    return first_mask(order, counts)


def _compose(
    merged: Tensor, others: Tensor, index: Tensor, keep: Tensor, counts: tuple[int, ...], layout: Layout
) -> Reduction:
    """Anchor weights, pooling and the choice of cells as one block a frame.

    Args:
        merged: (T, n, N) floating, the anchors' weights.
        others: (T, N) bool, the tokens that are no anchors.
        index: (T, n) long, the anchors.
        keep: (T, L) bool over pooled tokens, newlines among them.
        counts: (T,) how many of each frame that is.
        layout: of the video.
    """
    most, device = max(counts), keep.device
    chosen = true_indices(keep, most)
    weights = pooling_on(layout, device, merged.dtype)[chosen]
    share = weights.gather(2, index[:, None, :].expand(-1, most, -1))
    cells = weights[:, :, : layout.cells]
    cells.mul_(others[:, None]).baddbmm_(share, merged)
    first = torch.arange(0, keep.numel(), keep.shape[1], device=device)
    token = (chosen + first[:, None]).flatten()
    if min(counts) < most:
        token = token[slots(counts, most, device)]
        weights.mul_(keep.gather(1, chosen)[:, :, None])
    return Reduction(
        factor=Blocks(weights, counts, (layout.sources,) * layout.frames),
        place=language_places_on(layout, device)[token],
        role=language_roles_on(layout, device)[token],
        kept=sum(counts) - layout.frames * layout.newlines,
        counts=counts,
    )
