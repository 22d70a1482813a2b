"""Qwen3.5 through the stock transformers classes.

Frames, prompt and positions are Qwen3-VL's, without its levels. Most layers of its LLM have linear attention, which
keeps one state for all tokens: questions go through it one after another, and no state is cut back but put back.
"""

from __future__ import annotations

from .qwen3_vl import Qwen3VL
from .stock import stock_class


class Qwen35(Qwen3VL):
    """A loaded Qwen3.5."""

    family = "qwen3_5"
    stock = stock_class("Qwen3_5ForConditionalGeneration", since="5.5")


class Qwen35Moe(Qwen3VL):
    """A loaded Qwen3.5 of experts."""

    family = "qwen3_5_moe"
    stock = stock_class("Qwen3_5MoeForConditionalGeneration", since="5.5")
