"""InternVL 3 and 3.5 (Hugging Face's layout) through the stock transformers class.

A frame is one square tile; 2 x 2 of its patches become one token (pixel shuffle), and the prompt numbers the frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import InternVLForConditionalGeneration

from ..tokens.video_tokens import Extra, Layout, VideoTokens
from ..video.frame_source import FrameFacts
from .base import TowerOutput, VideoLLM
from .frame_choice import NO_SETTINGS
from .importance import capture, depths, used_blocks
from .inside import Blocks, block_list

SEGMENTS = 8
"""Frames that the model card takes of a video."""

_SLOT, _START, _END = "<IMG_CONTEXT>", "<img>", "</img>"


class InternVL(VideoLLM):
    """A loaded InternVL."""

    family = "internvl"
    stock = InternVLForConditionalGeneration
    placeholder = "<video>"
    slot = _SLOT
    frames_apart = True

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int]:
        """The middles of equal segments between the first frame and the last, rounded as in the model card.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        length = (frames - 1) / SEGMENTS
        return [int(length / 2 + round(length * segment)) for segment in range(SEGMENTS)]

    def frame_size(self, frames: FrameFacts, *, file_pixels: bool = False) -> tuple[int, int]:
        """The tower's tile."""
        height, width = self.hf_model.config.vision_config.image_size
        return height, width

    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """The grid after pixel shuffle; no pooling is pending."""
        height, width = self._patch_grid
        ratio = self.hf_model.config.downsample_ratio
        return Layout(frames, (int(height * ratio), int(width * ratio)), "none", "none")

    @property
    def _patch_grid(self) -> tuple[int, int]:
        vision = self.hf_model.config.vision_config
        (height, width), (tall, wide) = vision.image_size, vision.patch_size
        return height // tall, width // wide

    @property
    def _used_blocks(self) -> int:
        config = self.hf_model.config
        return used_blocks(config.vision_feature_layer, config.vision_config.num_hidden_layers)

    @property
    def blocks(self) -> Blocks:
        """The tower's blocks; a frame's class token is before its patches."""
        return Blocks(block_list(self.tower), self._used_blocks, 1)

    def attention_of_cells(self, received: Tensor, layout: Layout) -> Tensor:
        """Sums over each token's patches."""
        patches = (1 / self.hf_model.config.downsample_ratio) ** 2
        return patches * self._pooled(received[:, :, None])[:, :, 0]

    def run_tower(self, pixel_values: Tensor, layout: Layout) -> TowerOutput:
        """Tower, pixel shuffle, projector and importance.

        Args:
            pixel_values: (T, 3, h, w) float32.
            layout: of their tokens.
        """
        config = self.hf_model.config
        layers = depths(self._used_blocks)
        with capture(*layers, keys_of=layers[-1]) as received:
            output = self.hf_model.model.get_image_features(
                pixel_values.to(self.device, self.dtype),
                vision_feature_layer=config.vision_feature_layer,
                vision_feature_select_strategy=config.vision_feature_select_strategy,
            )
        image_features = output if isinstance(output, Tensor) else output.pooler_output
        shallow, deep, last = (self.attention_of_cells(received.sums[layer], layout) for layer in layers)
        extras = {Extra.LAST: last, Extra.KEYS: self._pooled(received.keys)}
        return TowerOutput(image_features, shallow, deep, extras=extras)

    def _pooled(self, values: Tensor) -> Tensor:
        """Means over each token's patches: (T, 1 + patches, d), the class token first, to (T, N, d)."""
        ratio = round(1 / self.hf_model.config.downsample_ratio)
        images = values[:, 1:].mT.unflatten(2, self._patch_grid)
        return functional.avg_pool2d(images, ratio).flatten(2).mT

    def video_text(self, tokens: VideoTokens | None) -> str:
        """Every frame with its number; one frame without a number if ``tokens`` is None."""
        if tokens is None:
            return f"{_START}{_SLOT}{_END}"
        frames = range(1, tokens.layout.frames + 1)
        return "\n".join(f"Frame{number}: {_START}{_SLOT}{_END}" for number in frames)
