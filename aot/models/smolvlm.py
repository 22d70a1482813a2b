"""SmolVLM2 through the stock transformers class.

A frame is resized twice, first to the longest side that images have, then to the tower's square. Its patches become
tokens by pixel shuffle, and the prompt gives the number of frames, the video's length and the time of each frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from ..tokens.video_tokens import Extra, Layout, VideoTokens
from ..video.frame_source import FrameFacts
from .base import TowerOutput, VideoLLM
from .file_time import told_times
from .frame_choice import NO_SETTINGS, positive
from .importance import capture, depths, sums_by_token
from .inside import Blocks, block_list
from .pixels import upload
from .stock import stock_class

CHAT = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}: {% for part in message.content %}"
    "{% if part.type == 'video' %}<video>{% else %}{{ part.text }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""The format for videos. transformers takes it in place of the checkpoint's own, which has no place for a video."""

_FRAME, _SLOT = "<fake_token_around_image>", "<image>"
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

LONGEST_SIDE = 4 * 364
"""Of a frame after the first resizing, in pixels, where the settings have none."""

MOST_LONGEST = 4096

FPS, MOST_FRAMES = 1.0, 64
"""Frames a second that are taken of a video, and how many at most, where the settings do not say."""


class SmolVLM(VideoLLM):
    """A loaded SmolVLM2."""

    family = "smolvlm"
    stock = stock_class("SmolVLMForConditionalGeneration", since="4.50")
    placeholder = "<video>"
    slot = _SLOT
    mean = std = (0.5, 0.5, 0.5)
    frames_apart = True

    def __init__(self, hf_model: Any, tokenizer: Any, name: str, **options: Any) -> None:
        super().__init__(hf_model, tokenizer, name, **{**options, "chat_template": CHAT})
        self._longest = min(MOST_LONGEST, longest_side(self._preprocessor))

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int]:
        """A frame a second and 64 at most, evenly spread; of a long video without its first and last second.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        taken = settings.get("video_sampling") or settings
        rate = positive(taken, "fps", FPS)
        most = positive(taken, "num_frames" if taken is settings else "max_frames", MOST_FRAMES)
        first, last = 0, frames - 1
        if duration - 2 > most * rate and int(fps) < min(int(frames - fps), last):
            first, last = int(fps), min(int(frames - fps), last)
        return np.linspace(first, last, max(1, int(min(round(rate * duration), most))), dtype=int).tolist()

    @property
    def language_model(self) -> PreTrainedModel:
        """The LLM without its head."""
        return self.hf_model.model.text_model

    @property
    def tower(self) -> PreTrainedModel:
        """The vision encoder."""
        return self.hf_model.model.vision_model

    def frame_size(self, frames: FrameFacts, *, file_pixels: bool = False) -> tuple[int, int]:
        """The tower's square."""
        largest = self._preprocessor.get("max_image_size") or {}
        side = largest.get("longest_edge") or self.hf_model.config.vision_config.image_size
        return side, side

    def resize(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize frames twice, on the CPU.

        Args:
            pixels: (T, H, W, 3) uint8.
            size: (h, w), in pixels.

        Returns:
            (T, 3, h, w) uint8, on the model's device if that is CUDA, else on the CPU.
        """
        height, width = pixels.shape[1:3]
        pixels = pixels.permute(0, 3, 1, 2)
        for each in (with_longest_side(height, width, self._longest), size):
            pixels = resize_sharply(pixels, each)
        return upload(pixels, self.device)

    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """The grid after pixel shuffle; no pooling is pending."""
        patch, scale = self.hf_model.config.vision_config.patch_size, self.hf_model.config.scale_factor
        return Layout.unpooled(frames, size, patch * scale)

    @property
    def blocks(self) -> Blocks:
        """The tower's blocks."""
        return Blocks(block_list(self.tower), self.tower.config.num_hidden_layers)

    def attention_of_cells(self, received: Tensor, layout: Layout) -> Tensor:
        """Sums over each token's patches."""
        return self._summed(received, layout)[:, :, 0]

    def _summed(self, values: Tensor, layout: Layout) -> Tensor:
        """(T, patches) or (T, patches, d) to (T, N, d)."""
        return sums_by_token(values, replace(layout, frames=len(values)), self.hf_model.config.scale_factor)

    def run_tower(self, pixel_values: Tensor, layout: Layout) -> TowerOutput:
        """Tower, pixel shuffle, projector and importance.

        Args:
            pixel_values: (T, 3, h, w) float32.
            layout: of their tokens.
        """
        layers = depths(self.tower.config.num_hidden_layers)
        with capture(*layers, keys_of=layers[-1]) as received:
            hidden_states = self.tower(pixel_values.to(self.device, self.dtype)).last_hidden_state
        image_features = self.hf_model.model.connector(hidden_states)
        shallow, deep, last = (self.attention_of_cells(received.sums[layer], layout) for layer in layers)
        keys = self._summed(received.keys, layout) / self.hf_model.config.scale_factor**2
        return TowerOutput(image_features, shallow, deep, extras={Extra.LAST: last, Extra.KEYS: keys})

    def video_text(self, tokens: VideoTokens | None) -> str:
        """The number of frames, the video's length, and every frame with its time; one frame for no tokens."""
        frame = f"{_FRAME}<global-img>{_SLOT}{_FRAME}"
        if tokens is None:
            return frame
        length, times = told_times(tokens)
        seconds = [int(time) for time in times]
        frames = "".join(f"\nFrame from {time // 60:02d}:{time % 60:02d}:{frame}" for time in seconds)
        return (
            f"You are provided the following series of {in_words(len(seconds))} frames from a "
            f"{timedelta(seconds=int(length))} [H:MM:SS] video.\n{frames}\n\n"
        )


def longest_side(settings: Mapping[str, Any]) -> int:
    """The longest side of a frame after the first resizing, in pixels.

    Args:
        settings: of the folder's video processor.
    """
    sampling = settings.get("video_sampling") or {}
    for size in (settings.get("size"), sampling.get("video_size")):
        if isinstance(size, dict) and size.get("longest_edge"):
            return size["longest_edge"]
    return LONGEST_SIDE


def with_longest_side(height: int, width: int, longest: int) -> tuple[int, int]:
    """The size of a frame with this longest side, its aspect kept, the other side even.

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        longest: side, in pixels.

    Returns:
        (h, w), in pixels.

    Source: the published resizing of SmolVLM.
    """
    aspect = width / height
    other = int(longest / aspect if aspect >= 1 else longest * aspect)
    other = max(1, other + other % 2)
    return (other, longest) if aspect >= 1 else (longest, other)


def resize_sharply(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize by Lanczos' filter, or by the bicubic one where PyTorch has no other.

    Args:
        pixels: (T, 3, H, W) uint8, on the CPU.
        size: (h, w), in pixels.

    Returns:
        (T, 3, h, w) uint8.
    """
    if pixels.shape[2:] == size:
        return pixels
    try:
        return functional.interpolate(pixels, size=size, mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError):
        return functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)


def in_words(count: int) -> str:
    """A whole number in English words.

    Args:
        count: 0 to 999,999.
    """
    if count < 20:
        return _ONES[count]
    if count < 100:
        tens, ones = divmod(count, 10)
        return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
    if count < 1000:
        hundreds, rest = divmod(count, 100)
        return f"{_ONES[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    thousands, rest = divmod(count, 1000)
    joint = " and " if rest < 100 else ", "
    return f"{in_words(thousands)} thousand" + (f"{joint}{in_words(rest)}" if rest else "")
