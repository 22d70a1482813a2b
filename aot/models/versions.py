"""What differs between versions of transformers, and which of them were tried."""

from __future__ import annotations

import inspect
import warnings
from functools import lru_cache

import transformers
from packaging.version import Version
from torch import nn

NEWEST_TRIED = Version("5.24")
"""The newest that the models' tests were run with; of later ones nothing is known yet."""


@lru_cache(maxsize=32)
def cache_argument(kind: type[nn.Module]) -> str:
    """The name by which an LLM takes its key-value cache.

    It was ``past_key_values``; from 5.24 on it is ``cache``, family by family.

    Args:
        kind: class of the LLM.
    """
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


def untried(installed: str = transformers.__version__) -> str:
    """A line about a version of transformers that is newer than those that were tried; empty for the others.

    Args:
        installed: its version.
    """
    version = Version(installed)
    if version.release[:2] <= NEWEST_TRIED.release[:2]:
        return ""
    return (
        f"transformers {installed} is newer than {NEWEST_TRIED}, the newest that this pack was tried with; if a model "
        f"fails or answers oddly, pip install 'transformers<{NEWEST_TRIED.major}.{NEWEST_TRIED.minor + 1}'."
    )


def warn_if_untried() -> None:
    """Say once that the installed transformers was not tried."""
    if line := untried():
        warnings.warn(line, stacklevel=2)
