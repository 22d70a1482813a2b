"""The trained weights of the embedded model: a projector, and LoRA for every linear layer of the LLM.

They are one safetensors file in the package, bfloat16. Its metadata are the training settings and the scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...files import whole_file

TRAINED = Path(__file__).with_name("embedded.safetensors")
"""The file in the package."""

_PROJECTOR = "multi_modal_projector."
_DOWN, _UP = ".lora_A", ".lora_B"


@dataclass(frozen=True)
class TrainedWeights:
    """The weights that training adds to the embedded model's two sources.

    Args:
        projector: the four tensors of a LLaVA-OneVision projector, by their names in it, float32.
        lora: the pair A (rank, in) and B (out, rank), float32, of each linear layer, by its weight's name in a
            ``LlamaModel`` without ".weight". The layer's weight becomes ``W + B A``.
        info: settings and scores, JSON-ready.
    """

    projector: Mapping[str, Tensor]
    lora: Mapping[str, tuple[Tensor, Tensor]]
    info: Mapping[str, Any]

    def merged(self, language: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Add LoRA to the LLM's weights.

        Args:
            language: the LLM's weights, float32, by their names in a ``LlamaModel``.

        Raises:
            RuntimeError: the LLM lacks a layer that LoRA is for.
        """
        unknown = [name for name in self.lora if f"{name}.weight" not in language]
        if unknown:
            raise RuntimeError(f"LoRA for layers that the language model does not have: {', '.join(unknown)}")
        added = {f"{name}.weight": (up.float() @ down.float()).numpy() for name, (down, up) in self.lora.items()}
        return {name: values + added[name] if name in added else values for name, values in language.items()}

    def save(self, path: Path) -> None:
        """Write to ``path``, completely or not at all."""
        tensors = {f"{_PROJECTOR}{name}": tensor for name, tensor in self.projector.items()}
        for name, (down, up) in self.lora.items():
            tensors |= {f"{name}{_DOWN}": down, f"{name}{_UP}": up}
        metadata = {key: json.dumps(value) for key, value in self.info.items()}
        with whole_file(path) as part:
            save_file({name: t.to(torch.bfloat16).contiguous() for name, t in tensors.items()}, part, metadata)


def read(path: Path = TRAINED) -> TrainedWeights:
    """Read the weights in ``path``, as float32."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (no mapping)
        info = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
    projector = {name.removeprefix(_PROJECTOR): t for name, t in tensors.items() if name.startswith(_PROJECTOR)}
    layers = [name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)]
    return TrainedWeights(projector, {name: (tensors[name + _DOWN], tensors[name + _UP]) for name in layers}, info)
