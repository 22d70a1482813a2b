"""Layers whose weights stay in 8-bit floats, as ComfyUI's fp8_scaled files hold them: a number and a scale a layer.

A layer makes its weight anew at every use, in the dtype of its input. On a GPU that takes a fraction of the product; on
a CPU it takes twenty times as long as the product for one token, so weights are dequantized there when they are loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def dequantized(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """A quantized weight's numbers, rounded once.

    Args:
        weight: (out, ...), any floating dtype.
        scale: a single number, or one for each output.
        dtype: of the result.
    """
    by_output = scale.float().reshape(-1, *[1] * (weight.ndim - 1))
    return (weight.float() * by_output).to(dtype)


class Fp8Linear(nn.Module):
    """A linear layer with a weight in 8-bit floats.

    Args:
        weight: (out, in), float8_e4m3fn or float8_e5m2.
        scale: a single number, by which the weight is multiplied.
        bias: (out,) floating, or None.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.register_buffer("scale", scale.float().reshape(()))
        # As a number the product is taken in float32 and rounded once; nothing waits for the device.
        self._factor = float(scale)

    def forward(self, states: Tensor) -> Tensor:
        """Multiply.

        Args:
            states: (..., in) floating.

        Returns:
            (..., out), in the dtype of ``states``.
        """
        return functional.linear(states, self.weight.to(states.dtype).mul_(self._factor), self.bias)
