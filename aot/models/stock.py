"""Classes of transformers that are imported when a model needs them, so that a version without one lacks only that."""

from __future__ import annotations

import re
from typing import Any

import transformers

from ..errors import InputError


def stock_class(name: str, since: str) -> Any:
    """The attribute ``stock`` of a family whose class not every version of transformers has.

    Args:
        name: of the class.
        since: the first version of transformers whose class can be used.
    """
    return _Named(name, since)


class _Named:
    """A class of transformers by its name."""

    def __init__(self, name: str, since: str) -> None:
        self._name, self._since = name, since

    def __get__(self, model: object, family: type) -> Any:
        found = getattr(transformers, self._name, None)
        if found is None or _numbers(transformers.__version__) < _numbers(self._since):
            raise InputError(
                f"This model needs {self._name} of transformers {self._since} or newer, and {transformers.__version__} "
                "is installed; run: pip install --upgrade transformers."
            )
        return found


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(each) for each in re.findall(r"\d+", version)[:2])
