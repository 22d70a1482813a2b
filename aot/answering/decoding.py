"""One step of decoding whose tensors never change their shape nor their place, so that CUDA can replay it as a graph.

A step of the LLM is thousands of small kernels, and the host takes longer to launch them than the GPU to run them. A
CUDA graph launches them all at once. It needs fixed shapes and addresses: keys and values lie in a store that is as
long as the prompt and the longest answer, and a mask hides the columns that are not written yet.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from ..devices import capture, warm_up
from ..errors import InputError
from ..models.base import VideoLLM
from .graphs import addresses, alike
from .memory_advice import free_bytes

COLUMNS = 256
"""A store's length is a multiple of it, so that prompts of about the same length share a graph."""

WARM_UP = 3
"""Steps that run before one is captured: libraries set themselves up, and a short answer needs no graph at all."""

LEAST_TOKENS = 8
"""An answer that cannot have as many tokens is decoded eagerly where that is up to us."""


class Decoder:
    """How the answers of one model are decoded, and the last step, whose graph serves the next answer of its size.

    Args:
        model: whose LLM answers.
        decoding: "auto", "eager" or "graph"; None takes the model's own. On a device without CUDA "graph" runs the
            same step, and captures nothing.
        keep_bytes: a store of more bytes than this is freed after answering; None keeps any.
    """

    def __init__(self, model: VideoLLM, decoding: str | None = None, *, keep_bytes: int | None = None) -> None:
        self._model, self._decoding, self._keep_bytes = model, decoding or model.decoding, keep_bytes
        self._step: DecodingStep | None = None
        self._stream: torch.cuda.Stream | None = None
        self._fails = False
        self._turn = threading.RLock()

    @property
    def turn(self) -> threading.RLock:
        """Held by the session that is answering, while those of other threads wait."""
        return self._turn

    @property
    def replays(self) -> bool:
        """Whether there is a graph for the next answer."""
        return self._step is not None and self._step.is_captured

    def step(self, cache: DynamicCache, visible: Tensor, positions: Tensor, tokens: int) -> DecodingStep | None:
        """The step for these answers, ready for their second tokens; None where they are to be decoded eagerly.

        Args:
            cache: keys and values of the video and the questions; it is copied, and stays as it is.
            visible: (questions, columns) bool, the tokens in the cache that each question's answer sees.
            positions: (questions,) long, rotary positions of the answers' first tokens.
            tokens: the most steps that will be taken.
        """
        if not self._wants_steps(tokens):
            return None
        questions, columns = visible.shape
        rows = 1 << (questions - 1).bit_length()
        columns = -(-(columns + rows * tokens) // COLUMNS) * COLUMNS
        weights = addresses(self._model)
        made_for = rows, columns, weights, torch.is_inference_mode_enabled()
        if self._step is None or self._step.made_for != made_for:
            self._step = None
            size = self._model.language.kv_cache_bytes(columns, self._model.dtype.itemsize)
            if self._decoding == "auto" and size > free_bytes(self._model.device) // 2:
                return None
            self._step = DecodingStep(self._model, cache, rows, columns, weights, self._stream)
            self._stream = self._step.stream
        self._step.begin(cache, visible, positions)
        return self._step

    def _wants_steps(self, tokens: int) -> bool:
        if self._decoding == "eager" or not self._model.takes_masks:
            return False
        if self._decoding == "graph":
            return tokens > 0
        return self._model.device.type == "cuda" and not self._fails and tokens + 1 >= LEAST_TOKENS

    def rest(self) -> None:
        """Free a store that is too large to keep, and one that could not be captured, after an answer.

        Raises:
            InputError: the step could not be captured, and decoding is "graph".
        """
        if self._step is None:
            return
        failure = self._step.failure
        if failure or (self._keep_bytes is not None and self._step.bytes > self._keep_bytes):
            self._step = None
        if failure:
            self._fails, self._stream = True, None
            if self._decoding == "graph":
                raise InputError(
                    f"A decoding step of {self._model.name} cannot be captured as a CUDA graph ({failure}); choose "
                    "decoding auto or eager."
                )

    def forget(self) -> None:
        """Free the store and its graph."""
        self._step = None


class DecodingStep:
    """One token for each of a few answers, from fixed inputs to fixed outputs.

    The first :data:`WARM_UP` steps run as they are. Then, on CUDA, one is captured; it must repeat the logits of the
    last one before it is replayed. If it does not, or cannot be captured, steps go on as they are. One that waits for
    the host is not tried: a capture that breaks on that leaves PyTorch unable to free memory.

    Args:
        model: whose LLM answers.
        cache: of keys and values as those to be stored.
        rows: answers at most.
        columns: tokens in the store, those of all steps included.
        weights: addresses of the model's weights, which a graph holds.
        stream: of an earlier step, to capture on: matrix products keep memory for every stream that they have run on.
    """

    def __init__(
        self,
        model: VideoLLM,
        cache: DynamicCache,
        rows: int,
        columns: int,
        weights: Sequence[int] = (),
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        self.made_for = rows, columns, weights, torch.is_inference_mode_enabled()
        """What a step for other answers must have in common with this one; inference mode is left by none."""
        self.failure = ""
        """Why it was not captured; empty while nothing has failed."""
        self._model, self._rows = model, rows
        layers = cast(Sequence[Any], cache.layers)
        keys: Tensor = layers[0].keys
        self._columns = torch.zeros(rows, dtype=torch.long, device=keys.device)
        self._positions, self._ids = torch.zeros_like(self._columns), torch.zeros_like(self._columns)
        self._layers = [_FixedLayer(layer, columns, self._columns) for layer in layers]
        self._cache = Cache(layers=list(self._layers))
        self._mask = keys.new_zeros(1, 1, rows, columns)
        self._logits = torch.zeros(rows, len(model.hf_model.lm_head.weight), device=keys.device)
        self._runs = 0
        """Steps of this answer that were not replayed, up to the last one of the warm-up."""
        self._graph: torch.cuda.CUDAGraph | None = None
        if keys.is_cuda and (stream is None or stream.device != keys.device):
            stream = torch.cuda.Stream(keys.device)
        self.stream = stream
        """What is captured on; None without CUDA."""

    @property
    def is_captured(self) -> bool:
        """Whether steps are replayed from a graph."""
        return self._graph is not None

    @property
    def bytes(self) -> int:
        """Of keys and values."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self._layers)

    def begin(self, cache: DynamicCache, visible: Tensor, positions: Tensor) -> None:
        """Copy what was read, for answers whose first tokens are known.

        Args:
            cache: keys and values of c tokens.
            visible: (n, c) bool, the tokens that each answer sees; n is at most the step's rows.
            positions: (n,) long, rotary positions of the answers' first tokens.
        """
        answers, filled = visible.shape
        for mine, layer in zip(self._layers, cache.layers, strict=True):
            mine.fill(layer)
        self._mask.fill_(torch.finfo(self._mask.dtype).min)
        self._mask[0, 0, :answers, :filled].masked_fill_(visible, 0.0)
        self._ids.zero_()
        self._positions.zero_()
        self._positions[:answers] = positions
        torch.arange(filled, filled + self._rows, out=self._columns)
        self._runs = 0

    def next(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Read the newest token of each answer that goes on; a row that is left out reads its last token again.

        Args:
            rows: (n,) long, numbers of the answers.
            ids: (n,) long, their newest tokens.

        Returns:
            (n, vocabulary) float32, the logits of their next tokens.
        """
        if self.stream is not None and self._runs == WARM_UP and not (self.failure or self._graph):
            self._capture(self.stream)
        self._ids.index_copy_(0, rows, ids)
        if self._graph is not None:
            self._graph.replay()
        elif self.stream is not None and self._runs < WARM_UP:
            if warm_up(self._run, self.stream, watched=self._runs == WARM_UP - 1):
                self.failure = "it waits for the host"
            self._runs += 1
        else:
            self._run()
        return self._logits[rows]

    def _run(self) -> None:
        """The step. All that it reads and writes stays where it is."""
        self._mask[0, 0].scatter_(1, self._columns[:, None], 0.0)
        inputs = self._model.text_inputs(self._ids, self._positions)
        self._logits.copy_(self._model.forward(inputs, self._cache, mask=self._mask, keep=slice(None)))
        self._columns += self._rows
        self._positions += 1

    def _step_back(self) -> None:
        self._columns -= self._rows
        self._positions -= 1

    def _capture(self, stream: torch.cuda.Stream) -> None:
        """Capture the step, and compare a replay with the step before, which it repeats."""
        try:
            graph = capture(self._run, stream)
        except RuntimeError as error:
            self.failure = str(error).partition("\n")[0]
            return
        expected = self._logits.clone()
        self._step_back()
        graph.replay()
        if alike(self._logits, expected):
            self._graph = graph
        else:
            self.failure = "its logits differ"
            self._step_back()
            self._run()


class _FixedLayer(DynamicLayer):
    """Keys and values of one layer in tensors that stay in their place.

    Args:
        like: a layer with such keys and values.
        columns: tokens that there is room for.
        newest: (n,) long, the columns that the next n tokens are written to; changed by the owner.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, like: Any, columns: int, newest: Tensor) -> None:
        super().__init__()
        self.keys, self.values = (
            each.new_zeros((*each.shape[:2], columns, each.shape[3])) for each in (like.keys, like.values)
        )
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True
        self._newest = newest

    def fill(self, layer: Any) -> None:
        """Copy a layer's keys and values to the first columns. The others are 0: a hidden NaN would still spread."""
        for mine, others in ((self.keys, layer.keys), (self.values, layer.values)):
            mine[:, :, : others.shape[2]] = others
            mine[:, :, others.shape[2] :] = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the newest tokens' keys and values, (1, heads, n, width) each, and return all."""
        self.keys.index_copy_(2, self._newest, key_states)
        self.values.index_copy_(2, self._newest, value_states)
        return self.keys, self.values
