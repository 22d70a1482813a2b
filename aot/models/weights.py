"""The memory that a model's weights take, from the headers of its safetensors files, and whether a device has it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from ..errors import InputError

QUANTIZATIONS = ("none", "8-bit", "4-bit")
BITS = {"8-bit": 8.5, "4-bit": 4.5}
"""Bits of a weight, its share of the scales included."""

_ADVICE = "choose a smaller dtype, a quantization, or a smaller model"


def weight_bytes(folder: Path, dtype: torch.dtype, quantization: str = "none") -> int:
    """Bytes of a folder's weights once loaded.

    Args:
        folder: of the model.
        dtype: of weights that are not quantized.
        quantization: "none", "8-bit" or "4-bit"; embeddings and vectors are not quantized.

    Raises:
        InputError: a safetensors file is cut short or damaged.
    """
    total = 0.0
    for name, shape in stored_tensors(folder):
        full = quantization == "none" or len(shape) < 2 or "embed" in name or "lm_head" in name
        total += math.prod(shape) * (dtype.itemsize if full else BITS[quantization] / 8)
    return round(total)


def stored_tensors(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a folder's tensors, from the headers of its safetensors files.

    Args:
        folder: of the model.

    Raises:
        InputError: a file is cut short or damaged.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            size = 8 + length + max(ends, default=0)
        except (struct.error, ValueError, KeyError, MemoryError, OverflowError) as error:
            raise InputError(f"{path.name} is damaged or no safetensors file; copy or download it again.") from error
        if path.stat().st_size < size:
            raise InputError(
                f"{path.name} is cut short ({path.stat().st_size} of {size} bytes); copy or download it again."
            )
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, tuple(entry["shape"])


def require_room(need: int, name: str, device: torch.device, have: int | None = None) -> None:
    """Refuse weights that a device has too little memory for.

    Args:
        need: bytes of the weights.
        name: the model's name in the error.
        device: that they would be put on.
        have: bytes that the device has for them; None takes what is free on it now.

    Raises:
        InputError: the device has less than the weights need.
    """
    if have is None:
        have = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if need > have:
        raise InputError(
            f"{name} takes {need / 2**30:.1f} GiB and {device} has {have / 2**30:.1f} GiB for it; {_ADVICE}."
        )
