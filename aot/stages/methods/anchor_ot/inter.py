"""Phase II of AOT: each clip's first frame represents the frames after it.

The keyframe's tokens are anchors. In every following frame, tokens that no anchor clearly explains stay as
they are (distinct); the rest are transported into the anchors, which meet the next frame updated.

Source: AOT (CVPR 2026), section 3.4, as released by its authors; the exact budget is this project's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ....errors import InputError
from ....tokens.factors import Blocks, Picked
from ....tokens.video_tokens import Layout, Role, VideoTokens
from ....transport.costs import COSINE_LIMIT
from ....transport.solvers import Solver
from ...base import Budgeted, Part, Reduction
from ...budget import fill_levels, split_by
from ...options import KEEP_TOKENS, RETENTION, Setting
from ...toolkit.newlines import NewlineRule
from ...toolkit.ranking import top_k_mask
from .clip_transport import Clips, ClipTransport, Rules, below_quantile, transport_clips
from .settings import (
    AGGREGATION,
    CLIP_LENGTH,
    CLIPS,
    CUT_LOWEST,
    CUT_SIMILARITY,
    CUT_TIMES,
    EPS,
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
    """What becomes of a video's clips, as :func:`reduction_of` takes it."""

    clips: Clips
    transport: ClipTransport
    originals: Tensor
    distinct: Tensor
    updated: Tensor


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
    ).field()
    max_iterations: int = MAX_ITERATIONS.field()
    retention: float = RETENTION.field(
        default=0.0,
        help="Share of the video's language grid to keep, met to the token: keyframes get their share of it, and "
        "distinct tokens are then ranked over the whole video. 0 keeps the keep ratio of every frame, as the authors "
        "released it.",
    )
    keep_tokens: int = KEEP_TOKENS.field()
    keyframe_share: float = KEYFRAME_SHARE.field()
    clips: str = CLIPS.field()
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

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A clip at a time, unless the video is ranked as a whole or cut by what it shows."""
        return None if self.has_budget else self.cut(timestamps)

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Rows picked from the tokens and from one block of updated anchors a clip."""
        return reduction_of(tokens, *self._decided(tokens), self.order, rows_end=self.has_budget)

    def explained(self, tokens: VideoTokens) -> Tensor:
        """(K,) float64 q: how clearly the best anchor explains each token; infinite where no anchor could."""
        clips, result, *_ = self._decided(tokens.to_language_grid())
        q = result.q.new_full((int(clips.valid.sum()),), torch.inf)
        return q.index_copy_(0, clips.token[clips.valid], result.q[clips.valid])

    def _decided(self, tokens: VideoTokens) -> Decided:
        lengths = self.cut(tokens.timestamps) or self.cut_by_content(frame_means(tokens))
        clips = Clips.cut(tokens, lengths)
        rules = Rules(
            self.cost(COSINE_LIMIT), self._solver, self.marginal, self.scaling, self.aggregation, self.time_scale
        )
        return self._on_budget(tokens, clips, rules) if self.has_budget else self._as_released(clips, rules)

    @property
    def _solver(self) -> Solver:
        """A frame is a problem here, as released, whatever other clips do."""
        solver = self.transport
        return dataclasses.replace(solver, name="early") if solver.looks_at_the_batch else solver

    def _as_released(self, clips: Clips, rules: Rules) -> Decided:
        anchors = clips.valid[:, 0]
        sources = _after_keyframes(clips.valid)
        result = transport_clips(clips, anchors, sources, rules, lambda q, step: below_quantile(q, self.keep_ratio))
        originals = anchors & ~clips.updated[:, None] if not self.repeat else anchors
        return Decided(clips, result, originals, result.distinct, anchors & clips.updated[:, None])

    def _on_budget(self, tokens: VideoTokens, clips: Clips, rules: Rules) -> Decided:
        cells, updated = clips.cells, clips.updated
        following = _after_keyframes(cells)
        copies = 1 + (updated & self.repeat).long()
        room = (copies * cells[:, 0].sum(1)).tolist()
        candidates = int(following.sum())
        if not min(room):
            raise InputError(
                f"{self.title}: the keyframe of clip {room.index(0) + 1} of {len(room)} has no token left; "
                "keep at least one token a frame in the stage before."
            )
        most = min(tokens.tokens_full, sum(room) + candidates)
        remedy = ", or change what the stage before keeps, or the clips"
        total = self.budget_of(tokens.layout, len(room), most, remedy)
        quota = torch.tensor(share_keyframes(total, self.keyframe_share, room, candidates), device=cells.device)
        number = (quota + copies - 1) // copies
        ranked = clips.importance[:, 0].masked_fill(~cells[:, 0], -torch.inf)
        anchors = top_k_mask(ranked, number)
        originals = top_k_mask(ranked, torch.where(updated & self.repeat, quota - number, number * ~updated))
        left = total - int(quota.sum())
        sources = cells.clone()
        sources[:, 0] &= ~anchors & updated[:, None]
        distinct = self._distinct(clips, anchors, sources, following, rules, left)
        result = transport_clips(clips, anchors, sources, rules, lambda q, step: distinct[:, step])
        return Decided(clips, result, originals, distinct, anchors & updated[:, None])

    def _distinct(
        self, clips: Clips, anchors: Tensor, sources: Tensor, following: Tensor, rules: Rules, count: int
    ) -> Tensor:
        """(C, L, S) bool: the ``count`` tokens explained least when the clips are carried a first time."""
        candidates = int(following.sum())
        ratio = count / max(1, candidates)
        q = transport_clips(clips, anchors, sources, rules, lambda q, step: below_quantile(q, ratio)).q
        q = q.masked_fill(~following, torch.inf)
        if self.ranking == "video":
            return top_k_mask(-q.flatten()[None], count).reshape(q.shape)
        counts = split_by(following.flatten(0, 1).sum(1).tolist(), count)
        return top_k_mask(-q.flatten(0, 1), counts).reshape(q.shape)


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
    cells = tokens.role != int(Role.NEWLINE)
    frame = tokens.frame[cells].to(tokens.features.device)
    sums = torch.zeros(tokens.layout.frames, tokens.features.shape[1], dtype=tokens.lengths.dtype, device=frame.device)
    sums.index_add_(0, frame, tokens.features[cells.to(frame.device)].to(sums))
    return sums / frame.bincount(minlength=tokens.layout.frames).clamp(min=1)[:, None]


