"""What the explorer in the browser receives of an LLM's layers: a map for each run of layers that see the same tokens.

Layers before the first cut see the map that the explorer has anyway. Each further one comes with its own, thinned, and
with what became of the tokens that the LLM was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tokens.layer_step import LayerStep
from ..tokens.video_tokens import VideoTokens
from .explorer import MOST_ENTRIES, Transport, as_base64, packed


def transports(given: VideoTokens, steps: Sequence[LayerStep]) -> list[Transport]:
    """W before the first cut and from each on, thinned so that a browser can hold them all.

    Args:
        given: what the LLM was given.
        steps: what its layers saw of it, in order.

    Raises:
        InputError: they are too many tokens for a browser.
    """
    maps = [given, *(step.tokens for step in steps)]
    every = sum(tokens.map.kept for tokens in maps)
    return [Transport.of(tokens, most=MOST_ENTRIES * tokens.map.kept // every) for tokens in maps]


def packed_layers(
    given: VideoTokens, steps: Sequence[LayerStep], counts: Sequence[int], seen: Sequence[Transport]
) -> dict[str, Any]:
    """The layers of an LLM, in JSON's types; arrays are base64, little-endian.

    ``tokens`` is a count for each layer, ``given`` and ``full`` those of the LLM and of the language grid, newlines not
    counted. Each of ``steps`` has its first ``layer``, its ``stages``, its ``map`` as :func:`~.explorer.packed` makes
    it, ``of`` (K,) uint32, which of the given tokens each is, and what others went into them: ``row`` and ``from`` (E,)
    uint32 and ``share`` (E,) float32.

    Args:
        given: what the LLM was given.
        steps: what its layers saw of it, in order; one or more.
        counts: of every layer, the tokens it saw, newlines not counted.
        seen: W from each step on, thinned.
    """
    return {
        "tokens": list(counts),
        "given": given.tokens_kept,
        "full": given.tokens_full,
        "steps": [_packed_step(step, transport) for step, transport in zip(steps, seen, strict=True)],
    }


def _packed_step(step: LayerStep, transport: Transport) -> dict[str, Any]:
    kept = step.kept.cpu().numpy()
    factor = step.map.csr().tocoo()
    row, source = factor.coords
    joined = (source != kept[row]) & (factor.data > 0)
    return {
        "layer": step.layer,
        "stages": list(step.stages),
        "map": packed(step.tokens, transport),
        "of": as_base64(kept.astype("<u4")),
        "row": as_base64(row[joined].astype("<u4")),
        "from": as_base64(source[joined].astype("<u4")),
        "share": as_base64(factor.data[joined].astype(np.dtype("<f4"))),
    }
