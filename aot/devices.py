"""What devices can do, and waiting for their work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


WITHOUT_FLOAT64 = ("mps",)
"""Types of devices that have no float64: Apple's."""


def check_device(device: str) -> None:
    """Refuse a device that PyTorch cannot use here.

    Args:
        device: as PyTorch names it: cpu, cuda, cuda:1, mps.

    Raises:
        InputError: the device is not available.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"Device {device!r} is not available here; leave --device out, or give cpu.") from error


def widest(device: torch.device) -> torch.dtype:
    """The dtype in which decisions are taken on a device: float64, or float32 where there is none."""
    import torch

    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def widened(tensor: Tensor) -> Tensor:
    """The tensor in the widest dtype of its device."""
    return tensor.to(widest(tensor.device))


def synchronise(tensor: Tensor) -> None:
    """Wait until the work queued on the tensor's device is done, so that a clock measures all of it."""
    if tensor.is_cuda:
        import torch

        torch.cuda.synchronize(tensor.device)
