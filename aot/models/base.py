"""The adapter around a video LLM: it encodes frames, lays out a prompt around their tokens, and runs the LLM.

A family is a subclass in a file of its own. It says how frames become pixels and pixels tokens, how its prompt holds a
video, and its rotary positions where they are more than a count. The model inside is transformers' own class.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..errors import InputError
from ..tokens.question import ASSISTANT, CLIP, Question
from ..tokens.video_tokens import VideoTokens
from ..video.sampling import MakersChoice
from .attended import attended_frames
from .chat import ChatPrompt
from .encoder import FILE_PIXELS, FrameEncoder, TowerOutput
from .folder import (
    colours_file,
    load_tokenizer,
    loading,
    processor_template,
    template_file,
    tokenizer_file,
    video_settings,
)
from .frame_choice import NO_SETTINGS
from .loading import stock_model
from .prompt import Inputs, require_question
from .versions import cache_argument

if TYPE_CHECKING:
    from ..video.frame_source import FrameSource
    from .relevance_model import RelevanceModel

__all__ = ["FILE_PIXELS", "TowerOutput", "VideoLLM", "added"]


class VideoLLM(FrameEncoder, ChatPrompt):
    """An adapter around a stock transformers model. With nothing reduced its logits are the stock model's."""

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        """Whether a folder with this config.json is of this family."""
        return config.get("model_type") == cls.family

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        attention: str = "sdpa",
        quantization: str = "none",
        weights: bool = True,
    ) -> VideoLLM:
        """Load from a folder in Hugging Face's layout; safetensors only, nothing is downloaded or executed.

        Args:
            folder: of the model.
            name: the model's name in results and errors.
            dtype: of the weights.
            device: where to put them.
            attention: the LLM's attention implementation.
            quantization: "none", "8-bit" or "4-bit".
            weights: whether to read them; without them the model can be looked at, and is checked as it would be.

        Raises:
            InputError: the folder holds no safetensors, not exactly the model's tensors, or no settings of its
                processor or tokenizer; or the attention or the quantization is not installed.
        """
        model = stock_model(
            cls.stock,
            folder,
            name,
            dtype=dtype,
            device=device,
            attention=attention,
            quantization=quantization,
            weights=weights,
        )
        with loading(name, attention):
            return cls(
                model,
                load_tokenizer(folder, name),
                name,
                preprocessor=video_settings(folder, name),
                chat_template=processor_template(folder),
            )

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int] | None:
        """Indices of the frames that the family's makers take of a video; None for the pack's own uniform sampling.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        return None

    @property
    def makers(self) -> MakersChoice:
        """:meth:`sampling` by this model's own settings."""
        return partial(self.sampling, settings=self._preprocessor)

    @classmethod
    def sources(cls, folder: Path) -> Mapping[str, str]:
        """Which file of a folder each setting is from, by the setting's name.

        Args:
            folder: of a model that can be loaded.
        """
        return {
            "mean and deviation": colours_file(folder),
            "chat template": template_file(folder),
            "tokenizer": tokenizer_file(folder),
        }

    @torch.no_grad()
    def about(
        self,
        tokens: VideoTokens,
        text: str,
        *,
        assistant: VideoLLM | None = None,
        assistant_tokens: VideoTokens | None = None,
        relevance_model: RelevanceModel | None = None,
        frames: FrameSource | None = None,
    ) -> VideoTokens:
        """These tokens with a question that stages which ask choose by; nothing else changes.

        Args:
            tokens: of this model.
            text: the question alone, without instructions around it.
            assistant: a model that reads the video and the question first, and says how much each frame matters; it may
                be this one.
            assistant_tokens: the same frames, encoded by the assistant; None where it reads the tokens themselves.
            relevance_model: a CLIP with both halves, that says how relevant every place is.
            frames: that the tokens are of, for it to look at.

        Raises:
            InputError: an empty question, tokens of another model's width, other frames than the tokens', or none for
                a relevance model.
        """
        require_question(text)
        self._require_own(tokens)
        text = text.strip()
        words = self.embed(torch.tensor(self._ids(text))).to(tokens.features.device)
        start = time.perf_counter()
        of_frames, places = {}, {}
        if assistant is not None:
            read = tokens if assistant_tokens is None else assistant_tokens
            if read.layout.frames != tokens.layout.frames:
                raise InputError(
                    f"The assistant's tokens are of {read.layout.frames} frames and these of {tokens.layout.frames}; "
                    "encode the same frames with both models."
                )
            of_frames[ASSISTANT] = attended_frames(assistant, read, text)
        if relevance_model is not None:
            if frames is None:
                raise InputError(f"{relevance_model.name} looks at frames themselves; give those that were encoded.")
            places[CLIP] = relevance_model.places(frames, text, tokens.layout)
        seconds = time.perf_counter() - start if of_frames or places else 0.0
        return dataclasses.replace(tokens, question=Question(text, words, places, of_frames, seconds))

    def forward(self, inputs: Inputs, cache: Cache, *, mask: Tensor | None = None, keep: Any = -1) -> Tensor:
        """Run the LLM over ``inputs``, which follow the tokens in ``cache``.

        Args:
            inputs: n tokens.
            cache: keys and values of the p tokens before them; those of ``inputs`` are added.
            mask: (1, 1, n, p + n) floating, added to the scores; None is causal, but for tokens that see ahead.
            keep: the tokens whose logits to return: an index, a slice or indices.

        Returns:
            Logits in the model's dtype, (kept, vocabulary), or (vocabulary,) for a single index.
        """
        hidden_states = self.language_model(
            inputs_embeds=inputs.inputs_embeds[None],
            position_ids=self._position_ids(inputs, cache.get_seq_length()),
            attention_mask=self._mask(inputs, cache.get_seq_length()) if mask is None else mask,
            use_cache=True,
            **{cache_argument(type(self.language_model)): cache},
            **self._extras(inputs),
        ).last_hidden_state[0]
        return self._logits(hidden_states[keep])

    def _logits(self, hidden_states: Tensor) -> Tensor:
        """Logits of the LLM's last hidden states."""
        return self.hf_model.lm_head(hidden_states)

    def rotary(self, layer: int) -> Any:
        """The module that makes a layer's rotary embeddings of positions.

        Args:
            layer: its number.
        """
        return self.language_model.rotary_emb

    def _mask(self, inputs: Inputs, before: int) -> Any:
        """The stock LLM's mask for tokens that follow ``before`` others; None is causal."""
        return None

    def _position_ids(self, inputs: Inputs, before: int) -> Tensor:
        """Positions as the stock LLM takes them, for tokens that follow ``before`` others."""
        return inputs.position_ids

    def _extras(self, inputs: Inputs) -> dict[str, Any]:
        """Further arguments of the stock LLM."""
        return {}


def added(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores so that only visible tokens count.

    Args:
        visible: (n, m) bool.
        dtype: of the scores.

    Returns:
        (1, 1, n, m) of ``dtype``.
    """
    scores = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return scores.masked_fill(~visible, torch.finfo(dtype).min)[None, None]
