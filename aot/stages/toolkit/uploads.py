"""Index arrays on their way from the host to the device, all of them in one copy that nothing waits for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...devices import to_device

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating]


def uploaded(arrays: Sequence[IntArray], device: torch.device) -> list[Tensor]:
    """The arrays as tensors of the device.

    Args:
        arrays: integers, of any shapes.
        device: where they are wanted.

    Returns:
        A long tensor of each, parts of one.
    """
    flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]).astype(np.int64, copy=False))
    parts = to_device(flat, device).split([array.size for array in arrays])
    return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]
