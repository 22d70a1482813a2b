"""Checks of devices, and waiting for their work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


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


def synchronise(tensor: Tensor) -> None:
    """Wait until the work queued on the tensor's device is done, so that a clock measures all of it."""
    if tensor.is_cuda:
        import torch

        torch.cuda.synchronize(tensor.device)
