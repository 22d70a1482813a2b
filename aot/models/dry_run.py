"""A pass of a model without its numbers: shapes alone tell whether what its config.json says can be run.

A folder may hold exactly the tensors that its config.json asks for, and the config.json still say something wrong of
what is done with them: how many heads a tower has, or how an LLM's positions are divided. Such a model would fail at
its first video.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import InputError
from ..video.frames import Frames
from .base import VideoLLM
from .folder import in_one_line

FRAMES = 2
"""Of the video: a pair, where a family takes frames in pairs."""

SIDE = 32
"""Of the video's frames, in pixels, where a family knows no smallest size."""

_LINEAR_ATTENTION = ("fla", "causal_conv1d")
"""The packages whose kernels transformers takes for linear attention where they are there."""

_META, _CPU = torch.device("meta"), torch.device("cpu")
_ATEN = torch.ops.aten
_INDEXED = (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default)


class _Shape(Tensor):
    """A tensor of the CPU that has a shape and a dtype, and no numbers."""

    meta: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def of(meta: Tensor) -> _Shape:
        """As a tensor of the meta device is."""
        shape = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            _Shape, meta.shape, meta.stride(), meta.storage_offset(), dtype=meta.dtype, device=_CPU
        )
        shape.meta = meta
        return shape

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Outside of its block nothing can be done with it, but taking the shape of another."""
        if func is _ATEN._has_compatible_shallow_copy_type.default:
            return True
        raise NotImplementedError(f"{func} of a shape alone")


class ShapesOnly(TorchDispatchMode):
    """In this block, what is made of a model's parameters has a shape and a dtype, and neither numbers nor memory.

    What is made of other numbers alone, of grids and positions for one, is computed, on the CPU: loops and the sizes of
    parts depend on it.

    Raises:
        NotImplementedError: an operation has no shape without its numbers.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` on the CPU, or on the meta device if one of its arguments is a parameter or made of one."""
        kwargs = kwargs or {}
        if not _has_shapes_only((*args, *kwargs.values())):
            return func(*_placed(args, _CPU), **_placed(kwargs, _CPU))
        if func is _ATEN._local_scalar_dense.default:
            raise NotImplementedError("a number is read of what has none")
        if func is _ATEN.nonzero.default:  # the experts that tokens are sent to: none, or a loop would read numbers
            return torch.empty(0, args[0].ndim, dtype=torch.long)
        if func is _ATEN._grouped_mm.default:  # PyTorch knows it for bfloat16 only
            return _Shape.of(torch.empty(len(args[0]), args[1].shape[-1], dtype=args[0].dtype, device=_META))
        if func is _ATEN.embedding.default:
            _require_rows(*args[:2])
        if func in _INDEXED:
            args = (args[0], [index for each in args[1] for index in _without_masks(each)], *args[2:])
        result = func(*_placed(args, _META), **_placed(kwargs, _META))
        if not func._schema.is_mutable:
            return _wrapped(result)
        if isinstance(args[0], _Shape) and torch.Tag.inplace_view in func.tags:  # squeeze_ for one
            args[0].data, args[0].meta = _Shape.of(result), result
        return args[0]


def _has_shapes_only(values: Iterable[Any]) -> bool:
    """Whether a parameter, or what was made of one, is among these values."""
    return any(
        isinstance(each, (nn.Parameter, _Shape)) or (isinstance(each, (list, tuple)) and _has_shapes_only(each))
        for each in values
    )


def _placed(value: Any, device: torch.device) -> Any:
    """A value with its tensors on a device. A stand-in for a weight gets the strides that the weight has."""
    if isinstance(value, _Shape):
        return value.meta
    if isinstance(value, nn.Parameter):
        return torch.empty(value.shape, dtype=value.dtype, device=device)
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(_placed(each, device) for each in value)
    if isinstance(value, dict):
        return {key: device if key == "device" else _placed(each, device) for key, each in value.items()}
    return value


def _wrapped(value: Any) -> Any:
    """A result of the meta device as it is handed on."""
    if isinstance(value, Tensor):
        return _Shape.of(value)
    return type(value)(map(_wrapped, value)) if isinstance(value, (list, tuple)) else value


def _require_rows(table: Tensor, ids: Tensor) -> None:
    if not isinstance(ids, _Shape) and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(table):
        raise IndexError(f"an id of {int(ids.max())} in a vocabulary of {len(table)}")


def _without_masks(index: Tensor | None) -> Iterable[Tensor | None]:
    """An index, or in a mask's place those of what it keeps: without numbers it may keep all."""
    if index is None or index.dtype != torch.bool:
        return (index,)
    if isinstance(index, _Shape):
        return torch.zeros(index.numel(), index.ndim, dtype=torch.long).unbind(1)
    return index.nonzero().unbind(1)


def require_runs(model: VideoLLM, *, weights: bool = True) -> None:
    """Refuse a model that could not encode a video, or whose LLM could not read one.

    Args:
        model: loaded.
        weights: whether it has its weights. If it has, only a model that fails with their numbers as well is refused.

    Raises:
        InputError: a pass fails, or would give NaN.
    """
    try:
        _require_numbers(model.hf_model)
        with torch.no_grad(), ShapesOnly():
            _run(model)
    except NotImplementedError:  # PyTorch does not know the shape of what one of its operations makes
        return
    except Exception as error:  # whatever a part of transformers makes of a shape
        if weights and not isinstance(error, _NoNumber) and _runs(model):
            return
        reason = error if isinstance(error, _NoNumber) else f"{type(error).__name__}: {in_one_line(error)}"
        raise InputError(
            f"The settings of {model.name} do not fit its weights: no video can be read with them ({reason}); copy or "
            "download its config.json and its other JSON files again."
        ) from error


class _NoNumber(ValueError):
    """A setting of which only NaN can come."""


def _require_numbers(hf_model: nn.Module) -> None:
    """Refuse frequencies of positions that are not finite, and norms that take the root of what may be negative."""
    for name, buffer in hf_model.named_buffers():
        if buffer.is_floating_point() and not buffer.is_meta and not bool(torch.isfinite(buffer).all()):
            raise _NoNumber(f"{name} is not finite")
    for name, module in hf_model.named_modules():
        eps = getattr(module, "eps", getattr(module, "variance_epsilon", 0.0))
        if isinstance(eps, (int, float)) and not 0 <= eps < 1:
            raise _NoNumber(f"the epsilon of {name} is {eps:g}")


@torch.no_grad()
def _runs(model: VideoLLM) -> bool:
    try:
        _run(model)
    except Exception:  # the reason was found without numbers
        return False
    return True


def _run(model: VideoLLM) -> None:
    """Encode a video of the smallest size, and read it."""
    if model.language.context < 1:
        raise ValueError(f"its LLM reads {model.language.context} tokens")
    height, width = model.tile or (SIDE, SIDE)
    frames = Frames(torch.zeros(FRAMES, height, width, 3, dtype=torch.uint8), torch.arange(FRAMES).double(), "")
    size = model.frame_size(frames)
    layout = model.layout_of(FRAMES, size)
    output = model.run_tower(torch.zeros(FRAMES, 3, *size), layout)
    tokens = model.video_tokens(output, layout, model.timestamps(frames))
    if _reads_shapes(model):
        model.forward(model.prompt_inputs(tokens, "?"), model.new_cache())


def _reads_shapes(model: VideoLLM) -> bool:
    """Whether the LLM is made of PyTorch's own operations: kernels of other packages may take no shapes for numbers."""
    has_kernels = not model.rewinds and any(find_spec(each) for each in _LINEAR_ATTENTION)
    is_quantized = getattr(model.hf_model, "is_quantized", False)
    return model.attention in ("sdpa", "eager") and not has_kernels and not is_quantized
