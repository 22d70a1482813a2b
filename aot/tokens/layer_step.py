"""What an LLM's layers see of a video from one of them on, where stages act between them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .token_map import TokenMap
from .video_tokens import VideoTokens


@dataclass(frozen=True, eq=False)
class LayerStep:
    """The same tokens for some layers in a row.

    Args:
        layer: the first of them; 0 is the LLM's first.
        stages: titles of the stages that cut right before it.
        tokens: what these layers see; W leads back to the encoder's grid.
        kept: (K,) long, which of the tokens that the LLM was given each of them is.
        map: from the tokens that the LLM was given to these, (K x given).
    """

    layer: int
    stages: tuple[str, ...]
    tokens: VideoTokens
    kept: Tensor
    map: TokenMap
