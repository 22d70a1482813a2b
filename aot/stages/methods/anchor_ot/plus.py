"""AOT Plus: anchors that are attended to and new to their clip, and transport to those that are near.

Take the cells x_i of a video, with the attention a_i that each receives at the deep layer.

1. Content. y_i = x_i - m, with m the mean of all cells, and z_i = a_i y_i: what a cell shows beside what all show, as
   far as it is attended to.
2. Clips. The video is cut into equal clips, none longer than the clip length.
3. Anchors. In each clip, one after another, the cell of which the anchors before it can make up least: the one of
   largest gain g_i = min over w of |z_i - sum_j w_j z_j|^2. This is the greedy maximum of det(Z Z'), the mode of a
   determinantal point process, and the order of pivots in the Cholesky factorisation of Z Z'. Of all clips together,
   the K largest gains are kept, so that a clip gets as many anchors as it has something new.
4. Transport, where lambda is above 0. Every other cell of a clip is carried to its anchors, p_ij proportional to
   exp(-c_ij / eps) with c_ij = 1 - cos(y_i, y_j), or to none of them, which costs the reach. Its marginals are held on
   one side alone: no anchor has to take its share of the background. Less than a thousandth of a cell is not carried.
   An anchor becomes (x_j + lambda sum_i p_ij x_i) / (1 + lambda sum_i p_ij).

Source: this project's, on AOT (CVPR 2026). Determinantal choice: Chen, Zhang and Zhou (NeurIPS 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import get_lapack_funcs
from torch import Tensor
from torch.nn import functional

from ....devices import counts_on
from ....tokens.video_tokens import Layout, VideoTokens
from ...base import Budgeted, Part, Reduction
from ...options import KEEP_TOKENS, RETENTION, Setting
from ...toolkit.language_grid import LanguageGrid, Merge, unit
from ...toolkit.newlines import NewlineRule
from ...toolkit.ranking import top_k_mask, true_indices
from ...toolkit.uploads import FloatArray, IntArray, uploaded
from .settings import EPS

NOTHING_NEW = 1e-6
"""A gain below this share of its clip's largest is rounding: past the rank of what a clip shows nothing is new."""

CANDIDATES = 2
FEWEST = 1024
"""Anchors are looked for among the cells of longest z: so many times a clip's share of the budget, or this many; where
frames have budgets, so many times each of them."""

(PSTRF,) = get_lapack_funcs(("pstrf",), dtype=np.float64)
"""LAPACK's Cholesky factorisation with complete pivoting."""

LEAST = 1e-3
"""Taken off every share of a cell, so that what is carried is sparse: half precision tells no less."""


