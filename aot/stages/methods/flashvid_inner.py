"""FlashVID's inner half: late in the LLM, tokens that the prompt's last token hardly attends to are dropped.

Source: FlashVID (ICLR 2026, arXiv 2602.08024), and its authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from ..inner import KEEP, LAYER, Cut, InnerStage


@dataclass(frozen=True)
class FlashVIDInner(InnerStage):
    """Keep, from a late layer of the LLM on, the tokens that the prompt's last token attends to most."""

    name = "flashvid-inner"
    title = "FlashVID Inner"
    node_id = "AOTFlashVIDInner"
    source = "FlashVID (ICLR 2026, arXiv 2602.08024)"
    presets: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            f"flashvid-{percent}-whole": f"flashvid:retention_ratio={percent / 100:g},expansion=1.25+flashvid-inner"
            for percent in (10, 15, 20, 25)
        }
    )

    layer: int = LAYER.field(default=20)
    keep: float = KEEP.field(default=0.3)

    def cuts(self, tokens: int, layers: int) -> tuple[Cut, ...]:
        """One, before the layer; the share is rounded up.

        Args:
            tokens: of the video.
            layers: of the LLM.

        Raises:
            InputError: the LLM has no such layer.
        """
        return (Cut(self.require_depth(self.layer, layers), min(tokens, math.ceil(tokens * self.keep))),)
