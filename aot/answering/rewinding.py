"""A cache brought back to the video after an answer."""

from __future__ import annotations

import copy
from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class Rewinder:
    """The end of the video in a cache.

    Keys and values are cut. The states of linear attention, which are one for all tokens, are copied here and put back.

    Args:
        cache: that holds the video and nothing more.
    """

    def __init__(self, cache: DynamicCache) -> None:
        self.tokens = cache.get_seq_length()
        """Of the prompt up to the end of the video."""
        self._states: dict[int, Any] = {
            number: copy.deepcopy(layer)
            for number, layer in enumerate(cache.layers)
            if not isinstance(layer, DynamicLayer)
        }

    def rewind(self, cache: DynamicCache) -> None:
        """Bring the cache back, wherever it was left.

        Args:
            cache: that was given at first.
        """
        for number, layer in enumerate(cache.layers):
            if number in self._states:
                cache.layers[number] = copy.deepcopy(self._states[number])
            elif isinstance(layer, DynamicLayer) and (beyond := layer.get_seq_length() - self.tokens) > 0:
                layer.crop(-beyond)
