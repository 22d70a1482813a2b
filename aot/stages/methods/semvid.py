"""SemVID: frames get tokens by relevance and motion; in each, some for context, for objects asked about, for motion.

Relevance is the cosine of features with the LLM's input embeddings of the question's words. Objects are found word by
word: the token most like the word, then those that are like it and unlike those found for it. All frames take their
steps together. Two forms were released, one for LLaVA-OneVision and Qwen3-VL, one for Qwen2.5-VL.

Source: SemVID (ECCV 2026), Open Visual-Pruning Suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...devices import to_device
from ...tokens.video_tokens import Layout, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..options import KEEP_TOKENS, NO_RELEVANCE, RELEVANCE, RETENTION, Setting
from ..toolkit.language_grid import LanguageGrid
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import ranked, top_k_mask, true_places
from ..toolkit.uploads import IntArray
from .semvid_sharing import (
    HostFigures,
    Plan,
    Sharing,
    frame_budgets,
    frame_relevance,
    moved_to,
    plan,
    segment_lengths,
    segment_weights,
)

SHORTEST = 1e-6
"""Shorter vectors count as this long where they are brought to length 1, and so do smaller maxima."""

QWEN2_5 = "qwen2_5"
CONTEXT, OBJECT, MOTION = 1, 2, 3
"""What a token is kept for."""


@dataclass(frozen=True)
class SemVID(Budgeted):
    """Keep tokens for context, for objects that the question names and for motion; relevant frames keep more."""

    name = "semvid"
    title = "SemVID"
    node_id = "AOTSemVID"
    asks = True
    source = "SemVID, ECCV 2026"
    presets: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "semvid-qwen3-12.5": "semvid:retention=0.125",
            "semvid-qwen2.5-12.5": "semvid:retention=0.125,form=qwen2_5,top_segments=2,object_share=0.8,mmr=0.5,"
            "boundary=2",
            "semvid-onevision-25": "semvid:retention=0.25,smooth=3,object_share=0.3,mmr=0.5,context=5,motion_query=0.1,"
            "longest=128",
        }
    )

    retention: float = RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
    relevance: str = RELEVANCE.field()
    form: str = Setting(
        "qwen3",
        "The released form: qwen3, for LLaVA-OneVision too; qwen2_5 also keeps corners of the box around relevant "
        "tokens, and gives frames at the ends of segments more.",
        choices=("qwen3", QWEN2_5),
        advanced=True,
    ).field()
    object_share: float = Setting(
        0.6, "Share for objects of what a frame has beside context.", low=0, high=1, step=0.05, advanced=True
    ).field()
    mmr: float = Setting(
        0.9,
        "Of an object's tokens: 1 takes those most like the word, 0 those most unlike each other.",
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ).field()
    alpha: float = Setting(
        0.7, "Weight of relevance beside motion where frames share a budget.", low=0, high=1, step=0.05, advanced=True
    ).field()
    context: int = Setting(
        0, "Tokens of every frame for context; 0 counts as 1.", low=0, high=10_000, advanced=True
    ).field()
    motion_query: float = Setting(
        0.5, "Weight of relevance beside motion where a frame's tokens are taken for motion.", low=0, high=1, step=0.05,
        advanced=True,
    ).field()  # fmt: skip
    smooth: int = Setting(
        1, "Frames whose relevance is averaged with their neighbours'; 1 averages none.", low=1, high=101, advanced=True
    ).field()
    segments: int = Setting(
        0, "Segments to cut the video into where frames differ most; 0 forces no cut.", low=0, high=10_000,
        advanced=True,
    ).field()  # fmt: skip
    tau: float = Setting(
        0.0, "Also cut where the cosine of neighbouring frames is below this.", low=-1, high=1, step=0.05, advanced=True
    ).field()
    top_segments: int = Setting(
        0, "Only the most relevant segments get more than context; 0 gives all their share.", low=0, high=10_000,
        advanced=True,
    ).field()  # fmt: skip
    longest: int = Setting(
        50, "Words of a question that are looked at one by one; of a longer one their mean is.", low=1, high=100_000,
        advanced=True,
    ).field()  # fmt: skip
    boundary: int = Setting(
        0, "Form qwen2_5: tokens more for the first, last and most relevant frame and the ends of segments.", low=0,
        high=10_000, advanced=True,
    ).field()  # fmt: skip
    even_context: int = Setting(
        1, "Form qwen2_5: context tokens spread evenly over a frame.", low=0, high=10_000, advanced=True
    ).field()
    corners: int = Setting(
        4, "Form qwen2_5: corners of the box around relevant tokens; below 4 it is two.", low=1, high=4, advanced=True
    ).field()
    corner_pool: int = Setting(
        160, "Form qwen2_5: relevant tokens that the box is around.", low=1, high=100_000, advanced=True
    ).field()

    @property
    def needs_question(self) -> bool:
        """Whether relevance is asked for."""
        return self.relevance != NO_RELEVANCE

    def frame_limits(self, layout: Layout, timestamps: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A frame's tokens for context at least."""
        return (self.base(layout.language_cells),) * layout.frames, (layout.language_cells,) * layout.frames

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Kept cells in order of time, then raster."""
        grid = LanguageGrid.of(self.title, tokens)
        layout = tokens.layout
        base = self.base(layout.language_cells)
        total = self.budget_of(layout, base * layout.frames, layout.frames * layout.language_cells)
        if part.budgets is not None:
            total = sum(part.budgets)
        words = None
        if self.needs_question and tokens.question is not None:
            words = question_vectors(tokens.question.words.to(grid.features), self.longest)
        scores = torch.linalg.vector_norm(grid.features, dim=2)
        role, _ = self.chosen(grid.features, scores, words, total, layout.language_grid, part.budgets)
        return grid.selection(true_places(role > 0, total), NewlineRule.KEPT_ROWS)

    def base(self, cells: int) -> int:
        """The fewest tokens of a frame of so many cells."""
        return max(min(self.context, cells), 1)

    def chosen(
        self,
        features: Tensor,
        scores: Tensor,
        words: Tensor | None,
        total: int,
        grid: tuple[int, int],
        budgets: Sequence[int] | None = None,
    ) -> tuple[Tensor, Sharing]:
        """What every token is kept for, and how the budget was shared out.

        Args:
            features: (T, L, D) floating.
            scores: (T, L) floating, of context.
            words: (W, D) floating, of length 1; one row is the mean of a long question; None asks for nothing.
            total: tokens to keep of the video.
            grid: (h, w) of a frame.
            budgets: (T,) tokens of every frame, as a stage before says; None shares the total out.

        Returns:
            (T, L) uint8 role, 0 where a token is dropped, and the sharing.
        """
        cells, directions = features.shape[1], _unit(features)
        means = _unit(features.mean(1))
        by_word = words is not None and len(words) > 1
        rows = directions.new_zeros(1, directions.shape[2]) if words is None else words
        likeness = directions @ rows.T
        presence = likeness.amax(1).clamp(min=0)
        best = likeness.amax(2)
        sharing = self.share(_on_host(means @ rows.T, _neighbours(means), presence, _steps(means)), total, cells)
        if budgets is not None:
            sharing = replace(sharing, budget=np.array(budgets))
        budget = to_device(sharing.budget, features.device)[:, None]
        base = self.base(cells)
        context = _context(directions, means, scores, base, self._lattice(grid, base, features.device))
        objects, extra = sharing.objects(self.object_share, base)
        left, found = objects, torch.zeros_like(context)
        if self.form == QWEN2_5:
            found = self._corners(best, context, to_device(objects, features.device)[:, None], grid)
            left = objects - found.sum(1).cpu().numpy()
        found = _objects(directions, likeness, context, found, plan(sharing.presence, left), self.mmr)
        moved = _motion(features).masked_fill(context | found, -torch.inf)
        if by_word:
            free = ~(context | found)
            moved = self._with_words(moved, best.clamp(min=0), free)
        motion = top_k_mask(moved, to_device(extra - objects, features.device))
        taken = context | found | motion
        short = budget - taken.sum(1, keepdim=True)
        more = top_k_mask(scores.masked_fill(taken, -torch.inf), short)
        role = torch.where(found, OBJECT, torch.where(motion, MOTION, torch.where(context | more, CONTEXT, 0)))
        return role.to(torch.uint8), sharing

    def share(self, seen: HostFigures, total: int, cells: int) -> Sharing:
        """Tokens of every frame, from figures of frames on the host.

        Args:
            seen: of every frame.
            total: tokens to keep of the video.
            cells: of a frame.
        """
        relevance = frame_relevance(seen.relevance, self.smooth)
        lengths = segment_lengths(seen.neighbours, self.segments, self.tau)
        weights = segment_weights(relevance, lengths, self.top_segments)
        wanted = self.alpha * np.maximum(relevance, 0) + (1 - self.alpha) * seen.motion
        base = self.base(cells)
        budget = frame_budgets(weights, wanted, lengths, total, base, cells)
        if self.form == QWEN2_5 and self.boundary and len(budget) > 1:
            ends = np.cumsum(lengths)
            marked = {0, len(budget) - 1, int(relevance.argmax())}
            for end, length, weight in zip(ends, lengths, weights, strict=True):
                marked |= {int(end - length), int(end - 1)} if weight > 0 else set()
            budget = moved_to(sorted(marked), budget, base, cells, self.boundary)
        return Sharing(budget, relevance, lengths, seen.presence)

    def _with_words(self, moved: Tensor, near: Tensor, free: Tensor) -> Tensor:
        """(T, L) motion and nearness to any word, each over its maximum among free tokens."""

        def over_most(values: Tensor) -> Tensor:
            return values / values.masked_fill(~free, 0).amax(1, keepdim=True).clamp(min=SHORTEST)

        mixed = (1 - self.motion_query) * over_most(moved) + self.motion_query * over_most(near)
        return mixed.masked_fill(~free, -torch.inf) if self.motion_query > SHORTEST else moved

    def _lattice(self, grid: tuple[int, int], base: int, device: torch.device) -> Tensor | None:
        """(L,) bool of the evenly placed context tokens; None where there are none."""
        count = min(self.even_context, base - 1)
        if self.form != QWEN2_5 or count < 1:
            return None
        mask = np.zeros(grid[0] * grid[1], bool)
        mask[evenly_placed(grid, count)] = True
        return to_device(mask, device)

    def _corners(self, best: Tensor, context: Tensor, most: Tensor, grid: tuple[int, int]) -> Tensor:
        """(T, L) bool: of the most relevant tokens those nearest to the corners of the box around them.

        Args:
            best: (T, L) cosine of every token with the word it is most like.
            context: (T, L) bool, tokens that are kept already.
            most: (T, 1) long, how many a frame may have.
            grid: (h, w) of a frame.
        """
        pool = ranked(best)[:, : self.corner_pool]
        y, x = pool // grid[1], pool % grid[1]
        (top, bottom), (first, last) = y.aminmax(dim=1, keepdim=True), x.aminmax(dim=1, keepdim=True)
        corners = ((top, first), (bottom, last), (top, last), (bottom, first))[: 4 if self.corners >= 4 else 2]
        nearest = torch.cat([((y - b).square() + (x - a).square()).argmin(1, keepdim=True) for b, a in corners], 1)
        ends = torch.zeros_like(context).scatter(1, pool.gather(1, nearest), True)
        ends = ends & ~context & (best.amax(1, keepdim=True) >= 0)
        return ends & top_k_mask(best.masked_fill(~ends, -torch.inf), most)


def question_vectors(words: Tensor, longest: int) -> Tensor:
    """Directions of a question's words, (W, D); of more than ``longest`` that of their mean, (1, D).

    Args:
        words: (W, D) floating, input embeddings.
        longest: words that are looked at one by one.
    """
    return _unit(words if len(words) <= longest else words.mean(0, keepdim=True))


def evenly_placed(grid: tuple[int, int], count: int) -> IntArray:
    """Up to ``count`` cells of a near-square lattice over the grid, in raster order.

    Args:
        grid: (h, w).
        count: 1 or more.
    """
    height, width = grid
    rows = max(1, int(count**0.5))
    columns = min(-(-count // rows), width)
    y = np.rint(np.linspace(0, height - 1, min(rows, height))).astype(np.int64)
    x = np.rint(np.linspace(0, width - 1, columns)).astype(np.int64)
    return np.unique(y[:, None] * width + x)[:count]


def _objects(directions: Tensor, likeness: Tensor, context: Tensor, found: Tensor, steps: Plan, mmr: float) -> Tensor:
    """(T, L) bool: the tokens found for objects, step by step, all frames together.

    Args:
        directions: (T, L, D) features of length 1.
        likeness: (T, L, W) cosine of every token with every word.
        context: (T, L) bool, tokens that are kept already.
        found: (T, L) bool, those that count as objects already.
        steps: of all frames.
        mmr: weight of likeness to the word.
    """
    if not steps.word.shape[1]:
        return found
    device = directions.device
    words, flags = to_device(steps.word, device), to_device(np.stack((steps.begins, steps.active)), device)
    free = ~(context | found)
    closest = torch.zeros_like(likeness[:, :, 0])
    for step in range(words.shape[1]):
        begins, active = flags[:, :, step, None]
        relevant = likeness.gather(2, words[:, step, None, None].expand(-1, likeness.shape[1], 1))[:, :, 0]
        score = torch.where(begins, relevant, mmr * relevant - (1 - mmr) * closest)
        best = score.masked_fill(~free, -torch.inf).argmax(1, keepdim=True)
        index = best[:, :, None].expand(-1, -1, directions.shape[2])
        beside = torch.bmm(directions, directions.gather(1, index).mT)[:, :, 0]
        closest = torch.where(begins, beside, torch.maximum(closest, beside))
        hit = torch.zeros_like(free).scatter(1, best, active)
        free, found = free & ~hit, found | hit
    return found


def _context(directions: Tensor, means: Tensor, scores: Tensor, base: int, lattice: Tensor | None) -> Tensor:
    """(T, L) bool: ``base`` tokens of every frame: the one most like its mean, some of a lattice, highest scores."""
    nearest = torch.bmm(directions, means[:, :, None])[:, :, 0].argmax(1, keepdim=True)
    context = torch.zeros_like(scores, dtype=torch.bool).scatter(1, nearest, True)
    if lattice is not None:
        context = context | lattice
    if base == 1:
        return context
    return context | top_k_mask(scores.masked_fill(context, -torch.inf), base - context.sum(1))


def _motion(features: Tensor) -> Tensor:
    """(T, L) mean distance of every token from those at its place one frame before and one after."""
    if len(features) == 1:
        return torch.zeros_like(features[:, :, 0])
    moved = torch.linalg.vector_norm(features[1:] - features[:-1], dim=2)
    return (torch.cat((moved[:1], moved)) + torch.cat((moved, moved[-1:]))) / 2


def _unit(vectors: Tensor) -> Tensor:
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp(min=SHORTEST)


def _neighbours(means: Tensor) -> Tensor:
    """(T - 1,) cosine of every frame's mean with the next."""
    return (means[:-1] * means[1:]).sum(1)


def _steps(means: Tensor) -> Tensor:
    """(T,) distance of every frame's mean from the one before; of the first as of the second, 0 of one alone."""
    if len(means) == 1:
        return torch.zeros_like(means[:, 0])
    steps = torch.linalg.vector_norm(means[1:] - means[:-1], dim=1)
    return torch.cat((steps[:1], steps))


def _on_host(likeness: Tensor, neighbours: Tensor, presence: Tensor, motion: Tensor) -> HostFigures:
    """Figures of frames on the host, in one copy."""
    relevance = likeness.topk(min(2, likeness.shape[1]), 1).values.mean(1)
    parts = (relevance, neighbours, presence.flatten(), motion)
    flat = torch.cat(parts).cpu().numpy().astype(np.float64)
    ends = np.cumsum([len(each) for each in parts])[:-1]
    first, second, third, fourth = np.split(flat, ends)
    return HostFigures(first, second, third.reshape(presence.shape), fourth)
