"""LLaVA-OneVision through the stock transformers class, and everything assembled to its form.

The tower's second-to-last hidden state is projected frame by frame; bilinear pooling to half the grid stays
pending in the tokens; one newline embedding ends the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from ..importance import capture, depths
from ..tokens import Layout, VideoTokens
from .base import Encoded, FrameSource, VideoLLM, first_question


class LlavaOnevision(VideoLLM):
    """A loaded LLaVA-OneVision."""

    family = "llava_onevision"
    stock = LlavaOnevisionForConditionalGeneration
    placeholder = "<video>"
    pooling = "bilinear"
    newline = "one_token"

    @property
    def side(self) -> int:
        """Pixels of a square frame's side as the tower takes it."""
        return self.model.config.vision_config.image_size

    def frame_size(self, frames: FrameSource) -> tuple[int, int]:
        """The tower's square."""
        return self.side, self.side

    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """The tower's grid, to be pooled."""
        side = self.side // self.model.config.vision_config.patch_size
        return Layout(frames, (side, side), self.pooling, self.newline)

    def encoded(self, pixels: Tensor, layout: Layout) -> Encoded:
        """Tower, projector and importance."""
        config = self.model.config
        hidden_layer = config.vision_feature_layer
        blocks = config.vision_config.num_hidden_layers
        shallow, deep = depths(hidden_layer if hidden_layer >= 0 else blocks + 1 + hidden_layer)
        special = 1 if config.vision_feature_select_strategy == "default" else 0
        with capture(shallow, deep) as received:
            states = self.tower(pixels.to(self.device, self.dtype), output_hidden_states=True).hidden_states
        features = self.model.model.multi_modal_projector(states[hidden_layer][:, special:])
        return Encoded(features, received.sums[shallow][:, special:], received.sums[deep][:, special:])

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
