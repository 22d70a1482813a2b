"""Stages that act inside the LLM, between its layers, when it reads a video.

Called on tokens, such a stage only attaches itself: the tokens carry it to the LLM, so that it stands in chains and on
links like any other. Whoever answers runs it (:mod:`..answering.inside`), layer by layer, by what it says here: before
which layers the video's tokens become fewer, which of them stay, and what of them each step of decoding reads.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..tokens.factors import Factor, Sparse
from ..tokens.video_tokens import Inside, Layout, StageRecord, VideoTokens
from .base import Part, Place, Stage
from .options import Setting
from .toolkit.ranking import top_k

LAYER = Setting(2, "Layer of the LLM before which tokens become fewer; layers count from 0.", low=1, high=1000)
"""Ranking needs the attention of the layer before, so the first layer cannot be chosen."""

KEEP = Setting(0.5, "Share of the video's tokens that stay from that layer on.", low=0, high=1, step=0.01)


class Cut(NamedTuple):
    """A place between two layers.

    Args:
        layer: before which the video's tokens become fewer; the first is 0.
        keep: how many stay.
    """

    layer: int
    keep: int


class Choice(NamedTuple):
    """Which of n tokens stay, and what becomes of them.

    Args:
        kept: (keep,) long, the places that stay, in order.
        factor: (keep x n), what stands at those places then.
    """

    kept: Tensor
    factor: Factor


@dataclass(frozen=True)
class InnerStage(Stage):
    """Base of all stages that act inside the LLM.

    A method is a subclass that defines :meth:`cuts`, and :meth:`choose` where tokens are merged; or
    :meth:`reads_from` and :meth:`read`, where only decoding reads less. Scores are what the last token of the prompt
    attends to: softmax in float32, mean over heads.
    """

    acts = Place.LLM
    looks_ahead: ClassVar[bool] = False
    """Whether tokens are ranked by the attention of the layer to come, and not by that of the layer before."""
    renumbers: ClassVar[bool] = False
    """Whether positions are counted anew after a cut; otherwise each token keeps its own."""
    keeps_positions: ClassVar[bool] = False
    """Whether the LLM reads every token at its position in the full video; such a stage does nothing else."""
    counts_newline: ClassVar[bool] = False
    """Whether the newline that ends a video is one of its tokens; otherwise it always stays, as text does."""

    def __call__(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """Attach this stage to a video's tokens, which costs nothing yet, and note it in their history.

        Args:
            tokens: fresh from the encoder or from another stage.
            part: which frames of a streamed video these are.
        """
        record = StageRecord(self.name, self.settings(), tokens.tokens_kept, tokens.tokens_kept, 0.0)
        return dataclasses.replace(self.reduce(tokens, part), history=(*tokens.history, record))

    def reduce(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """The same tokens with this stage attached; the LLM will run it.

        Args:
            tokens: fresh from the encoder or from another stage.
            part: which frames of a streamed video these are.
        """
        return dataclasses.replace(tokens, inner=(*tokens.inner, Inside(self.name, self.settings())))

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """Every frame by itself.

        Args:
            layout: of the whole video.
            timestamps: (T,) float64 seconds of its frames.
        """
        return (1,) * layout.frames

    def cuts(self, tokens: int, layers: int) -> tuple[Cut, ...]:
        """Where the video's tokens become fewer, in order of layers.

        Args:
            tokens: of the video, as many as the LLM was given.
            layers: of the LLM.

        Raises:
            InputError: the LLM has too few layers.
        """
        return ()

    def choose(self, hidden_states: Tensor, scores: Tensor, keep: int) -> Choice:
        """Which tokens stay at a cut: those with the highest scores, as they are.

        Args:
            hidden_states: (n, D) floating, the video's tokens before the layer.
            scores: (n,) floating, attention of the prompt's last token.
            keep: how many stay.
        """
        return selected(top_k(scores, keep).sort().values, len(scores))

    @property
    def sees_ahead(self) -> bool:
        """Whether, in the layer before a cut, every token of the prompt sees those after it."""
        return False

    def reads_from(self, layers: int) -> int | None:
        """The first layer in which a step of decoding reads less of the video; None for none.

        Args:
            layers: of the LLM.

        Raises:
            InputError: the LLM has too few layers.
        """
        return None

    def read(self, scores: Tensor, before: Tensor | None) -> Tensor | None:
        """What of the video a step of decoding reads from that layer on.

        Args:
            scores: (n,) floating, what its newest token attends to in the layer before.
            before: (n,) floating, the same of the step before; None in the first step.

        Returns:
            (m,) long, in order; None for all.
        """
        return None

    def require_depth(self, layer: int, layers: int) -> int:
        """``layer``, if the LLM has it.

        Args:
            layer: that the stage acts before.
            layers: of the LLM.

        Raises:
            InputError: it has not.
        """
        if layer >= layers:
            raise InputError(
                f"{self.title} acts before layer {layer} and this LLM has layers 0 to {layers - 1}; set it to "
                f"{layers - 1} or less."
            )
        return layer


def selected(kept: Tensor, tokens: int) -> Choice:
    """Tokens that stay as they are.

    Args:
        kept: (keep,) long, in order.
        tokens: how many there were.
    """
    rows = torch.arange(len(kept), device=kept.device)
    ones = torch.ones(len(kept), device=kept.device)
    return Choice(kept, Sparse(rows, kept, ones, len(kept), tokens, copies=True))
