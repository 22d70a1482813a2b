"""The LLM reads what is left of a video at the positions that the tokens had in all of it.

A rotary position tells an LLM how far tokens are apart (RoFormer, arXiv 2104.09864). Reductions leave gaps, and most
families count anew what is left, so that a second of the video may be a hundred positions long or two.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..inner import InnerStage


@dataclass(frozen=True)
class KeepPositions(InnerStage):
    """Have the LLM read every token at the position that it has in the full video, and the text after that."""

    name = "positions"
    title = "Keep Positions"
    node_id = "AOTKeepPositions"
    source = "ComfyUI-AOT"
    keeps_positions = True
