"""Qwen2-VL through the stock transformers class.

Every block of its tower attends over the full frame. A pair of frames is one position from the next, whatever the time.
"""

from __future__ import annotations

from transformers import Qwen2VLForConditionalGeneration

from .importance import depths
from .qwen import QwenVL, fit


class Qwen2VL(QwenVL):
    """A loaded Qwen2-VL."""

    family = "qwen2_vl"
    stock = Qwen2VLForConditionalGeneration
    least_pixels, most_pixels = 128 * 28 * 28, 28 * 28 * 768

    def makers_size(self, frames: int, size: tuple[int, int]) -> tuple[int, int]:
        """The size (h, w), in pixels, that `qwen-vl-utils` and then the processor give frames, as in the model card.

        Args:
            frames: their number.
            size: (h, w) of the file's, in pixels.
        """
        return self.processor_size(frames, super().makers_size(frames, size))

    def processor_size(self, frames: int, size: tuple[int, int]) -> tuple[int, int]:
        """Each frame's pixels are within the processor's limits.

        Args:
            frames: their number.
            size: (h, w) of the file's, in pixels.
        """
        return fit(*size, self.factor, self._least, self._most)

    def importance_layers(self) -> tuple[int, int, int]:
        """AOT's depths."""
        return depths(self._vision.depth)
