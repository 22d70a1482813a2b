"""Load small models quantized and say what became of them; run as a script, since it needs bitsandbytes.

Usage: python quantized.py FOLDER...
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
from torch import nn

from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.models import load
from comfyui_aot.aot.video.frames import Frames


def dequantized(whole: nn.Module, small: nn.Module) -> nn.Module:
    """The whole LLM with the weights that 4 bits leave of its own."""
    from bitsandbytes.functional import dequantize_4bit

    rounded = copy.deepcopy(whole)
    for name, layer in small.named_modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if state is not None:
            rounded.get_submodule(name).weight.data = dequantize_4bit(layer.weight.data, state)
    return rounded


def difference(folder: Path, quantization: str) -> dict[str, object]:
    """Encode and ask the model as it is and quantized: what differs."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (4, 120, 160, 3), dtype=torch.uint8, generator=generator)
    clip = Frames(pixels, torch.arange(4, dtype=torch.float64), "noise")
    whole, small = load(folder), load(folder, quantization=quantization)
    tokens = whole.encode(clip)
    rounded = load(folder)
    if quantization == "4-bit":
        rounded.hf_model.load_state_dict(dequantized(whole.hf_model, small.hf_model).state_dict())
    answers = [
        Session(each, tokens).ask(["What is it?"], Generation(max_new_tokens=3)) for each in (whole, rounded, small)
    ]
    first, expected, second = (each.first_logits[0] for each in answers)
    layers = {
        name: type(module).__name__
        for name, module in small.hf_model.named_modules()
        if "inear" in type(module).__name__
    }
    return {
        "encoded": float((tokens.features - small.encode(clip).features).abs().max()),
        "logits": float((first - second).abs().max() / first.std()),
        "beyond_rounding": float((expected - second).abs().max() / first.std()),
        "llm": sorted({kind for name, kind in layers.items() if ".language_model." in name}),
        "others": sorted({kind for name, kind in layers.items() if ".language_model." not in name}),
        "bytes": sum(each.numel() * each.element_size() for each in small.language_model.layers.parameters()),
        "whole_bytes": sum(each.numel() * each.element_size() for each in whole.language_model.layers.parameters()),
    }


if __name__ == "__main__":
    print(
        json.dumps({path: {bits: difference(Path(path), bits) for bits in ("8-bit", "4-bit")} for path in sys.argv[1:]})
    )
