"""MiniCPM-V 4.6 through the stock transformers class.

A frame keeps its aspect and about the area of one view, without the slices of an image. 2 x 2 patches are merged inside
the tower, 2 x 2 of these after it, and the prompt has the frames one after another, without times. The LLM is
Qwen3.5's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..tokens.video_tokens import Extra, Layout, VideoTokens
from ..video.frame_source import FrameFacts
from .base import TowerOutput, VideoLLM
from .frame_choice import NO_SETTINGS, positive
from .importance import capture, depths, sums_by_token
from .stock import stock_class

SIDE = 448
"""Of a square view, in pixels, where the settings have none."""

MOST_FRAMES = 128
"""Taken of a video, likewise."""


class MiniCPMV(VideoLLM):
    """A loaded MiniCPM-V 4.6."""

    family = "minicpmv4_6"
    stock = stock_class("MiniCPMV4_6ForConditionalGeneration", since="5.7")
    placeholder = "<|video_pad|>"
    mean = std = (0.5, 0.5, 0.5)
    frames_apart = True

    def __init__(self, hf_model: Any, tokenizer: Any, name: str, **options: Any) -> None:
        super().__init__(hf_model, tokenizer, name, **options)
        # As this checkpoint's tokenizer spells it.
        cast(Any, self).placeholder = tokenizer.convert_ids_to_tokens(hf_model.config.video_token_id)

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int]:
        """The frame of every second; of more than 128 seconds 128, evenly spread over those of tenths of seconds.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        most = int(positive(settings, "max_num_frames", MOST_FRAMES))
        if duration <= most:
            return [min(int(second * fps), frames - 1) for second in range(math.ceil(duration))]
        tenths = [min(int(round(each * 0.1, 1) * fps), frames - 1) for each in range(int(duration / 0.1))]
        return [tenths[each] for each in np.linspace(0, len(tenths) - 1, min(most, len(tenths)), dtype=int)]

    @property
    def _vision(self) -> Any:
        return self.hf_model.config.vision_config

    @property
    def _merges_inside(self) -> bool:
        """Whether patches are merged inside the tower."""
        return self.hf_model.config.downsample_mode != "4x"

    @property
    def merge(self) -> int:
        """Side of a token, in patches."""
        return 4 if self._merges_inside else 2

    @property
    def factor(self) -> int:
        """Side of a token, in pixels."""
        return self._vision.patch_size * self.merge

    @property
    def tile(self) -> tuple[int, int]:
        """(h, w), in pixels: a single token."""
        return self.factor, self.factor

    def frame_size(self, frames: FrameFacts, *, file_pixels: bool = False) -> tuple[int, int]:
        """A whole number of tokens a side, of about the area of a view."""
        side = self._preprocessor.get("scale_resolution") or SIDE
        return view(frames.height, frames.width, self.factor, side)

    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """The grid of the tokens; no pooling is pending."""
        return Layout.unpooled(frames, size, self.factor)

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Put all patches of all frames side by side.

        Args:
            pixel_values: (T, 3, h, w) float32.

        Returns:
            (1, 3, patch, patches patch) float32, as the tower takes them.
        """
        patch = self._vision.patch_size
        split = pixel_values.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
        return split.permute(1, 3, 0, 2, 4, 5).flatten(2)[None]

    def grids(self, layout: Layout) -> Tensor:
        """(T, 2) int32: rows and columns of a frame's patches."""
        return torch.tensor([[side * self.merge for side in layout.grid]], dtype=torch.int32).repeat(layout.frames, 1)

    def run_tower(self, pixel_values: Tensor, layout: Layout) -> TowerOutput:
        """Tower, merger and importance. Every frame is encoded on its own.

        Args:
            pixel_values: (T, 3, h, w) float32.
            layout: of their tokens.
        """
        inside = self._vision.insert_layer_id if self._merges_inside else self._vision.num_hidden_layers
        # The merger inside the tower has attention too, and is counted as a layer.
        layers = tuple(layer + (layer > inside) for layer in depths(self._vision.num_hidden_layers))
        patches = self.patches(pixel_values).to(self.device, self.dtype)
        with capture(*layers, keys_of=layers[-1]) as received:
            output = self.hf_model.model.get_image_features(patches, target_sizes=self.grids(layout).to(self.device))
        image_features = torch.cat(list(output.pooler_output)).reshape(layout.frames, layout.cells, -1)
        shallow, deep, last = (self._summed(received.sums[layer][0, :, None], layout)[:, :, 0] for layer in layers)
        keys = received.keys[0]
        a_token = len(keys) // (layout.frames * layout.cells)
        return TowerOutput(
            image_features,
            shallow,
            deep,
            extras={Extra.LAST: last, Extra.KEYS: self._summed(keys, layout) / a_token},
        )

    def _summed(self, values: Tensor, layout: Layout) -> Tensor:
        """Sums over each token's patches, or what they were merged to: (T patches, d) to (T, N, d)."""
        return sums_by_token(values, layout, math.isqrt(len(values) // (layout.frames * layout.cells)))

    def video_text(self, tokens: VideoTokens | None) -> str:
        """A number, then all frames; one frame if ``tokens`` is None."""
        numbered = self._preprocessor.get("use_image_id", True)
        frame = f"<image>{self.placeholder}</image>"
        return ("<image_id>0</image_id>" if numbered else "") + frame * (tokens.layout.frames if tokens else 1)


def view(height: int, width: int, factor: int, side: int) -> tuple[int, int]:
    """The size of a frame of about the area of a square, its aspect kept as nearly as the multiples allow.

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        factor: both sides are multiples of it, in pixels.
        side: of the square, in pixels.

    Returns:
        (h, w), in pixels.

    Source: MiniCPM-V's published resizing.
    """
    aspect = width / height
    near = int(side / math.sqrt(aspect))
    sides = near, int(near * aspect)
    rows, columns = (max(factor, round(each / factor) * factor) for each in sides)
    return rows, columns
