"""From frames to visual tokens: the part of an adapter that runs the vision encoder, pass by pass."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import psutil
import torch
from torch import Tensor

from ..devices import synchronise
from ..errors import InputError
from ..memory import free_bytes
from ..tokens.frame_merge import FrameMerge, TowerStep
from ..tokens.video_tokens import ENCODE, STEPS, Extra, Layout, StageRecord, VideoTokens
from ..video.frame_source import FrameFacts, FrameSource
from ..video.frames import Frames
from .adapter import Adapter
from .chosen import as_chosen, smaller_grid
from .file_time import clock_settings, with_file_seconds
from .inside import Blocks, inside
from .passes import CAUTION, FRAMES_AT_ONCE, LONGEST_PASS, Pixels, frame_bytes, frames_a_pass, passes, whole_parts
from .pixels import normalise, pixel_change, resize, upload
from .progress import Progress, ignore_progress


@dataclass(frozen=True)
class TowerOutput:
    """The outputs of a vision tower for a few frames.

    Args:
        image_features: (T, N, D) floating, projected to the LLM's width.
        shallow: (T, N) float32, attention received at the shallow layer.
        deep: (T, N) float32, attention received at the deep layer.
        levels: (T, N, D) each, image features of further depths.
        extras: further outputs, by the names in :class:`~..tokens.video_tokens.Extra`.
        merge: of whole frames inside the tower; the features are of the frames that are left, all others of all T.
        records: of the steps that merged them.
    """

    image_features: Tensor
    shallow: Tensor
    deep: Tensor
    levels: tuple[Tensor, ...] = ()
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    merge: FrameMerge | None = None
    records: tuple[StageRecord, ...] = ()


FILE_PIXELS = "file_pixels"
"""The name of that choice among the settings of the encoder's record; absent where there is none."""


def steps_settings(frames: FrameSource) -> list[list[Any]]:
    """What is to happen to frames inside the tower, JSON-ready, for the encoder's record and for keys of encodings.

    Args:
        frames: to be encoded.
    """
    return [[step.name, step.settings()] for step in frames.steps]


def _tower_steps(frames: FrameSource) -> Sequence[TowerStep]:
    """The steps that frames carry; frames only know what keys of them are made of."""
    return cast(Sequence[TowerStep], frames.steps)


