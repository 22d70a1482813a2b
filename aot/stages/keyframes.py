"""Phase II of AOT: each clip's first frame speaks for the frames behind it.

The keyframe's tokens are anchors. In every following frame, tokens that no anchor clearly explains stay as
they are (distinct); the rest are transported into the anchors, which meet the next frame updated. Clips are
independent, so all of them take each step together; only the steps inside a clip follow each other.

Source: AOT (CVPR 2026), section 3.4, as released by its authors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..budget import tokens_for
from ..clips import fixed_clips
from ..errors import InputError
from ..token_map import pad
from ..tokens import Blocks, Role, VideoTokens, weight_dtype
from ..transport import cosine_similarity, sinkhorn, uniform_marginal
from .base import Reduction, Stage, option

COSINE_LIMIT = 1 - 1e-6
"""Cosines are clamped to this, as released."""

VANISHED = 1e-9
"""Row masses of the plan below this count as this much."""


@dataclass(frozen=True)
class InterFrame(Stage):
    """Keep each clip's keyframe and what is new in the frames behind it; transport the rest into it."""

    name = "inter"
    title = "Inter-Frame Keyframe OT"
    node_id = "AOTInterFrame"
    source = "AOT, CVPR 2026, phase II"

    clip_length: int = option(
        4, "Frames in a clip; its first is the keyframe. The paper uses 4 for 32 frames, 8 for 64.", low=1, high=4096
    )
    keep_ratio: float = option(
        0.3,
        "Share of each following frame's tokens kept as distinct: those the keyframe explains least. "
        "Not used where a retention is given.",
        low=0,
        high=1,
        step=0.05,
    )
    scaling: float = option(
        1.0, "Lambda: weight of the absorbed tokens against the anchor itself.", low=0, high=1e6, step=0.1
    )
    eps: float = option(0.1, "Epsilon: entropic regularisation of the transport.", low=1e-4, high=10, step=0.01)
    time_scale: float = option(
        1.5,
        "Sigma of the time factor 1 - exp(-dt^2 / (2 sigma^2)) on the cost, in frames.",
        low=0.01,
        high=1e4,
        step=0.1,
    )
    max_iterations: int = option(100, "Sinkhorn iterations at most.", low=1, high=10_000)
    retention: float = option(
        0.0,
        "Share of the video's language grid to keep, met to the token: distinct tokens are then ranked over "
        "the whole video. 0 keeps the keep ratio of every frame, as the authors released it.",
        low=0,
        high=1,
        step=0.01,
    )

    def build(self, tokens: VideoTokens) -> Reduction:
        """One block a clip: (keyframe, distinct and updated tokens) x (the clip's tokens)."""
        clips = Clips.cut(tokens, fixed_clips(tokens.layout.frames, self.clip_length))
        if self.retention:
            quota = self._distinct_quota(tokens, clips)
            q = self._absorb(clips, keep_ratio=quota / max(1, clips.candidates)).q
            result = self._absorb(clips, keep=lowest(q, clips.following, quota))
        else:
            result = self._absorb(clips, keep_ratio=self.keep_ratio)
        return clips.emit(result, tokens)

    def _absorb(self, clips: Clips, *, keep_ratio: float = 0.0, keep: Tensor | None = None) -> Absorbed:
        """Walk the clips' frames, all clips together. ``keep`` (C, L, S) overrides the quantile rule."""
        features, valid = clips.features, clips.valid
        anchors, weights = features[:, 0], clips.keyframe_weights()
        kept, qs = torch.zeros_like(valid), torch.full(valid.shape, torch.inf, dtype=torch.float64)
        qs = qs.to(features.device)
        for step in range(1, valid.shape[1]):
            plan = keyframe_plan(
                anchors,
                features[:, step],
                valid[:, 0],
                valid[:, step],
                float(step),
                eps=self.eps,
                time_scale=self.time_scale,
                max_iterations=self.max_iterations,
            )
            share, q = explained(plan)
            distinct = below_quantile(q, valid[:, step], keep_ratio) if keep is None else keep[:, step]
            share = share * (valid[:, step] & ~distinct)[:, :, None]
            anchors, weights = absorb(anchors, weights, features[:, step], clips.columns[:, step], share, self.scaling)
            kept[:, step] = distinct
            qs[:, step] = q.double()
        return Absorbed(weights, kept, qs)

    def _distinct_quota(self, tokens: VideoTokens, clips: Clips) -> int:
        """Distinct tokens that fill the budget beside the keyframes; newlines pass uncounted."""
        layout = tokens.layout
        if layout.newlines:
            raise InputError(
                f"{self.title}: an exact retention is not defined for a model that ends grid rows with newlines; "
                "set retention to 0 and use the keep ratio."
            )
        total = tokens_for(self.retention, layout.frames, layout.language_cells)
        least, most = clips.emitted_anchors, clips.emitted_anchors + clips.candidates
        if not least <= total <= most:
            full = tokens.tokens_full
            raise InputError(
                f"{self.title}: retention {self.retention:g} is {total} tokens, and these clips can give "
                f"{least} to {most}; ask for {least / full:.4f} to {most / full:.4f}, or change what the stage "
                "before it keeps or the clip length."
            )
        return total - least


