"""Qwen3-VL's mixtures of experts through the stock transformers class: Qwen3-VL with another LLM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import Qwen3VLMoeForConditionalGeneration

from ..errors import InputError
from .base import VideoLLM
from .qwen3_vl import Qwen3VL


class Qwen3VLMoe(Qwen3VL):
    """A loaded Qwen3-VL whose LLM is a mixture of experts."""

    family = "qwen3_vl_moe"
    stock = Qwen3VLMoeForConditionalGeneration

    @classmethod
    def load(cls, folder: Path, *, name: str, quantization: str = "none", **options: Any) -> VideoLLM:
        """Load from a folder in Hugging Face's layout; safetensors only, nothing is downloaded or executed.

        Args:
            folder: of the model.
            name: the model's name in results and errors.
            quantization: only "none".
            **options: see :meth:`~.base.VideoLLM.load`.

        Raises:
            InputError: a quantization, or as for every family.
        """
        if quantization != "none":
            raise InputError(f"{name} is a mixture of experts, which are not quantized; choose quantization none.")
        return super().load(folder, name=name, **options)

    def __init__(self, hf_model: Any, tokenizer: Any, name: str, **options: Any) -> None:
        super().__init__(hf_model, tokenizer, name, **options)
        text = hf_model.config.get_text_config()
        # A token is read by some of the experts only.
        self.language = replace(self.language, mlp=text.num_experts_per_tok * text.moe_intermediate_size)
