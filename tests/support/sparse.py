"""Safetensors files of any size that take no room on the disk: a true header, and zeros that are never written."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "U8": 1, "I8": 1}


def save_sparse(
    path: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str] | None = None,
    first: bytes = b"",
) -> None:
    """Write a file of zeros.

    Args:
        path: to write.
        tensors: dtype, as safetensors spells it, and shape of each tensor by its name, in the file's order.
        metadata: of the header.
        first: the bytes that the first tensors have in place of zeros.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + first)
        file.truncate(8 + len(text) + end)
