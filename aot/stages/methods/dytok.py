"""DyToK: an LLM says which frames matter for the question, and a method spends what each frame gets.

What an assistant's last prompt token attends to among the video's tokens gives every frame its share of the budget. The
shares stand in front of any method that gives every frame a number of its own; its authors' is VisionZip, six tokens
kept for every one that is merged.

Source: DyToK (NeurIPS 2025).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ...errors import InputError
from ...tokens.question import ASSISTANT
from ...tokens.video_tokens import VideoTokens
from ..base import Budgeted, Part, Reduction
from ..budget import split_by_share, split_evenly
from ..options import KEEP_TOKENS, NO_RELEVANCE, RELEVANCE, RETENTION, Setting
from .cdpruner import CDPruner
from .controls.cosine import CosineMerge
from .controls.random_choice import RandomTokens
from .controls.top_importance import TopImportance
from .visionzip import VisionZip

SIX_TO_ONE = 6 / 7
"""Share of a frame's tokens that DyToK's VisionZip keeps as they are, whatever its settings say."""

METHODS = MappingProxyType(
    {
        "visionzip": (VisionZip(dominant_ratio=SIX_TO_ONE), 0),
        "cdpruner": (CDPruner(), 1),
        "top": (TopImportance(), 1),
        "cosine": (CosineMerge(), 1),
        "random": (RandomTokens(), 1),
    }
)
"""The methods that spend the budgets, and the fewest tokens of a frame that each can leave."""


@dataclass(frozen=True)
class DyToK(Budgeted):
    """Share the budget out among frames by what an assistant attends to, and spend it by another method."""

    name = "dytok"
    title = "DyToK Budgets"
    node_id = "AOTDyToK"
    asks = True
    source = "DyToK, NeurIPS 2025"

    retention: float = RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
    method: str = Setting(
        "visionzip",
        "What spends each frame's budget: visionzip as released, which may leave frames empty; the others keep a token "
        "of every frame.",
        choices=tuple(METHODS),
    ).field()
    relevance: str = RELEVANCE.field(
        default=ASSISTANT,
        choices=(ASSISTANT, NO_RELEVANCE),
        help="What says how much a frame matters: assistant, the attention of a model that is linked to Ask About; "
        "none gives all frames the same, as a control beside it.",
    )
    upper_limit: int = Setting(
        0, "Tokens of a frame at most; 0 is all that it has.", low=0, high=1_000_000, advanced=True
    ).field()

    @property
    def needs_question(self) -> bool:
        """Whether budgets or the method ask."""
        return self.relevance != NO_RELEVANCE or METHODS[self.method][0].needs_question

    @property
    def needs_assistant(self) -> bool:
        """Whether an assistant has to read the video first."""
        return self.relevance != NO_RELEVANCE

    def __call__(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """Reduce a video's tokens; the time includes that of the assistant."""
        reduced = super().__call__(tokens, part)
        if not self.needs_assistant or tokens.question is None or not tokens.question.seconds:
            return reduced
        *before, own = reduced.history
        elapsed = own.milliseconds + 1e3 * tokens.question.seconds
        return dataclasses.replace(reduced, history=(*before, dataclasses.replace(own, elapsed=elapsed)))

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """What the method makes of every frame's budget."""
        method, least = METHODS[self.method]
        layout = tokens.layout
        frames, cells = layout.frames, layout.language_cells
        most = min(self.upper_limit or cells, cells)
        total = self.budget_of(layout, max(1, least * frames), most * frames)
        shares = self._shares(tokens)
        if shares is None:
            budgets = split_evenly(total, frames)
        else:
            spread = split_by_share(shares, total - least * frames, most - least)
            budgets = tuple(least + each for each in spread)
        return method.at_tokens(total).build(tokens, dataclasses.replace(part, budgets=budgets))

    def _shares(self, tokens: VideoTokens) -> Sequence[float] | None:
        """(T,) of every frame; None where all get the same.

        Raises:
            InputError: nobody has said how much the frames matter.
        """
        if not self.needs_assistant or tokens.question is None:
            return None
        weights = tokens.question.frames.get(ASSISTANT)
        if weights is None:
            raise InputError(
                f"{self.title} shares the budget out by what an assistant attends to, and no assistant has read these "
                f"tokens; link a model to the assistant of Ask About, or give relevance={NO_RELEVANCE}."
            )
        return weights.float().cpu().tolist()
