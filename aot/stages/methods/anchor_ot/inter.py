"""Phase II of AOT: each clip's first frame represents the frames after it.

The keyframe's tokens are anchors. In every following frame, tokens that no anchor clearly explains stay as
they are (distinct); the rest are transported into the anchors, which meet the next frame updated.

Source: AOT (CVPR 2026), section 3.4, as released by its authors; the exact budget is this project's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....devices import counts_on, widened, widest
from ....errors import InputError
from ....tokens.factors import Blocks, Picked, Sparse
from ....tokens.video_tokens import Layout, Role, VideoTokens
from ....transport.costs import COSINE_LIMIT
from ....transport.solvers import Solver
from ...base import Budgeted, Part, Reduction
from ...budget import fill_levels, split_by
from ...options import KEEP_TOKENS, RETENTION, Setting
from ...toolkit.newlines import NewlineRule
from ...toolkit.ranking import first_mask, ranked, top_k_mask, true_places
from ...toolkit.uploads import IntArray
from .clip_transport import Carrying, Choice, Clips, ClipTransport, Rules, below_quantile, quantile_places
from .settings import (
    AGGREGATION,
    CLIP_LENGTH,
    CLIPS,
    CUT_LOWEST,
    CUT_SIMILARITY,
    CUT_TIMES,
    EPS,
    EXPLAINED_BY,
    KEYFRAME_SHARE,
    MARGINALS,
    MASS,
    MAX_ITERATIONS,
    METRIC,
    ORDER,
    RANKING,
    RELAXATION,
    REPEAT,
    SCALING,
    SOLVER,
    TOLERANCE,
    ClipStage,
    TransportStage,
)


class Decided(NamedTuple):
    """What becomes of a video's clips, as :func:`reduction_of` takes it.

    ``clips``: C clips of L frames of S tokens at most. ``transport``: how their frames were carried into their
    anchors. ``originals``: (C, S) bool, keyframe tokens that stay as they were. ``distinct``: (C, L, S) bool, tokens of
    other frames that stay as they are. ``updated``: (C, S) bool, anchors that appear as they became, and ``rows``,
    (C,) how many. ``total``: tokens that are kept, newlines not counted; None where nobody has counted them.
    """

    clips: Clips
    transport: ClipTransport
    originals: Tensor
    distinct: Tensor
    updated: Tensor
    rows: tuple[int, ...]
    total: int | None = None


@dataclass(frozen=True)
class InterFrame(TransportStage, ClipStage, Budgeted):
    """Keep each clip's keyframe and what is new in the frames after it; transport the rest into it."""

    name = "inter"
    title = "Inter-Frame Keyframe OT"
    node_id = "AOTInterFrame"
    fixes_budget = ("keep_ratio",)
    source = "AOT, CVPR 2026, phase II"

    clip_length: int = CLIP_LENGTH.field()
    keep_ratio: float = Setting(
        0.3,
        "Share of each following frame's tokens kept as distinct: those the keyframe explains least. "
        "Not used where a retention is given.",
        low=0,
        high=1,
        step=0.05,
    ).field()
    scaling: float = SCALING.field()
    eps: float = EPS.field()
    time_scale: float = Setting(
        1.5,
        "Sigma of the time factor 1 - exp(-dt^2 / (2 sigma^2)) on the cost, in frames.",
        low=0.01,
        high=1e4,
        step=0.1,
        advanced=True,
    ).field()
    max_iterations: int = MAX_ITERATIONS.field()
    retention: float = RETENTION.field(
        default=0.0,
        help="Share of the video's language grid to keep, met to the token: keyframes get their share of it, and "
        "distinct tokens are then ranked over the whole video. 0 keeps the keep ratio of every frame, as the authors "
        "released it.",
    )
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
    keyframe_share: float = KEYFRAME_SHARE.field()
    clips: str = CLIPS.field(advanced=True)
    cut_times: str = CUT_TIMES.field()
    solver: str = SOLVER.field()
    aggregation: str = AGGREGATION.field()
    ranking: str = RANKING.field()
    order: str = ORDER.field()
    repeat: bool = REPEAT.field()
    cut_similarity: float = CUT_SIMILARITY.field()
    cut_lowest: int = CUT_LOWEST.field()
    metric: str = METRIC.field()
    spatial_weight: float = Setting(
        0.0,
        "Weight of the distance on the grid (sides of length 1) in the cost; the authors use none here.",
        low=0,
        high=100,
        step=0.1,
        advanced=True,
    ).field()
    marginals: str = MARGINALS.field()
    tolerance: float = TOLERANCE.field()
    relaxation: float = RELAXATION.field()
    mass: float = MASS.field()
    explained_by: str = EXPLAINED_BY.field()

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A clip at a time, unless the video is ranked as a whole or cut by what it shows."""
        return None if self.has_budget else self.cut(timestamps)

    def frame_limits(self, layout: Layout, timestamps: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A token of every clip's keyframe at least."""
        return keyframes_present(layout, self.cut(timestamps))

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Rows picked from the tokens and from one block of updated anchors a clip."""
        return reduction_of(self._decided(tokens, part.budgets), self.order, rows_end=self.has_budget)

    def explained(self, tokens: VideoTokens) -> Tensor:
        """(K,) float64 q: how well the best anchor explains each token; infinite where no anchor could."""
        decided = self._decided(tokens.to_language_grid())
        clips, q = decided.clips, widened(decided.transport.q)
        following = clips.following & clips.cells if self.has_budget else clips.following
        q = q.masked_fill(~following, torch.inf)
        out = q.new_full((len(tokens.to_language_grid().place),), torch.inf)
        return out.index_copy_(0, clips.token[clips.valid], q[clips.valid])

    def _decided(self, tokens: VideoTokens, budgets: Sequence[int] | None = None) -> Decided:
        lengths = self.cut(tokens.timestamps) or self.cut_by_content(frame_means(tokens))
        clips = Clips.cut(tokens, lengths)
        rules = Rules(
            self.cost(COSINE_LIMIT),
            self._solver,
            self.marginal,
            self.marginals == "importance",
            self.scaling,
            self.aggregation,
            self.time_scale,
            self.explained_by,
        )
        return self._on_budget(tokens, clips, rules, budgets) if self.has_budget else self._as_released(clips, rules)

    @property
    def _solver(self) -> Solver:
        """A frame is a problem here, as released, whatever other clips do."""
        solver = self.transport
        return dataclasses.replace(solver, name="early") if solver.looks_at_the_batch else solver

    def _as_released(self, clips: Clips, rules: Rules) -> Decided:
        anchors, updated = clips.valid[:, 0], _updated(clips)
        sources = clips.following
        below = _under_quantile(clips, clips.counts, sources, self.keep_ratio)
        distinct = [torch.zeros_like(anchors)]

        def absorbs(q: Tensor, step: int) -> Tensor:
            distinct.append(below(q, step))
            return sources[:, step] & ~distinct[-1]

        transport = Carrying(clips, anchors, sources, rules).carried(absorbs)
        keyframes = np.array(clips.by_step(clips.counts)[:, 0])
        renewed = np.array(clips.lengths) > 1
        originals = anchors if self.repeat else anchors & ~updated
        rows = tuple((keyframes * renewed).tolist())
        return Decided(clips, transport, originals, torch.stack(distinct, 1), anchors & updated, rows)

    def _on_budget(self, tokens: VideoTokens, clips: Clips, rules: Rules, budgets: Sequence[int] | None) -> Decided:
        renewed = [length > 1 for length in clips.lengths]
        copies = [1 + (each and self.repeat) for each in renewed]
        keyframes = clips.keyframe_cells
        room = [number * cells for number, cells in zip(copies, keyframes, strict=True)]
        candidates = sum(clips.cell_counts) - sum(keyframes)
        if not min(room):
            raise InputError(
                f"{self.title}: the keyframe of clip {room.index(0) + 1} of {len(room)} has no token left; "
                "keep at least one token a frame in the stage before."
            )
        most = min(tokens.tokens_encoded, sum(room) + candidates)
        remedy = ", or change what the stage before keeps, or the clips"
        total = self.budget_of(tokens.layout, len(room), most, remedy)
        by_step = None if budgets is None else clips.by_step(budgets)
        if by_step is None:
            quota = share_keyframes(total, self.keyframe_share, room, candidates)
        else:
            quota = tuple(by_step[:, 0].tolist())
        chosen = [math.ceil(tokens / number) for tokens, number in zip(quota, copies, strict=True)]
        as_they_were = [
            0 if each and not self.repeat else tokens - number if each else number
            for each, tokens, number in zip(renewed, quota, chosen, strict=True)
        ]
        importance = clips.importance[:, 0].masked_fill(~clips.cells[:, 0], -torch.inf)
        order = ranked(importance)
        anchors, originals = first_mask(order, chosen), first_mask(order, as_they_were)
        updated = _updated(clips)
        left = any(each and number < cells for each, number, cells in zip(renewed, chosen, keyframes, strict=True))
        begin = ~anchors & clips.cells[:, 0] & updated if left else torch.zeros_like(anchors)
        sources = torch.cat((begin[:, None], clips.cells[:, 1:]), 1)
        carrying = Carrying(clips, anchors, sources, rules, left)
        distinct = self._distinct(carrying, total - sum(quota), candidates, by_step)
        absorbed = sources & ~distinct
        transport = carrying.carried(lambda q, step: absorbed[:, step])
        rows = tuple(number if each else 0 for each, number in zip(renewed, chosen, strict=True))
        return Decided(clips, transport, originals, distinct, anchors & updated, rows, total)

    def _distinct(self, carrying: Carrying, count: int, candidates: int, budgets: IntArray | None) -> Tensor:
        """(C, L, S) bool: the ``count`` tokens explained least when the clips are carried a first time.

        With ``budgets`` (C, L), those of every frame after its keyframe.
        """
        clips = carrying.clips
        if not candidates:
            return torch.zeros_like(clips.following)
        following = clips.following if clips.newline is None else clips.following & clips.cells
        below = _under_quantile(clips, clips.cell_counts, following, count / candidates)
        q = carrying.explained(lambda q, step: following[:, step] & ~below(q, step))
        least = torch.where(following, -q, -torch.inf)
        if budgets is None and self.ranking == "video":
            return top_k_mask(least.flatten()[None], count).reshape(q.shape)
        cells = clips.by_step(clips.cell_counts) if budgets is None else budgets.copy()
        cells[:, 0] = 0
        counts = split_by(cells.flatten().tolist(), count)
        return top_k_mask(least.flatten(0, 1), counts).reshape(q.shape)


def keyframes_present(layout: Layout, lengths: Sequence[int] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Fewest and most tokens of every frame where a clip's keyframe has to keep one.

    Args:
        layout: of the video.
        lengths: frames of each clip; None where they are not known before the frames are seen.
    """
    first = range(layout.frames) if lengths is None else set((np.cumsum(lengths) - lengths).tolist())
    return tuple(int(t in first) for t in range(layout.frames)), (layout.language_cells,) * layout.frames