@dataclass(frozen=True)
class Absorbed:
    """What a walk through the clips decided.

    Args:
        weights: (C, A, N) the updated anchors over their clip's tokens, row-stochastic.
        kept: (C, L, S) bool, the distinct tokens.
        q: (C, L, S) float64, how clearly the best anchor explains a token; infinite where not measured.
    """

    weights: Tensor
    kept: Tensor
    q: Tensor


@dataclass(frozen=True)
class Clips:
    """A video's tokens cut into clips, side by side, padded.

    Args:
        lengths: frames of each clip.
        features: (C, L, S, D): clip, frame in the clip, token in the frame.
        valid: (C, L, S) bool, False in padding.
        columns: (C, L, S) long, a token's place among its clip's tokens; padding points at column 0.
        sizes: tokens of each clip.
    """

    lengths: tuple[int, ...]
    features: Tensor
    valid: Tensor
    columns: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def cut(cls, tokens: VideoTokens, lengths: tuple[int, ...]) -> Clips:
        """Cut tokens on the language grid into clips.

        Raises:
            InputError: tokens that are not ordered by frame any more (another temporal stage ran before).
        """
        counts = tokens.frame_counts
        if bool((tokens.frame.diff() < 0).any()):
            raise InputError(
                "Inter-Frame Keyframe OT needs tokens ordered by frame, and a temporal stage before it has merged "
                "frames already; keep only one temporal stage."
            )
        device, longest, widest = tokens.features.device, max(lengths), max(counts)
        clip = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        step = torch.cat([torch.arange(length) for length in lengths])
        per_frame = torch.zeros(len(lengths), longest, dtype=torch.long)
        per_frame[clip, step] = torch.tensor(counts)
        valid = torch.arange(widest) < per_frame[:, :, None]
        starts = per_frame.cumsum(1) - per_frame
        columns = (starts[:, :, None] + torch.arange(widest)) * valid
        by_frame = pad(tokens.features, counts, widest)
        features = by_frame.new_zeros(len(lengths), longest, widest, by_frame.shape[-1])
        features[clip.to(device), step.to(device)] = by_frame
        empty = ((per_frame[:, 0] == 0) & (per_frame.sum(1) > 0)).nonzero()
        if len(empty):
            raise InputError(
                f"Clip {int(empty[0]) + 1} of {len(lengths)} has no token left in its keyframe; "
                "keep at least one token a frame in the stage before."
            )
        return cls(lengths, features, valid.to(device), columns.to(device), tuple(per_frame.sum(1).tolist()))

    @property
    def following(self) -> Tensor:
        """(C, L, S) bool: the tokens of frames behind a keyframe."""
        return self.valid.index_fill(1, torch.zeros(1, dtype=torch.long, device=self.valid.device), False)

    @property
    def candidates(self) -> int:
        """How many tokens could be distinct."""
        return int(self.following.sum())

    @property
    def repeated(self) -> Tensor:
        """(C,) bool: clips that emit their keyframe's tokens a second time, updated: those of two frames or more."""
        return torch.tensor([length > 1 for length in self.lengths], device=self.valid.device)

    @property
    def emitted_anchors(self) -> int:
        """Tokens emitted whatever is distinct: keyframe tokens, and again as updated anchors."""
        return int((self.valid[:, 0].sum(1) * (1 + self.repeated.long())).sum())

    def keyframe_weights(self) -> Tensor:
        """(C, A, N): the keyframe's tokens as rows over their clip's tokens, one-hot; zero rows in padding."""
        clips, _, widest = self.valid.shape
        weights = torch.zeros(
            clips, widest, max(self.sizes), dtype=weight_dtype(self.features), device=self.features.device
        )
        clip, anchor = self.valid[:, 0].nonzero(as_tuple=True)
        weights[clip, anchor, self.columns[clip, 0, anchor]] = 1
        return weights

    def emit(self, result: Absorbed, tokens: VideoTokens) -> Reduction:
        """Rows in the released order: keyframe tokens, distinct tokens frame by frame, updated anchors."""
        clips, longest, widest = self.valid.shape
        originals = result.kept.clone()
        originals[:, 0] = self.valid[:, 0]
        updated = self.valid[:, 0] & self.repeated[:, None]
        picked = torch.cat((originals.reshape(clips, longest * widest), updated), 1)
        rows = tuple(picked.sum(1).tolist())
        clip, slot = picked.nonzero(as_tuple=True)
        row = (picked.cumsum(1) - 1)[clip, slot]
        is_updated = slot >= longest * widest
        column = torch.cat((self.columns.reshape(clips, -1), self.columns[:, 0]), 1)[clip, slot]

        weights = result.weights.new_zeros(clips, max(rows), max(self.sizes))
        weights[clip[~is_updated], row[~is_updated], column[~is_updated]] = 1
        anchor = slot[is_updated] - longest * widest
        weights[clip[is_updated], row[is_updated]] = result.weights[clip[is_updated], anchor]

        sizes = torch.tensor(self.sizes, device=clip.device)
        origin = ((sizes.cumsum(0) - sizes)[clip] + column).cpu()
        role = torch.full_like(slot, int(Role.DISTINCT), dtype=torch.uint8)
        role[slot < widest] = int(Role.KEYFRAME)
        role[is_updated] = int(Role.MERGED)
        newline = tokens.role[origin] == int(Role.NEWLINE)
        return Reduction(
            factor=Blocks(weights, rows, self.sizes),
            place=tokens.place[origin],
            role=torch.where(newline, int(Role.NEWLINE), role.cpu()).to(torch.uint8),
        )


