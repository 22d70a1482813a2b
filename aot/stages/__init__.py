"""The reduction stages: every file in `methods` that defines one is found, nothing else needs to name it."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import MappingProxyType

from . import methods
from .base import Reduction, Stage, option

__all__ = ["Reduction", "Stage", "option", "stages"]


@cache
def stages() -> MappingProxyType[str, type[Stage]]:
    """Every stage by name, sorted."""
    found: dict[str, type[Stage]] = {}
    for module in pkgutil.walk_packages(methods.__path__, f"{methods.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Stage) and hasattr(value, "name"):
                found[value.name] = value
    return MappingProxyType(dict(sorted(found.items())))
