"""From what was cut inside an LLM to what its layers saw of a video, cut by cut, for pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..tokens.layer_step import LayerStep
from ..tokens.token_map import TokenMap
from ..tokens.video_tokens import VideoTokens
from .inside import Seen, seen_by


def layer_steps(tokens: VideoTokens, seen: Sequence[Seen]) -> tuple[LayerStep, ...]:
    """What the layers of an LLM saw of a video, in order: a step for every layer before which tokens became fewer.

    Args:
        tokens: that the LLM was given.
        seen: what was cut, in order of layers.
    """
    given = tokens.to_language_grid().map.kept
    steps = []
    for layer in sorted({each.layer for each in seen}):
        cuts = [each for each in seen if each.layer <= layer]
        kept = torch.arange(given)
        for cut in cuts:
            kept = kept[cut.choice.kept]
        stages = tuple(cut.stage for cut in cuts if cut.layer == layer)
        reduction = TokenMap(given, tuple(cut.choice.factor for cut in cuts))
        steps.append(LayerStep(layer, stages, seen_by(tokens, seen, layer), kept, reduction))
    return tuple(steps)
