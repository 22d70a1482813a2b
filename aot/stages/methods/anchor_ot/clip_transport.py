"""Transport along a video's clips: each frame's tokens into the anchors of its clip.

Clips are independent, so all of them take each step together, side by side and padded; only the steps inside a
clip follow each other.

Source: AOT (CVPR 2026), section 3.4, as released by its authors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....devices import to_device, widened
from ....errors import InputError
from ....tokens.video_tokens import Role, VideoTokens, weight_dtype
from ....transport.costs import COSINE_LIMIT, LENGTH_FLOOR, Cost, Points, time_factor, unit_places
from ....transport.solvers import Solver
from ...toolkit.ranking import true_indices

Marginal = Callable[[Tensor, Tensor], Tensor]
"""Importance and validity, both (B, M), to the mass (B, M) of each token."""

Choice = Callable[[Tensor, int], Tensor]
"""q (C, S), of sources and of others, and the step to the sources that are absorbed, (C, S) bool."""


@dataclass(frozen=True)
class Clips:
    """A video's tokens cut into clips, side by side, padded.

    Args:
        tokens: on the language grid, ordered by frame.
        lengths: frames of each clip.
        counts: tokens of each frame of the video, newlines among them.
        cell_counts: and newlines not counted.
        token: (C, L, S) long, the token by clip, frame in the clip and number in the frame; 0 in padding.
        valid: (C, L, S) bool, False in padding.
        newline: (C, L, S) bool; None where the layout has none.
    """

    tokens: VideoTokens
    lengths: tuple[int, ...]
    counts: tuple[int, ...]
    cell_counts: tuple[int, ...]
    token: Tensor
    valid: Tensor
    newline: Tensor | None

    @classmethod
    def cut(cls, tokens: VideoTokens, lengths: tuple[int, ...]) -> Clips:
        """Cut tokens on the language grid into clips.

        Raises:
            InputError: tokens that are not ordered by frame any more (another temporal stage ran before), or a
                keyframe without a token.
        """
        if tokens.counts is None and bool((tokens.frame.diff() < 0).any()):
            raise InputError(
                "Inter-Frame Keyframe OT needs tokens ordered by frame, and a temporal stage before it has merged "
                "frames already; keep only one temporal stage."
            )
        counts, layout, device = tokens.frame_counts, tokens.layout, tokens.features.device
        keyframes = np.cumsum(lengths) - lengths
        empty = next((clip for clip, frame in enumerate(keyframes) if not counts[frame]), None)
        if empty is not None:
            raise InputError(
                f"Clip {empty + 1} of {len(lengths)} has no token left in its keyframe; "
                "keep at least one token a frame in the stage before."
            )
        token, valid = _places_in_clips(lengths, counts, device)
        newline, cell_counts = None, counts
        if layout.newlines:
            newline = (tokens.role == int(Role.NEWLINE))[token] & valid
            if tokens.kept == sum(counts) - layout.frames * layout.newlines:
                cell_counts = tuple(count - layout.newlines for count in counts)
            else:
                of_slots = (valid & ~newline).sum(2).flatten().tolist()
                cell_counts = tuple(of_slots[slot] for slot in _slots_of_frames(lengths))
        return cls(tokens, lengths, counts, cell_counts, token, valid, newline)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of each clip."""
        return self._by_clip(self.counts)

    @property
    def keyframe_cells(self) -> tuple[int, ...]:
        """Tokens of each clip's keyframe, newlines not counted."""
        return tuple(self.cell_counts[frame] for frame in np.cumsum(self.lengths) - self.lengths)

    @property
    def is_regular(self) -> bool:
        """Whether all frames have as many tokens and all clips as many frames, so that nothing is padded."""
        return self.valid.numel() == len(self.tokens.place)

    @cached_property
    def features(self) -> Tensor:
        """(C, L, S, D) in W's dtype."""
        return self.spread(self.tokens.features.to(weight_dtype(self.tokens.features)))

    @cached_property
    def norms(self) -> Tensor:
        """(C, L, S) Euclidean lengths of the features, none under :data:`LENGTH_FLOOR`."""
        return self.spread(self.tokens.lengths.clamp(min=LENGTH_FLOOR))

    @cached_property
    def places(self) -> Tensor:
        """(C, L, S, 2) in the widest dtype, on the unit square."""
        return self.spread(unit_places(self.tokens.place[:, 1:], self.tokens.layout.language_grid))

    @cached_property
    def importance(self) -> Tensor:
        """(C, L, S)."""
        return self.spread(self.tokens.importance)

    @cached_property
    def cells(self) -> Tensor:
        """(C, L, S) bool: tokens of grid cells, without newlines."""
        return self.valid if self.newline is None else self.valid & ~self.newline

    @property
    def following(self) -> Tensor:
        """(C, L, S) bool: tokens of all frames but the keyframes, newlines among them. Shared: not to be changed."""
        return _following(self.lengths, self.counts, self.valid.device)

    def spread(self, values: Tensor) -> Tensor:
        """Values of tokens, (K, ...), to (C, L, S, ...); anything in padding."""
        if not self.is_regular:
            values = values.index_select(0, self.token.flatten())
        return values.reshape(*self.token.shape, *values.shape[1:])

    def points(self, step: int, valid: Tensor, with_places: bool) -> Points:
        """The tokens of every clip's frame ``step``, those that are ``valid`` (C, S) taking part."""
        places = self.places[:, step] if with_places else None
        return Points(self.features[:, step], self.norms[:, step], places, valid)

    def by_step(self, counts: Sequence[int]) -> np.ndarray:
        """(C, L) int64: numbers of the video's frames by clip and frame in the clip, 0 beyond a clip's last."""
        out = np.zeros(len(self.lengths) * max(self.lengths), np.int64)
        out[_slots_of_frames(self.lengths)] = counts
        return out.reshape(len(self.lengths), -1)

    def _by_clip(self, counts: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.by_step(counts).sum(1).tolist())


