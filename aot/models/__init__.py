"""Video LLMs: an adapter for each family, and one function that loads any of them."""

from __future__ import annotations

from .base import VideoLLM
from .embedded.assemble import EMBEDDED
from .families import ATTENTIONS, DECODINGS, DTYPES, FAMILIES, families_in, family_of, load, makers_choice
from .weights import QUANTIZATIONS

__all__ = [
    "ATTENTIONS",
    "DECODINGS",
    "DTYPES",
    "EMBEDDED",
    "FAMILIES",
    "QUANTIZATIONS",
    "VideoLLM",
    "families_in",
    "family_of",
    "load",
    "makers_choice",
]
