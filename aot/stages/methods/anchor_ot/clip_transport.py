"""Transport along a video's clips: each frame's tokens into the anchors of its clip.

Clips are independent, so all of them take each step together, side by side and padded; only the steps inside a
clip follow each other.

Source: AOT (CVPR 2026), section 3.4, as released by its authors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ....devices import widened, widest
from ....errors import InputError
from ....tokens.video_tokens import Role, VideoTokens, weight_dtype
from ....transport.costs import Cost, Points, time_factor, unit_places
from ....transport.sinkhorn import Transport
from ....transport.solvers import Solver
from ...toolkit.ranking import true_indices

Marginal = Callable[[Tensor, Tensor], Tensor]
"""Importance and validity, both (B, M), to the mass (B, M) of each token."""

Keep = Callable[[Tensor, int], Tensor]
"""q (C, S) and the step to the tokens that stay distinct, (C, S) bool."""


@dataclass(frozen=True)
class Clips:
    """A video's tokens cut into clips, side by side, padded.

    Args:
        lengths: frames of each clip.
        sizes: tokens of each clip.
        token: (C, L, S) long, the token by clip, frame in the clip and number in the frame; -1 in padding.
        features: (C, L, S, D) in W's dtype.
        norms: (C, L, S) Euclidean lengths of the features.
        places: (C, L, S, 2) float64 on the unit square.
        newline: (C, L, S) bool.
        importance: (C, L, S).
    """

    lengths: tuple[int, ...]
    sizes: tuple[int, ...]
    token: Tensor
    features: Tensor
    norms: Tensor
    places: Tensor
    newline: Tensor
    importance: Tensor

    @classmethod
    def cut(cls, tokens: VideoTokens, lengths: tuple[int, ...]) -> Clips:
        """Cut tokens on the language grid into clips.

        Raises:
            InputError: tokens that are not ordered by frame any more (another temporal stage ran before), or a
                keyframe without a token.
        """
        if bool((tokens.frame.diff() < 0).any()):
            raise InputError(
                "Inter-Frame Keyframe OT needs tokens ordered by frame, and a temporal stage before it has merged "
                "frames already; keep only one temporal stage."
            )
        device, counts = tokens.features.device, torch.tensor(tokens.frame_counts)
        shape = len(lengths), max(lengths), int(counts.max())
        clip = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        step = torch.cat([torch.arange(length) for length in lengths])
        starts = counts.cumsum(0) - counts
        empty = clip[(step == 0) & (counts == 0)]
        if len(empty):
            raise InputError(
                f"Clip {int(empty[0]) + 1} of {len(lengths)} has no token left in its keyframe; "
                "keep at least one token a frame in the stage before."
            )
        frame = tokens.frame
        within = torch.arange(len(frame)) - starts[frame]
        slot = (((clip * shape[1] + step)[frame]) * shape[2] + within).to(device)

        def spread(values: Tensor, padding: float = 0) -> Tensor:
            out = values.new_full((shape[0] * shape[1] * shape[2], *values.shape[1:]), padding)
            return out.index_copy_(0, slot, values).reshape(*shape, *values.shape[1:])

        dtype = weight_dtype(tokens.features)
        return cls(
            lengths=lengths,
            sizes=tuple(torch.zeros(len(lengths), dtype=torch.long).index_add_(0, clip, counts).tolist()),
            token=spread(torch.arange(len(frame), device=device), -1),
            features=spread(tokens.features.to(dtype)),
            norms=spread(tokens.lengths),
            places=spread(unit_places(tokens.place[:, 1:], tokens.layout.language_grid).to(device)),
            newline=spread((tokens.role == int(Role.NEWLINE)).to(device)),
            importance=spread(tokens.importance),
        )

    @property
    def valid(self) -> Tensor:
        """(C, L, S) bool, False in padding."""
        return self.token >= 0

    @property
    def cells(self) -> Tensor:
        """(C, L, S) bool: tokens of grid cells, without newlines."""
        return self.valid & ~self.newline

    @property
    def updated(self) -> Tensor:
        """(C,) bool: clips of more than one frame."""
        return torch.tensor([length > 1 for length in self.lengths], device=self.token.device)

    def points(self, step: int, valid: Tensor) -> Points:
        """The tokens of every clip's frame ``step``, those that are ``valid`` (C, S) taking part."""
        return Points(self.features[:, step], self.norms[:, step], self.places[:, step], valid)


@dataclass(frozen=True)
class Rules:
    """How a frame's tokens are carried into the anchors.

    Args:
        cost: of carrying a token to an anchor.
        solver: how the problems are solved.
        marginal: importance and validity to the mass of each token.
        scaling: lambda.
        aggregation: "released", shares of whole tokens; "paper", the plan's own mass; "counts", shares, the anchor
            weighing as many tokens as it has absorbed.
        time_scale: sigma of the time factor, in frames.
    """

    cost: Cost
    solver: Solver
    marginal: Marginal
    scaling: float = 1.0
    aggregation: str = "released"
    time_scale: float = 1.5


