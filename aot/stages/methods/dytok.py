"""DyToK: an LLM says which frames matter for the question, and a method spends what each frame gets.

What an assistant's last prompt token attends to among the video's tokens gives every frame its share of the budget. The
shares stand in front of any method that can be told what each frame gets (`Part.budgets`); its authors' is VisionZip,
six tokens kept for every one that is merged.

Source: DyToK (NeurIPS 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np

from ...errors import InputError
from ...tokens.question import ASSISTANT
from ...tokens.video_tokens import VideoTokens
from .. import every_stage
from ..base import Budgeted, Part, with_question_time
from ..budget import fill_levels, split_by_share
from ..options import KEEP_TOKENS, NO_RELEVANCE, RELEVANCE, RETENTION, Setting
from ..toolkit.frame_tokens import FrameTokens
from .visionzip import VisionZip

RELEASED = VisionZip(dominant_ratio=6 / 7)
"""DyToK's VisionZip keeps six of seven tokens of a frame as they are, whatever its settings say."""


@cache
def methods() -> Mapping[str, Budgeted]:
    """The methods that can spend frames' budgets by name, the released one first."""
    kinds = [kind for kind in every_stage().values() if issubclass(kind, Budgeted) and not kind.no_frame_budgets]
    others = {kind.name: kind() for kind in kinds if kind.name != RELEASED.name}
    return MappingProxyType({RELEASED.name: RELEASED, **others})


@dataclass(frozen=True)
class DyToK(Budgeted):
    """Share the budget out among frames by what an assistant attends to, and spend it by another method."""

    name = "dytok"
    title = "DyToK Budgets"
    node_id = "AOTDyToK"
    asks = True
    source = "DyToK, NeurIPS 2025"
    no_frame_budgets = "It makes frames' budgets itself."

    retention: float = RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
    method: str = Setting(
        RELEASED.name,
        "What spends each frame's budget, with its own defaults: visionzip as released, which may leave frames empty. "
        "Of the others some keep a token of every frame, or some frames whole; fastvid and flashvid meet what a "
        "segment's frames have together.",
        choices=lambda: tuple(methods()),
    ).field()
    relevance: str = RELEVANCE.field(
        default=ASSISTANT,
        choices=(ASSISTANT, NO_RELEVANCE),
        help="What says how much a frame matters: assistant, the attention of a model that is linked to Ask About; "
        "none gives all frames the same, as a control beside it.",
    )
    upper_limit: int = Setting(
        0,
        "Tokens of a frame at most, but for those that the method keeps whole; 0 is all that it has.",
        low=0,
        high=1_000_000,
        advanced=True,
    ).field()

    def __post_init__(self) -> None:
        kind = every_stage().get(self.method)
        if kind is not None and issubclass(kind, Budgeted) and kind.no_frame_budgets:
            raise InputError(
                f"{self.title}: {kind.title} takes no budgets of frames. {kind.no_frame_budgets} Give another method "
                f"of {', '.join(methods())}."
            )
        super().__post_init__()

    @property
    def needs_question(self) -> bool:
        """Whether budgets or the method ask."""
        return self.relevance != NO_RELEVANCE or methods()[self.method].needs_question

    @property
    def needs_assistant(self) -> bool:
        """Whether an assistant has to read the video first."""
        return self.relevance != NO_RELEVANCE

    def __call__(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """Reduce a video's tokens; the time includes that of the assistant."""
        reduced = super().__call__(tokens, part)
        return with_question_time(reduced, tokens) if self.needs_assistant else reduced

    def reduce(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """What the method makes of every frame's budget.

        Args:
            tokens: fresh from the encoder or from another stage.
            part: of the whole video.

        Raises:
            InputError: the budget cannot be met, nobody has said how much frames matter, or the method refuses.
        """
        self.require_usable(tokens)
        method = methods()[self.method]
        budgets = self._budgets(method, tokens)
        return method.at_tokens(sum(budgets)).reduce(tokens, Part(0, tokens.layout.frames, budgets))

    def _budgets(self, method: Budgeted, tokens: VideoTokens) -> tuple[int, ...]:
        """(T,) tokens of every frame: what the method needs at least, and the rest by share."""
        layout = tokens.layout
        least, most = (np.array(each) for each in method.frame_limits(layout, tokens.timestamps))
        if self.upper_limit:
            most = np.maximum(np.minimum(most, self.upper_limit), least)
        if tokens.tokens_kept < tokens.tokens_encoded:
            have = np.array(FrameTokens.of(tokens.to_language_grid()).counts)
            least, most = np.minimum(least, have), np.minimum(most, have)
        total = self.budget_of(layout, max(1, int(least.sum())), int(most.sum()))
        shares, rest, room = self._shares(tokens), total - int(least.sum()), (most - least).tolist()
        if shares is None:
            spread = fill_levels(room, rest)
        else:
            # Frames that have all they can are out of it: the others share in proportion.
            spread = split_by_share([each if more else 0 for each, more in zip(shares, room, strict=True)], rest, room)
        return tuple((least + spread).tolist())

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
