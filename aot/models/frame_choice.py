"""What families share that choose frames as their own processor does, by the settings of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from ..errors import InputError
from .folder import is_positive

NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})
"""Of a processor that is not known: the published values count."""


def positive(settings: Mapping[str, Any], name: str, published: float) -> float:
    """A number of a processor's settings.

    Args:
        settings: of the folder's video processor.
        name: of the setting.
        published: the value where there is none.

    Raises:
        InputError: it is no number above 0.
    """
    value = settings.get(name)
    if value is None:
        return published
    if not is_positive(value):
        raise InputError(
            f"The processor settings say {name} {value!r}, by which no frames can be chosen; give --frames or --fps, "
            "or copy or download the settings again."
        )
    return value


def equal_steps(frames: int, count: int) -> list[int]:
    """Indices that are equally far apart from the first on, each rounded down.

    Args:
        frames: of the video.
        count: of those to take, from 1 to ``frames``.
    """
    return torch.arange(0, frames, frames / count).int().tolist()
