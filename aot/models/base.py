"""What a video LLM must offer to be reduced and asked: encode frames, lay out a prompt, generate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..cost import LanguageShape
from ..errors import InputError
from ..tokens import Layout, VideoTokens
from ..video import Frames

Progress = Callable[[int, int], None]
"""Called with (done, total) as long work goes on; may raise to stop it."""


class FrameSource(Protocol):
    """Frames, decoded (:class:`~..video.Frames`) or in a file (:class:`~..video.VideoSource`)."""

    @property
    def count(self) -> int:
        """T."""

    @property
    def timestamps(self) -> Tensor:
        """(T,) float64 seconds."""

    @property
    def source(self) -> str:
        """The file's name, without its folder."""

    def parts(self, size: int) -> Iterator[Frames]:
        """The frames in order, ``size`` at a time."""


def ignore_progress(done: int, total: int) -> None:
    """The progress callback of whoever does not watch."""


def require_question(question: str) -> None:
    """Refuse a question without a word."""
    if not question.strip():
        raise InputError("The question is empty; write what you want to know about the video.")


@dataclass(frozen=True)
class Prompt:
    """Token ids before and after the video, each (n,) long."""

    before: Tensor
    after: Tensor


class VideoLLM(ABC):
    """An adapter around a stock transformers model. With nothing reduced its logits are the stock model's."""

    family: str
    name: str
    model: nn.Module
    language: LanguageShape

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating dtype."""
        return next(self.model.parameters()).dtype

    @abstractmethod
    def preprocess(self, frames: Frames) -> Tensor:
        """Pixels as the vision tower takes them, (T, 3, h, w) float32."""

    @abstractmethod
    def layout(self, frames: int) -> Layout:
        """How the tokens of so many frames lie."""

    @abstractmethod
    def encode_parts(self, frames: FrameSource, *, on_progress: Progress = ignore_progress) -> Iterator[VideoTokens]:
        """Projected tokens with their importance, pooling pending, a few frames at a time, in order."""

    def encode(self, frames: FrameSource, *, on_progress: Progress = ignore_progress) -> VideoTokens:
        """All frames' projected tokens with their importance, pooling pending."""
        return VideoTokens.concatenate(list(self.encode_parts(frames, on_progress=on_progress)))

    @abstractmethod
    def prompt(self, question: str) -> Prompt:
        """The model's chat prompt around the video placeholder."""

    @abstractmethod
    def visual_embeddings(self, tokens: VideoTokens) -> Tensor:
        """(n, D): what stands in the placeholder's place, newlines included."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Token ids to text, special tokens left out."""

    def embeddings(self, tokens: VideoTokens, question: str) -> Tensor:
        """(1, L, D): the whole prompt, the video's tokens spliced in."""
        prompt = self.prompt(question)
        embed = self.model.get_input_embeddings()
        visual = self.visual_embeddings(tokens)
        before, after = (embed(ids.to(self.device)) for ids in (prompt.before, prompt.after))
        return torch.cat((before, visual.to(before), after))[None]