def _slots_of_frames(lengths: tuple[int, ...]) -> np.ndarray:
    """(T,) int64: clip times longest clip, and number in the clip, of every frame of the video."""
    clip = np.repeat(np.arange(len(lengths)), lengths)
    return clip * max(lengths) + np.arange(len(clip)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


@lru_cache(maxsize=64)
def _places_in_clips(lengths: tuple[int, ...], counts: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """``token`` and ``valid`` of :class:`Clips`. Shared: not to be changed."""
    starts, number = (np.zeros(len(lengths) * max(lengths), np.int64) for _ in range(2))
    slots = _slots_of_frames(lengths)
    starts[slots], number[slots] = np.cumsum(counts) - counts, counts
    within = np.arange(max(counts))
    valid = within < number[:, None]
    token = np.where(valid, starts[:, None] + within, 0)
    shape = len(lengths), max(lengths), max(counts)
    token, valid = (to_device(each.reshape(shape), device) for each in (token, valid))
    return token, valid


@lru_cache(maxsize=64)
def _following(lengths: tuple[int, ...], counts: tuple[int, ...], device: torch.device) -> Tensor:
    """``following`` of :class:`Clips`. Shared: not to be changed."""
    following = _places_in_clips(lengths, counts, device)[1].clone()
    following[:, 0] = False
    return following


@dataclass(frozen=True)
class Rules:
    """How a frame's tokens are carried into the anchors.

    Args:
        cost: of carrying a token to an anchor.
        solver: how the problems are solved.
        marginal: importance and validity to the mass of each token.
        weighs: whether the mass depends on the importance.
        scaling: lambda.
        aggregation: "released", shares of whole tokens; "paper", the plan's own mass; "counts", shares, the anchor
            weighing as many tokens as it has absorbed.
        time_scale: sigma of the time factor, in frames.
        explained_by: what q is: "plan", the largest share of a token that goes to one anchor; "cost", exp(-c) with c
            the cost of its cheapest anchor, without the time factor.
    """

    cost: Cost
    solver: Solver
    marginal: Marginal
    weighs: bool = False
    scaling: float = 1.0
    aggregation: str = "released"
    time_scale: float = 1.5
    explained_by: str = "plan"


@dataclass(frozen=True)
class ClipTransport:
    """How a video's frames were carried into their clips' anchors.

    Args:
        shares: (C, L, S, A) how much of each absorbed token goes to each anchor; 0 for all others.
        decay: (C, L, A); at each step an anchor becomes decay times itself plus gain times its shares.
        gain: (C, L, A).
        q: (C, L, S), how well the best anchor explains a token; anything for tokens that no anchor could.
    """

    shares: Tensor
    decay: Tensor
    gain: Tensor
    q: Tensor

    def weights(self, clips: Clips, chosen: Tensor, rows: tuple[int, ...]) -> Tensor:
        """The chosen anchors as means over their clip's tokens, (C, rows, columns) padded with zeros.

        Rows are a clip's chosen anchors in raster order, columns its tokens in order.

        Args:
            clips: the tokens.
            chosen: (C, A) bool.
            rows: (C,) how many are chosen.
        """
        after = self.decay.flip(1).cumprod(1).flip(1)
        later = torch.cat((after[:, 1:], torch.ones_like(after[:, :1])), 1)
        weights = (self.shares * (self.gain * later)[:, :, None, :]).flatten(1, 2)
        weights.diagonal(dim1=1, dim2=2).add_(after[:, 0])
        if not clips.is_regular:
            order = true_indices(clips.valid.flatten(1), max(clips.sizes))
            weights = weights.gather(1, order[:, :, None].expand(-1, -1, weights.shape[2]))
        first = true_indices(chosen, max(rows))
        picked = weights.mT.gather(1, first[:, :, None].expand(-1, -1, weights.shape[1]))
        return picked if min(rows) == max(rows) else picked * chosen.gather(1, first)[:, :, None]


@dataclass(frozen=True)
class Carrying:
    """Clips whose frames are to be carried into their anchors.

    Args:
        clips: the tokens, C clips of L frames of S tokens at most.
        anchors: (C, S) bool, the keyframe tokens that others are carried to.
        sources: (C, L, S) bool, the tokens that take part.
        rules: how a frame is carried.
        absorbs_keyframes: whether keyframe tokens are among the sources; they are absorbed whole before the first
            step, without a time factor.
    """

    clips: Clips
    anchors: Tensor
    sources: Tensor
    rules: Rules
    absorbs_keyframes: bool = False

    @cached_property
    def _u(self) -> Tensor:
        """(C, L, S), mass of every source."""
        shape = self.sources.shape
        importance = self.clips.importance if self.rules.weighs else self.sources
        return self.rules.marginal(importance.flatten(0, 1), self.sources.flatten(0, 1)).reshape(shape)

    @cached_property
    def _v(self) -> Tensor:
        """(C, A), mass of every anchor."""
        importance = self.clips.importance[:, 0] if self.rules.weighs else self.anchors
        return self.rules.marginal(importance, self.anchors)

    @cached_property
    def _begun(self) -> _State:
        """The state before the first step."""
        places = self.rules.cost.spatial_weight != 0
        targets = self.clips.points(0, self.anchors, places)
        state = _State(targets, torch.ones_like(targets.lengths) if self.rules.aggregation == "counts" else None)
        if not self.absorbs_keyframes:
            return state
        q, plan = self._plans(state, 0)
        return self._absorbed(state, 0, plan, q, self.sources[:, 0])

    @cached_property
    def _first_plans(self) -> tuple[Tensor, Tensor]:
        return self._plans(self._begun, 1)

    def _plans(self, state: _State, step: int) -> tuple[Tensor, Tensor]:
        """(C, S) q of a frame's tokens, and (C, S, A) what is absorbed of them: shares, or the plan for "paper".

        Every clip is a problem. Its cost is shifted so that its least entry is 0, then multiplied by the time factor.
        """
        rules, u = self.rules, self._u[:, step]
        src = self.clips.points(step, self.sources[:, step], rules.cost.spatial_weight != 0)
        factor = time_factor(step, rules.time_scale) if step else 1.0
        whole = rules.aggregation != "paper"
        apart = rules.cost.between(src, state.targets)
        near = nearness(apart, self.anchors) if rules.explained_by == "cost" else None
        plan = rules.solver.plan(
            apart, u, self._v, factor=factor, shifted=True, shares=whole, largest=rules.cost.largest
        )
        if near is not None:
            return near, plan
        return (plan if whole else rules.solver.shares(plan, u)).amax(2), plan

    def _absorbed(self, state: _State, step: int, plan: Tensor, q: Tensor, which: Tensor) -> _State:
        """The state after tokens ``which``, (C, S) bool, of a frame are absorbed; the last frame moves no anchors."""
        rules, targets, count = self.rules, state.targets, state.count
        share = plan * which[:, :, None]
        decay, gain = absorption(share, count, rules.scaling)
        if count is not None:
            count = count + rules.scaling * share.sum(1)
        if step + 1 < self.sources.shape[1]:
            moved = absorb(targets.features, self.clips.features[:, step], share, decay, gain)
            targets = Points.of(moved, targets.places, self.anchors)
        return _State(targets, count, (*state.steps, _Step(share, decay, gain, q)))

    def explained(self, absorbs: Choice) -> Tensor:
        """(C, L, S): q of every step, 0 of keyframes.

        Args:
            absorbs: which tokens of a step are absorbed.
        """
        state, qs = self._begun, [torch.zeros_like(self._begun.targets.lengths)]
        steps = self.sources.shape[1]
        for step in range(1, steps):
            q, plan = self._first_plans if step == 1 else self._plans(state, step)
            qs.append(q)
            if step < steps - 1:
                state = self._absorbed(state, step, plan, q, absorbs(q, step))
        return torch.stack(qs, 1)

    def carried(self, absorbs: Choice) -> ClipTransport:
        """Every frame carried, a step at a time.

        Args:
            absorbs: which tokens of a step are absorbed.
        """
        state = self._begun
        for step in range(1, self.sources.shape[1]):
            q, plan = self._first_plans if step == 1 else self._plans(state, step)
            state = self._absorbed(state, step, plan, q, absorbs(q, step))
        steps = state.steps
        if not self.absorbs_keyframes:
            steps = (_nothing(state.targets.lengths), *steps)
        shares, decay, gain, q = (torch.stack([getattr(each, name) for each in steps], 1) for name in _Step._fields)
        return ClipTransport(shares, decay, gain, q)


class _Step(NamedTuple):
    """One step of all clips: ``shares`` (C, S, A), ``decay`` and ``gain`` (C, A), ``q`` (C, S)."""

    shares: Tensor
    decay: Tensor
    gain: Tensor
    q: Tensor


class _State(NamedTuple):
    """Where the anchors are after some steps, and the tokens that each counts as, (C, A); None is one each."""

    targets: Points
    count: Tensor | None
    steps: tuple[_Step, ...] = ()


def _nothing(like: Tensor) -> _Step:
    """The step that absorbs nothing."""
    none = torch.zeros_like(like)
    return _Step(none[:, :, None].expand(-1, -1, like.shape[1]), torch.ones_like(like), none, none)


def nearness(apart: Tensor, anchors: Tensor) -> Tensor:
    """(C, S): exp(-c), with c what it costs to carry each token to its cheapest anchor; the same for all equal tokens.

    Args:
        apart: (C, S, A) the costs.
        anchors: (C, A) bool, False in padding.
    """
    return apart.masked_fill(~anchors[:, None], torch.inf).amin(2).clamp_(min=1 - COSINE_LIMIT).neg_().exp_()


def absorption(share: Tensor, count: Tensor | None, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    """What tokens make of anchors: ``a_j = (n_j a_j + lambda sum_i p_ij x_i) / (n_j + lambda sum_i p_ij)``.

    Args:
        share: (C, S, A), p of the absorbed tokens and 0 of the others.
        count: (C, A), n: tokens that an anchor counts as; None is one each.
        scaling: lambda, weight of the transported tokens.

    Returns:
        (C, A) each: what is left of an anchor, and what a share of 1 adds to it.
    """
    if count is not None:
        load = count + scaling * share.sum(1)
        return count / load, scaling / load
    decay = share.sum(1).mul_(scaling).add_(1).reciprocal_()
    return decay, decay * scaling


def absorb(anchors: Tensor, sources: Tensor, share: Tensor, decay: Tensor, gain: Tensor) -> Tensor:
    """Anchors after tokens are absorbed, (C, A, D).

    Args:
        anchors: (C, A, D) floating, a.
        sources: (C, S, D) floating, x.
        share: (C, S, A), p of the absorbed tokens and 0 of the others.
        decay: (C, A), from :func:`absorption`.
        gain: (C, A), from there.
    """
    # No fused product and sum: it rounds the last entries of a row otherwise, and equal tokens must stay equal.
    return anchors * decay[:, :, None] + torch.bmm(share.mT, sources) * gain[:, :, None]


@lru_cache(maxsize=64)
def quantile_places(
    counts: tuple[int, ...], ratio: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Where a quantile lies among sorted entries, for :func:`below_quantile`. Shared: not to be changed.

    Args:
        counts: entries of each of n rows that take part.
        ratio: from 0 to 1.
        device: of the result.
        dtype: the widest of the device.

    Returns:
        (n, 2) long, the entries around it; (n, 1) in that dtype, how far it is from the first to the second.
    """
    place = ratio * np.maximum(np.array(counts) - 1, 0)
    low = np.floor(place)
    around = np.stack((low, np.ceil(place)), -1).astype(np.int64)
    share = torch.from_numpy((place - low)[..., None]).to(dtype)
    return to_device(around, device), to_device(share, device)


def below_quantile(q: Tensor, around: Tensor, share: Tensor) -> Tensor:
    """(C, S) bool: q strictly under a quantile of its row's entries that take part.

    Args:
        q: (C, S) floating, infinite where an entry takes no part.
        around: (C, 2) long, from :func:`quantile_places`.
        share: (C, 1), from there.
    """
    wide = widened(q)
    low, high = wide.sort(1).values.gather(1, around).split(1, 1)
    return wide < torch.lerp(low, high, share)
