"""LLaVA checkpoints as lmms-lab publishes them, loaded into the stock LLaVA-OneVision class by renaming their tensors.

Their config.json is that of LLaVA's own code: the LLM's settings, and ``mm_...`` for tower and projector. It names the
tower, whose trained weights are in the checkpoint. SigLIP's last block, of 27, is not used: the hidden state after the
26th is projected, without a norm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from ..errors import InputError
from ..files import read_json
from ..names import within
from ..tokens.video_tokens import VideoTokens
from .base import VideoLLM
from .folder import (
    first_json,
    load_tokenizer,
    loading,
    require_all_tensors,
    require_depth,
    require_self_contained,
    tokenizer_file,
)
from .llava_onevision import LlavaOnevision
from .pixels import resize_with_pil, upload
from .prompt import Prompt
from .stand_ins import built, stand_in
from .weights import stored_tensors, weight_files

SIGLIP: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
"""google/siglip-so400m-patch14-384, the tower of all of them."""

SIGLIP_NAME = "siglip-so400m-patch14-384"
HALF = (0.5, 0.5, 0.5)

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Qwen2's chat format, in which these models were trained. It replaces the tokenizer's own template."""

_NAMES = (
    (r"^model\.vision_tower\.vision_tower\.", "vision_tower."),
    (r"^model\.mm_projector\.0\.", "multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "multi_modal_projector.linear_2."),
    (r"^model\.image_newline$", "image_newline"),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.(?=embed_tokens\.|layers\.|norm\.)", "language_model.model."),
)
"""From lmms-lab's names to those of Hugging Face's layout, which every version of transformers reads."""


class LlavaOnevisionOriginal(LlavaOnevision):
    """LLaVA-OneVision from lmms-lab's own checkpoint."""

    family = "llava_onevision (lmms-lab)"
    placeholder = "<image>"
    quantizes = False

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        """A checkpoint of LLaVA's own code, with one newline after the video."""
        return is_lmms_lab(config) and config.get("mm_newline_position", "one_token") == "one_token"

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        attention: str = "sdpa",
        quantization: str = "none",
        weights: bool = True,
    ) -> VideoLLM:
        """Load lmms-lab's files as they are: safetensors only, nothing is downloaded or executed.

        Args:
            folder: of the model.
            name: the model's name in results and errors.
            dtype: of the weights.
            device: where to put them.
            attention: the LLM's attention implementation.
            quantization: only "none".
            weights: whether to read them; see :meth:`.base.VideoLLM.load`.

        Raises:
            InputError: a quantization, no safetensors, a tower that is not known or not in the checkpoint, or an
                attention that is not installed.
        """
        weight_files(folder, name)
        if quantization != "none":
            raise InputError(f"{name} is in lmms-lab's layout, which is not quantized; choose quantization none.")
        with loading(name, attention):
            config = stock_config(folder, name)
            tensors = renamed(
                folder, name, cast(Any, config.vision_config).num_hidden_layers, None if weights else dtype
            )
            model, report = built(
                LlavaOnevisionForConditionalGeneration,
                None,
                config,
                dtype,
                attention,
                tensors=tensors,
                untouched=not weights,
            )
            require_all_tensors(model, report, name)
            tokenizer = load_tokenizer(folder, name)
            own = first_json(folder, "generation_config.json") or {}
            ends = own if "eos_token_id" in own else read_json(folder / "config.json", "The model's config")
            model.generation_config.eos_token_id = ends.get("eos_token_id", tokenizer.eos_token_id)
            model.generation_config.repetition_penalty = own.get("repetition_penalty")
            tokenizer.chat_template = CHATML
            model = model.eval().to(device)  # pyright: ignore[reportArgumentType] - its decorator hides self
            return cls(model, tokenizer, name, preprocessor={"image_mean": HALF, "image_std": HALF})

    def resize(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize frames with PIL, as LLaVA's own code does on the way to its tower.

        Args:
            pixels: (T, H, W, 3) uint8.
            size: (h, w), in pixels.

        Returns:
            (T, 3, h, w) uint8, on the model's device if that is CUDA, else on the CPU.
        """
        return upload(resize_with_pil(pixels, size), self.device)

    def repeatable(self, tokens: VideoTokens | None, prompt: Prompt) -> Tensor:
        """Nothing: LLaVA's own ``generate`` is given embeddings, so that a penalty counts the answer's tokens only.

        Args:
            tokens: of the video; None for a prompt without a video.
            prompt: from :meth:`prompt`.
        """
        return torch.zeros(0, dtype=torch.long)

    @classmethod
    def sources(cls, folder: Path) -> Mapping[str, str]:
        """The checkpoint says nothing of pixels and prompt: the family's own are used."""
        own = "the family's own: the checkpoint has none"
        return {"mean and deviation": own, "chat template": own, "tokenizer": tokenizer_file(folder)}


def is_lmms_lab(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of LLaVA's own code with Qwen2 as its LLM."""
    return "mm_vision_tower" in config and "Qwen" in str(config.get("architectures"))


def stock_config(folder: Path, name: str) -> LlavaOnevisionConfig:
    """The stock class' config, made from lmms-lab's.

    Args:
        folder: of the model.
        name: the model's name in errors.

    Raises:
        InputError: a tower other than SigLIP so400m that has no config.json of its own in the folder.
    """
    own = read_json(folder / "config.json", "The model's config", keys=("mm_vision_tower",))
    require_self_contained(own, name)
    tower = str(own["mm_vision_tower"])
    inside = within(folder, tower)
    local = inside / "config.json" if inside else None
    if local and local.is_file():
        tower_settings = read_json(local, "The tower's config")
        tower_settings = tower_settings.get("vision_config", tower_settings)
    elif tower.endswith(SIGLIP_NAME):
        tower_settings = SIGLIP
    else:
        raise InputError(f"{name} is built on the tower {tower}; only {SIGLIP_NAME} is known.")
    require_depth({**own, "tower": tower_settings}, name, sum(1 for _ in stored_tensors(weight_files(folder, name))))
    vision = SiglipVisionConfig(**{key: value for key, value in tower_settings.items() if key in SIGLIP})
    vision.num_hidden_layers -= 1
    vision.vision_use_head = False
    text = Qwen2Config.from_dict({key: value for key, value in own.items() if key != "model_type"})
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=own.get("tie_word_embeddings", False),
    )


def renamed(folder: Path, name: str, blocks: int, stand_in_dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The checkpoint's tensors by the names of Hugging Face's layout.

    Args:
        folder: of the model.
        name: the model's name in errors.
        blocks: how many of the tower's blocks to keep.
        stand_in_dtype: of stand-ins for the tensors, which are then not read; None reads them.

    Raises:
        InputError: the tower's weights are not among them.
    """
    tensors = dict(_tensors(weight_files(folder, name), blocks, stand_in_dtype))
    if not any(each.startswith("vision_tower.") for each in tensors):
        raise InputError(f"{name} holds no weights of its vision tower; download all of its safetensors files.")
    return tensors


def _tensors(files: Iterable[Path], blocks: int, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    for path in files:
        with safe_open(path, "pt") as stored:
            for theirs in stored.keys():  # noqa: SIM118 (no mapping)
                ours = theirs
                for pattern, replacement in _NAMES:
                    ours = re.sub(pattern, replacement, ours)
                block = re.match(r"vision_tower\.vision_model\.encoder\.layers\.(\d+)\.", ours)
                if ".vision_model.head." not in ours and (block is None or int(block[1]) < blocks):
                    if dtype is None:
                        yield ours, stored.get_tensor(theirs)
                    else:
                        yield ours, stand_in(stored.get_slice(theirs).get_shape(), dtype)
