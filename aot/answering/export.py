"""A video LLM's LLM as a model folder of its own, for a vLLM server."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from ..errors import InputError
from ..files import whole_folder, writing
from ..models.base import VideoLLM


def export(model: VideoLLM, folder: Path) -> None:
    """Write a video LLM's LLM as a model of its own: safetensors, config and tokenizer.

    Args:
        model: whose LLM is written; not a quantized one.
        folder: must not exist yet; appears once it is complete.

    Raises:
        InputError: the folder exists or cannot be made, or a prompt is more than its embeddings.
    """
    if getattr(model.hf_model, "is_quantized", False):
        raise InputError("A quantized LLM is not written out; export it with quantization none.")
    if beyond := model.beyond_embeddings:
        raise InputError(
            f"{model.name} gives tokens {beyond}, which prompt embeddings cannot carry to a server; answer with the "
            "model itself."
        )
    with whole_folder(folder) as part, writing(folder):
        config = model.hf_model.config.get_text_config()
        with torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(config)
        tensors = {f"model.{name}": tensor for name, tensor in model.language_model.state_dict().items()}
        tensors["lm_head.weight"] = model.hf_model.lm_head.weight
        plain.load_state_dict(tensors, assign=True)
        plain.tie_weights()
        plain.generation_config = model.hf_model.generation_config
        plain.save_pretrained(part)
        model.save_tokenizer(part)
