"""What Qwen2.5-VL and Qwen3-VL share: frames in pairs, any resolution, rotary positions of time, height and width.

Two consecutive frames make one temporal patch, and 2 x 2 of its patches one token: the layout's frames are those pairs,
and its grid is that of the tokens. Kept tokens keep the positions they have in the whole video, which the stock model
works out.
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
from .base import FrameSource, TowerOutput, VideoLLM
from .importance import capture
from .prompt import Inputs, Prompt


class QwenVL(VideoLLM):
    """A loaded Qwen vision-language model."""

    placeholder = "<|video_pad|>"
    axes = 3
    least_pixels: int
    most_pixels: int

    def __init__(self, model: Any, tokenizer: Any, name: str, **found: Any) -> None:
        super().__init__(model, tokenizer, name, **found)
        settings = self._preprocessor
        size = settings.get("size") or {}
        self._least = settings.get("min_pixels") or size.get("shortest_edge") or self.least_pixels
        self._most = settings.get("max_pixels") or size.get("longest_edge") or self.most_pixels

    @property
    def _vision(self) -> Any:
        return self.hf_model.config.vision_config

    @property
    def factor(self) -> int:
        """Pixels of a token's side."""
        return self._vision.patch_size * self._vision.spatial_merge_size

    def patches(self, pixels: Tensor) -> Tensor:
        """(T, 3, h, w) pixels as the tower takes them: (patches, values); an odd frame is paired with itself."""
        pair, patch, merge = self._vision.temporal_patch_size, self._vision.patch_size, self._vision.spatial_merge_size
        if odd := -len(pixels) % pair:
            pixels = torch.cat((pixels, pixels[-1:].expand(odd, -1, -1, -1)))
        count, channels, height, width = pixels.shape
        split = pixels.reshape(
            count // pair, pair, channels, height // self.factor, merge, patch, width // self.factor, merge, patch
        )
        return split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * pair * patch * patch)

    @property
    def tower(self) -> PreTrainedModel:
        """The vision encoder."""
        return self.hf_model.model.visual

    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """Pairs of frames on the grid of tokens; nothing is left to pool."""
        height, width = size
        pairs = -(-frames // self._vision.temporal_patch_size)
        return Layout(pairs, (height // self.factor, width // self.factor), "none", "none")

    def timestamps(self, frames: FrameSource) -> Tensor:
        """The middle of every pair."""
        pair, times = self._vision.temporal_patch_size, frames.timestamps
        if odd := -len(times) % pair:
            times = torch.cat((times, times[-1:].expand(odd)))
        pairs = times.reshape(-1, pair)
        return (pairs[:, 0] + pairs[:, -1]) / 2

    def run_tower(self, pixels: Tensor, layout: Layout) -> TowerOutput:
        """Tower, merger and importance: every pair is encoded for itself."""
        layers = self.importance_layers()
        merge = self._vision.spatial_merge_size
        grid = [layout.frames, layout.grid[0] * merge, layout.grid[1] * merge]
        patches = self.patches(pixels).to(self.device, self.dtype)
        with capture(*layers, keys_of=layers[-1]) as received:
            features, levels = _found(self.tower(patches, grid_thw=torch.tensor([grid], device=self.device)))
        per_frame = (layout.frames, layout.cells, -1)
        shallow, deep, last = (self._merged(received.sums[layer][0, :, None], layout)[:, :, 0] for layer in layers)
        patches_a_token = merge**2
        keys = self._merged(received.keys[0], layout) / patches_a_token
        return TowerOutput(
            features.reshape(per_frame),
            shallow,
            deep,
            tuple(level.reshape(per_frame) for level in levels),
            {Extra.LAST: last, Extra.KEYS: keys},
        )

    @abstractmethod
    def importance_layers(self) -> tuple[int, int, int]:
        """The tower's shallow, deep and last layer, whose attention is read."""

    def _merged(self, patches: Tensor, layout: Layout) -> Tensor:
        """(patches, d) of the tower to the sums of each token's patches, (T, N, d)."""
        tokens = patches.reshape(layout.frames * layout.cells, -1, patches.shape[-1]).sum(1)
        return self._in_order(tokens, layout).reshape(layout.frames, layout.cells, -1)

    def _in_order(self, values: Tensor, layout: Layout) -> Tensor:
        """Values of a part's tokens in the order the tower works in, brought to frame and reading order."""
        return values

    def _positions(
        self, tokens: VideoTokens | None, prompt: Prompt, order: Sequence[Tensor], length: int
    ) -> tuple[Tensor, int, int]:
        """Those the stock model gives the whole video, of the text and of the tokens that are kept."""
        if tokens is None:
            return torch.arange(length).expand(3, -1), length, length
        layout, config = tokens.layout, self.hf_model.config
        cells = layout.cells * layout.frames // len(prompt.before)
        ids, kept, start = [], [], 0
        index = (tokens.place * torch.tensor([layout.cells, layout.grid[1], 1])).sum(1)
        for i, (before, group) in enumerate(zip(prompt.before, order, strict=True)):
            first = start + len(before)
            ids += [before, torch.full((cells,), config.video_token_id)]
            kept += [torch.arange(start, first), first + index[group] - i * cells]
            start = first + cells
        # One token of text behind tells where the text goes on.
        whole = torch.cat([*ids, torch.zeros(1, dtype=torch.long)])[None]
        merge = self._vision.spatial_merge_size
        grid = torch.tensor([[layout.frames, layout.grid[0] * merge, layout.grid[1] * merge]])
        given: dict[str, Any] = {"input_ids": whole, "video_grid_thw": grid, **self._spacing(tokens)}
        rope = self.hf_model.model.get_rope_index
        if "mm_token_type_ids" in inspect.signature(rope).parameters:
            given["mm_token_type_ids"] = 2 * (whole == config.video_token_id).int()
        positions = rope(**given)[0][:, 0]
        return positions[:, torch.cat(kept)], int(positions[0, -1]), int(positions[:, :-1].max()) + 1

    def _spacing(self, tokens: VideoTokens) -> dict[str, Any]:
        """What the stock model wants to know of the time between pairs."""
        return {}

    def _position_ids(self, inputs: Inputs, behind: int) -> Tensor:
        """(4, 1, n): the count of tokens, by which a mask is made, then time, height and width."""
        count = torch.arange(behind, behind + len(inputs), device=inputs.position_ids.device)
        return torch.cat((count[None], inputs.position_ids))[:, None]


def _found(output: Any) -> tuple[Tensor, Sequence[Tensor]]:
    """A tower's features and those of further depths: transformers 5 names them, 4 gives the features or a pair."""
    if isinstance(output, Tensor):
        return output, ()
    if hasattr(output, "pooler_output"):
        return output.pooler_output, getattr(output, "deepstack_features", None) or ()
    features, levels = output
    return features, levels
