"""LLaVA-OneVision through the stock transformers class, and everything assembled to its form.

The tower's second-to-last hidden state is projected frame by frame; bilinear pooling to half the grid stays
pending in the tokens; one newline embedding ends the video.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from ..importance import ATTENTION, capture, depths
from ..tokens import ENCODE, Layout, StageRecord, VideoTokens
from ..video import Frames
from .base import (
    CLIP_MEAN,
    CLIP_STD,
    FrameSource,
    Progress,
    VideoLLM,
    first_question,
    ignore_progress,
    normalised,
    resized,
)

FRAMES_AT_ONCE = 4
"""Frames a vision pass takes: few enough to be interrupted soon, enough to fill the cores."""


class LlavaOnevision(VideoLLM):
    """A loaded LLaVA-OneVision."""

    family = "llava_onevision"
    stock = LlavaOnevisionForConditionalGeneration
    placeholder = "<video>"
    pooling = "bilinear"
    newline = "one_token"

    def __init__(self, model: LlavaOnevisionForConditionalGeneration, tokenizer: Any, name: str, **found: Any) -> None:
        super().__init__(model, tokenizer, name, **found)
        model.model.vision_tower.set_attn_implementation(ATTENTION)
        self._mean = tuple(self._preprocessor.get("image_mean", CLIP_MEAN))
        self._std = tuple(self._preprocessor.get("image_std", CLIP_STD))

    @property
    def side(self) -> int:
        """Pixels of a square frame's side as the tower takes it."""
        return self.model.config.vision_config.image_size

    def preprocess(self, frames: Frames, size: tuple[int, int] | None = None) -> Tensor:
        """Bicubic with antialiasing to the tower's square, rounded to whole levels, then normalised."""
        return normalised(resized(frames, size or (self.side, self.side)), self._mean, self._std)

    def layout(self, frames: FrameSource) -> Layout:
        """The tower's grid, to be pooled."""
        return self._layout(frames.count)

    def _layout(self, frames: int) -> Layout:
        side = self.side // self.model.config.vision_config.patch_size
        return Layout(frames, (side, side), self.pooling, self.newline)

    @torch.no_grad()
    def encode_parts(self, frames: FrameSource, *, on_progress: Progress = ignore_progress) -> Iterator[VideoTokens]:
        """Tower, projector and importance, a few frames at a time."""
        config = self.model.config
        hidden_layer = config.vision_feature_layer
        blocks = config.vision_config.num_hidden_layers
        shallow, deep = depths(hidden_layer if hidden_layer >= 0 else blocks + 1 + hidden_layer)
        special = 1 if config.vision_feature_select_strategy == "default" else 0
        settings = {"model": self.name, "frames": frames.count, "source": frames.source}
        newline = self.model.model.image_newline if self.newline == "grid" else None
        done = 0
        for part in frames.parts(FRAMES_AT_ONCE):
            on_progress(done, frames.count)
            start = time.perf_counter()
            pixels = self.preprocess(part).to(self.device, self.dtype)
            with capture(shallow, deep) as received:
                states = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
            features = self.model.model.multi_modal_projector(states[hidden_layer][:, special:])
            layout = self._layout(part.count)
            tokens = part.count * layout.language_cells
            milliseconds = (time.perf_counter() - start) * 1e3
            yield VideoTokens.encoded(
                features,
                layout,
                received.sums[shallow][:, special:],
                received.sums[deep][:, special:],
                part.timestamps,
                newline=newline,
                model=self.name,
                history=(StageRecord(ENCODE, settings, tokens, tokens, milliseconds),),
            )
            done += part.count
        on_progress(done, frames.count)

    def _conversation(self, messages: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Structured where the folder has a processor's template; a tokenizer's own takes plain text."""
        if self._chat_template:
            return super()._conversation(messages)
        conversation = [{"role": role, "content": text} for role, text in messages]
        question = first_question(conversation)
        question["content"] = f"{self.placeholder}\n{question['content']}"
        return conversation

    def _shown(self, tokens: VideoTokens, group: Tensor) -> Tensor:
        """The tokens, and the newline that ends a video."""
        features = super()._shown(tokens, group)
        if self.newline != "one_token":
            return features
        return torch.cat((features, self.model.model.image_newline[None].to(features)))
