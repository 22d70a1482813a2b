"""The reduction stages: every class in `methods` that names one is a stage, and nothing else lists them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import MappingProxyType

from . import methods
from .base import Budgeted, Reduction, Stage
from .options import Setting

__all__ = ["Budgeted", "Reduction", "Setting", "Stage", "stages"]


@cache
def stages() -> MappingProxyType[str, type[Stage]]:
    """Every stage by name, sorted."""
    by_name: dict[str, type[Stage]] = {}
    for module in pkgutil.walk_packages(methods.__path__, f"{methods.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Stage) and hasattr(value, "name"):
                by_name[value.name] = value
    return MappingProxyType(dict(sorted(by_name.items())))
