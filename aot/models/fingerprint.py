"""Digests of models, for the names of files made with them, so that two models' files are never confused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..video.frames import Frames
from .base import VideoLLM

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of an element: the integer dtype whose sum is exact in any order and on any device."""


def fingerprint(model: VideoLLM) -> str:
    """A digest of all that determines a model's tokens and answers: weights, hidden layer, grids, pixels and prompt.

    It does not depend on the folder, the device, or the version of transformers and its names of weights.
    """
    grey = Frames(torch.full((1, 64, 64, 3), 100, dtype=torch.uint8), torch.zeros(1, dtype=torch.float64), "grey")
    pixel_values = model.preprocess(grey)
    prompt = model.prompt("?")
    return digest(
        {
            "weights": sorted(_sum_of_bits(tensor) for tensor in model.weights),
            "layer": getattr(model.hf_model.config, "vision_feature_layer", None),
            "layout": model.layout(grey).to_dict(),
            "pixels": [
                list(pixel_values.shape),
                [round(value, 4) for value in pixel_values.flatten(2).mean((0, 2)).tolist()],
            ],
            "prompt": [*(ids.tolist() for ids in prompt.before), prompt.after.tolist()],
        }
    )


def digest_of_weights(weights: Iterable[Tensor], beside: Any) -> str:
    """A digest of weights, whatever their names and their order, and of what else counts, JSON-ready."""
    return digest([sorted(map(_sum_of_bits, weights)), beside])


def digest(content: Any) -> str:
    """The first sixteen hexadecimal digits of the SHA-256 of JSON-ready content."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sum_of_bits(tensor: Tensor) -> list[Any]:
    words = tensor.detach().contiguous().view(_WORDS[tensor.element_size()])
    return [list(tensor.shape), str(tensor.dtype), int(words.sum(dtype=torch.int64))]
