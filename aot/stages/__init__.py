"""The reduction stages: every class in `methods` that names one is a stage, and nothing else lists them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import MappingProxyType

from . import methods
from .base import Budgeted, Method, Place, Reduction, Stage
from .before_tokens import BeforeTokens, FrameStage, TowerStage
from .inner import InnerStage
from .options import Setting

__all__ = [
    "BeforeTokens",
    "Budgeted",
    "FrameStage",
    "InnerStage",
    "Method",
    "Place",
    "Reduction",
    "Setting",
    "Stage",
    "TowerStage",
    "every_stage",
    "inner_stages",
    "stages",
]


@cache
def every_stage() -> MappingProxyType[str, type[Method]]:
    """Every stage of every place by name, sorted."""
    by_name: dict[str, type[Method]] = {}
    for module in pkgutil.walk_packages(methods.__path__, f"{methods.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Method) and hasattr(value, "name"):
                by_name[value.name] = value
    return MappingProxyType(dict(sorted(by_name.items())))


@cache
def stages() -> MappingProxyType[str, type[Stage]]:
    """Every stage that reduces the tower's tokens by name, sorted."""
    return MappingProxyType(
        {name: kind for name, kind in every_stage().items() if issubclass(kind, Stage) and kind.acts is Place.TOKENS}
    )


@cache
def inner_stages() -> MappingProxyType[str, type[InnerStage]]:
    """Every stage that acts inside the LLM by name, sorted."""
    return MappingProxyType({name: kind for name, kind in every_stage().items() if issubclass(kind, InnerStage)})
