"""What a CUDA graph cannot hold, noted on the meta device, where numbers do not exist: no operation can look at one."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from comfyui_aot.aot.benchmarks.operations import WAITS


class OnTheDevice(TorchDispatchMode):
    """Notes operations that the host waits for, and those that take tensors of the host.

    Attributes:
        operations: how many there were.
        unfit: the names of those that a graph cannot hold.
    """

    def __init__(self):
        super().__init__()
        self.operations, self.unfit = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.partition("::")[2]
        self.operations += 1
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if name in WAITS or any(each.device.type == "cpu" for each in tensors):
            self.unfit.add(name)
        return function(*args, **(kwargs or {}))
