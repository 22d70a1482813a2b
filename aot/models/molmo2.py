"""Molmo2 through the stock transformers class.

Two layers of the tower are pooled over 3 x 3 patches by an attention of their own. What they give is added to the
embedding of the token that marks a patch. In the LLM all visual tokens, and the marks around frames, see each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..tokens.video_tokens import Extra, Layout, VideoTokens
from ..video.frame_source import FrameFacts
from .base import TowerOutput, VideoLLM, added
from .file_time import told_times
from .frame_choice import NO_SETTINGS, equal_steps, positive
from .importance import capture, depths
from .pixels import rows_of_patches, upload
from .prompt import Inputs
from .stock import stock_class

MARKS = (
    "<im_patch>",
    "<im_col>",
    "<im_start>",
    "<low_res_im_start>",
    "<frame_start>",
    "<im_end>",
    "<frame_end>",
    "<im_low>",
)
"""Tokens that see each other."""

FRAMES, FASTEST = 64, 2.0
"""Taken of a video, and the most of a second, where the settings do not say."""


class Molmo2(VideoLLM):
    """A loaded Molmo2."""

    family = "molmo2"
    stock = stock_class("Molmo2ForConditionalGeneration", since="5.20")
    placeholder = "<|video|>"
    slot = "<im_patch>"
    mean = std = (0.5, 0.5, 0.5)
    frames_apart = True

    def __init__(self, hf_model: Any, tokenizer: Any, name: str, **options: Any) -> None:
        super().__init__(hf_model, tokenizer, name, **options)
        self._first = tokenizer.bos_token or tokenizer.eos_token or ""
        known = tokenizer.get_vocab()
        self._marks = torch.tensor([known[each] for each in MARKS if each in known])
        self._pool: Sequence[int] = self._preprocessor.get("pooling_size") or (3, 3)

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int]:
        """64 frames in equal steps from the first, but no more than two a second.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        count, fastest = positive(settings, "num_frames", FRAMES), positive(settings, "max_fps", FASTEST)
        if fps > fastest:
            count = min(count, int(duration * fastest))
        return equal_steps(frames, max(1, min(int(count), frames)))

    @property
    def sees_ahead(self) -> bool:
        """Whether visual tokens see some that come after them."""
        return True

    @property
    def _vision(self) -> Any:
        return self.hf_model.config.vision_config

    @property
    def _patch_grid(self) -> tuple[int, int]:
        height, width = self._vision.image_size
        return height // self._vision.patch_size, width // self._vision.patch_size

    def frame_size(self, frames: FrameFacts, *, file_pixels: bool = False) -> tuple[int, int]:
        """The tower's square."""
        height, width = self._vision.image_size
        return height, width

    def resize(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize frames between the four nearest pixels.

        Args:
            pixels: (T, H, W, 3) uint8.
            size: (h, w), in pixels.

        Returns:
            (T, 3, h, w) float32, levels 0 to 255, on the model's device if that is CUDA, else on the CPU.
        """
        resized = functional.interpolate(pixels.permute(0, 3, 1, 2).float(), size=size, mode="bilinear")
        return upload(resized.round_().clamp_(0, 255), self.device)

    def layout_of(self, frames: int, size: tuple[int, int]) -> Layout:
        """The grid after the projector's own pooling; no other is pending."""
        (rows, columns), (tall, wide) = self._patch_grid, self._pool
        return Layout(frames, (-(-rows // tall), -(-columns // wide)), "none", "none")

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Cut frames into patches, row by row.

        Args:
            pixel_values: (T, 3, h, w) float32.

        Returns:
            (T, patches, values) float32, as the tower takes them.
        """
        return rows_of_patches(pixel_values, self._vision.patch_size)

    def windows(self, frames: int) -> Tensor:
        """(T N, patches of a token) long: the patches of every token; -1 where its window is beyond the grid.

        Args:
            frames: T, their number.
        """
        (rows, columns), (tall, wide) = self._patch_grid, self._pool
        down, across = -rows % tall, -columns % wide
        one = torch.arange(rows * columns).reshape(rows, columns)
        one = functional.pad(one, (across // 2, -(-across // 2), down // 2, -(-down // 2)), value=-1)
        one = one.unflatten(1, (-1, wide)).unflatten(0, (-1, tall)).transpose(1, 2).reshape(-1, tall * wide)
        first = torch.arange(frames)[:, None, None] * rows * columns
        return torch.where(one < 0, one, one + first).flatten(0, 1)

    def run_tower(self, pixel_values: Tensor, layout: Layout) -> TowerOutput:
        """Tower, projector and importance.

        Args:
            pixel_values: (T, 3, h, w) float32.
            layout: of their tokens.
        """
        blocks, chosen = self._vision.num_hidden_layers, self.hf_model.config.adapter_config.vision_feature_layer
        last_blocks = [layer + 1 if layer >= 0 else blocks + 1 + layer for layer in chosen]
        layers = depths(max(last_blocks))
        patches = self.patches(pixel_values).to(self.device, self.dtype)
        with capture(*layers, keys_of=layers[-1]) as received:
            hidden_states = self.tower(patches, output_hidden_states=True).hidden_states
        features = torch.cat([hidden_states[number] for number in last_blocks], -1)
        windows = self.windows(layout.frames).to(self.device)
        image_features = self.hf_model.model.multi_modal_projector(features, windows).last_hidden_state
        shallow, deep, last = (self._summed(received.sums[layer][:, :, None], windows)[..., 0] for layer in layers)
        counts = (windows >= 0).sum(1).reshape(layout.frames, layout.cells, 1)
        shape = (layout.frames, layout.cells)
        extras = {
            Extra.LAST: last.reshape(shape),
            Extra.KEYS: self._summed(received.keys, windows).reshape(*shape, -1) / counts,
        }
        return TowerOutput(
            image_features.reshape(*shape, -1), shallow.reshape(shape), deep.reshape(shape), extras=extras
        )

    def _summed(self, values: Tensor, windows: Tensor) -> Tensor:
        """Sums over each token's patches: (T, patches, d) to (T N, d)."""
        return (values.flatten(0, 1)[windows.clamp(min=0)] * (windows >= 0)[..., None]).sum(1)

    def video_text(self, tokens: VideoTokens | None) -> str:
        """Each frame's time, then the frame; one frame without a time if ``tokens`` is None.

        A last place without tokens follows: the mark before it is seen by the video, and so is read with it.
        """
        frame = f"<frame_start>{self.slot}<frame_end>"
        if tokens is None:
            return f"{frame}{self.slot}"
        return " ".join(f"{time:.1f} {frame}" for time in told_times(tokens)[1]) + self.slot

    def _around_video(self, text: str, video: str) -> str:
        text = super()._around_video(text, video)
        return text if text.startswith(self._first) else self._first + text

    def _groups(self, tokens: VideoTokens) -> list[Tensor]:
        """Indices of the tokens of each frame, and of none."""
        return [*super()._groups(tokens), torch.empty(0, dtype=torch.long)]

    def _image_features(self, tokens: VideoTokens, group: Tensor) -> Tensor:
        """The tokens, on top of the mark of a patch."""
        features = super()._image_features(tokens, group)
        mark = torch.tensor([self.hf_model.config.image_patch_id], device=self.device)
        return features + self.hf_model.get_input_embeddings()(mark).to(features)

    def rotary(self, layer: int) -> Any:
        """The module that makes a layer's rotary embeddings of positions.

        Args:
            layer: its number.
        """
        language_model: Any = self.language_model
        scaled = language_model.rope_types[layer] == "scaled"
        return language_model.rotary_emb if scaled else language_model.rotary_emb_unscaled

    def _mask(self, inputs: Inputs, before: int) -> Tensor | None:
        if before or inputs.ids is None:
            return None
        marked = inputs.visual | torch.isin(inputs.ids, self._marks.to(inputs.ids.device))
        column = torch.arange(len(inputs), device=marked.device)
        return added((column <= column[:, None]) | (marked & marked[:, None]), inputs.inputs_embeds.dtype)
