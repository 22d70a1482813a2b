"""A model's tensors by the headers of its safetensors files, the memory they take, and whether a device has it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from ..errors import InputError
from ..files import LARGEST_JSON, parse_json, read_json
from ..names import within

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""A folder's weights are in the first, or in several files, of which the second says which has which tensor."""

ADAPTER = "adapter_config.json"
"""Makes transformers read the folder that it names, where peft is installed."""

QUANTIZATIONS = ("none", "8-bit", "4-bit")
BITS = {"8-bit": 8.5, "4-bit": 4.5}
"""Bits of a weight, its share of the scales included."""

_ADVICE = "choose a smaller dtype, a quantization, or a smaller model"


def weight_bytes(folder: Path, name: str, dtype: torch.dtype, quantization: str = "none") -> int:
    """Bytes of a folder's weights once loaded.

    Args:
        folder: of the model.
        name: the model's name in errors.
        dtype: of weights that are not quantized.
        quantization: "none", "8-bit" or "4-bit"; embeddings and vectors are not quantized.

    Raises:
        InputError: a safetensors file is missing, cut short or damaged.
    """
    total = 0.0
    for tensor, stored in stored_tensors(weight_files(folder, name)):
        full = quantization == "none" or len(stored.shape) < 2 or "embed" in tensor or "lm_head" in tensor
        total += math.prod(stored.shape) * (dtype.itemsize if full else BITS[quantization] / 8)
    return round(total)


def weight_files(folder: Path, name: str) -> list[Path]:
    """The files that transformers reads: the only one, or those of the index. Others may lie beside them.

    Args:
        folder: of the model.
        name: the model's name in the error.

    Raises:
        InputError: there are none, fewer than the index names, or no index.
    """
    if (folder / ADAPTER).is_file():
        raise InputError(
            f"{name} has an {ADAPTER}, which stands for another model and changes to it; take a model with the changes "
            f"merged into it, or remove {ADAPTER} if its weights are whole."
        )
    there = {path.name for path in folder.glob("*.safetensors")}
    if not there:
        raise InputError(f"{name} has no .safetensors file; put the model's safetensors files in its folder.")
    if ONE_FILE in there:
        return [folder / ONE_FILE]
    if not (folder / INDEX).is_file():
        raise InputError(
            f"{name} cannot be loaded (it has neither {ONE_FILE} nor {INDEX}); copy or download all its files again."
        )
    places = read_json(folder / INDEX, "The model's", keys=("weight_map",))["weight_map"]
    parts = {str(part) for part in places.values()} if isinstance(places, dict) else set()
    if not parts:
        raise InputError(f"{INDEX} of {name} names no files; copy or download it again.")
    if outside := sorted(part for part in parts if within(folder, part) is None):
        raise InputError(f"{name} names a file {outside[0]!r}, which is not inside its folder; download it again.")
    if missing := sorted(parts - there):
        raise InputError(f"{name} lacks {len(missing)} of its files, {missing[0]} among them; download them again.")
    return [folder / part for part in sorted(parts)]


def stored_tensors(files: Iterable[Path]) -> Iterator[tuple[str, StoredTensor]]:
    """Names, dtypes and shapes of the tensors in safetensors files, from their headers.

    Args:
        files: of a model.

    Raises:
        InputError: a file is cut short or damaged.
    """
    for path in files:
        yield from read_header(path).tensors.items()


class StoredTensor(NamedTuple):
    """A tensor in a file: its dtype as safetensors spells it, ``F8_E4M3`` for one, its shape, and where it ends."""

    dtype: str
    shape: tuple[int, ...]
    end: int = 0


class Header(NamedTuple):
    """What a safetensors file says of itself: its tensors by name, and its metadata."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """The header of a safetensors file. No tensor is read.

    Args:
        path: the file.

    Raises:
        InputError: it cannot be read, is cut short or damaged.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = parse_json(file.read(min(length, LARGEST_JSON + 1)), kind=dict)
        metadata = header.pop("__metadata__", {})
        tensors = {name: _stored(entry) for name, entry in header.items()}
        size = 8 + length + max((stored.end for stored in tensors.values()), default=0)
        there = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path.name} cannot be read ({error.strerror}); copy or download it again.") from error
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise InputError(f"{path.name} is damaged or no safetensors file; copy or download it again.") from error
    if there < size:
        raise InputError(f"{path.name} is cut short ({there} of {size} bytes); copy or download it again.")
    return Header(tensors, metadata)


def _stored(entry: Mapping[str, Any]) -> StoredTensor:
    """A tensor of a header. Raises ValueError if its parts are of another kind."""
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    start, end = entry["data_offsets"]
    if not isinstance(dtype, str) or not all(type(each) is int and each >= 0 for each in (*shape, start, end)):
        raise ValueError("a tensor without dtype, shape or place")
    return StoredTensor(dtype, shape, end)


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
