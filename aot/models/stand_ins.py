"""A model built from its weights, or from weights without numbers, which the headers of its files tell: a model to be
looked at and not to be run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig, PreTrainedModel

from .weights import stored_tensors, weight_files

_LEFT_OUT = frozenset({"contiguous", "normal_", "uniform_", "trunc_normal_"})


class Untouched(TorchFunctionMode):
    """In this block a model takes stand-ins for weights as they are, and what lacks is not drawn at random.

    transformers 4 would copy every stand-in into memory of its own, and both majors would fill what lacks.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call ``func``, but for the functions that fill or copy a tensor and change neither shape nor dtype."""
        if getattr(func, "__name__", "") in _LEFT_OUT and args and isinstance(args[0], Tensor):
            return args[0]
        return func(*args, **(kwargs or {}))


def built(
    stock: Any,
    folder: Path | None,
    config: PretrainedConfig,
    dtype: torch.dtype,
    attention: str,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    untouched: bool = False,
    **quantized: Any,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model of transformers, and its report of the tensors that were missing, left over or of another shape.

    Only safetensors are read; nothing is downloaded or executed.

    Args:
        stock: its class.
        folder: with its weights; None takes ``tensors``.
        config: of the model.
        dtype: of the weights.
        attention: the LLM's attention implementation.
        tensors: by the names of the stock class; None reads those of the folder.
        untouched: whether there are stand-ins among them.
        quantized: how weights are quantized on the way.
    """
    given: dict[str, Any] = quantized if tensors is None else {"state_dict": tensors, **quantized}
    with Untouched() if untouched else nullcontext():
        return stock.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation=attention,
            ignore_mismatched_sizes=True,  # the report names them
            output_loading_info=True,
            **given,
        )


def stand_in(shape: Iterable[int], dtype: torch.dtype) -> Tensor:
    """A tensor of any size that takes the memory of one number.

    Args:
        shape: of the tensor.
        dtype: of the tensor.
    """
    return torch.zeros((), dtype=dtype).expand(tuple(shape))


def stand_ins(folder: Path, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Stand-ins for the tensors that transformers would read from a folder.

    Args:
        folder: of the model.
        name: the model's name in errors.
        dtype: of the model.

    Raises:
        InputError: a file is missing or damaged, or there are several and no index of them.
    """
    return {key: stand_in(stored.shape, dtype) for key, stored in stored_tensors(weight_files(folder, name))}
