"""CDPruner: in every frame, the tokens that are relevant to the question and least like each other.

The kernel of a frame is the cosine of its tokens, weighted by the relevance of both. Tokens are taken one by one, each
time the one that makes the determinant of the kernel of those taken grow most. All frames go one step together.

As released, relevance is the negated cosine of CLIP's patches with CLIP's text ("clip"); where a model has no text half
of its tower, toolkits take the cosine of features with the mean of the question's input embeddings ("words"). Past the
rank of the kernel nothing grows any more: the rest is taken by relevance alone, and told.

Source: CDPruner (NeurIPS 2025); with words as OpenVINO GenAI ships it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ...devices import counts_on
from ...errors import InputError
from ...tokens.question import CLIP
from ...tokens.video_tokens import VideoTokens
from ..base import Budgeted, Part, Reduction, with_question_time
from ..options import KEEP_TOKENS, NO_RELEVANCE, RELEVANCE, RETENTION, Setting
from ..toolkit.language_grid import LanguageGrid, SubstituteWarning, unit
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import true_places

WORDS = "words"

SMALLEST = 1e-6
"""Added to the relevance of the released form before it is divided by its range, to the range with words."""

NOTHING_NEW = 1e-5
"""A token of which less than this share is new beside those taken is past the rank, in any precision."""


@dataclass(frozen=True)
class CDPruner(Budgeted):
    """Keep the tokens of each frame that are relevant to the question and least like each other."""

    name = "cdpruner"
    title = "CDPruner"
    node_id = "AOTCDPruner"
    asks = True
    source = "CDPruner, NeurIPS 2025"

    retention: float = RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
    relevance: str = RELEVANCE.field(
        choices=(WORDS, CLIP, NO_RELEVANCE),
        help="What says how relevant a token is: words, the LLM's input embeddings of the question; clip, the "
        "released form, where the question brings what CLIP's two halves say; none leaves the question out, as a "
        "control beside it.",
    )
    span: str = Setting(
        "frame",
        "What shares one budget: frame gives every frame the same number, as released; video takes tokens where they "
        "add most, and slows down with the square of the video.",
        choices=("frame", "video"),
    ).field()

    @property
    def needs_question(self) -> bool:
        """Whether relevance is asked for."""
        return self.relevance != NO_RELEVANCE

    @property
    def needs_relevance_model(self) -> bool:
        """Whether relevance is CLIP's."""
        return self.relevance == CLIP

    def __call__(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """Reduce a video's tokens; the time includes that of a relevance model."""
        reduced = super().__call__(tokens, part)
        return with_question_time(reduced, tokens) if self.needs_relevance_model else reduced

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Kept cells in order of time, then raster."""
        grid = LanguageGrid.of(self.title, tokens)
        counts = self.shares(tokens.layout, part)
        relevance = self._relevance(grid)
        directions = unit(grid.features)
        if self.span == "video":
            counts, relevance, directions = (sum(counts),), relevance.reshape(1, -1), directions.flatten(0, 1)[None]
        order, gains = greedy_determinant(directions, relevance, max(counts))
        number = torch.arange(order.shape[1], device=order.device)
        taken = number < counts_on(tuple(counts), order.device)[:, None]
        past = int((taken & (gains < 0)).sum())
        if past:
            warnings.warn(
                f"{past} of {sum(counts)} tokens are past the rank of what they are chosen by: features "
                f"{grid.features.shape[2]} wide tell no more apart; taken instead: the most relevant.",
                SubstituteWarning,
                stacklevel=2,
            )
        keep = torch.zeros_like(relevance, dtype=torch.bool).scatter(1, order, taken)
        return grid.selection(true_places(keep, sum(counts)), NewlineRule.KEPT_ROWS)

    def _relevance(self, grid: LanguageGrid) -> Tensor:
        """(T, L) of every cell, 1 everywhere where nothing is asked or all is equally relevant."""
        question = grid.tokens.question
        if self.relevance == NO_RELEVANCE or question is None:
            return torch.ones_like(grid.features[:, :, 0])
        if self.relevance == WORDS:
            mean = unit(question.words.to(grid.features).mean(0))
            return of_words(unit(grid.features) @ mean)
        if CLIP not in question.places:
            raise InputError(
                f"{self.title} as released needs what CLIP's two halves say of the video, and this question comes "
                f"without; link a relevance model and the frames to Ask About (--relevance-model on the command line), "
                f"or give relevance={WORDS}."
            )
        return of_clip(grid.pooled(question.places[CLIP]))


def of_clip(cosines: Tensor) -> Tensor:
    """Relevance as released, (T, L): CLIP's patches point away from what they show, so that the sign is turned.

    Args:
        cosines: (T, L) floating, the mean cosine of each place with the question in CLIP's joint space.
    """
    low, high = (-cosines).aminmax()
    return torch.where(high > low, (-cosines - low + SMALLEST) / (high - low), torch.ones_like(cosines))


def of_words(cosines: Tensor) -> Tensor:
    """Relevance as toolkits take it, (T, L): the higher the cosine the more.

    Args:
        cosines: (T, L) floating, of each token with the mean of the question's input embeddings.
    """
    low, high = cosines.aminmax()
    return torch.where(high > low, (cosines - low) / (high - low + SMALLEST), torch.ones_like(cosines))


def greedy_determinant(directions: Tensor, relevance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cells of every frame, each time the one that makes the determinant of the kernel grow most.

    Args:
        directions: (T, L, D) floating, features brought to length 1.
        relevance: (T, L) floating.
        count: how many to take of each frame, 1 to L.

    Returns:
        order (T, count) long, the cells as they were taken; gains (T, count), by which factor the determinant grew,
        -1 where it grew no more and the most relevant of the others was taken.
    """
    frames, cells = relevance.shape
    scaled = directions * relevance[:, :, None]
    left = scaled.square().sum(2)
    least = NOTHING_NEW * left
    rest = relevance - relevance.max() - 1  # below any gain
    rows = relevance.new_zeros(frames, count, cells)
    order, gains = [], []
    for step in range(count):
        score = torch.where(left > least, left, rest)
        best = score.argmax(1, keepdim=True)
        gain = score.gather(1, best)
        grows = gain > 0
        kernel = torch.bmm(scaled, scaled.gather(1, best[:, :, None].expand(-1, -1, scaled.shape[2])).mT)[:, :, 0]
        before = rows[:, :step]
        own = before.gather(2, best[:, :, None].expand(-1, step, -1))
        row = torch.where(grows, (kernel - (before * own).sum(1)) * gain.rsqrt(), 0)
        rows[:, step] = row
        left = (left - row.square()).scatter_(1, best, -torch.inf)
        rest = rest.scatter(1, best, -torch.inf)
        order.append(best)
        gains.append(gain)
    taken, grown = torch.cat(order, 1), torch.cat(gains, 1)
    return taken, torch.where(grown > 0, grown, -1)
