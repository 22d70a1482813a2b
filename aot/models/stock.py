"""Classes of transformers that are imported when a model needs them, so that a version without one lacks only that."""

from __future__ import annotations

from typing import Any

import transformers

from ..errors import InputError


def stock_class(name: str, since: str) -> Any:
    """The attribute ``stock`` of a family whose class not every version of transformers has.

    Args:
        name: of the class.
        since: the first version of transformers that has it.
    """
    return _Named(name, since)


class _Named:
    """A class of transformers by its name."""

    def __init__(self, name: str, since: str) -> None:
        self._name, self._since = name, since

    def __get__(self, model: object, family: type) -> Any:
        try:
            return getattr(transformers, self._name)
        except AttributeError as error:
            raise InputError(
                f"This model needs {self._name}, which transformers has since {self._since}, and "
                f"{transformers.__version__} is installed; run: pip install --upgrade transformers."
            ) from error
