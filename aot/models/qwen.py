"""The common part of Qwen2.5-VL and Qwen3-VL: frames in pairs, any resolution, positions of time, height and width.

Two consecutive frames make one temporal patch, and 2 x 2 of its patches one token: the layout's frames are those pairs,
and its grid is that of the tokens. Kept tokens keep their positions in the full video, which the stock model computes.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..tokens.video_tokens import Extra, Layout, VideoTokens
from ..video.frame_source import FrameSource
from .base import TowerOutput, VideoLLM
from .importance import capture
from .prompt import Inputs, Prompt


class QwenVL(VideoLLM):
    """A loaded Qwen vision-language model."""

    placeholder = "<|video_pad|>"
    axes = 3
    least_pixels: int
    most_pixels: int

    def __init__(self, hf_model: Any, tokenizer: Any, name: str, **options: Any) -> None:
        super().__init__(hf_model, tokenizer, name, **options)
        settings = self._preprocessor
        size = settings.get("size") or {}
        self._least = settings.get("min_pixels") or size.get("shortest_edge") or self.least_pixels
        self._most = settings.get("max_pixels") or size.get("longest_edge") or self.most_pixels

    @property
    def _vision(self) -> Any:
        return self.hf_model.config.vision_config

    @property
    def factor(self) -> int:
        """Side of a token, in pixels."""
        return self._vision.patch_size * self._vision.spatial_merge_size

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
        height, width = size
        pairs = -(-frames // self._vision.temporal_patch_size)
        return Layout(pairs, (height // self.factor, width // self.factor), "none", "none")

    def timestamps(self, frames: FrameSource) -> Tensor:
        """The mean time of every pair, (pairs,) float64, in seconds."""
        pair, times = self._vision.temporal_patch_size, frames.timestamps
        if missing := -len(times) % pair:
            times = torch.cat((times, times[-1:].expand(missing)))
        pairs = times.reshape(-1, pair)
        return (pairs[:, 0] + pairs[:, -1]) / 2

    def run_tower(self, pixel_values: Tensor, layout: Layout) -> TowerOutput:
        """Tower, merger and importance. Every pair is encoded on its own.

        Args:
            pixel_values: (T, 3, h, w) float32.
            layout: of their tokens.
        """
        layers = self.importance_layers()
        patches = self.patches(pixel_values).to(self.device, self.dtype)
        with capture(*layers, keys_of=layers[-1]) as received:
            output = self.tower(patches, grid_thw=self.tower_grids(layout).to(self.device))
        image_features, levels = _features_and_levels(output)
        per_frame = (layout.frames, layout.cells, -1)
        shallow, deep, last = (self._merged(received.sums[layer][0, :, None], layout)[:, :, 0] for layer in layers)
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

    @abstractmethod
    def importance_layers(self) -> tuple[int, int, int]:
        """Indices of the tower's shallow, deep and last layer, whose attention is summed."""

    def _merged(self, patches: Tensor, layout: Layout) -> Tensor:
        """Sums over each token's patches: (patches, d) in the tower's order to (T, N, d)."""
        tokens = patches.reshape(layout.frames * layout.cells, -1, patches.shape[-1]).sum(1)
        return self._in_order(tokens, layout).reshape(layout.frames, layout.cells, -1)

    def _in_order(self, values: Tensor, layout: Layout) -> Tensor:
        """Values of tokens in the tower's order, sorted by frame, row and column."""
        return values

    def _positions(
        self, tokens: VideoTokens | None, prompt: Prompt, groups: Sequence[Tensor], length: int
    ) -> tuple[Tensor, int, int]:
        """The stock model's positions for the full video, picked for the text and for the tokens that are kept."""
        if tokens is None:
            return torch.arange(length).expand(3, -1), length, length
        layout = tokens.layout
        cells = layout.cells * layout.frames // len(prompt.before)
        ids, kept, start = [], [], 0
        index = (tokens.place.cpu() * torch.tensor([layout.cells, layout.grid[1], 1])).sum(1)
        for i, (before, group) in enumerate(zip(prompt.before, groups, strict=True)):
            first = start + len(before)
            ids += [before, torch.full((cells,), self.visual_id)]
            kept += [torch.arange(start, first), first + index[group] - i * cells]
            start = first + cells
        # The position of one more token of text is where the text goes on.
        input_ids = torch.cat([*ids, torch.zeros(1, dtype=torch.long)])[None]
        arguments: dict[str, Any] = {
            "input_ids": input_ids,
            "video_grid_thw": self.grids(layout),
            **self._spacing(tokens),
        }
        rope = self.hf_model.model.get_rope_index
        if "mm_token_type_ids" in inspect.signature(rope).parameters:
            arguments["mm_token_type_ids"] = 2 * (input_ids == self.visual_id).int()
        position_ids = rope(**arguments)[0][:, 0]
        return position_ids[:, torch.cat(kept)], int(position_ids[0, -1]), int(position_ids[:, :-1].max()) + 1

    def _spacing(self, tokens: VideoTokens) -> dict[str, Any]:
        """The stock model's arguments about the time between pairs."""
        return {}

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
