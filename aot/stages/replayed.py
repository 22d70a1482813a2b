"""Stages replayed as a CUDA graph: all that they launch for tokens of one shape, launched at once.

A graph needs tensors that stay in their place, and no wait for the device: tokens are copied in, and results copied
out. Stages that look at the device while they run (a solver with the stop rule of a whole batch, segments by what
frames show) cannot be captured, and run as they are.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..devices import Elapsed, capture, mark, warm_up
from ..tokens.video_tokens import StageRecord, VideoTokens
from .base import Stage

SHAPES = 4
"""Shapes of tokens that are remembered; of more, those used last."""

WARM_UP = 2
"""Reductions of a shape that run as they are before it is captured: libraries and caches set themselves up."""

AGREEMENT = 1e-2
"""How far a replay's features may be from those it repeats, of the largest, to be trusted."""


@dataclass
class _Shape:
    """What is known of tokens of one shape."""

    runs: int = 0
    replay: Replay | None = None
    fails: bool = False


class ReplayedStages:
    """Stages, and their graphs by the shape of the tokens.

    Args:
        stages: in order.
        capture: makes a graph of a function and returns what runs it again, or None where it cannot be captured.
    """

    def __init__(
        self, stages: Sequence[Stage], capture: Callable[[Callable[[], None]], Callable[[], None] | None] | None = None
    ) -> None:
        self._stages, self._capture = tuple(stages), capture or captured
        self._shapes: OrderedDict[Hashable, _Shape] = OrderedDict()

    def __call__(self, tokens: VideoTokens) -> VideoTokens | None:
        """The reduced tokens, from a graph; None where these tokens have none (yet).

        Args:
            tokens: fresh from the encoder.

        Raises:
            InputError: NaN features.
        """
        if tokens.map.factors or tokens.inner:
            return None
        shape = self._shapes.setdefault(_key(tokens), _Shape())
        self._shapes.move_to_end(_key(tokens))
        while len(self._shapes) > SHAPES:
            self._shapes.popitem(last=False)
        if shape.fails:
            return None
        if shape.replay is None:
            shape.runs += 1
            if shape.runs <= WARM_UP:
                return None
            shape.replay = self._made(tokens)
            shape.fails = shape.replay is None
        return None if shape.replay is None else shape.replay(tokens)

    def _made(self, tokens: VideoTokens) -> Replay | None:
        """A replay that repeats what the stages make of these tokens; None where it cannot be captured, or does not."""
        steps = [step for stage in self._stages for step in stage.steps(tokens.layout, tokens.timestamps)]
        replay = Replay.of(steps, tokens, self._capture)
        if replay is None:
            return None
        expected, result = tokens, replay(tokens)
        for step in steps:
            expected = step.reduce(expected)
        if not torch.equal(result.place, expected.place):
            return None
        apart = (result.features.float() - expected.features.float()).abs().max()
        return replay if bool(apart <= AGREEMENT * expected.features.abs().max()) else None


@dataclass(frozen=True)
class Replay:
    """Stages on tokens whose tensors stay in their place.

    Args:
        source: the tokens that others are copied over.
        results: what the stages make of them, one after another.
        records: of the stages, without their times.
        run: runs the stages again.
    """

    source: VideoTokens
    results: Sequence[VideoTokens]
    records: tuple[StageRecord, ...]
    run: Callable[[], None]

    @classmethod
    def of(
        cls,
        steps: Sequence[Stage],
        tokens: VideoTokens,
        capture: Callable[[Callable[[], None]], Callable[[], None] | None],
    ) -> Replay | None:
        """The replay of these stages for tokens of this shape; None where they cannot be captured.

        Args:
            steps: stages that run one after another, none of them a chain of others.
            tokens: fresh from the encoder.
            capture: as :class:`ReplayedStages` takes it.
        """
        source = _copied(tokens)
        results: list[VideoTokens] = []

        def work() -> None:
            now = dataclasses.replace(source)  # a new object, without cached results
            results[:] = [now := step.reduce(now) for step in steps]

        with torch.cuda.device_of(tokens.features):
            run = capture(work)
        if run is None:
            return None
        kept = [tokens.tokens_kept, *(each.tokens_kept for each in results)]
        records = tuple(
            StageRecord(step.name, step.settings(), before, left, 0.0)
            for step, before, left in zip(steps, kept[:-1], kept[1:], strict=True)
        )
        return cls(source, results, records, run)

    def __call__(self, tokens: VideoTokens) -> VideoTokens:
        """What the stages make of tokens of the same shape.

        Args:
            tokens: fresh from the encoder. The time of all stages is in the record of the last.

        Raises:
            InputError: NaN features.
        """
        start = mark(tokens.features)
        tokens.require_finite()
        for place, values in zip(_tensors(self.source), _tensors(tokens), strict=True):
            place.copy_(values)
        self.run()
        reduced = _copied(self.results[-1])
        elapsed = Elapsed(start, mark(tokens.features))
        *earlier, last = self.records
        history = (*tokens.history, *earlier, dataclasses.replace(last, elapsed=elapsed))
        return dataclasses.replace(
            reduced,
            history=history,
            timestamps=tokens.timestamps,
            model=tokens.model,
            shallow=tokens.shallow,
            deep=tokens.deep,
            question=tokens.question,
            given=tokens.given,
        )


def captured(work: Callable[[], None]) -> Callable[[], None] | None:
    """A CUDA graph of a function's work, and what replays it; None where it cannot be captured.

    Args:
        work: launches on the current device, and has run before.
    """
    stream = torch.cuda.Stream()
    try:
        return None if warm_up(work, stream, watched=True) else capture(work, stream).replay
    except RuntimeError:
        return None
    finally:
        torch.cuda.current_stream().wait_stream(stream)


def _key(tokens: VideoTokens) -> Hashable:
    tensors = tuple((tuple(each.shape), each.dtype, each.device) for each in _tensors(tokens))
    kind = tokens.layout, tokens.pooled, tokens.counts, tuple(tokens.timestamps.tolist())
    asked = None if tokens.question is None else tuple(tokens.question.tensors)
    return tensors, tuple(tokens.extras), asked, kind, torch.is_inference_mode_enabled()


def _tensors(tokens: VideoTokens) -> tuple[Tensor, ...]:
    """What a graph reads of tokens fresh from an encoder."""
    own = (tokens.features, tokens.shallow, tokens.deep, tokens.place, tokens.role)
    asked = () if tokens.question is None else tokens.question.tensors.values()
    return (*own, *tokens.levels, *tokens.extras.values(), *asked)


def _copied(value: Any) -> Any:
    """The same with copies of all tensors; of a dataclass, in a tuple or a mapping too."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    if isinstance(value, Mapping):
        return {name: _copied(each) for name, each in value.items()}
    if isinstance(value, StageRecord) or not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    copies = {each.name: _copied(getattr(value, each.name)) for each in dataclasses.fields(value)}
    return dataclasses.replace(value, **copies)