@dataclass(frozen=True)
class AnchorOTPlus(Budgeted):
    """Keep the cells that are attended to and new to their clip; drop the others, or carry them to those near."""

    name = "aot-plus"
    title = "Anchor OT Plus"
    node_id = "AOTAnchorTransportPlus"
    source = "this project's, on AOT, CVPR 2026"

    retention: float = RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
    carry: float = Setting(
        0.0,
        "Lambda: weight of the cells that are carried to an anchor against the anchor itself. 0 drops them, which "
        "answered most questions right on drawn clips.",
        low=0,
        high=1e6,
        step=0.1,
        advanced=True,
    ).field()
    eps: float = EPS.field(default=0.02)
    reach: float = Setting(
        0.1,
        "What it costs a cell to be carried to no anchor, in units of 1 - cosine: cells that are further than this "
        "from all anchors are dropped.",
        low=0,
        high=2,
        step=0.05,
        advanced=True,
    ).field()
    clip_length: int = Setting(
        32,
        "Frames in a clip at most. A cell is new if no anchor of its clip makes it up; longer clips need more time.",
        low=1,
        high=4096,
        advanced=True,
    ).field()

    def frame_limits(self, layout: Layout, timestamps: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """From nothing to every cell: a frame without anything new keeps no cell."""
        return (0,) * layout.frames, (layout.language_cells,) * layout.frames

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Anchors in order of time, then raster, each with what is carried to it."""
        grid = LanguageGrid.of(self.title, tokens)
        frames, cells, _ = grid.features.shape
        length = math.ceil(frames / math.ceil(frames / self.clip_length))
        budget = part.budgets or self.budget_of(tokens.layout, 1, frames * cells)
        content = of_unit_size(grid.features - grid.frame_means.mean(0))
        place, counts = choose(content * of_unit_size(grid.deep)[:, :, None], length, budget)
        if not self.carry or not len(place):
            return grid.selection(place, NewlineRule.KEPT_ROWS)
        row, cell, share = carried(unit(content), place, counts, length, self.eps, self.reach)
        load = 1 + self.carry * share.new_zeros(len(place)).index_add_(0, row, share)
        own = torch.arange(len(place), device=place.device)
        weight = torch.cat((1 / load, self.carry * share / load[row]))
        merge = Merge(place, torch.cat((own, row)), torch.cat((place, cell)), weight)
        return grid.reduction(merge, NewlineRule.KEPT_ROWS)


def choose(worth: Tensor, length: int, budget: int | Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """The anchors of a video. The host waits once, for the products of all candidates.

    Args:
        worth: (T, L, D) floating, z.
        length: frames of each of C clips; the last may be short.
        budget: K, of the whole video; or (T,), of every frame.

    Returns:
        (K,) long, frame * L + cell of every anchor, in order; (C,) how many each clip has.
    """
    frames, cells, width = worth.shape
    z = side_by_side(worth, length)
    energy = z.square().sum(2)
    clips, size = energy.shape
    if isinstance(budget, int):
        sizes = [min(size, frames * cells - clip * size) for clip in range(clips)]
        numbers = [min(each, max(FEWEST, CANDIDATES * math.ceil(budget * each / (frames * cells)))) for each in sizes]
        padding = torch.arange(clips * size, device=z.device).reshape(clips, size) >= frames * cells
        among = top_k_mask(energy.masked_fill(padding, -1), numbers)
    else:
        of_frames = [min(cells, CANDIDATES * each) for each in budget] + [0] * (clips * length - frames)
        numbers = [sum(of_frames[first : first + length]) for first in range(0, len(of_frames), length)]
        among = top_k_mask(energy.reshape(-1, cells), of_frames).reshape(clips, size)
    most = max(numbers)
    slot = true_indices(among, most)
    grams = z.gather(1, slot[:, :, None].expand(-1, -1, width))
    grams = torch.bmm(grams, grams.mT).cpu().numpy()
    candidates = [gram[:number, :number] for gram, number in zip(grams, numbers, strict=True)]
    lengths = np.concatenate([gram.diagonal() for gram in candidates])
    if isinstance(budget, int):
        gains = np.concatenate([gains_of(gram) for gram in candidates])
        best = np.lexsort((-lengths, -gains))[:budget]
    else:
        frame = np.repeat(np.arange(len(of_frames)), of_frames)
        parts = zip(candidates, np.split(frame, np.cumsum(numbers)[:-1]), strict=True)
        gains = np.concatenate([gains_within(gram, of_clip, budget) for gram, of_clip in parts])
        best = np.lexsort((-lengths, -gains))
        of_best = frame[best]
        best = np.concatenate([best[of_best == each][:number] for each, number in enumerate(budget)])
    best.sort()
    clip = np.repeat(np.arange(clips), numbers)[best]
    within = best - (np.cumsum(numbers, dtype=np.int64) - numbers)[clip]
    at, first = uploaded((clip * most + within, clip * size), worth.device)
    return slot.flatten()[at] + first, tuple(np.bincount(clip, minlength=clips).tolist())


def gains_of(gram: FloatArray) -> FloatArray:
    """(M,) how much of each candidate the anchors before it cannot make up; 0 for those past the rank.

    Args:
        gram: (M, M) floating, the products of their z.
    """
    least = NOTHING_NEW * float(gram.diagonal().max(initial=0.0))
    factor, order, rank, _ = PSTRF(gram.astype(np.float64, order="F"), tol=least, lower=1, overwrite_a=1)
    gains = np.zeros(len(gram))
    gains[order[:rank] - 1] = factor.diagonal()[:rank] ** 2
    return gains


def gains_within(gram: FloatArray, frame: IntArray, quotas: Sequence[int]) -> FloatArray:
    """The same, where a frame that has its quota gives no more anchors.

    Args:
        gram: (M, M) floating, the products of their z.
        frame: (M,) the frame of each candidate.
        quotas: (T,) anchors of each frame.
    """
    left = gram.diagonal().astype(np.float64)
    least, room, steps = NOTHING_NEW * float(left.max(initial=0.0)), np.array(quotas), min(sum(quotas), len(gram))
    rows, gains, is_open = np.zeros((len(gram), steps)), np.zeros(len(gram)), room[frame] > 0
    for step in range(steps):
        score = np.where(is_open, left, -np.inf)
        best = int(score.argmax())
        if score[best] <= least:
            break
        row = (gram[best] - rows[:, :step] @ rows[best, :step]) / math.sqrt(left[best])
        rows[:, step], left, gains[best], is_open[best] = row, left - row**2, left[best], False
        room[frame[best]] -= 1
        if not room[frame[best]]:
            is_open[frame == frame[best]] = False
    return gains


def carried(
    directions: Tensor, place: Tensor, counts: tuple[int, ...], length: int, eps: float, reach: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What is carried to the anchors. The host waits once, for how many shares there are.

    Args:
        directions: (T, L, D) floating, y brought to length 1.
        place: (K,) long, frame * L + cell of every anchor, in order.
        counts: (C,) how many each clip has.
        length: frames of each clip; the last may be short.
        eps: epsilon.
        reach: what it costs to be carried to no anchor.

    Returns:
        (E,) long, the number of an anchor; (E,) long, frame * L + cell of what is carried to it; (E,) floating, the
        share of that cell.
    """
    cells = side_by_side(directions, length)
    clips, size, _ = cells.shape
    number = counts_on(counts, place.device)
    first, nth = (number.cumsum(0) - number), torch.arange(max(counts), device=place.device)
    anchors = directions.flatten(0, 1)[place[(first[:, None] + nth).clamp_(max=len(place) - 1)]]
    padding = nth >= number[:, None]
    gain = torch.bmm(cells, anchors.mT).sub_(1).div_(eps).masked_fill_(padding[:, None], -torch.inf)
    nowhere = -reach / eps
    top = gain.amax(2, keepdim=True).clamp(min=nowhere)
    plan = gain.sub_(top).exp_()
    plan.div_(plan.sum(2, keepdim=True) + (nowhere - top).exp())
    stays = torch.arange(clips * size, device=place.device) >= directions.shape[0] * directions.shape[1]
    stays = stays.index_fill(0, place, True).reshape(clips, size)
    share = plan.sub_(LEAST).masked_fill_(stays[:, :, None], 0)
    clip, source, row = (share > 0).nonzero(as_tuple=True)
    return row + first[clip], source + clip * size, share[clip, source, row]


def of_unit_size(x: Tensor) -> Tensor:
    """Values divided by the largest, so that squares neither overflow nor vanish; zeros stay zeros."""
    return x / x.abs().amax().clamp(min=torch.finfo(x.dtype).tiny)


def side_by_side(x: Tensor, length: int) -> Tensor:
    """(T, L, D) to (C, length * L, D): clips of frames, zeros after the last."""
    frames, cells, width = x.shape
    clips = math.ceil(frames / length)
    return functional.pad(x, (0, 0, 0, 0, 0, clips * length - frames)).reshape(clips, length * cells, width)
