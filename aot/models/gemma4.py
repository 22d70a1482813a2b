"""Gemma 4 through the stock transformers class.

A frame keeps its aspect and takes as many patches as the processor allows; 3 x 3 of them are averaged to a token. The
prompt has each frame's time in front of it. The small sizes give each layer of the LLM an embedding of the token ids of
its own; there a visual token counts as padding. In the large ones a visual token sees those of its frame that come
after it, in the layers with sliding windows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..tokens.video_tokens import Extra, Layout, VideoTokens
from ..video.frame_source import FrameFacts
from .base import TowerOutput, VideoLLM, added
from .file_time import told_times
from .frame_choice import NO_SETTINGS, positive
from .importance import capture, depths, sums_by_token
from .pixels import rows_of_patches
from .prompt import Inputs
from .stock import stock_class

MOST_TOKENS = 70
"""Of a frame, where the settings have no number."""

FRAMES = 32
"""Taken of a video, likewise."""


class Gemma4(VideoLLM):
    """A loaded Gemma 4."""

    family = "gemma4"
    stock = stock_class("Gemma4ForConditionalGeneration", since="5.5")
    placeholder = "<|video|>"
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    frames_apart = True

    def __init__(self, hf_model: Any, tokenizer: Any, name: str, **options: Any) -> None:
        super().__init__(hf_model, tokenizer, name, **options)
        self._most_tokens: int = self._preprocessor.get("max_soft_tokens") or MOST_TOKENS
        config = hf_model.config
        self._begin, self._end = tokenizer.convert_ids_to_tokens([config.boi_token_id, config.eoi_token_id])

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int]:
        """32 frames in equal steps from the first, or all of fewer.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        count = min(int(positive(settings, "num_frames", FRAMES)), frames)
        return [each * frames // count for each in range(count)]

    @property
    def _vision(self) -> Any:
        return self.hf_model.config.vision_config

    @property
    def factor(self) -> int:
        """Side of a token, in pixels."""
        return self._vision.patch_size * self._vision.pooling_kernel_size

    @property
    def tile(self) -> tuple[int, int]:
        """(h, w), in pixels: a single token."""
        return self.factor, self.factor

    def frame_size(self, frames: FrameFacts, *, file_pixels: bool = False) -> tuple[int, int]:
        """The largest of about the same aspect that has a whole number of tokens a side, and no more than allowed."""
        return fill(frames.height, frames.width, self.factor, self._most_tokens)

    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """The grid of the tokens; no pooling is pending."""
        return Layout.unpooled(frames, size, self.factor)

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Cut frames into patches, row by row.

        Args:
            pixel_values: (T, 3, h, w) float32.

        Returns:
            (T, patches, values) float32, as the tower takes them.
        """
        return rows_of_patches(pixel_values, self._vision.patch_size)

    def places(self, layout: Layout) -> Tensor:
        """(T, patches, 2) long: column and row of every patch."""
        kernel = self._vision.pooling_kernel_size
        rows, columns = (torch.arange(side * kernel) for side in layout.grid)
        places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2).flatten(0, 1)
        return places.expand(layout.frames, -1, -1)

    def run_tower(self, pixel_values: Tensor, layout: Layout) -> TowerOutput:
        """Tower, pooling, projector and importance.

        Args:
            pixel_values: (T, 3, h, w) float32.
            layout: of their tokens.
        """
        layers = depths(self._vision.num_hidden_layers)
        patches = self.patches(pixel_values).to(self.device, self.dtype)
        with capture(*layers, keys_of=layers[-1]) as received:
            output = self.tower(patches, pixel_position_ids=self.places(layout).to(self.device))
        image_features = self.hf_model.model.embed_vision(inputs_embeds=output.last_hidden_state)
        kernel = self._vision.pooling_kernel_size
        shallow, deep, last = (sums_by_token(received.sums[layer], layout, kernel)[:, :, 0] for layer in layers)
        keys = sums_by_token(received.keys, layout, kernel) / kernel**2
        image_features = image_features.reshape(layout.frames, layout.cells, -1)
        return TowerOutput(image_features, shallow, deep, extras={Extra.LAST: last, Extra.KEYS: keys})

    def video_text(self, tokens: VideoTokens | None) -> str:
        """Each frame's time, then the frame; one frame without a time if ``tokens`` is None."""
        frame = f"{self._begin}{self.placeholder}{self._end}"
        if tokens is None:
            return frame
        seconds = [int(time) for time in told_times(tokens)[1]]
        return " ".join(f"{time // 60:02d}:{time % 60:02d} {frame}" for time in seconds)

    @property
    def sees_ahead(self) -> bool:
        """Whether visual tokens see some that come after them."""
        return self.language_model.config.use_bidirectional_attention == "vision"

    @property
    def beyond_embeddings(self) -> str:
        """What the LLM is given of a prompt that its embeddings cannot carry to a server."""
        own = self.language_model.config.hidden_size_per_layer_input
        return "embeddings for each of its layers" if own else super().beyond_embeddings

    def _mask(self, inputs: Inputs, before: int) -> Any:
        if not self.sees_ahead or not inputs.visual.any():
            return None
        visual = inputs.visual
        frame = (visual & ~visual.roll(1)).cumsum(0)
        column = torch.arange(len(inputs), device=visual.device)
        row = column[:, None]
        causal = column <= row
        same = visual & visual[:, None] & (frame == frame[:, None])
        near = (causal | same) & (column > row - self.language_model.config.sliding_window)
        dtype = inputs.inputs_embeds.dtype
        return {"full_attention": added(causal, dtype), "sliding_attention": added(near, dtype)}

    def _extras(self, inputs: Inputs) -> dict[str, Any]:
        text: Any = self.language_model.config
        if not text.hidden_size_per_layer_input or inputs.ids is None:
            return {}
        ids = inputs.ids.masked_fill(inputs.visual, text.pad_token_id)
        language_model: Any = self.language_model
        return {"per_layer_inputs": language_model.get_per_layer_inputs(ids[None], None)}

    def _logits(self, hidden_states: Tensor) -> Tensor:
        logits, most = super()._logits(hidden_states), self.language_model.config.final_logit_softcapping
        return logits if most is None else torch.tanh(logits / most) * most


def fill(height: int, width: int, factor: int, most: int) -> tuple[int, int]:
    """The largest size of about the same aspect that has no more tokens than allowed.

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        factor: side of a token, in pixels.
        most: tokens of a frame.

    Returns:
        (h, w), in pixels.

    Source: Gemma 4's published resizing.
    """
    scale = math.sqrt(most * factor**2 / (height * width))
    rows, columns = int(scale * height / factor), int(scale * width / factor)
    if not rows:
        rows, columns = 1, min(width // height, most)
    elif not columns:
        rows, columns = min(height // width, most), 1
    return rows * factor, columns * factor