def keyframe_plan(
    anchors: Tensor,
    sources: Tensor,
    valid_anchors: Tensor,
    valid_sources: Tensor,
    offset: float,
    *,
    eps: float = 0.1,
    time_scale: float = 1.5,
    max_iterations: int = 100,
) -> Tensor:
    """The transport plan from a frame's tokens to its clip's anchors, one problem a clip.

    The cost is ``1 - cos``, shifted so that its least entry is 0, times ``1 - exp(-dt^2 / (2 sigma^2))``.

    Args:
        anchors: (C, A, D); sources: (C, S, D); valid_anchors: (C, A) bool; valid_sources: (C, S) bool.
        offset: dt, frames since the keyframe.

    Returns:
        (C, S, A), total mass 1 each, zero in padding.
    """
    similarity = cosine_similarity(sources, anchors).to(weight_dtype(sources))
    cost = 1 - similarity.clamp(-COSINE_LIMIT, COSINE_LIMIT)
    padding = ~(valid_sources[:, :, None] & valid_anchors[:, None, :])
    cost = cost.masked_fill(padding, torch.inf)
    least = cost.amin((1, 2), keepdim=True)
    factor = -torch.expm1(torch.tensor(-(offset**2) / (2 * time_scale**2 + 1e-9), dtype=torch.float64)).item()
    cost = ((cost - least) * factor).masked_fill(padding, 0)
    u, v = uniform_marginal(valid_sources), uniform_marginal(valid_anchors)
    return sinkhorn(cost, u, v, eps=eps, max_iterations=max_iterations, stop="each").plan


def explained(plan: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a plan as shares p (C, S, A), and q (C, S), the largest share of each row."""
    share = plan / plan.sum(2, keepdim=True).clamp(min=VANISHED)
    return share, share.amax(2)


def below_quantile(q: Tensor, valid: Tensor, ratio: float) -> Tensor:
    """(C, S) bool: q strictly under its ``ratio`` quantile over a row's valid entries (linear, float64)."""
    masked = q.double().masked_fill(~valid, torch.nan)
    threshold = masked.nanquantile(ratio, dim=1, keepdim=True)
    return (masked < threshold) & valid


def lowest(q: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Bool like q with exactly ``count`` True: the candidates of lowest q, earlier ones first among equals."""
    ranked = q.masked_fill(~candidates, torch.inf).flatten().sort(stable=True).indices[:count]
    chosen = torch.zeros(q.numel(), dtype=torch.bool, device=q.device)
    return chosen.index_fill(0, ranked, True).reshape(q.shape)


def absorb(
    anchors: Tensor, weights: Tensor, sources: Tensor, columns: Tensor, share: Tensor, scaling: float = 1.0
) -> tuple[Tensor, Tensor]:
    """``a_j = (a_j + lambda sum_i p_ij x_i) / (1 + lambda sum_i p_ij)``, on features and on weights alike.

    Args:
        anchors: (C, A, D); weights: (C, A, N), the same anchors over their clip's tokens.
        sources: (C, S, D); columns: (C, S), their places among the clip's tokens.
        share: (C, S, A), p of the absorbed tokens and 0 of the others.

    Returns:
        Anchors and weights, updated copies.
    """
    load = 1 + scaling * share.sum(1)[:, :, None]
    features = (anchors + scaling * torch.bmm(share.mT.to(sources.dtype), sources)) / load
    index = columns[:, None, :].expand(-1, weights.shape[1], -1)
    moved = weights.scatter_add(2, index, scaling * share.mT.to(weights))
    return features.to(anchors.dtype), moved / load.to(weights)
