"""A device that is not there: tensors that say they are elsewhere, and that only meet the host's where it is allowed.

What runs on a GPU has to keep its tensors there. Here an operation that mixes tensors of the host with those of the
device fails, as it would on a GPU, and what makes the host wait for the device is counted: copies to the host, and
operations whose result, or its shape, the host has to know.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from comfyui_aot.aot.benchmarks.operations import waits
from comfyui_aot.aot.stages.chain import Chain
from comfyui_aot.aot.tokens.factors import Factor
from comfyui_aot.aot.tokens.token_map import TokenMap
from comfyui_aot.aot.tokens.video_tokens import VideoTokens

DEVICE = torch.device("meta")
"""A device that PyTorch knows by name, and on which nothing runs but what is done here."""


class OnDevice(Tensor):
    """A tensor that says it is on :data:`DEVICE`, around one of the host."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnDevice({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return _run(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if any(isinstance(each, OnDevice) for each in tree_leaves((args, kwargs))):
            to_host = name == "_to_copy" and not _is_device(kwargs.get("device", DEVICE))
            to_host = to_host or (name == "copy_" and not isinstance(args[0], OnDevice))
            if to_host or waits(name, args, kwargs):
                self.waits[name] += 1
        elif name == "_to_copy" and _is_device(kwargs.get("device")) and not kwargs.get("non_blocking"):
            self.waits["upload"] += 1
        return _run(func, args, kwargs)


class _Factories(TorchFunctionMode):
    """What PyTorch does with the data of the host before anything is dispatched."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _is_device(kwargs.get("device")):
            kwargs.pop("device")
            return func(*args, **kwargs).to(DEVICE)
        if func is Tensor.new_tensor and isinstance(args[0], OnDevice):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(DEVICE)
        if func is Tensor.tolist and isinstance(args[0], OnDevice):
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


@contextmanager
def simulated() -> Iterator[Counter[str]]:
    """While it is entered :data:`DEVICE` can be used; gives the waits so far by the operation's name."""
    with _Operations() as operations, _Factories():
        yield operations.waits


def moved(tokens: VideoTokens) -> VideoTokens:
    """Tokens, reduced or not, with all that a GPU would hold of them on :data:`DEVICE`: all but the times."""
    names = ("features", "place", "role", "shallow", "deep")
    return dataclasses.replace(
        tokens,
        map=TokenMap(tokens.map.source, tuple(map(_moved, tokens.map.factors))),
        levels=tuple(level.to(DEVICE) for level in tokens.levels),
        extras={name: extra.to(DEVICE) for name, extra in tokens.extras.items()},
        question=None if tokens.question is None else tokens.question.to(DEVICE),
        **{name: getattr(tokens, name).to(DEVICE) for name in names},
    )


def waits_of(chain: Chain, tokens: VideoTokens) -> Counter[str]:
    """The waits of a reduction on the device, by the operation's name.

    What is kept for all videos of one shape is uploaded with the first one, which is not counted.
    """
    with simulated() as waits:
        for _ in range(2):
            there = moved(tokens)
            waits.clear()
            chain(there)
    return waits


def _moved(value: Factor | Any) -> Any:
    """A factor whose tensors, and those of the factors that it is made of, are on the device."""
    if isinstance(value, Tensor):
        return value.to(DEVICE)
    if isinstance(value, tuple):
        return tuple(map(_moved, value))
    if not dataclasses.is_dataclass(value):
        return value
    return type(value)(**{each.name: _moved(getattr(value, each.name)) for each in dataclasses.fields(value)})


def _is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _run(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    leaves = tree_leaves((args, dict(kwargs)))
    name = func._schema.name.partition("::")[2]
    on_device = [each for each in leaves if isinstance(each, OnDevice)]
    on_host = [each for each in leaves if isinstance(each, Tensor) and not isinstance(each, OnDevice) and each.ndim]
    if on_device and on_host and name not in ("_to_copy", "copy_"):
        raise RuntimeError(f"{name} was called with tensors of the device and of the host together")
    device = kwargs.get("device")
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    result = func(*tree_map(_inner, args), **tree_map(_inner, dict(kwargs)))
    if name == "copy_":
        return args[0]
    if not (_is_device(device) or (on_device and device is None)):
        return result
    known = {id(each.inner): each for each in on_device}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else OnDevice(value)

    return tree_map(wrapped, result)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value
