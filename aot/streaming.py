"""Streaming: decode, encode and reduce a video run by run, so that memory holds all reduced tokens but few full ones.

A stage gets the shortest runs of frames that give the same result as the full video (:meth:`Stage.runs`): phase I a
frame, phase II a clip. A stage that needs the full video gets all tokens that earlier stages have left.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from .models.base import VideoLLM
from .models.progress import Progress, ignore_progress
from .stages import Stage
from .stages.base import Part
from .tokens.video_tokens import Layout, VideoTokens
from .video.frame_source import FrameSource

TOGETHER = 8
"""Frames that are reduced together if runs are short: enough to use all cores, few enough for memory."""


class Stream:
    """A video's tokens, computed at the first call of :meth:`tokens` and then kept.

    Args:
        model: returns the model that encodes.
        frames: decoded, or a file still to be decoded.
        stages: to run, in order.
        file_pixels: see :meth:`~.models.base.VideoLLM.frame_size`.
        question: what the video is reduced for, where a stage asks; "" says nothing.
    """

    def __init__(
        self,
        model: Callable[[], VideoLLM],
        frames: FrameSource,
        stages: Sequence[Stage] = (),
        *,
        file_pixels: bool = False,
        question: str = "",
    ) -> None:
        self._model, self.frames, self.stages = model, frames, tuple(stages)
        self._file_pixels, self.question = file_pixels, question
        self._tokens: VideoTokens | None = None

    @property
    def device(self) -> torch.device:
        """The device that the tokens are computed on."""
        return self._model().device

    def then(self, *stages: Stage) -> Stream:
        """This stream with more stages at its end; nothing is computed yet."""
        return self._with((*self.stages, *stages), self.question)

    def about(self, question: str) -> Stream:
        """This stream with a question that its stages choose by; nothing is computed yet.

        Args:
            question: the question alone, without instructions around it.
        """
        return self._with(self.stages, question)

    def _with(self, stages: Sequence[Stage], question: str) -> Stream:
        return Stream(self._model, self.frames, stages, file_pixels=self._file_pixels, question=question)

    def tokens(self, on_progress: Progress = ignore_progress) -> VideoTokens:
        """The tokens after all stages, equal to those of ``model.encode`` and the stages in turn.

        Args:
            on_progress: called with (done, total) frames.

        Raises:
            InputError: decoding or a stage fails.
        """
        if self._tokens is None:
            choices = {"file_pixels": self._file_pixels, "question": self.question}
            self._tokens = stream(self._model(), self.frames, self.stages, on_progress, **choices)
        return self._tokens


def stream(
    model: VideoLLM,
    frames: FrameSource,
    stages: Sequence[Stage],
    on_progress: Progress = ignore_progress,
    *,
    file_pixels: bool = False,
    question: str = "",
) -> VideoTokens:
    """Encode and reduce a video run by run.

    Args:
        model: that encodes.
        frames: decoded, or a file still to be decoded (:func:`~.video.video_source.open_video`).
        stages: in order.
        on_progress: called with (done, total) frames.
        file_pixels: see :meth:`~.models.base.VideoLLM.frame_size`.
        question: what the video is reduced for, where a stage asks; "" says nothing.

    Returns:
        The same tokens as ``model.encode`` and the stages in turn; their history has the sums over all runs.
    """
    start = time.perf_counter()
    if frames.steps:  # they see the whole video, and so do stages after them
        tokens = model.encode(frames, on_progress=on_progress, file_pixels=file_pixels)
        tokens = model.about(tokens, question) if question else tokens
        for stage in stages:
            tokens = stage(tokens)
        return tokens
    layout, timestamps = model.layout(frames, file_pixels=file_pixels), model.timestamps(frames)
    steps = [step for stage in stages for step in stage.steps(layout, timestamps)]
    runs = _common_runs([step.runs(layout, timestamps) for step in steps], layout.frames)
    with closing(model.encode_parts(frames, on_progress=on_progress, file_pixels=file_pixels)) as encoded:
        parts: Iterator[VideoTokens] = regroup(encoded, runs)
        if question:
            parts = (model.about(part, question) for part in parts)
        for step in steps:
            parts = _reduced(step, parts, layout, timestamps)
        tokens = VideoTokens.concatenate(list(parts))
    return model.finished(tokens, frames, time.perf_counter() - start, file_pixels=file_pixels)


def regroup(parts: Iterator[VideoTokens], lengths: Sequence[int]) -> Iterator[VideoTokens]:
    """Unreduced tokens in runs of other lengths.

    Args:
        parts: runs of tokens, in order.
        lengths: of the new runs, in frames, with the same sum.
    """
    buffer: list[VideoTokens] = []
    have = 0
    for length in lengths:
        while have < length:
            buffer.append(next(parts))
            have += buffer[-1].layout.frames
        *complete, last = buffer
        have -= length
        here = last.layout.frames - have
        yield VideoTokens.concatenate([*complete, last.cut(0, here)])
        buffer = [last.cut(here, last.layout.frames)] if have else []


def _reduced(stage: Stage, parts: Iterator[VideoTokens], layout: Layout, timestamps: Tensor) -> Iterator[VideoTokens]:
    ends = set(accumulate(stage.runs(layout, timestamps) or (layout.frames,)))
    buffer: list[VideoTokens] = []
    first = done = 0
    for part in parts:
        buffer.append(part)
        done += part.layout.frames
        if done in ends:
            run, buffer = VideoTokens.concatenate(buffer), []
            yield stage(run, Part(first, layout.frames))
            first = done


def _common_runs(runs: Sequence[tuple[int, ...] | None], frames: int) -> tuple[int, ...]:
    """Runs that all of ``runs`` can be made of: short ones are joined, long ones are cut."""
    common = set(range(1, frames + 1)).intersection(*(accumulate(each) for each in runs if each is not None))
    ends, edges = sorted(common), [0]
    while edges[-1] < frames:
        most = edges[-1] + TOGETHER
        end = ends[bisect_right(ends, most) - 1] if ends[0] <= most else 0
        edges.append(end if end > edges[-1] else min(most, frames))
    return tuple(end - start for start, end in pairwise(edges))
