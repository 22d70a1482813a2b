"""The reduction stages: every file here that defines one is found, nothing else needs to name it."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import MappingProxyType

from .base import Reduction, Stage, option

__all__ = ["Reduction", "Stage", "option", "stages"]


@cache
def stages() -> MappingProxyType[str, type[Stage]]:
    """Every stage by name, sorted."""
    found: dict[str, type[Stage]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f".{module.name}", __name__)).values():
            if isinstance(value, type) and issubclass(value, Stage) and hasattr(value, "name"):
                found[value.name] = value
    return MappingProxyType(dict(sorted(found.items())))