def _updated(clips: Clips) -> Tensor:
    """(C, 1) bool: clips of more than one frame."""
    return (counts_on(clips.lengths, clips.token.device) > 1)[:, None]


def _under_quantile(clips: Clips, counts: tuple[int, ...], sources: Tensor, ratio: float) -> Choice:
    """Which tokens of a step have a q under a quantile of those of their frame.

    Args:
        clips: the tokens.
        counts: of every frame of the video, the tokens that have a q.
        sources: (C, L, S) bool, these tokens.
        ratio: of the quantile.
    """
    device = clips.token.device
    places = quantile_places(tuple(clips.by_step(counts).flatten().tolist()), ratio, device, widest(device))
    around, share = (each.unflatten(0, clips.token.shape[:2]) for each in places)
    padded = not (clips.is_regular and counts is clips.counts)

    def below(q: Tensor, step: int) -> Tensor:
        q = q.masked_fill(~sources[:, step], torch.inf) if padded else q
        return below_quantile(q, around[:, step], share[:, step])

    return below


def share_keyframes(total: int, share: float, room: Sequence[int], candidates: int) -> tuple[int, ...]:
    """How many tokens of a budget each clip's keyframe gets, as they were and updated together.

    Keyframes take ``share`` of it, more where there are not enough candidates to fill the rest, and every clip at
    least one; among clips it is poured as evenly as their room allows.

    Args:
        total: tokens of the budget: at least one a clip, at most all room and candidates.
        share: keyframes' share of it, from 0 to 1.
        room: the most tokens each keyframe can give.
        candidates: tokens of the other frames.
    """
    least = max(len(room), total - candidates)
    keyframes = min(max(round(share * total), least), total, sum(room))
    return fill_levels(room, keyframes)


