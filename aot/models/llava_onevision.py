"""LLaVA-OneVision through the stock transformers class, and everything assembled to its form.

The tower's second-to-last hidden state is projected frame by frame; bilinear pooling to half the grid stays
pending in the tokens; one newline embedding ends the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from ..tokens.video_tokens import Extra, Layout, VideoTokens
from .base import FrameSource, TowerOutput, VideoLLM, first_question
from .importance import capture, depths


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
        return self.hf_model.config.vision_config.image_size

    def frame_size(self, frames: FrameSource) -> tuple[int, int]:
        """The tower's square."""
        return self.side, self.side

    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """The tower's grid, to be pooled."""
        side = self.side // self.hf_model.config.vision_config.patch_size
        return Layout(frames, (side, side), self.pooling, self.newline)

    def run_tower(self, pixels: Tensor, layout: Layout) -> TowerOutput:
        """Tower, projector and importance."""
        config = self.hf_model.config
        hidden_layer = config.vision_feature_layer
        blocks = config.vision_config.num_hidden_layers
        shallow, deep, last = depths(hidden_layer if hidden_layer >= 0 else blocks + 1 + hidden_layer)
        special = 1 if config.vision_feature_select_strategy == "default" else 0
        with capture(shallow, deep, last, keys_of=last) as received:
            states = self.tower(pixels.to(self.device, self.dtype), output_hidden_states=True).hidden_states
        chosen = states[hidden_layer]
        attention = [received.sums[layer][:, special:] for layer in (shallow, deep, last)]
        extras = {Extra.LAST: attention[2], Extra.KEYS: received.keys[:, special:], **self._head(chosen)}
        features = self.hf_model.model.multi_modal_projector(chosen[:, special:])
        return TowerOutput(features, attention[0], attention[1], extras=extras)

    def _head(self, states: Tensor) -> dict[str, Tensor]:
        """What the tower's own pooling head attends to and says of each frame; nothing where it has none."""
        tower = cast(Any, getattr(self.tower, "vision_model", self.tower))
        head = getattr(tower, "head", None)
        if head is None:
            return {}
        states = tower.post_layernorm(states)
        probe = head.probe.expand(len(states), -1, -1)
        said, weights = head.attention(probe, states, states)
        said = said + head.mlp(head.layernorm(said))
        return {Extra.HEAD: weights[:, 0].float(), Extra.GLOBAL: said[:, 0]}

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
        return torch.cat((features, self.hf_model.model.image_newline[None].to(features)))
