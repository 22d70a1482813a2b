"""The importance kernel in Triton's interpreter, on a CPU; run as a script, since the interpreter is chosen at import.

Usage: TRITON_INTERPRET=1 python interpreted_kernel.py INPUT.pt OUTPUT.pt
"""

import sys

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from comfyui_aot.aot.models.importance_kernel import column_sums

multiply = InterpreterBuilder.create_dot


def multiply_values(self, first, second, *rest):
    """The interpreter's product takes the bits of bfloat16 for integers; a GPU's takes the values."""
    return multiply(self, widened(first), widened(second), *rest)


def widened(tensor):
    if tensor.dtype.scalar != tl.bfloat16:
        return tensor
    return TensorHandle((tensor.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


InterpreterBuilder.create_dot = multiply_values
given, found = sys.argv[1:]
torch.save([column_sums(**case) for case in torch.load(given)], found)
