"""Steps of loading a model from its folder, and the errors for missing parts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from ..errors import InputError
from ..files import read_json

NOT_QUANTIZED = ("vision_tower", "visual", "multi_modal_projector", "lm_head")
"""Modules that are never quantized. transformers 4 looks for them anywhere in a name, 5 at its beginning."""


def missing_package(name: str, attention: str, error: ImportError) -> str:
    """The error for a model that needs a package which is not installed."""
    if attention not in ("sdpa", "eager"):
        return f"{name} cannot be loaded with attention {attention} ({error}); choose sdpa."
    return f"{name} needs a package that is not installed ({error}); install it, or take a checkpoint without it."


def quantizing(quantization: str, dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` that quantize the LLM's layers; the vision tower stays as it is.

    Args:
        quantization: "8-bit" or "4-bit".
        dtype: of the 4-bit products.
        device: where to put the model.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        raise InputError(
            f"quantization {quantization} needs bitsandbytes and accelerate, which are not installed; run: pip install "
            "bitsandbytes accelerate, or choose none."
        )
    settings: dict[str, Any] = {"llm_int8_skip_modules": [*NOT_QUANTIZED, *(f"model.{name}" for name in NOT_QUANTIZED)]}
    if quantization == "8-bit":
        config = BitsAndBytesConfig(load_in_8bit=True, **settings)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, **settings
        )
    return {"quantization_config": config, "device_map": {"": device}}


def use_general_products(model: nn.Module) -> None:
    """Make bitsandbytes multiply 4-bit weights of any width on any processor.

    On a CPU with bfloat16 units, 4-bit layers pack their weights for these units when first used. They fail if their
    outputs are not a multiple of 32 or their inputs not a multiple of their block. Such layers keep the products of
    other CPUs.
    """
    for layer in model.modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if state is not None and hasattr(layer, "support_avx512bf16_for_cpu"):
            outputs, inputs = state.shape
            if outputs % 32 or inputs % state.blocksize:
                cast(Any, layer).support_avx512bf16_for_cpu = False


def require_safetensors(folder: Path, name: str) -> None:
    """Refuse a folder without safetensors, the only format of weights that is loaded."""
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{name} has no .safetensors file; put the model's safetensors files in its folder.")


def first_json(folder: Path, *names: str, keys: Sequence[str] = ()) -> dict[str, Any] | None:
    """The content of the first of these files that exists; None where there is none.

    Args:
        folder: of the model.
        names: of the files.
        keys: names that the content must have.

    Raises:
        InputError: that file is no JSON object, or lacks one of the keys.
    """
    for name in names:
        if (folder / name).is_file():
            return read_json(folder / name, "The model's", keys=keys)
    return None


def processor_template(folder: Path) -> str | None:
    """The processor's own chat template, which takes structured content; None where only the tokenizer has one."""
    if (folder / "processor_config.json").is_file() and (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    settings = first_json(folder, "chat_template.json", keys=("chat_template",))
    return str(settings["chat_template"]) if settings else None
