"""Short prompts in passes of a few lengths, so that CUDA can replay the second pass of a length as a graph.

A pass over a few hundred tokens is over before the host has launched its kernels, as a decoding step is
(:mod:`.decoding`). Prompts that have about the same length share a graph: each is padded at its end up to a multiple of
:data:`ROUND` tokens. Attention is causal, so no token of the prompt sees the padding, and needs no mask: it runs by the
same kernels as without padding. Keys and values of the padding are dropped.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from ..devices import capture, warm_up
from ..models.base import VideoLLM
from ..models.prompt import Inputs
from .graphs import addresses, alike
from .memory_advice import bytes_to_read, free_bytes

ROUND = 64
"""A pass' length is a multiple of it."""

LONGEST = 1024
"""Tokens of the longest pass: over more, the GPU takes longer than the host to launch it."""

KEPT = 4
"""Lengths whose passes are kept, those used last."""


class Reader(Protocol):
    """Reads tokens of a prompt into a cache."""

    def read(self, inputs: Inputs, cache: DynamicCache) -> Tensor:
        """Read tokens that follow those in the cache.

        Args:
            inputs: n tokens.
            cache: of keys and values; those of ``inputs`` are added.

        Returns:
            (1, vocabulary) in the model's dtype, the logits after the last token.
        """
        ...