def frame_means(tokens: VideoTokens) -> Tensor:
    """(T, D) the mean of each frame's tokens, without newlines; zero where a frame has none."""
    frames, features, frame = tokens.layout.frames, tokens.features, tokens.frame
    cell = torch.ones_like(tokens.lengths)
    if tokens.layout.newlines:
        cell = (tokens.role != int(Role.NEWLINE)).to(cell)
    counts = cell.new_zeros(frames).index_add_(0, frame, cell)
    every = Sparse(frame, torch.arange(len(frame), device=frame.device), cell, frames, len(frame), copies=False)
    return every.apply(features.to(cell.dtype)) / counts.clamp(min=1)[:, None]


def reduction_of(decided: Decided, order: str, *, rows_end: bool = False) -> Reduction:
    """The tokens that are left of the clips, clip by clip.

    Args:
        decided: what becomes of the clips.
        order: "released" (keyframe, distinct, updated) or "time" (frame, row, column, an updated token after its
            original).
        rows_end: whether newlines took no part; each then stays where its row keeps a token.
    """
    clips, tokens = decided.clips, decided.clips.tokens
    updated, distinct = decided.updated, decided.distinct
    weights = decided.transport.weights(clips, updated, decided.rows)
    merged = (updated.flatten().cumsum(0) + (len(tokens.place) - 1)).reshape(updated.shape)
    own = torch.cat((decided.originals[:, None], distinct[:, 1:]), 1)
    total = decided.total
    if rows_end and clips.newline is not None:
        again = torch.cat((updated[:, None], torch.zeros_like(distinct[:, 1:])), 1)
        own = own | _newlines_of(clips, own)
        renewed = updated | _newlines_of(clips, again)[:, 0]
        merged = torch.where(updated, merged, clips.token[:, 0])
        total = None
    else:
        renewed = updated
    picked = _in_order(own, renewed, order)
    number = total if total is not None else int(picked.sum())
    flat = true_places(picked, number)
    index, origin, role = (
        _in_order(*pair, order).flatten()[flat]
        for pair in ((clips.token, merged), (clips.token, clips.token[:, 0]), _roles_of(clips))
    )
    return Reduction(
        factor=Picked(index, Blocks(weights, decided.rows, clips.sizes)),
        place=tokens.place[origin],
        role=role,
        kept=decided.total,
    )


