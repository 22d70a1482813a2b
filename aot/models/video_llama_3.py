"""VideoLLaMA3 through the stock transformers class.

2 x 2 patches of a frame are averaged to a token before the projector, and the prompt has each frame's time in front of
it. The processor's own compression, which drops tokens that differ little from the frame before, is left out: a stage
does that work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..tokens.video_tokens import Extra, Layout, VideoTokens
from ..video.frame_source import FrameFacts
from .base import TowerOutput, VideoLLM
from .file_time import told_times
from .frame_choice import NO_SETTINGS, equal_steps, positive
from .importance import capture, depths
from .inside import Blocks
from .qwen import cut, fit, pixel_limits
from .stock import stock_class

LEAST_PIXELS, MOST_PIXELS = 128 * 28 * 28, 28 * 28 * 768
"""The fewest of a frame and the most of a video, where the settings have none."""

FPS, LEAST_FRAMES, MOST_FRAMES = 1.0, 4, 180
"""Frames a second that the model card takes of a video, and how many at least and at most, where the settings do not
say."""


class VideoLlama3(VideoLLM):
    """A loaded VideoLLaMA3."""

    family = "video_llama_3"
    stock = stock_class("VideoLlama3ForConditionalGeneration", since="5.0")
    placeholder = "<|video_pad|>"
    mean = std = (0.5, 0.5, 0.5)
    frames_apart = True

    def __init__(self, hf_model: Any, tokenizer: Any, name: str, **options: Any) -> None:
        super().__init__(hf_model, tokenizer, name, **options)
        self._least, self._most = pixel_limits(self._preprocessor, LEAST_PIXELS, MOST_PIXELS)
        self.merge: int = self._preprocessor.get("merge_size") or 2
        """Side of a token, in patches."""

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int]:
        """A frame a second, 4 to 180 of them, in equal steps from the first.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        rate = positive(settings, "fps", FPS)
        least, most = positive(settings, "min_frames", LEAST_FRAMES), positive(settings, "max_frames", MOST_FRAMES)
        return equal_steps(frames, int(min(max(frames / fps * rate, least), most, frames)))

    @property
    def tower(self) -> PreTrainedModel:
        """The vision encoder."""
        return self.hf_model.model.vision_model

    @property
    def factor(self) -> int:
        """Side of a token, in pixels."""
        return self.tower.config.patch_size * self.merge

    @property
    def tile(self) -> tuple[int, int]:
        """(h, w), in pixels: a single token."""
        return self.factor, self.factor

    def frame_size(self, frames: FrameFacts, *, file_pixels: bool = False) -> tuple[int, int]:
        """A whole number of tokens a side; a frame has its share of the video's pixels."""
        return fit(frames.height, frames.width, self.factor, self._least, self._most // frames.count)

    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """The grid of the tokens; no pooling is pending."""
        return Layout.unpooled(frames, size, self.factor)

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Cut frames into patches.

        Args:
            pixel_values: (T, 3, h, w) float32.

        Returns:
            (patches, values) float32, as the tower takes them.
        """
        return cut(pixel_values, 1, self.tower.config.patch_size, self.merge)

    def grids(self, layout: Layout) -> Tensor:
        """(1, 3) long: frames, rows and columns of patches."""
        return torch.tensor([[layout.frames, layout.grid[0] * self.merge, layout.grid[1] * self.merge]])

    @property
    def blocks(self) -> Blocks:
        """The tower's blocks; they take the patches of all frames as one sequence, cut into frames after the norm."""
        tower: Any = self.tower
        layers = tuple(tower.encoder.layers)
        return Blocks(layers, len(layers), filled=(tower.post_layernorm,))

    def attention_of_cells(self, received: Tensor, layout: Layout) -> Tensor:
        """Sums over each token's patches."""
        return received.reshape(-1, layout.cells, self.merge**2).sum(2)

    def run_tower(self, pixel_values: Tensor, layout: Layout) -> TowerOutput:
        """Tower, projector and importance. Every frame is encoded on its own.

        Args:
            pixel_values: (T, 3, h, w) float32.
            layout: of their tokens.
        """
        layers = depths(self.tower.config.num_hidden_layers)
        patches = self.patches(pixel_values).to(self.device, self.dtype)
        merges = torch.tensor([self.merge], device=self.device)
        with capture(*layers, keys_of=layers[-1]) as received:
            output = self.tower(patches, grid_thw=self.grids(layout).to(self.device), merge_sizes=merges)
        image_features = self.hf_model.model.projector(output.last_hidden_state)
        shallow, deep, last = (self.attention_of_cells(received.sums[layer], layout) for layer in layers)
        keys = received.keys.reshape(-1, layout.cells, self.merge**2, received.keys.shape[-1]).mean(2)
        image_features = image_features.reshape(-1, layout.cells, image_features.shape[-1])
        return TowerOutput(image_features, shallow, deep, extras={Extra.LAST: last, Extra.KEYS: keys})

    def video_text(self, tokens: VideoTokens | None) -> str:
        """Each frame's time, then the frame; one frame without a time if ``tokens`` is None."""
        if tokens is None:
            return self.placeholder
        return ",".join(f"Time {time:.1f}s:{self.placeholder}" for time in told_times(tokens)[1])