class Prefiller:
    """How the prompts of one model are read, and the passes whose graphs serve the next prompts of their lengths.

    Prompts are padded the first time too, so that what was read before does not change an answer's rounding. Read as
    they are: prompts longer than :data:`LONGEST`; those with levels, as Qwen3-VL's, whose places in a pass the host has
    to wait for; and all of an LLM whose tokens see ahead, or that takes no mask of ours, since its attention may read
    its own from the positions.

    Args:
        model: whose LLM reads.
        decoding: "auto" pads on CUDA only, "eager" never, and "graph" always, though only CUDA captures; None takes
            the model's own.
        keep_bytes: passes are kept in no more bytes than this; None keeps each that half of the free memory holds.
    """

    def __init__(self, model: VideoLLM, decoding: str | None = None, *, keep_bytes: int | None = None) -> None:
        self._model, self._decoding, self._keep_bytes = model, decoding or model.decoding, keep_bytes
        self._passes: dict[int, PrefillPass] = {}
        self._seen: set[int] = set()
        self._weights: tuple[int, ...] = ()
        self._fails = False

    @property
    def reads_whole(self) -> bool:
        """Whether a video is read in one pass, since its tokens see some that come after them."""
        return self._model.sees_ahead

    @property
    def captured(self) -> tuple[int, ...]:
        """Lengths, in tokens, that there is a graph for."""
        return tuple(length for length, each in self._passes.items() if each.is_captured)

    def read(self, inputs: Inputs, cache: DynamicCache) -> Tensor:
        """Read tokens that follow those in the cache.

        Args:
            inputs: n tokens.
            cache: of keys and values; those of ``inputs`` are added.

        Returns:
            (1, vocabulary) in the model's dtype, the logits after the last token.
        """
        if self._takes(inputs, cache):
            return self._pass(inputs).read(inputs, cache)
        return self._model.forward(inputs, cache, keep=slice(-1, None))

    def forget(self) -> None:
        """Free the passes and their graphs."""
        self._passes.clear()

    @cached_property
    def _stream(self) -> torch.cuda.Stream | None:
        """Where all passes are captured: on one, since libraries never free their work space for a stream."""
        return torch.cuda.Stream(self._model.device) if self._model.device.type == "cuda" else None

    def _takes(self, inputs: Inputs, cache: DynamicCache) -> bool:
        """Whether tokens are read in a pass of a rounded length."""
        if self._decoding == "eager" or (self._decoding == "auto" and self._model.device.type != "cuda"):
            return False
        is_short = 0 < len(inputs) <= LONGEST and not cache.get_seq_length()
        return is_short and not inputs.levels and self._model.takes_masks and not self.reads_whole

    def _pass(self, inputs: Inputs) -> PrefillPass:
        """The pass for these tokens: one that is kept, or a new one, which is kept if its length was seen before."""
        weights = *addresses(self._model), torch.is_inference_mode_enabled()
        if weights != self._weights:
            self.forget()
            self._weights = weights
        length = -(-len(inputs) // ROUND) * ROUND
        is_known = length in self._seen
        self._seen.add(length)
        found = self._passes.pop(length, None)
        if found is None:
            found = PrefillPass(self._model, inputs, length)
            if not is_known or self._fails or not self._makes_room(length):
                return found
            if self._stream is not None:
                found.capture(inputs, self._stream)
            if found.failure:
                self._fails = True
                return found
        self._passes[length] = found
        return found

    def _makes_room(self, length: int) -> bool:
        """Drop passes, the one used longest ago first, until one more may be kept; False if it may not."""
        size = bytes_to_read(self._model, length)
        most = math.inf if self._keep_bytes is None else self._keep_bytes
        if size > most or size > free_bytes(self._model.device) // 2:
            return False
        while len(self._passes) >= KEPT or size + sum(bytes_to_read(self._model, each) for each in self._passes) > most:
            del self._passes[next(iter(self._passes))]
        return True


class PrefillPass:
    """One pass over a prompt from its beginning, from fixed inputs.

    It runs as it is until it is captured. A replay must repeat the logits of the pass before it is trusted; if it does
    not, or cannot be captured, passes go on as they are.

    Args:
        model: whose LLM reads.
        like: tokens as those to be read.
        tokens: the most that may be read; fewer are padded.
    """

    def __init__(self, model: VideoLLM, like: Inputs, tokens: int) -> None:
        self.failure = ""
        """Why it was not captured; empty while nothing has failed."""
        self._model = model
        embeds, positions = like.inputs_embeds, like.position_ids
        self._inputs = Inputs(
            embeds.new_zeros(tokens, embeds.shape[1]),
            positions.new_zeros(len(positions), tokens),
            like.visual.new_zeros(tokens),
        )
        self._last = torch.zeros(1, dtype=torch.long, device=embeds.device)
        self._layers = [_PassLayer() for _ in range(model.language.layers)]
        self._cache = Cache(layers=list(self._layers))
        self._logits: Tensor
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def is_captured(self) -> bool:
        """Whether prompts are read by replaying a graph."""
        return self._graph is not None

    def read(self, inputs: Inputs, cache: DynamicCache) -> Tensor:
        """Read a prompt from its beginning.

        Args:
            inputs: n tokens.
            cache: empty; copies of the n tokens' keys and values are added.

        Returns:
            (1, vocabulary) in the model's dtype, the logits after the last token.
        """
        self._fill(inputs)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._run()
        for number, layer in enumerate(self._layers):
            cache.update(layer.keys[:, :, : len(inputs)], layer.values[:, :, : len(inputs)], number)
        return self._logits.clone()

    def capture(self, inputs: Inputs, stream: torch.cuda.Stream) -> None:
        """Capture the pass, and compare a replay with the pass itself.

        Args:
            inputs: n tokens to compare them on.
            stream: where it is captured.
        """
        self._fill(inputs)
        try:
            if warm_up(self._run, stream, watched=True):
                self.failure = "it waits for the host"
                return
            expected = self._logits.clone()
            graph = capture(self._run, stream)
        except RuntimeError as error:
            self.failure = str(error).partition("\n")[0]
            return
        graph.replay()
        if alike(self._logits, expected):
            self._graph = graph
        else:
            self.failure = "its logits differ"

    def _fill(self, inputs: Inputs) -> None:
        """Copy tokens to the fixed inputs. The last is repeated: a NaN in the padding would spread, though unseen."""
        count = len(inputs)
        self._inputs.inputs_embeds[:count] = inputs.inputs_embeds
        self._inputs.inputs_embeds[count:] = inputs.inputs_embeds[-1]
        self._inputs.position_ids[:, :count] = inputs.position_ids
        self._inputs.position_ids[:, count:] = inputs.position_ids[:, -1:]
        self._last.fill_(count - 1)

    def _run(self) -> None:
        """The pass. All that it reads stays where it is; a graph also writes where it wrote before."""
        self._logits = self._model.forward(self._inputs, self._cache, keep=self._last)


class _PassLayer(DynamicLayer):
    """Keys and values of one layer in the newest pass, before whose tokens there are none."""

    keys: Tensor
    values: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Note the pass' keys and values, (1, heads, n, width) each, and return them."""
        self.keys, self.values = key_states, value_states
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Tokens before those of the pass."""
        return 0
