"""Loading a stock model from a folder in Hugging Face's layout."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel

from .folder import (
    first_json,
    loading,
    quantizing,
    require_all_tensors,
    stock_config_of,
    use_general_products,
)
from .stand_ins import built, stand_ins
from .weights import weight_files


def stock_model(
    stock: type[PreTrainedModel],
    folder: Path,
    name: str,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    attention: str,
    quantization: str,
    weights: bool,
) -> PreTrainedModel:
    """A model of transformers with exactly the weights of its folder.

    Safetensors only; nothing is downloaded or executed.

    Args:
        stock: its class.
        folder: of the model.
        name: the model's name in errors.
        dtype: of the weights.
        device: where to put them.
        attention: the LLM's attention implementation.
        quantization: "none", "8-bit" or "4-bit".
        weights: whether to read them; without them the model can be looked at, and is checked as it would be.

    Raises:
        InputError: the folder holds no safetensors or not exactly the model's tensors; or the attention or the
            quantization is not installed.
    """
    weight_files(folder, name)
    quantized = {} if quantization == "none" else quantizing(quantization, dtype, device)
    answers = first_json(folder, "generation_config.json")
    with loading(name, attention):
        tensors = None if weights else stand_ins(folder, name, dtype)
        config = stock_config_of(stock, folder, name)
        model, report = built(
            stock,
            folder if weights else None,
            config,
            dtype,
            attention,
            tensors=tensors,
            untouched=not weights,
            **quantized,
        )
        require_all_tensors(model, report, name)
        if answers and not weights:
            model.generation_config = GenerationConfig.from_dict(answers)
        use_general_products(model.eval())
        if not quantized:
            model = model.to(device)  # pyright: ignore[reportArgumentType] - its decorator hides self
    return model
