"""LLaVA-OneVision through the stock transformers class; the embedded model has the same form.

The tower's second-to-last hidden state is projected frame by frame. Bilinear pooling to half the grid is left to the
tokens. One newline embedding ends the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from ..tokens.video_tokens import Extra, Layout, VideoTokens
from ..video.frame_source import FrameFacts
from .base import TowerOutput, VideoLLM
from .importance import capture, depths, used_blocks
from .inside import Blocks, block_list
from .prompt import first_question


class LlavaOnevision(VideoLLM):
    """A loaded LLaVA-OneVision."""

    family = "llava_onevision"
    stock = LlavaOnevisionForConditionalGeneration
    placeholder = "<video>"
    pooling = "bilinear"
    newline = "one_token"

    @property
    def side(self) -> int:
        """Side of the tower's square frames, in pixels."""
        return self.hf_model.config.vision_config.image_size

    def frame_size(self, frames: FrameFacts, *, file_pixels: bool = False) -> tuple[int, int]:
        """The tower's square."""
        return self.side, self.side

    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """The tower's grid, to be pooled."""
        side = self.side // self.hf_model.config.vision_config.patch_size
        return Layout(frames, (side, side), self.pooling, self.newline)

    @property
    def _used_blocks(self) -> int:
        config = self.hf_model.config
        return used_blocks(config.vision_feature_layer, config.vision_config.num_hidden_layers)

    @property
    def _special(self) -> int:
        """Tokens before a frame's patches."""
        return 1 if self.hf_model.config.vision_feature_select_strategy == "default" else 0

    @property
    def blocks(self) -> Blocks:
        """The tower's blocks."""
        return Blocks(block_list(self.tower), self._used_blocks, self._special)

    def attention_of_cells(self, received: Tensor, layout: Layout) -> Tensor:
        """Every patch is a cell."""
        return received[:, self._special :]

    def run_tower(self, pixel_values: Tensor, layout: Layout) -> TowerOutput:
        """Tower, projector and importance.

        Args:
            pixel_values: (T, 3, h, w) float32.
            layout: of their tokens.
        """
        hidden_layer, special = self.hf_model.config.vision_feature_layer, self._special
        shallow, deep, last = depths(self._used_blocks)
        with capture(shallow, deep, last, keys_of=last) as received:
            output = self.tower(pixel_values.to(self.device, self.dtype), output_hidden_states=True)
        hidden_states = output.hidden_states[hidden_layer]
        attention = [self.attention_of_cells(received.sums[layer], layout) for layer in (shallow, deep, last)]
        extras = {Extra.LAST: attention[2], Extra.KEYS: received.keys[:, special:], **self._head(hidden_states)}
        image_features = self.hf_model.model.multi_modal_projector(hidden_states[:, special:])
        return TowerOutput(image_features, attention[0], attention[1], extras=extras)

    def _head(self, hidden_states: Tensor) -> dict[str, Tensor]:
        """Attention and output of the tower's own pooling head for each frame; empty if it has no head."""
        tower = cast(Any, getattr(self.tower, "vision_model", self.tower))
        head = getattr(tower, "head", None)
        if head is None:
            return {}
        hidden_states = tower.post_layernorm(hidden_states)
        probe = head.probe.expand(len(hidden_states), -1, -1)
        output, weights = head.attention(probe, hidden_states, hidden_states)
        output = output + head.mlp(head.layernorm(output))
        return {Extra.HEAD: weights[:, 0].float(), Extra.GLOBAL: output[:, 0]}

    def _conversation(self, messages: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Structured for a processor's template; plain text for a tokenizer's."""
        if self._chat_template:
            return super()._conversation(messages)
        conversation = [{"role": role, "content": text} for role, text in messages]
        question = first_question(conversation)
        question["content"] = f"{self.placeholder}\n{question['content']}"
        return conversation

    def _image_features(self, tokens: VideoTokens, group: Tensor) -> Tensor:
        """The tokens, and the newline that ends a video."""
        image_features = super()._image_features(tokens, group)
        if self.newline != "one_token":
            return image_features
        return torch.cat((image_features, self.hf_model.model.image_newline[None].to(image_features)))