@dataclass(frozen=True)
class ClipTransport:
    """How a video's frames were carried into their clips' anchors.

    Args:
        shares: (C, L, S, A) how much of each absorbed token goes to each anchor; 0 for all others.
        decay: (C, L, A); at each step an anchor becomes decay times itself plus gain times its shares.
        gain: (C, L, A).
        q: (C, L, S) float64, how clearly the best anchor explains a token; infinite where no anchor could.
        distinct: (C, L, S) bool, the tokens that stay as they are.
    """

    shares: Tensor
    decay: Tensor
    gain: Tensor
    q: Tensor
    distinct: Tensor

    def weights(self, clips: Clips, chosen: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The chosen anchors (C, A) as means over their clip's tokens: (C, rows, columns) padded, and the rows.

        Rows are a clip's chosen anchors in raster order, columns its tokens in order.
        """
        after = self.decay.flip(1).cumprod(1).flip(1)
        later = torch.cat((after[:, 1:], torch.ones_like(after[:, :1])), 1)
        weights = (self.shares * (self.gain * later)[:, :, None, :]).flatten(1, 2)
        anchor = torch.arange(weights.shape[2], device=weights.device)
        weights[:, anchor, anchor] += after[:, 0]
        order = true_indices(clips.valid.flatten(1), max(clips.sizes))
        weights = weights.gather(1, order[:, :, None].expand(-1, -1, weights.shape[2]))
        rows = tuple(chosen.sum(1).tolist())
        first = true_indices(chosen, max(rows))
        present = torch.arange(max(rows), device=weights.device) < chosen.sum(1)[:, None]
        picked = weights.mT.gather(1, first[:, :, None].expand(-1, -1, weights.shape[1]))
        return picked * present[:, :, None], rows


def transport_clips(clips: Clips, anchors: Tensor, sources: Tensor, rules: Rules, keep: Keep) -> ClipTransport:
    """Carry every clip's frames into its anchors, a step at a time.

    Args:
        clips: the tokens, C clips of L frames of S tokens at most.
        anchors: (C, S) bool, the keyframe tokens that others are carried to.
        sources: (C, L, S) bool, the tokens that take part. Keyframe tokens among them are absorbed whole before the
            first step, without a time factor.
        rules: how a frame is carried.
        keep: which tokens of a step stay distinct.
    """
    step_shape = clips.token.shape
    shares = clips.features.new_zeros(*step_shape, step_shape[2])
    decay = clips.features.new_ones(*step_shape[:2], step_shape[2])
    gain = torch.zeros_like(decay)
    q = torch.full(step_shape, torch.inf, dtype=widest(shares.device), device=shares.device)
    distinct = torch.zeros_like(sources)
    targets = clips.points(0, anchors)
    v = rules.marginal(clips.importance[:, 0], anchors)
    count = torch.ones_like(decay[:, 0])
    first = 0 if bool(sources[:, 0].any()) else 1
    for step in range(first, step_shape[1]):
        valid = sources[:, step]
        src = clips.points(step, valid)
        u = rules.marginal(clips.importance[:, step], valid)
        factor = time_factor(step, rules.time_scale) if step else 1.0
        plan = frame_plan(src, targets, u, v, rules.cost, rules.solver, factor).plan
        p = rules.solver.shares(plan, u)
        if step:
            q[:, step] = torch.where(valid, p.amax(2).to(q.dtype), torch.inf)
            distinct[:, step] = keep(q[:, step], step) & valid
        shares[:, step] = (p if rules.aggregation != "paper" else plan) * (valid & ~distinct[:, step])[:, :, None]
        moved, decay[:, step], gain[:, step] = absorb(
            targets.features, src.features, shares[:, step], count, rules.scaling
        )
        if rules.aggregation == "counts":
            count = count + rules.scaling * shares[:, step].sum(1)
        targets = Points(moved, torch.linalg.vector_norm(moved, dim=-1), targets.places, anchors)
    return ClipTransport(shares, decay, gain, q, distinct)


def frame_plan(
    sources: Points, anchors: Points, u: Tensor, v: Tensor, cost: Cost, solver: Solver, factor: float
) -> Transport:
    """The transport from a frame's tokens to its clip's anchors, one problem a clip.

    The cost is shifted so that its least entry is 0, then multiplied by the time factor.

    Args:
        sources: S tokens of C clips, their ``valid`` set.
        anchors: A anchors of C clips, their ``valid`` set.
        u: (C, S) float64, mass of each token; 0 in padding.
        v: (C, A) float64, mass of each anchor; 0 in padding.
        cost: of carrying a token to an anchor.
        solver: how the problems are solved.
        factor: the time factor, from 0 to 1.
    """
    assert sources.valid is not None and anchors.valid is not None
    apart = cost.between(sources, anchors)
    padding = ~(sources.valid[:, :, None] & anchors.valid[:, None, :])
    least = apart.masked_fill(padding, torch.inf).amin((1, 2), keepdim=True)
    apart = apart.sub_(least).mul_(factor).masked_fill_(padding, 0)
    largest = None if cost.largest is None else cost.largest * factor
    return solver.solve(apart, u, v, largest=largest)


def absorb(
    anchors: Tensor, sources: Tensor, share: Tensor, count: Tensor, scaling: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """``a_j = (n_j a_j + lambda sum_i p_ij x_i) / (n_j + lambda sum_i p_ij)``.

    Args:
        anchors: (C, A, D) floating, a.
        sources: (C, S, D) floating, x.
        share: (C, S, A), p of the absorbed tokens and 0 of the others.
        count: (C, A), n: tokens that an anchor counts as.
        scaling: lambda, weight of the transported tokens.

    Returns:
        The anchors, and (C, A) each: what is left of an anchor, and what a share of 1 adds to it.
    """
    load = count + scaling * share.sum(1)
    decay, gain = count / load, scaling / load
    return anchors * decay[:, :, None] + torch.bmm(share.mT, sources) * gain[:, :, None], decay, gain


def below_quantile(q: Tensor, ratio: float) -> Tensor:
    """(C, S) bool: q strictly under the ``ratio`` quantile of its row's finite entries (linear, float64)."""
    masked = widened(q).masked_fill(~torch.isfinite(q), torch.nan)
    return masked < masked.nanquantile(ratio, dim=1, keepdim=True)
