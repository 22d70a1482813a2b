"""FastV: tokens that the prompt's last token hardly attends to are dropped after the LLM's first layers.

Source: "An Image is Worth 1/2 Tokens After Layer 2" (ECCV 2024, arXiv 2403.06764), and its authors' code, which drops
rows and keeps the first choice while decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..inner import KEEP, LAYER, Cut, InnerStage


@dataclass(frozen=True)
class FastV(InnerStage):
    """Keep, from a layer of the LLM on, the tokens that the prompt's last token attends to most."""

    name = "fastv"
    title = "FastV"
    node_id = "AOTFastV"
    source = "FastV (ECCV 2024, arXiv 2403.06764)"

    layer: int = LAYER.field()
    keep: float = KEEP.field()

    def cuts(self, tokens: int, layers: int) -> tuple[Cut, ...]:
        """One, before the layer.

        Args:
            tokens: of the video.
            layers: of the LLM.

        Raises:
            InputError: the LLM has no such layer.
        """
        return (Cut(self.require_depth(self.layer, layers), round(tokens * self.keep)),)
