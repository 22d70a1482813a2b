"""A stock model as its adapter holds it: its weights, tokenizer and settings, and what it can and cannot do."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from ..errors import InputError
from .folder import is_positive
from .importance import ATTENTION
from .llm_cost import LanguageShape
from .pixels import CLIP_MEAN, CLIP_STD


class Adapter(ABC):
    """What the parts of an adapter have in common.

    Args:
        hf_model: with a ``model.language_model`` and an ``lm_head``.
        tokenizer: of the LLM, a stock one; None for a model that only computes.
        name: the model's name in results and errors.
        preprocessor: the settings of the folder's video processor.
        chat_template: the processor's own, which takes structured content; None takes the tokenizer's.
    """

    family: ClassVar[str]
    stock: ClassVar[type[PreTrainedModel]]
    placeholder: ClassVar[str]
    """The text that marks a video in the chat template."""
    slot: ClassVar[str] = ""
    """The text that marks a group of visual tokens in ``video_text``; "" means the placeholder."""
    mean: ClassVar[Sequence[float]] = CLIP_MEAN
    std: ClassVar[Sequence[float]] = CLIP_STD
    """Of the pixels, unless the folder's video processor has its own."""
    quantizes: ClassVar[bool] = True
    """Whether its weights can be loaded in 8 or 4 bits."""
    axes: ClassVar[int] = 1
    """A: rotary positions of a token, 1, or 3 for models with positions of time, height and width."""
    any_size: ClassVar[bool] = False
    """Whether the tower takes frames of any size, so that it is a choice how large they are."""
    frames_apart: ClassVar[bool] = False
    """Whether the prompt has text between the frames, so that each frame's tokens must stay together."""

    def __init__(
        self,
        hf_model: PreTrainedModel,
        tokenizer: Any,
        name: str,
        *,
        preprocessor: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.hf_model, self.name = hf_model, name
        self.decoding = "auto"
        """How answers are decoded: auto, eager or graph."""
        self.notes: tuple[str, ...] = ()
        """What loading did that a user should know, a sentence each without its full stop."""
        own = hf_model.generation_config
        if not (own.repetition_penalty is None or is_positive(own.repetition_penalty)):
            raise InputError(
                f"The generation_config.json of {name} says repetition_penalty {own.repetition_penalty!r}, which "
                "cannot be used; copy or download it again."
            )
        # Without a checkpoint's sampling defaults: an answer is greedy unless its settings say otherwise.
        hf_model.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id,
            eos_token_id=own.eos_token_id,
            pad_token_id=own.pad_token_id,
            repetition_penalty=own.repetition_penalty,
        )
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._preprocessor = dict(preprocessor or {})
        self._mean = tuple(self._preprocessor.get("image_mean", self.mean))
        self._std = tuple(self._preprocessor.get("image_std", self.std))
        self.tower.set_attn_implementation(ATTENTION)
        self.language = LanguageShape.of(hf_model.config.get_text_config())

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        return next(self.hf_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating dtype."""
        return next(self.hf_model.parameters()).dtype

    @property
    def repetition_penalty(self) -> float:
        """The checkpoint's own: logits of tokens that were there before are divided by it, negative ones multiplied."""
        return self.hf_model.generation_config.repetition_penalty or 1.0

    @property
    def weights(self) -> Iterable[Tensor]:
        """All weights, for a digest of them."""
        return self.hf_model.state_dict().values()

    @property
    def takes_masks(self) -> bool:
        """Whether the LLM's attention takes a mask of ours; flash and linear attention and sliding windows do not."""
        return "flash" not in self.attention and not {"sliding_attention", "linear_attention"} & self._layer_kinds

    @property
    def rewinds(self) -> bool:
        """Whether a cache can be cut back to fewer tokens; that of linear attention keeps one state for all tokens."""
        return "linear_attention" not in self._layer_kinds

    @property
    def sees_ahead(self) -> bool:
        """Whether visual tokens see some that come after them, so that a video is read in one pass."""
        return False

    @property
    def beyond_embeddings(self) -> str:
        """What the LLM is given of a prompt that its embeddings cannot carry to a server; "" where they suffice."""
        if self.axes > 1:
            return "positions of time, height and width"
        return "sight of tokens that come later" if self.sees_ahead else ""

    @property
    def _layer_kinds(self) -> frozenset[str]:
        return frozenset(getattr(self.language_model.config, "layer_types", None) or ())

    def new_cache(self) -> DynamicCache:
        """An empty cache of the LLM."""
        return DynamicCache() if self.rewinds else DynamicCache(config=self.language_model.config)

    @property
    def attention(self) -> str:
        """The LLM's attention implementation."""
        return str(self.language_model.config._attn_implementation)

    @property
    def language_model(self) -> PreTrainedModel:
        """The LLM without its head."""
        return self.hf_model.model.language_model

    @property
    def tower(self) -> PreTrainedModel:
        """The vision encoder."""
        return self.hf_model.model.vision_tower
