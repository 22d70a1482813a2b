"""Classes of transformers that are imported when a model needs them, so that a version without one lacks only that."""

from __future__ import annotations

from typing import Any

import transformers

from ..errors import InputError


class Stock:
    """The attribute ``stock`` of a family whose class not every version of transformers has.

    Args:
        name: of the class.
        since: the first version of transformers that has it.
    """

    def __init__(self, name: str, since: str) -> None:
        self.name, self._since = name, since

    def __get__(self, model: object, family: type) -> Any:
        """The class itself.

        Args:
            model: of the family, or None.
            family: that has this attribute.

        Raises:
            InputError: transformers has no such class.
        """
        try:
            return getattr(transformers, self.name)
        except AttributeError as error:
            raise InputError(
                f"This model needs {self.name}, which transformers has since {self._since}, and {transformers.__version__} "
                "is installed; run: pip install --upgrade transformers."
            ) from error