def _in_order(own: Tensor, renewed: Tensor, order: str) -> Tensor:
    """Values of tokens as they were, (C, L, S), and of updated ones, (C, S), to (C, (L + 1) S) in reading order."""
    if order == "time":
        return torch.cat((torch.stack((own[:, 0], renewed), 2).flatten(1), own[:, 1:].flatten(1)), 1)
    return torch.cat((own.flatten(1), renewed), 1)


def _roles_of(clips: Clips) -> tuple[Tensor, Tensor]:
    """uint8 of :class:`Role`, (C, L, S) of tokens as they were and (C, S) of updated ones."""
    own, renewed = _roles(tuple(clips.token.shape), clips.token.device)
    if clips.newline is None:
        return own, renewed
    newline = int(Role.NEWLINE)
    return own.masked_fill(clips.newline, newline), renewed.masked_fill(clips.newline[:, 0], newline)


@lru_cache(maxsize=16)
def _roles(shape: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """:func:`_roles_of` without newlines. Shared: not to be changed."""
    own = torch.full(shape, int(Role.DISTINCT), dtype=torch.uint8, device=device)
    own[:, 0] = int(Role.KEYFRAME)
    return own, torch.full_like(own[:, 0], int(Role.MERGED))


def _newlines_of(clips: Clips, picked: Tensor) -> Tensor:
    """(C, L, S) bool: the newlines of rows that keep a picked token, (C, L, S) bool."""
    tokens = clips.tokens
    every = len(tokens.role)
    kept = torch.zeros(every + 1, dtype=torch.bool, device=picked.device)
    kept = kept.scatter(0, torch.where(picked, clips.token, every).flatten(), True)[:every]
    return clips.valid & NewlineRule.KEPT_ROWS.remaining(tokens, kept)[clips.token]