def reduction_of(
    tokens: VideoTokens,
    clips: Clips,
    result: ClipTransport,
    originals: Tensor,
    distinct: Tensor,
    updated: Tensor,
    order: str,
    *,
    rows_end: bool = False,
) -> Reduction:
    """The tokens that are left of the clips, clip by clip.

    Args:
        tokens: K tokens on the language grid.
        clips: the same, C clips of L frames of S tokens at most.
        result: how the clips' frames were carried into their anchors.
        originals: (C, S) bool, keyframe tokens that stay as they were.
        distinct: (C, L, S) bool, the other frames' tokens that stay as they are.
        updated: (C, S) bool, anchors that appear as they became.
        order: "released" (keyframe, distinct, updated) or "time" (frame, row, column, an updated token after its
            original).
        rows_end: whether newlines took no part; each then stays where its row keeps a token.
    """
    weights, rows = result.weights(clips, updated)
    merged = (updated.flatten().cumsum(0) - 1).reshape(updated.shape) + len(tokens.place)
    taken = distinct.clone()
    taken[:, 0] = originals
    again = torch.zeros_like(taken)
    again[:, 0] = updated
    index = torch.stack((clips.token, torch.where(again, merged[:, None], clips.token)), 3)
    picked = torch.stack((taken, again), 3)
    if rows_end:
        picked = picked | torch.stack([_newlines_of(tokens, clips, group) for group in (taken, again)], 3)
    role = torch.full_like(index, int(Role.DISTINCT))
    role[:, 0, :, 0] = int(Role.KEYFRAME)
    role[..., 1] = int(Role.MERGED)
    role[clips.newline] = int(Role.NEWLINE)
    origin = clips.token[..., None].expand_as(index)
    flat = _in_order(picked, order)
    chosen, origins, roles = (_in_order(each, order)[flat] for each in (index, origin, role))
    return Reduction(
        factor=Picked(chosen, Blocks(weights, rows, clips.sizes)),
        place=tokens.place[origins.cpu()],
        role=roles.cpu().to(torch.uint8),
    )


def _in_order(values: Tensor, order: str) -> Tensor:
    """(C, L, S, 2), as they were and updated, to (C, ...) in the order they are given."""
    if order == "time":
        return values.flatten(1)
    return torch.cat((values[..., 0].flatten(1), values[..., 1].flatten(1)), 1)


def _newlines_of(tokens: VideoTokens, clips: Clips, picked: Tensor) -> Tensor:
    """(C, L, S) bool: the newlines of rows that keep a picked token, (C, L, S) bool."""
    kept = torch.zeros(len(tokens.role), dtype=torch.bool)
    kept[clips.token[picked].cpu()] = True
    stay = NewlineRule.KEPT_ROWS.remaining(tokens, kept).to(picked.device)
    return clips.valid & stay[clips.token.clamp(min=0)]


def _after_keyframes(tokens: Tensor) -> Tensor:
    """(C, L, S) bool: those tokens that are not their clip's keyframe's."""
    others = tokens.clone()
    others[:, 0] = False
    return others
