"""InternVL 3 (Hugging Face's layout) through the stock transformers class.

A frame is one square tile; 2 x 2 of its patches become one token (pixel shuffle), and the prompt numbers the frames.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import InternVLForConditionalGeneration

from ..importance import ATTENTION, capture, depths
from ..tokens import ENCODE, Layout, StageRecord, VideoTokens
from ..video import Frames
from .base import CLIP_MEAN, CLIP_STD, FrameSource, Progress, VideoLLM, ignore_progress, normalised, resized

FRAMES_AT_ONCE = 4

_SLOT, _START, _END = "<IMG_CONTEXT>", "<img>", "</img>"


class InternVL(VideoLLM):
    """A loaded InternVL."""

    family = "internvl"
    stock = InternVLForConditionalGeneration
    placeholder = "<video>"
    slot = _SLOT
    frames_apart = True

    def __init__(self, model: InternVLForConditionalGeneration, tokenizer: Any, name: str, **found: Any) -> None:
        super().__init__(model, tokenizer, name, **found)
        model.model.vision_tower.set_attn_implementation(ATTENTION)
        self._mean = tuple(self._preprocessor.get("image_mean", CLIP_MEAN))
        self._std = tuple(self._preprocessor.get("image_std", CLIP_STD))

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self.model.config.vision_config.image_size
        return height, width

    def preprocess(self, frames: Frames, size: tuple[int, int] | None = None) -> Tensor:
        """Bicubic with antialiasing to the tower's tile, rounded to whole levels, then normalised."""
        return normalised(resized(frames, size or self._size), self._mean, self._std)

    def layout(self, frames: FrameSource) -> Layout:
        """The grid that pixel shuffle leaves; nothing is left to pool."""
        return self._layout(frames.count)

    def _layout(self, frames: int) -> Layout:
        height, width = self._patch_grid
        ratio = self.model.config.downsample_ratio
        return Layout(frames, (int(height * ratio), int(width * ratio)), "none", "none")

    @property
    def _patch_grid(self) -> tuple[int, int]:
        height, width = self._size
        tall, wide = self.model.config.vision_config.patch_size
        return height // tall, width // wide

    @torch.no_grad()
    def encode_parts(self, frames: FrameSource, *, on_progress: Progress = ignore_progress) -> Iterator[VideoTokens]:
        """Tower, pixel shuffle, projector and importance, a few frames at a time."""
        config = self.model.config
        hidden_layer, blocks = config.vision_feature_layer, config.vision_config.num_hidden_layers
        shallow, deep = depths(hidden_layer if hidden_layer >= 0 else blocks + 1 + hidden_layer)
        settings = {"model": self.name, "frames": frames.count, "source": frames.source}
        done = 0
        for part in frames.parts(FRAMES_AT_ONCE):
            on_progress(done, frames.count)
            start = time.perf_counter()
            pixels = self.preprocess(part).to(self.device, self.dtype)
            with capture(shallow, deep) as received:
                found = self.model.model.get_image_features(
                    pixels,
                    vision_feature_layer=hidden_layer,
                    vision_feature_select_strategy=config.vision_feature_select_strategy,
                )
            features = found if isinstance(found, Tensor) else found.pooler_output
            layout = self._layout(part.count)
            tokens = part.count * layout.cells
            milliseconds = (time.perf_counter() - start) * 1e3
            yield VideoTokens.encoded(
                features,
                layout,
                self._shuffled(received.sums[shallow]),
                self._shuffled(received.sums[deep]),
                part.timestamps,
                model=self.name,
                history=(StageRecord(ENCODE, settings, tokens, tokens, milliseconds),),
            )
            done += part.count
        on_progress(done, frames.count)

    def _shuffled(self, received: Tensor) -> Tensor:
        """(T, N) attention that a token's patches received together, of (T, 1 + patches) with the class token first."""
        ratio = round(1 / self.model.config.downsample_ratio)
        images = received[:, 1:].unflatten(1, self._patch_grid)[:, None]
        return (functional.avg_pool2d(images, ratio) * ratio**2).flatten(1)

    def video_text(self, tokens: VideoTokens | None) -> str:
        """Every frame with its number; one unnumbered where there is none."""
        if tokens is None:
            return f"{_START}{_SLOT}{_END}"
        frames = range(1, tokens.layout.frames + 1)
        return "\n".join(f"Frame{number}: {_START}{_SLOT}{_END}" for number in frames)
