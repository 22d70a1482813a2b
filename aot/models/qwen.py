"""What Qwen2.5-VL and Qwen3-VL share: frames in pairs, any resolution, rotary positions of time, height and width.

Two consecutive frames make one temporal patch, and 2 x 2 of its patches one token: the layout's frames are those pairs,
and its grid is that of the tokens. Kept tokens keep the positions they have in the whole video, which the stock model
works out.
"""

from __future__ import annotations

import inspect
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..importance import ATTENTION, Received, capture
from ..tokens import ENCODE, Layout, StageRecord, VideoTokens
from ..video import Frames
from .base import FrameSource, Progress, Prompt, Reading, VideoLLM, ignore_progress, normalised, resized

PAIRS_AT_ONCE = 2
"""Temporal patches a vision pass takes."""


class QwenVL(VideoLLM):
    """A loaded Qwen vision-language model."""

    placeholder = "<|video_pad|>"
    axes = 3
    mean: Sequence[float]
    std: Sequence[float]
    least_pixels: int
    most_pixels: int

    def __init__(self, model: Any, tokenizer: Any, name: str, **found: Any) -> None:
        super().__init__(model, tokenizer, name, **found)
        model.model.visual.set_attn_implementation(ATTENTION)
        settings = self._preprocessor
        size = settings.get("size") or {}
        self._mean = tuple(settings.get("image_mean", self.mean))
        self._std = tuple(settings.get("image_std", self.std))
        self._least = settings.get("min_pixels") or size.get("shortest_edge") or self.least_pixels
        self._most = settings.get("max_pixels") or size.get("longest_edge") or self.most_pixels

    @property
    def _vision(self) -> Any:
        return self.model.config.vision_config

    @property
    def factor(self) -> int:
        """Pixels of a token's side."""
        return self._vision.patch_size * self._vision.spatial_merge_size

    @abstractmethod
    def frame_size(self, frames: FrameSource) -> tuple[int, int]:
        """(h, w) pixels that these frames are resized to."""

    def preprocess(self, frames: Frames, size: tuple[int, int] | None = None) -> Tensor:
        """Bicubic with antialiasing to a size near the frames' own, rounded to whole levels, then normalised."""
        return normalised(resized(frames, size or self.frame_size(frames)), self._mean, self._std)

    def patches(self, pixels: Tensor) -> Tensor:
        """(T, 3, h, w) pixels as the tower takes them: (patches, values); an odd frame is paired with itself."""
        pair, patch, merge = self._vision.temporal_patch_size, self._vision.patch_size, self._vision.spatial_merge_size
        if odd := -len(pixels) % pair:
            pixels = torch.cat((pixels, pixels[-1:].expand(odd, -1, -1, -1)))
        count, channels, height, width = pixels.shape
        split = pixels.reshape(
            count // pair, pair, channels, height // self.factor, merge, patch, width // self.factor, merge, patch
        )
        return split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * pair * patch * patch)

    def layout(self, frames: FrameSource) -> Layout:
        """Pairs of frames on the grid of tokens; nothing is left to pool."""
        return self._layout(frames.count, self.frame_size(frames))

    def _layout(self, frames: int, size: tuple[int, int]) -> Layout:
        height, width = size
        pairs = -(-frames // self._vision.temporal_patch_size)
        return Layout(pairs, (height // self.factor, width // self.factor), "none", "none")

    def timestamps(self, frames: FrameSource) -> Tensor:
        """The middle of every pair."""
        return self._middles(frames.timestamps)

    def _middles(self, times: Tensor) -> Tensor:
        pair = self._vision.temporal_patch_size
        if odd := -len(times) % pair:
            times = torch.cat((times, times[-1:].expand(odd)))
        pairs = times.reshape(-1, pair)
        return (pairs[:, 0] + pairs[:, -1]) / 2

    @torch.no_grad()
    def encode_parts(self, frames: FrameSource, *, on_progress: Progress = ignore_progress) -> Iterator[VideoTokens]:
        """Tower, merger and importance, a few pairs at a time: every pair is encoded for itself."""
        size = self.frame_size(frames)
        shallow, deep = self.importance_layers()
        settings = {"model": self.name, "frames": frames.count, "source": frames.source}
        patch = self._vision.patch_size
        done = 0
        for part in frames.parts(PAIRS_AT_ONCE * self._vision.temporal_patch_size):
            on_progress(done, frames.count)
            start = time.perf_counter()
            layout = self._layout(part.count, size)
            pixels = self.patches(self.preprocess(part, size)).to(self.device, self.dtype)
            grid = torch.tensor([[layout.frames, size[0] // patch, size[1] // patch]], device=self.device)
            with capture(shallow, deep) as received:
                features, levels = _found(self.model.model.visual(pixels, grid_thw=grid))
            per_frame = (layout.frames, layout.cells, -1)
            milliseconds = (time.perf_counter() - start) * 1e3
            tokens = layout.frames * layout.cells
            yield VideoTokens.encoded(
                features.reshape(per_frame),
                layout,
                self._merged(received, shallow, layout),
                self._merged(received, deep, layout),
                self._middles(part.timestamps),
                model=self.name,
                history=(StageRecord(ENCODE, settings, tokens, tokens, milliseconds),),
                levels=tuple(level.reshape(per_frame) for level in levels),
            )
            done += part.count
        on_progress(done, frames.count)

    @abstractmethod
    def importance_layers(self) -> tuple[int, int]:
        """The tower's shallow and deep layer, whose attention is read."""

    def _merged(self, received: Received, layer: int, layout: Layout) -> Tensor:
        """(T, N) attention that a token's patches received together."""
        patches = received.sums[layer].reshape(layout.frames * layout.cells, -1)
        return self._in_order(patches.sum(1), layout).reshape(layout.frames, layout.cells)

    def _in_order(self, values: Tensor, layout: Layout) -> Tensor:
        """Values of a part's tokens in the order the tower works in, brought to frame and reading order."""
        return values

    def _positions(
        self, tokens: VideoTokens | None, prompt: Prompt, order: Sequence[Tensor], length: int
    ) -> tuple[Tensor, int, int]:
        """Those the stock model gives the whole video, of the text and of the tokens that are kept."""
        if tokens is None:
            return torch.arange(length).expand(3, -1), length, length
        layout, config = tokens.layout, self.model.config
        cells = layout.cells * layout.frames // len(prompt.before)
        ids, kept, start = [], [], 0
        index = (tokens.place * torch.tensor([layout.cells, layout.grid[1], 1])).sum(1)
        for i, (before, group) in enumerate(zip(prompt.before, order, strict=True)):
            first = start + len(before)
            ids += [before, torch.full((cells,), config.video_token_id)]
            kept += [torch.arange(start, first), first + index[group] - i * cells]
            start = first + cells
        # One token of text behind tells where the text goes on.
        whole = torch.cat([*ids, torch.zeros(1, dtype=torch.long)])[None]
        merge = self._vision.spatial_merge_size
        grid = torch.tensor([[layout.frames, layout.grid[0] * merge, layout.grid[1] * merge]])
        given: dict[str, Any] = {"input_ids": whole, "video_grid_thw": grid, **self._spacing(tokens)}
        rope = self.model.model.get_rope_index
        if "mm_token_type_ids" in inspect.signature(rope).parameters:
            given["mm_token_type_ids"] = 2 * (whole == config.video_token_id).int()
        positions = rope(**given)[0][:, 0]
        return positions[:, torch.cat(kept)], int(positions[0, -1]), int(positions[:, :-1].max()) + 1

    def _spacing(self, tokens: VideoTokens) -> dict[str, Any]:
        """What the stock model wants to know of the time between pairs."""
        return {}

    def _position_ids(self, reading: Reading, behind: int) -> Tensor:
        """(4, 1, n): the count of tokens, by which a mask is made, then time, height and width."""
        count = torch.arange(behind, behind + len(reading), device=reading.positions.device)
        return torch.cat((count[None], reading.positions))[:, None]


def _found(output: Any) -> tuple[Tensor, Sequence[Tensor]]:
    """A tower's features and those of further depths: transformers 5 names them, 4 gives the features or a pair."""
    if isinstance(output, Tensor):
        return output, ()
    if hasattr(output, "pooler_output"):
        return output.pooler_output, getattr(output, "deepstack_features", None) or ()
    features, levels = output
    return features, levels
