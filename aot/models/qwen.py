"""The common part of Qwen's families: frames in pairs, any resolution, positions of time, height and width.

Two consecutive frames make one temporal patch, and 2 x 2 of its patches one token: the layout's frames are those pairs,
and its grid is that of the tokens. Kept tokens keep their positions in the full video. Frames are chosen and resized
as `qwen-vl-utils` does, the package through which Qwen's model cards read videos.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..tokens.video_tokens import Extra, Layout, VideoTokens
from ..video.frame_source import FrameFacts
from ..video.frames import Frames
from .base import TowerOutput, VideoLLM
from .frame_choice import NO_SETTINGS
from .importance import Received, capture
from .inside import Blocks
from .pixels import normalise, resize_in_float, upload
from .prompt import Inputs, Prompt

FPS, LEAST_FRAMES, MOST_FRAMES = 2.0, 4, 768
"""Frames a second that are taken of a video, and how many at least and at most."""

LEAST_TOKENS, MOST_TOKENS = 128, 768
"""Of a frame, in squares of the side of a token."""

ALL_TOKENS = 0.9 * 128_000
"""Of all pairs of a video together, likewise."""


class QwenVL(VideoLLM):
    """A loaded Qwen vision-language model."""

    placeholder = "<|video_pad|>"
    axes = 3
    any_size = True
    through_utils: ClassVar[bool] = True
    """Whether its makers read videos through `qwen-vl-utils`, or else through the model's processor alone."""
    least_pixels: int
    most_pixels: int

    def __init__(self, hf_model: Any, tokenizer: Any, name: str, **options: Any) -> None:
        super().__init__(hf_model, tokenizer, name, **options)
        self._least, self._most = pixel_limits(self._preprocessor, self.least_pixels, self.most_pixels)

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int] | None:
        """Two frames a second, an even number from 4 to 768, evenly spread from the first to the last.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        if not cls.through_utils:
            return None
        most = min(MOST_FRAMES, frames) // 2 * 2
        count = int(min(max(frames / fps * FPS, LEAST_FRAMES), most)) // 2 * 2
        return torch.linspace(0, frames - 1, max(1, count)).round().long().tolist()

    def frame_size(self, frames: FrameFacts, *, file_pixels: bool = False) -> tuple[int, int]:
        """A whole number of tokens a side.

        Args:
            frames: decoded, or a file still to be decoded.
            file_pixels: keep to the limits of the model's processor alone, not to those of `qwen-vl-utils`.
        """
        size = frames.height, frames.width
        if file_pixels or not self.through_utils:
            return self.processor_size(frames.count, size)
        return self.makers_size(frames.count, size)

    def makers_size(self, frames: int, size: tuple[int, int]) -> tuple[int, int]:
        """The size (h, w), in pixels, that `qwen-vl-utils` gives frames.

        Args:
            frames: their number.
            size: (h, w) of the file's, in pixels.
        """
        pair = self._vision.temporal_patch_size
        return fit(*size, self.factor, *limits(-(-frames // pair) * pair, self.factor))

    @abstractmethod
    def processor_size(self, frames: int, size: tuple[int, int]) -> tuple[int, int]:
        """The size (h, w), in pixels, that the model's processor gives frames.

        Args:
            frames: their number.
            size: (h, w) of the file's, in pixels.
        """

    def preprocess(self, frames: Frames, size: tuple[int, int] | None = None, *, file_pixels: bool = False) -> Tensor:
        """Resize and normalise frames for the vision tower.

        `qwen-vl-utils` resizes in floating point on a CPU too, the processor in whole levels.

        Args:
            frames: (T, H, W, 3) uint8.
            size: (h, w), in pixels; None takes that of :meth:`frame_size`.
            file_pixels: see :meth:`frame_size`.

        Returns:
            Pixel values, (T, 3, h, w) float32, on the model's device if that is CUDA, else on the CPU.
        """
        if file_pixels or not self.through_utils:
            return super().preprocess(frames, size, file_pixels=True)
        size = size or self.frame_size(frames)
        pixels = upload(frames.pixels, self.device).permute(0, 3, 1, 2)
        return normalise(pixels if pixels.shape[2:] == size else resize_in_float(pixels, size), self._mean, self._std)

    @property
    def _vision(self) -> Any:
        return self.hf_model.config.vision_config

    @property
    def factor(self) -> int:
        """Side of a token, in pixels."""
        return self._vision.patch_size * self._vision.spatial_merge_size

    @property
    def tile(self) -> tuple[int, int]:
        """(h, w), in pixels: a single token."""
        return self.factor, self.factor

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Cut frames into patches of pairs. A last frame without a partner is paired with itself.

        Args:
            pixel_values: (T, 3, h, w) float32.

        Returns:
            (patches, values) float32, as the tower takes them.
        """
        vision = self._vision
        return cut(pixel_values, vision.temporal_patch_size, vision.patch_size, vision.spatial_merge_size)

    @property
    def tower(self) -> PreTrainedModel:
        """The vision encoder."""
        return self.hf_model.model.visual

    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """Pairs of frames on the grid of tokens; no pooling is pending."""
        return Layout.unpooled(-(-frames // self._vision.temporal_patch_size), size, self.factor)

    def timestamps(self, frames: FrameFacts) -> Tensor:
        """The mean time of every pair, (pairs,) float64, in seconds."""
        return pair_means(frames.timestamps, self._vision.temporal_patch_size)

    @property
    def blocks(self) -> Blocks:
        """The tower's blocks; they take the patches of all pairs as one sequence."""
        return Blocks(tuple(self.hf_model.model.visual.blocks), self._vision.depth)

    def attention_of_cells(self, received: Tensor, layout: Layout) -> Tensor:
        """Sums over each token's patches."""
        return self._merged(received.reshape(-1, 1), layout)[:, :, 0]

    def run_tower(self, pixel_values: Tensor, layout: Layout) -> TowerOutput:
        """Tower, merger and importance. Every pair is encoded on its own.

        Args:
            pixel_values: (T, 3, h, w) float32.
            layout: of their tokens.
        """
        layers = self.importance_layers()
        output, received = self.encode_patches(self.patches(pixel_values), self.tower_grids(layout), layers)
        image_features, levels = _features_and_levels(output)
        per_frame = (-1, layout.cells, image_features.shape[-1])
        shallow, deep, last = (self.attention_of_cells(received.sums[layer], layout) for layer in layers)
        patches_a_token = self._vision.spatial_merge_size**2
        keys = self._merged(received.keys[0], layout) / patches_a_token
        return TowerOutput(
            image_features.reshape(per_frame),
            shallow,
            deep,
            tuple(level.reshape(per_frame) for level in levels),
            {Extra.LAST: last, Extra.KEYS: keys},
        )

    def grids(self, layout: Layout) -> Tensor:
        """(1, 3) long: pairs of frames, rows and columns of patches."""
        merge = self._vision.spatial_merge_size
        return torch.tensor([[layout.frames, layout.grid[0] * merge, layout.grid[1] * merge]])

    def tower_grids(self, layout: Layout) -> Tensor:
        """The same, as the tower takes it."""
        return self.grids(layout)

    @property
    def visual_id(self) -> int:
        """The token id in the place of a visual token."""
        return self.hf_model.config.video_token_id

    def encode_patches(self, patches: Tensor, grid: Tensor, layers: Sequence[int]) -> tuple[Any, Received]:
        """The tower's own output, and the attention received at some of its layers.

        Args:
            patches: (n, values) float32.
            grid: (1, 3) long, pairs of frames, and the height and width of a frame in patches.
            layers: their indices; the keys of the last are kept too.
        """
        with capture(*layers, keys_of=layers[-1]) as received:
            output = self.tower(patches.to(self.device, self.dtype), grid_thw=grid.to(self.device))
        return output, received

    @abstractmethod
    def importance_layers(self) -> tuple[int, int, int]:
        """Indices of the tower's shallow, deep and last layer, whose attention is summed."""

    def _merged(self, patches: Tensor, layout: Layout) -> Tensor:
        """Sums over each token's patches: (patches, d) in the tower's order to (T', N, d), of the pairs they are of."""
        tokens = patches.reshape(-1, self._vision.spatial_merge_size**2, patches.shape[-1]).sum(1)
        layout = replace(layout, frames=len(tokens) // layout.cells)
        return self._in_order(tokens, layout).reshape(layout.frames, layout.cells, -1)

    def _in_order(self, values: Tensor, layout: Layout) -> Tensor:
        """Values of tokens in the tower's order, sorted by frame, row and column."""
        return values

    def _positions(
        self, tokens: VideoTokens | None, prompt: Prompt, groups: Sequence[Tensor], length: int
    ) -> tuple[Tensor, int, int]:
        """The positions of the full video, picked for the text and for the tokens that are kept.

        A group's positions begin where the text before it ends; the text goes on after the largest of them.

        Source: Qwen2-VL, section 2.1, and ``get_rope_index`` as the authors published it; versions 4.5x of transformers
        cut the seconds between pairs to whole ones, and version 5 begins the text within long videos.
        """
        if tokens is None:
            return torch.arange(length).expand(3, -1), length, length
        layout, place = tokens.layout, tokens.place.cpu()
        frames = layout.frames // len(prompt.before)
        times = (torch.arange(frames) * self.time_step(tokens)).long()
        largest = max(int(times[-1]), *(side - 1 for side in layout.grid))
        position_ids, start = [], 0
        for before, group in zip(prompt.before, groups, strict=True):
            first = start + len(before)
            frame, y, x = place[group].T
            position_ids += [
                torch.arange(start, first).expand(3, -1),
                first + torch.stack((times[frame % frames], y, x)),
            ]
            start = first + largest + 1
        return torch.cat(position_ids, 1), start, start

    def time_step(self, tokens: VideoTokens) -> float:
        """Positions from a pair to the next, rounded down when they are added up.

        Args:
            tokens: of the video.
        """
        return 1.0

    def _position_ids(self, inputs: Inputs, before: int) -> Tensor:
        """(4, 1, n): the count of tokens, of which the mask is made, then time, height and width."""
        count = torch.arange(before, before + len(inputs), device=inputs.position_ids.device)
        return torch.cat((count[None], inputs.position_ids))[:, None]


def cut(pixel_values: Tensor, pair: int, patch: int, merge: int) -> Tensor:
    """Cut frames into patches, those of a token together. A last frame without a partner is paired with itself.

    Args:
        pixel_values: (T, 3, h, w) float32.
        pair: frames in a patch.
        patch: side of a patch, in pixels.
        merge: side of a token, in patches.

    Returns:
        (patches, values) float32.
    """
    if missing := -len(pixel_values) % pair:
        pixel_values = torch.cat((pixel_values, pixel_values[-1:].expand(missing, -1, -1, -1)))
    count, channels, height, width = pixel_values.shape
    side = patch * merge
    split = pixel_values.reshape(
        count // pair, pair, channels, height // side, merge, patch, width // side, merge, patch
    )
    return split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * pair * patch * patch)


def _features_and_levels(output: Any) -> tuple[Tensor, Sequence[Tensor]]:
    """A tower's image features and those of further depths; transformers 5 names them, 4 returns them bare."""
    if isinstance(output, Tensor):
        return output, ()
    if hasattr(output, "pooler_output"):
        return output.pooler_output, getattr(output, "deepstack_features", None) or ()
    image_features, levels = output
    return image_features, levels


def pair_means(times: Tensor, pair: int) -> Tensor:
    """The mean of the first and the last of every pair; a last one without a partner stands for both.

    Args:
        times: (T,) float64, of frames.
        pair: frames in a temporal patch.

    Returns:
        (pairs,) float64.
    """
    missing = -len(times) % pair
    pairs = torch.cat((times, times[-1:].expand(missing))).reshape(-1, pair)
    return (pairs[:, 0] + pairs[:, -1]) / 2


def pixel_limits(settings: Mapping[str, Any], least: int, most: int) -> tuple[int, int]:
    """The fewest and the most pixels in the settings of a processor, by either of their names.

    Args:
        settings: of the folder's video processor.
        least: the fewest, where the settings have none.
        most: the most, where the settings have none.
    """
    size = settings.get("size") or {}
    return (
        settings.get("min_pixels") or size.get("shortest_edge") or least,
        settings.get("max_pixels") or size.get("longest_edge") or most,
    )


def limits(frames: int, factor: int) -> tuple[int, float]:
    """The fewest and the most pixels of a frame.

    Args:
        frames: of the video, an even number.
        factor: side of a token, in pixels.

    Source: `qwen-vl-utils` 0.0.14.
    """
    square = factor**2
    least = LEAST_TOKENS * square
    return least, max(min(MOST_TOKENS * square, ALL_TOKENS * square / frames * 2), int(least * 1.05))


def fit(height: int, width: int, factor: int, least: float, most: float) -> tuple[int, int]:
    """The size that a frame is resized to; its aspect is kept as nearly as the multiples allow.

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        factor: both sides are multiples of it, in pixels.
        least: the fewest pixels in all.
        most: the most pixels in all.

    Returns:
        (h, w), in pixels.

    Source: Qwen2-VL's published resizing.
    """
    sides = height, width
    near = [max(factor, round(side / factor) * factor) for side in sides]
    if math.prod(near) > most:
        shrink = math.sqrt(height * width / most)
        near = [max(factor, math.floor(side / shrink / factor) * factor) for side in sides]
    elif math.prod(near) < least:
        grow = math.sqrt(least / (height * width))
        near = [math.ceil(side * grow / factor) * factor for side in sides]
    return near[0], near[1]
