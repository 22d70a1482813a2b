"""A video's visual tokens on their way to the LLM, and the :class:`TokenMap` that leads back to the encoder.

Whatever stages have run, where a token came from is read off W alone; no stage keeps its own bookkeeping.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..devices import counts_on
from ..errors import InputError
from .factors import Blocks, Factor, Scale
from .frame_merge import FrameMerge
from .given import Given
from .layout import Layout, language_places_on, newlines_on, pooling_on
from .matmul import lengths, working_dtype
from .question import Question
from .records import ENCODE, STEPS, Extra, Inside, Role, StageRecord
from .token_map import TokenMap

__all__ = [
    "ENCODE",
    "STEPS",
    "Blocks",
    "Extra",
    "Given",
    "Inside",
    "Layout",
    "Question",
    "Role",
    "StageRecord",
    "TokenMap",
    "VideoTokens",
    "weight_dtype",
]


@dataclass(frozen=True, repr=False)
class VideoTokens:
    """A video's visual tokens on their way to the LLM. Immutable: every stage returns a new one.

    Args:
        features: (K, D) floating, in the order the LLM will read (the encoder's order while ``pooled`` is
            False and pooling is pending).
        map: the W that leads from the K tokens back to the encoder's T x (cells + newlines) source tokens.
        place: (K, 3) long: frame, y and x, on the encoder grid until ``pooled``, then on the language grid.
        role: (K,) uint8 of :class:`Role`.
        layout: the grids and how they join.
        pooled: whether the tokens are on the language grid yet.
        shallow: (T, N) float32 attention received at AOT's shallow layer, on the encoder grid.
        deep: (T, N) float32 attention received at AOT's deep layer, on the encoder grid.
        timestamps: (T,) float64 seconds.
        model: name of the model that encoded them.
        history: one record a stage, the encoder's first.
        levels: (K, D) each, features of further depths that the same W reduces (Qwen3-VL's deepstack).
        extras: what else the encoder saw, by the names in :class:`Extra`, (T, ...) each; gone once tokens are reduced.
        kept: the tokens that the LLM will read, newlines not counted; None where nobody has counted them.
        counts: (T,) tokens of each frame, newlines among them, of tokens that are ordered by frame; None where nobody
            has counted them, or the order is another.
        question: what the tokens are reduced for, where a stage asks; None where nobody has said.
        given: the frames that the encoded ones were chosen of; None where all frames were encoded as they were.
        inner: the stages that act inside the LLM when it reads these tokens, in order; no other stage follows them.

    Places and roles are on the device of the features.
    """

    features: Tensor
    map: TokenMap
    place: Tensor
    role: Tensor
    layout: Layout
    pooled: bool
    shallow: Tensor
    deep: Tensor
    timestamps: Tensor
    model: str = ""
    history: tuple[StageRecord, ...] = field(default=())
    levels: tuple[Tensor, ...] = field(default=())
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    kept: int | None = None
    counts: tuple[int, ...] | None = None
    question: Question | None = None
    given: Given | None = None
    inner: tuple[Inside, ...] = ()

    def __post_init__(self) -> None:
        layout, kept = self.layout, self.map.kept
        shapes = {
            "features": (self.features, (kept, self.features.shape[-1])),
            "place": (self.place, (kept, 3)),
            "role": (self.role, (kept,)),
            "shallow": (self.shallow, (layout.frames, layout.cells)),
            "deep": (self.deep, (layout.frames, layout.cells)),
            "timestamps": (self.timestamps, (layout.frames,)),
            **{f"level {i}": (level, (kept, level.shape[-1])) for i, level in enumerate(self.levels)},
            **{name: (extra, (layout.frames, *extra.shape[1:])) for name, extra in self.extras.items()},
            **_question_shapes(self.question, layout, self.features.shape[-1]),
        }
        for name, (tensor, shape) in shapes.items():
            if tuple(tensor.shape) != shape:
                raise InputError(
                    f"Video tokens whose {name} has shape {tuple(tensor.shape)} where {shape} is needed; "
                    "the token map, the grid and the tensors must describe the same tokens."
                )
        if self.map.source != layout.frames * layout.sources:
            raise InputError(
                f"A token map over {self.map.source} source tokens does not fit {layout.frames} frames of "
                f"{layout.sources}; use the map that was made for this video."
            )

    def __repr__(self) -> str:
        done = " + ".join(record.name for record in self.history) or "no history"
        return (
            f"VideoTokens({self.tokens_kept} of {self.tokens_full} tokens of {self.layout.frames} frames, "
            f"{self.features.shape[1]} wide, {str(self.features.dtype).removeprefix('torch.')}, "
            f"{self.features.device}; {done})"
        )

    @classmethod
    def encoded(
        cls,
        features: Tensor,
        layout: Layout,
        shallow: Tensor,
        deep: Tensor,
        timestamps: Tensor,
        *,
        newline: Tensor | None = None,
        model: str = "",
        history: tuple[StageRecord, ...] = (),
        levels: tuple[Tensor, ...] = (),
        extras: Mapping[str, Tensor] = MappingProxyType({}),
        merge: FrameMerge | None = None,
    ) -> VideoTokens:
        """Tokens fresh from an encoder, nothing reduced after it, pooling pending.

        Args:
            features: (T, N, D) floating, projected to the LLM's width.
            layout: the grids and how they join.
            shallow: (T, N) float32, attention received at AOT's shallow layer.
            deep: (T, N) float32, attention received at AOT's deep layer.
            timestamps: (T,) float64 seconds.
            newline: (D,) floating, needed where ``layout.newline`` is "grid".
            model: name of the model that encoded them.
            history: the encoder's record.
            levels: (T, N, D) each; only where there is neither pooling nor a newline a grid row.
            extras: (T, ...) each, what else the encoder saw, by the names in :class:`Extra`.
            merge: of whole frames inside the encoder; features and levels then are of the T' frames that are left.
        """
        merge = None if merge is None or merge.left == merge.frames else merge
        frames, height, width = layout.frames if merge is None else merge.left, *layout.grid
        cells = torch.cartesian_prod(torch.arange(height), torch.arange(width)).reshape(-1, 2)
        role = torch.full((layout.sources,), int(Role.KEPT), dtype=torch.uint8)
        if layout.newlines:
            if newline is None:
                raise InputError("A layout with a newline per grid row needs the newline embedding; pass newline=.")
            ends = newline.to(features).expand(frames, layout.newlines, -1)
            features = torch.cat((features, ends), 1)
            rows = torch.arange(layout.newlines)
            cells = torch.cat((cells, torch.stack((rows, torch.full_like(rows, width)), 1)))
            role[layout.cells :] = int(Role.NEWLINE)
        at = torch.arange(frames) if merge is None else torch.from_numpy(merge.place)
        frame = at.repeat_interleave(layout.sources)
        token_map = TokenMap(layout.frames * layout.sources)
        counts = (layout.sources,) * frames
        if merge is not None:
            factor = merge.factor(layout.sources, weight_dtype(features), features.device)
            token_map = TokenMap(token_map.source, (factor,), not merge.mixes)
            counts = tuple(torch.bincount(frame, minlength=layout.frames).tolist())
        return cls(
            features=features.reshape(frames * layout.sources, -1),
            map=token_map,
            place=torch.cat((frame[:, None], cells.repeat(frames, 1)), 1).to(features.device),
            role=role.repeat(frames).to(features.device),
            layout=layout,
            pooled=False,
            shallow=shallow,
            deep=deep,
            timestamps=timestamps,
            model=model,
            history=history,
            levels=tuple(level.reshape(frames * layout.sources, -1) for level in levels),
            extras=extras,
            counts=counts,
        )

    @property
    def frame(self) -> Tensor:
        """(K,) long: each token's frame."""
        return self.place[:, 0]

    @cached_property
    def frame_counts(self) -> tuple[int, ...]:
        """Tokens of each frame, newlines included."""
        if self.counts is not None:
            return self.counts
        return tuple(torch.bincount(self.frame, minlength=self.layout.frames).tolist())

    @property
    def frames_shown(self) -> int:
        """Frames of the video that were encoded: the layout's, or more where the encoder takes several as one."""
        encoded = next((record for record in self.history if record.name == ENCODE), None)
        return int(encoded.settings.get("frames", self.layout.frames)) if encoded else self.layout.frames

    @property
    def tokens_full(self) -> int:
        """Language-grid tokens of the whole video, newlines not counted: of all frames, where some were chosen."""
        return self.tokens_encoded if self.given is None else self.given.tokens

    @property
    def tokens_encoded(self) -> int:
        """Language-grid tokens of the frames that were encoded, newlines not counted."""
        return self.layout.frames * self.layout.language_cells

    @cached_property
    def tokens_kept(self) -> int:
        """Tokens the LLM will read, newlines not counted."""
        if not self.pooled:
            return len(self.role) // self.layout.sources * self.layout.language_cells
        if not self.layout.newlines:
            return len(self.role)
        return self.kept if self.kept is not None else int((self.role != int(Role.NEWLINE)).sum())

    @property
    def retention(self) -> float:
        """Kept tokens over language-grid tokens, newlines not counted."""
        return self.tokens_kept / self.tokens_full

    @property
    def is_full_grid(self) -> bool:
        """Whether these are known to be all pooled tokens in reading order, as :meth:`to_language_grid` makes them."""
        return self.pooled and self.place is language_places_on(self.layout, self.features.device)

    def to_language_grid(self) -> VideoTokens:
        """These tokens with the pending pooling done; itself where it is done already."""
        if self.pooled:
            return self
        layout, device = self.layout, self.features.device
        frames = len(self.features) // layout.sources
        weights = pooling_on(layout, device, weight_dtype(self.features))
        factor = Blocks(weights[None], (len(weights),) * frames, (layout.sources,) * frames)
        features, *levels = (self._pool(values) for values in (self.features, *self.levels))
        here = dataclasses.replace(layout, frames=frames)
        place, counts = language_places_on(here, device), (len(weights),) * frames
        if self.frames_left is not None:
            place = self._placed(place)
            counts = tuple(len(weights) if count else 0 for count in self.frame_counts)
        return self.reduced(
            factor,
            place,
            language_roles_on(here, device),
            known=(features, tuple(levels)),
            kept=self.tokens_kept,
            counts=counts,
        )

    @property
    def is_exact(self) -> bool:
        """Whether W times the tokens of all frames that were given are these; if not, it says what they stand for."""
        return self.map.exact and (self.given is None or self.given.exact)

    @property
    def frames_left(self) -> tuple[int, ...] | None:
        """The frames at which tokens are, where frames were merged inside the encoder and no stage ran after it."""
        if self.pooled or not self.map.factors:
            return None
        return tuple(frame for frame, count in enumerate(self.frame_counts) if count)

    def as_video(self) -> VideoTokens:
        """The frames that are left as a video of their own, fresh from an encoder, for a stage to reduce."""
        left = self.frames_left or ()
        layout = dataclasses.replace(self.layout, frames=len(left))
        index = counts_on(left, self.features.device)
        number = torch.arange(len(left), device=index.device).repeat_interleave(layout.sources)
        shallow, deep = (each.index_select(0, index.to(each.device)) for each in (self.shallow, self.deep))
        return dataclasses.replace(
            self,
            map=TokenMap(len(self.features)),
            place=torch.cat((number[:, None], self.place[:, 1:]), 1),
            layout=layout,
            shallow=shallow,
            deep=deep,
            timestamps=self.timestamps[list(left)],
            extras={name: extra.index_select(0, index.to(extra.device)) for name, extra in self.extras.items()},
            counts=(layout.sources,) * len(left),
            question=None if self.question is None else self.question.pick(left),
            given=None,
        )

    def reduced_as(self, video: VideoTokens) -> VideoTokens:
        """What a stage made of :meth:`as_video`, as tokens of this video.

        Args:
            video: those tokens.
        """
        counts = video.counts
        if counts is not None:
            of_left = dict(zip(self.frames_left or (), counts, strict=True))
            counts = tuple(of_left.get(frame, 0) for frame in range(self.layout.frames))
        return dataclasses.replace(
            video,
            map=self.map.then(video.map),
            place=self._placed(video.place),
            layout=self.layout,
            shallow=self.shallow,
            deep=self.deep,
            timestamps=self.timestamps,
            extras={},
            history=self.history,
            counts=counts,
            question=self.question,
            given=self.given,
        )

    def _placed(self, place: Tensor) -> Tensor:
        """(K, 3) places among the frames left as places in the video."""
        frame = counts_on(self.frames_left or (), place.device)[place[:, 0]]
        return torch.cat((frame[:, None], place[:, 1:]), 1)

    def over_given(self) -> VideoTokens:
        """These tokens on the grid of all frames that the encoded ones were chosen of, pooled; else as they are.

        W then leads back to all frames, and those that were not chosen have no weight. It only says what tokens stand
        for where :attr:`is_exact` is False.
        """
        given, layout = self.given, self.layout
        if given is None:
            return self
        tokens = self.to_language_grid()
        weights = given.weights(layout, self.features.new_zeros((), dtype=weight_dtype(self.features)))
        shown = {"frames": given.frames}
        history = (
            dataclasses.replace(each, settings={**each.settings, **shown}) if each.name == ENCODE else each
            for each in tokens.history
        )

        def spread(attention: Tensor) -> Tensor:
            padded = functional.pad(attention, (0, layout.newlines)).flatten().to(weights.device)
            cells = weights.adjoint(padded).reshape(given.layout.frames, -1)[:, : given.layout.cells]
            return cells.to(attention.device)

        return dataclasses.replace(
            tokens,
            map=TokenMap(weights.source, (weights, *tokens.map.factors), self.is_exact),
            place=given.places(tokens.place, layout),
            layout=given.layout,
            shallow=spread(tokens.shallow),
            deep=spread(tokens.deep),
            timestamps=given.timestamps,
            history=tuple(history),
            extras=MappingProxyType({}),
            counts=None,
            given=None,
        )

    def on(self, frames: int) -> VideoTokens:
        """These tokens, to be drawn on this many frames: over all that were given where it is so many.

        Args:
            frames: that they are drawn on.
        """
        all_of_them = self.given is not None and frames == self.given.frames != self.frames_shown
        return self.over_given() if all_of_them else self

    def _pool(self, values: Tensor) -> Tensor:
        """(K, D) of fresh tokens, or of their levels, pooled; each grid row ended by its newline."""
        layout = self.layout
        by_frame = values.reshape(-1, layout.sources, values.shape[1])
        pooled = layout.pool(by_frame[:, : layout.cells])
        if layout.newlines:
            rows_of = pooled.reshape(-1, *layout.language_grid, pooled.shape[-1])
            pooled = torch.cat((rows_of, by_frame[:, layout.cells :, None]), 2)
        return pooled.reshape(-1, pooled.shape[-1])

    def reduced(
        self,
        factor: Factor,
        place: Tensor,
        role: Tensor,
        *,
        scale: Tensor | None = None,
        known: tuple[Tensor, tuple[Tensor, ...]] | None = None,
        kept: int | None = None,
        counts: tuple[int, ...] | None = None,
    ) -> VideoTokens:
        """The tokens ``factor`` makes of these, on the language grid.

        Args:
            factor: the stage's W, (kept x tokens).
            place: (kept, 3) long, frame, y and x.
            role: (kept,) uint8 of :class:`Role`.
            scale: (kept,) floating, what the tokens are multiplied with beside W; None where they are means.
            known: their features and levels, where nothing but pooling happened; the extras then stay.
            kept: tokens without newlines, where that is known.
            counts: tokens of each frame, where they are known and the tokens are ordered by frame.
        """
        extras = MappingProxyType({}) if known is None else self.extras
        factors = (factor,) if scale is None else (factor, Scale(scale))
        reduction = TokenMap(factor.source, factors)
        if known is None:
            known = reduction.apply(self.features), tuple(reduction.apply(level) for level in self.levels)
        features, levels = known
        return dataclasses.replace(
            self,
            features=features,
            levels=levels,
            map=self.map.then(reduction),
            place=place,
            role=role,
            pooled=True,
            extras=extras,
            kept=kept,
            counts=counts,
        )

    def cut(self, first: int, last: int) -> VideoTokens:
        """Frames ``first`` up to ``last`` of tokens that nothing has reduced yet.

        Raises:
            InputError: they have been.
        """
        layout = self.layout
        if self.map.factors:
            raise InputError("Only tokens fresh from the encoder can be cut by frames; cut before the first stage.")
        if (first, last) == (0, layout.frames):
            return self
        rows, frames = slice(first * layout.sources, last * layout.sources), slice(first, last)
        share = (last - first) / layout.frames
        return dataclasses.replace(
            self,
            features=self.features[rows],
            levels=tuple(level[rows] for level in self.levels),
            map=TokenMap((last - first) * layout.sources),
            place=self.place[rows] - self.place.new_tensor([first, 0, 0]),
            role=self.role[rows],
            layout=dataclasses.replace(layout, frames=last - first),
            shallow=self.shallow[frames],
            deep=self.deep[frames],
            extras={name: extra[frames] for name, extra in self.extras.items()},
            timestamps=self.timestamps[frames],
            history=tuple(record.share(share) for record in self.history),
            counts=None if self.counts is None else self.counts[frames],
            question=None if self.question is None else self.question.cut(first, last),
            given=None if self.given is None else dataclasses.replace(self.given, of=self.given.of[frames]),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[VideoTokens]) -> VideoTokens:
        """Runs of frames that follow each other in one video, reduced by the same stages, as one.

        Histories are merged line by line: tokens and milliseconds add up, settings are the first run's.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        start, places = 0, []
        for part in parts:
            places.append(part.place + part.place.new_tensor([start, 0, 0]))
            start += part.layout.frames
        joined = ("features", "role", "shallow", "deep", "timestamps")
        kept, counts = [part.kept for part in parts], [part.counts for part in parts]
        questions = [part.question for part in parts if part.question is not None]
        return dataclasses.replace(
            first,
            map=TokenMap.concatenate([part.map for part in parts]),
            levels=tuple(torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)),
            place=torch.cat(places),
            layout=dataclasses.replace(first.layout, frames=start),
            extras={name: torch.cat([part.extras[name] for part in parts]) for name in first.extras},
            history=tuple(StageRecord.sum(lines) for lines in zip(*(part.history for part in parts), strict=True)),
            kept=None if None in kept else sum(filter(None, kept)),
            counts=None if None in counts else sum((each for each in counts if each is not None), ()),
            question=Question.concatenate(questions) if len(questions) == len(parts) else None,
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in joined},
        )

    @cached_property
    def importance(self) -> Tensor:
        """(K,) deep attention as W carries it to these tokens, in W's dtype; a newline counts as its frame's mean."""
        layout = self.layout
        deep = self.deep.to(self.features.device, weight_dtype(self.features))
        if layout.newlines:
            deep = torch.cat((deep, deep.mean(1, keepdim=True).expand(-1, layout.newlines)), 1)
        return self.map.means.apply(deep.flatten())

    @cached_property
    def lengths(self) -> Tensor:
        """(K,) Euclidean length of every token's features, in W's dtype; not finite where a feature is not."""
        return lengths(self.features)

    def require_finite(self) -> None:
        """Refuse features and attention that hold NaN or infinity: nothing downstream could make sense of them."""
        if math.isfinite(float(self.lengths.sum() + (self.shallow.sum() + self.deep.sum()).to(self.lengths))):
            return
        if not bool(torch.isfinite(self.shallow).all() and torch.isfinite(self.deep).all()):
            raise InputError("The attention received holds NaN or infinity; encode the video again, in float32.")
        bad = int((~torch.isfinite(self.lengths)).sum())
        if bad:
            raise InputError(
                f"{bad} of {len(self.features)} tokens hold NaN or infinite features; "
                "encode the video again, in float32 or bfloat16 if it was float16."
            )


def _question_shapes(question: Question | None, layout: Layout, width: int) -> dict[str, tuple[Tensor, Any]]:
    """The tensors of a question and the shapes they must have, for tokens ``width`` wide."""
    if question is None:
        return {}
    words, frames = question.words, layout.frames
    return {
        "question": (words, (len(words), width)),
        **{f"question in {name}": (each, (frames, layout.cells)) for name, each in question.places.items()},
        **{f"question in {name}": (each, (frames,)) for name, each in question.frames.items()},
    }


@lru_cache(maxsize=16)
def language_roles_on(layout: Layout, device: torch.device) -> Tensor:
    """(T L,) uint8 of :class:`Role` of all pooled tokens, newlines among them. Shared: not to be changed.

    Args:
        layout: of the tokens.
        device: of the result.
    """
    newline = newlines_on(layout, device)
    return torch.where(newline, int(Role.NEWLINE), int(Role.KEPT)).to(torch.uint8).repeat(layout.frames)


def weight_dtype(features: Tensor) -> torch.dtype:
    """The dtype W is computed and kept in: float64 for float64 features, float32 for all others."""
    return working_dtype(features.dtype)
