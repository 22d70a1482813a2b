"""What a model's weights take, read off the heads of its safetensors files, and whether there is room for them."""

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
"""Bits a weight takes, its share of the scales included."""

_ADVICE = "choose a smaller dtype, a quantization, or a smaller model"


def weight_bytes(folder: Path, dtype: torch.dtype, quantization: str = "none") -> int:
    """Bytes of a folder's weights once loaded in ``dtype``, or quantized (embeddings are not).

    Raises:
        InputError: a safetensors file is cut short or damaged.
    """
    total = 0.0
    for name, shape in _tensors(folder):
        kept = quantization == "none" or len(shape) < 2 or "embed" in name or "lm_head" in name
        total += math.prod(shape) * (dtype.itemsize if kept else BITS[quantization] / 8)
    return round(total)


def _tensors(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            whole = 8 + length + max(ends, default=0)
        except (struct.error, ValueError, KeyError, MemoryError, OverflowError) as error:
            raise InputError(f"{path.name} is damaged or no safetensors file; copy or download it again.") from error
        if path.stat().st_size < whole:
            raise InputError(
                f"{path.name} is cut short ({path.stat().st_size} of {whole} bytes); copy or download it again."
            )
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, tuple(entry["shape"])


def require_room(need: int, name: str, device: torch.device, have: int | None = None) -> None:
    """Refuse weights of ``need`` bytes that a device has no room for.

    Args:
        have: bytes the device has for them; what is free on it now where left out.
    """
    if have is None:
        have = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if need > have:
        raise InputError(
            f"{name} takes {need / 2**30:.1f} GiB and {device} has {have / 2**30:.1f} GiB for it; {_ADVICE}."
        )