class FrameEncoder(Adapter):
    """Turns frames into visual tokens. A family says how large its frames are, and runs its tower."""

    @abstractmethod
    def frame_size(self, frames: FrameFacts, *, file_pixels: bool = False) -> tuple[int, int]:
        """(h, w), in pixels, that these frames are resized to.

        Args:
            frames: decoded, or a file still to be decoded.
            file_pixels: keep the file's own pixels, as far as the model's processor allows, where its makers make
                frames smaller. It has no effect on a family whose frames are all of one size.
        """

    @property
    def tile(self) -> tuple[int, int] | None:
        """(h, w), in pixels, of the smallest frame that the tower takes; None where all frames are of one size."""
        return None

    def preprocess(self, frames: Frames, size: tuple[int, int] | None = None, *, file_pixels: bool = False) -> Tensor:
        """Resize and normalise frames for the vision tower.

        Args:
            frames: (T, H, W, 3) uint8.
            size: (h, w), in pixels; None takes that of :meth:`frame_size`.
            file_pixels: see :meth:`frame_size`.

        Returns:
            Pixel values, (T, 3, h, w) float32, on the model's device if that is CUDA, else on the CPU.
        """
        size = size or self.frame_size(frames, file_pixels=file_pixels)
        return normalise(self.resize(frames.pixels, size), self._mean, self._std)

    def resize(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize frames as the original does, here as the stock video processors do on the same device.

        Args:
            pixels: (T, H, W, 3) uint8.
            size: (h, w), in pixels.

        Returns:
            (T, 3, h, w), levels 0 to 255, on the model's device if that is CUDA, else on the CPU.
        """
        return resize(upload(pixels, self.device), size)

    def layout(self, frames: FrameFacts, *, file_pixels: bool = False) -> Layout:
        """The layout of these frames' tokens.

        Args:
            frames: decoded, or a file still to be decoded.
            file_pixels: see :meth:`frame_size`.
        """
        size, smaller = self.size_of(frames, file_pixels=file_pixels)
        return replace(self.layout_of(frames.count, size), smaller=smaller)

    def size_of(
        self, frames: FrameFacts, *, file_pixels: bool = False
    ) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """The size that frames are resized to, and that of their language grid where a stage makes it smaller.

        A tower that takes frames of any size is given smaller ones. Of any other the language grid becomes smaller.

        Args:
            frames: decoded, or a file still to be decoded.
            file_pixels: see :meth:`frame_size`.

        Returns:
            (h, w), in pixels; (h, w) of the language grid, or None for the model's own.

        Raises:
            InputError: the frames are to be smaller than a token a frame, or larger than they are.
        """
        size = self.frame_size(frames, file_pixels=file_pixels)
        shrink = frames.choice.shrink if frames.choice else None
        if shrink is None:
            return size, None
        tile, layout = self.tile, self.layout_of(shrink.frames, size)
        grid = smaller_grid(layout, shrink)
        if tile is None:
            return size, grid
        return (grid[0] * tile[0], grid[1] * tile[1]), None

    @abstractmethod
    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """The layout of the tokens of ``frames`` frames, ``size`` (h, w) pixels each."""

    def timestamps(self, frames: FrameFacts) -> Tensor:
        """(T,) float64, the times of the layout's frames in seconds."""
        return frames.timestamps

    @abstractmethod
    def run_tower(self, pixel_values: Tensor, layout: Layout) -> TowerOutput:
        """Run tower and projector, and collect the importance of their tokens.

        Inside :func:`.inside.inside`, what it returns is of the frames that were left where each was computed; image
        features may have others after them, which mean nothing.

        Args:
            pixel_values: (T, 3, h, w) float32, from :meth:`preprocess`.
            layout: of their tokens.
        """

    @property
    def blocks(self) -> Blocks | None:
        """The tower's blocks, where whole frames can be merged between them; None elsewhere."""
        return None

    def attention_of_cells(self, received: Tensor, layout: Layout) -> Tensor:
        """Attention received by the tower's own tokens, summed over those of each cell. Of towers with :attr:`blocks`.

        Args:
            received: (T, S) float32.
            layout: of the grid; its number of frames does not matter.

        Returns:
            (T, N) float32.
        """
        raise NotImplementedError

    @torch.no_grad()
    def encode_parts(
        self,
        frames: FrameSource,
        *,
        on_progress: Progress = ignore_progress,
        frames_at_once: int | None = None,
        file_pixels: bool = False,
    ) -> Generator[VideoTokens, None, None]:
        """Encode frames pass by pass, in order: image features with their importance, not pooled yet.

        A pass that a CUDA device has too little memory for is made again in halves. Passes after it, and after one that
        took long, are smaller.

        Args:
            frames: decoded, or a file still to be decoded.
            on_progress: called with (done, total) frames, several times a pass.
            frames_at_once: in a pass, rounded down to a multiple of four; None takes four on a CPU, and as many as
                memory allows on CUDA.
            file_pixels: see :meth:`frame_size`.
        """
        size, smaller = self.size_of(frames, file_pixels=file_pixels)
        if frames.steps:
            self._require_steps_can_run(frames, size)
            frames_at_once = frames.count + -frames.count % FRAMES_AT_ONCE
        elif frames_at_once is None:
            frames_at_once = frames_a_pass(self.tower.config, size, self.language.hidden, self.dtype, self.device)
        at_once = whole_parts(frames_at_once)
        settings = {"model": self.name, "frames": frames.count, "source": frames.source, **clock_settings(frames)}
        if self.any_size:
            settings[FILE_PIXELS] = file_pixels
        if frames.steps:
            settings[STEPS] = steps_settings(frames)
        timestamps, done = self.timestamps(frames), 0
        prepare = partial(self.preprocess, size=size, file_pixels=file_pixels)
        with closing(passes(frames, prepare, self.device, at_once, on_progress)) as batches:
            for layout, output, seconds in self._outputs(batches, size, smaller, at_once, on_progress, frames):
                tokens = layout.frames * layout.language_cells
                spent = sum(record.milliseconds for record in output.records)
                record = StageRecord(ENCODE, settings, tokens, tokens, seconds * 1e3 - spent)
                times = timestamps[done : done + layout.frames]
                yield self.video_tokens(output, layout, times, (record, *output.records))
                done += layout.frames
        on_progress(frames.count, frames.count)

    def video_tokens(
        self, output: TowerOutput, layout: Layout, timestamps: Tensor, history: tuple[StageRecord, ...] = ()
    ) -> VideoTokens:
        """The tower's outputs as tokens, not pooled yet.

        Args:
            output: of :meth:`run_tower`.
            layout: of these tokens.
            timestamps: (T,) float64, in seconds.
            history: the encoder's record, and those of what ran inside the tower.
        """
        return VideoTokens.encoded(
            output.image_features,
            layout,
            output.shallow,
            output.deep,
            timestamps,
            newline=self.hf_model.model.image_newline if layout.newlines else None,
            model=self.name,
            history=history,
            levels=output.levels,
            extras=output.extras,
            merge=output.merge,
        )

    def _outputs(
        self,
        batches: Iterator[Pixels],
        size: tuple[int, int],
        smaller: tuple[int, int] | None,
        at_once: int,
        on_progress: Progress,
        frames: FrameSource,
    ) -> Iterator[tuple[Layout, TowerOutput, float]]:
        """The tower's outputs with their layouts and seconds, for ``at_once`` frames until those are too many."""
        done, total = 0, frames.count
        before: Tensor | None = None
        for batch in batches:
            first = 0
            while first < len(batch.values):
                if first:
                    on_progress(done + first, total)
                pixel_values = batch.values[first : first + at_once]
                layout = replace(self.layout_of(len(pixel_values), size), smaller=smaller)
                start = time.perf_counter()
                if frames.steps:
                    output = self._run_with_steps(pixel_values, layout, frames, on_progress)
                else:
                    output = self._run_if_it_fits(pixel_values, layout)
                if output is None:
                    at_once = whole_parts(len(pixel_values) // 2)
                    continue
                seconds = time.perf_counter() - start
                if seconds > LONGEST_PASS:
                    at_once = whole_parts(len(pixel_values) // 2)
                output, before = self._with_pixel_change(output, pixel_values, layout, before)
                yield layout, output, seconds + batch.seconds * len(pixel_values) / len(batch.values)
                first += len(pixel_values)
            done += first

    def _run_if_it_fits(self, pixel_values: Tensor, layout: Layout) -> TowerOutput | None:
        """The tower's output, complete; None if a CUDA device has too little memory for more than a few frames."""
        try:
            output = self.run_tower(pixel_values, layout)
        except torch.cuda.OutOfMemoryError:
            if len(pixel_values) <= FRAMES_AT_ONCE:
                raise
            return None
        synchronise(output.image_features)
        return output

    def _with_pixel_change(
        self, output: TowerOutput, pixel_values: Tensor, layout: Layout, before: Tensor | None
    ) -> tuple[TowerOutput, Tensor]:
        """The output with the change of its cells' pixels, and the picture that the next pass compares with."""
        change = pixel_change(pixel_values, layout, before, std=self._std)  # the mean is in both of a pair
        extras = {**output.extras, Extra.PIXELS: change.to(self.device)}
        together = -(-len(pixel_values) // layout.frames)
        return replace(output, extras=extras), pixel_values[(layout.frames - 1) * together].clone()

    def _run_with_steps(
        self, pixel_values: Tensor, layout: Layout, frames: FrameSource, on_progress: Progress
    ) -> TowerOutput:
        """The output of a tower in which steps merge frames, with what is known of frames spread over all of them."""
        steps, blocks = _tower_steps(frames), self.blocks
        assert blocks is not None
        count = len(pixel_values)

        def on_block(block: int) -> None:
            on_progress(min(count - 1, count * (block + 1) // len(blocks.modules)), count)

        with inside(steps, blocks, layout.frames, on_block) as done:
            output = self.run_tower(pixel_values, layout)
        synchronise(output.image_features)
        extras = {**output.extras, **done.notes}
        if done.attention is not None:
            extras[Extra.TOWER] = self.attention_of_cells(done.attention, layout)
        return replace(
            output,
            image_features=output.image_features[: done.left],
            shallow=done.spread(output.shallow),
            deep=done.spread(output.deep),
            levels=tuple(done.of_left(level) for level in output.levels),
            extras={name: done.spread(extra) for name, extra in extras.items()},
            merge=done.merge,
            records=done.records(steps, layout.language_cells),
        )

    def _require_steps_can_run(self, frames: FrameSource, size: tuple[int, int]) -> None:
        """Refuse steps inside a tower that has no place for them, or that all frames do not fit into at once."""
        title = _tower_steps(frames)[0].title
        if self.blocks is None:
            raise InputError(
                f"{title} merges frames inside the vision tower, and that of {self.name} ({self.family}) needs all of "
                "them after it; leave the stage out, or use a model of another family: all allow it but Gemma 4, "
                "MiniCPM-V and Molmo2."
            )
        need = frames.count * frame_bytes(self.tower.config, size, self.language.hidden, self.dtype) // CAUTION
        free = free_bytes(self.device) if self.device.type == "cuda" else psutil.virtual_memory().available
        if need > free:
            raise InputError(
                f"{title} sees all {frames.count} frames in one pass of the tower, which takes about "
                f"{need / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free on {self.device}; take at most "
                f"{max(1, int(frames.count * free / need))} frames, or leave the stage out."
            )

    def encode(
        self,
        frames: FrameSource,
        *,
        on_progress: Progress = ignore_progress,
        frames_at_once: int | None = None,
        file_pixels: bool = False,
    ) -> VideoTokens:
        """Encode all frames: image features with their importance, not pooled yet.

        Args:
            frames: decoded, or a file still to be decoded.
            on_progress: see :meth:`encode_parts`.
            frames_at_once: see :meth:`encode_parts`.
            file_pixels: see :meth:`frame_size`.
        """
        start = time.perf_counter()
        parts = self.encode_parts(
            frames, on_progress=on_progress, frames_at_once=frames_at_once, file_pixels=file_pixels
        )
        tokens = VideoTokens.concatenate(list(parts))
        return self.finished(tokens, frames, time.perf_counter() - start, file_pixels=file_pixels)

    def finished(
        self, tokens: VideoTokens, frames: FrameSource, seconds: float, *, file_pixels: bool = False
    ) -> VideoTokens:
        """Tokens that know what their file took, and what their frames were chosen of.

        Args:
            tokens: of all frames, encoded and perhaps reduced.
            frames: that were encoded.
            seconds: from the first part of the frames to the tokens.
            file_pixels: see :meth:`frame_size`.
        """
        return self.as_chosen(with_file_seconds(tokens, frames, seconds), frames, file_pixels=file_pixels)

    def as_chosen(self, tokens: VideoTokens, frames: FrameSource, *, file_pixels: bool = False) -> VideoTokens:
        """Tokens that know what their frames were chosen of, and by which stages.

        Args:
            tokens: of these frames, encoded and perhaps reduced.
            frames: that were encoded.
            file_pixels: see :meth:`frame_size`.
        """
        if frames.choice is None:
            return tokens
        layout = self.layout(frames.choice.given, file_pixels=file_pixels)
        return as_chosen(tokens, frames.choice, layout, self.timestamps(frames.choice.given))
