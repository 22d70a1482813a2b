"""What a reduction stage is: settings, and a function that builds its token map.

A stage is a frozen dataclass. Its fields, each made by :meth:`Setting.field`, are at once its settings in Python,
its ``name:key=value`` form on the command line and the widgets of its ComfyUI node, in that order.

A stage acts at one of four places (:class:`Place`), and a chain holds them in that order: on frames before pixels are
made, inside the vision tower, on the tower's tokens, or inside the LLM when it reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import Tensor

from ..devices import Elapsed, mark
from ..errors import InputError
from ..tokens.factors import Factor
from ..tokens.video_tokens import Layout, StageRecord, VideoTokens
from .budget import split_evenly, token_budget
from .options import settings_of

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Part:
    """Which frames of a video some tokens are: all of them unless the video is streamed.

    Args:
        first: index in the video of the first of these frames.
        frames: number of frames of the whole video.
        budgets: tokens to keep of each of these frames, as a stage before says; None where this one shares its budget
            out by itself. See :meth:`Budgeted.frame_limits`.
    """

    first: int
    frames: int
    budgets: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Reduction:
    """What a stage built.

    Args:
        factor: (kept x tokens), the stage's W.
        place: (kept, 3) long, frame, y and x on the language grid.
        role: (kept,) uint8 of :class:`~comfyui_aot.aot.tokens.video_tokens.Role`.
        scale: (kept,) floating, what the method multiplies its means with; None where tokens are means.
        kept: tokens without newlines, where the stage knows without a look at the device.
        counts: tokens of each frame, newlines among them, where it knows them and tokens are ordered by frame.
    """

    factor: Factor
    place: Tensor
    role: Tensor
    scale: Tensor | None = None
    kept: int | None = None
    counts: tuple[int, ...] | None = None


class Place(IntEnum):
    """Where a stage acts, in the order in which a chain holds its stages."""

    FRAMES = 0
    """On frames, before pixels are made of them: it chooses frames and their size."""
    TOWER = 1
    """Inside the vision tower, between its blocks."""
    TOKENS = 2
    """On the tower's tokens, before the LLM reads them."""
    LLM = 3
    """Inside the LLM, between its layers, when it reads them."""


@dataclass(frozen=True)
class Method:
    """Base of the stages of all places: checks its settings when made. ``source`` names its paper."""

    name: ClassVar[str]
    title: ClassVar[str]
    node_id: ClassVar[str | None] = None
    source: ClassVar[str]
    acts: ClassVar[Place] = Place.TOKENS
    asks: ClassVar[bool] = False
    """Whether what it keeps depends on the question."""
    fixes_budget: ClassVar[tuple[str, ...]] = ()
    """Settings of the stage's own that say how much it keeps. A chain that sets one is given no retention."""
    files: ClassVar[tuple[str, ...]] = ()
    """Settings that name a file; "" is none."""
    presets: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """The method's published settings by name, as chains that keep what its authors' code keeps."""

    def __post_init__(self) -> None:
        for name, setting in settings_of(self).items():
            setting.check(self.title, name, getattr(self, name))

    @property
    def needs_question(self) -> bool:
        """Whether, set as it is, it cannot do without the question."""
        return self.asks

    @property
    def needs_assistant(self) -> bool:
        """Whether, set as it is, it needs to know which frames matter to a model that has read the video."""
        return False

    @property
    def needs_relevance_model(self) -> bool:
        """Whether, set as it is, it needs to know what a CLIP's two halves say of every place."""
        return False

    def settings(self) -> dict[str, Any]:
        """The value of every setting by name, in the order of the fields."""
        return dataclasses.asdict(self)

    def with_files(self, find: Callable[[str], Path]) -> Self:
        """The same stage with every file that it names looked up.

        Args:
            find: the file that a setting's text means.
        """
        named = {name: text for name in self.files if (text := getattr(self, name))}
        return dataclasses.replace(self, **{name: str(find(text)) for name, text in named.items()})


class WithBudget:
    """A method that can be set to keep a share of the tokens, or a number of them.

    Its subclasses declare both settings as fields, each at its widget's place: ``retention``, usually
    ``RETENTION.field()``, and ``keep_tokens``, ``KEEP_TOKENS.field()``.

    Args:
        retention: share of the language grid to keep, from 0 to 1; 0 goes by the stage's other settings.
        keep_tokens: language-grid tokens of the whole video to keep; 0 goes by the retention.
    """

    retention: float
    keep_tokens: int

    @property
    def has_budget(self) -> bool:
        """Whether a budget is set, by a share or by a count."""
        return bool(self.retention or self.keep_tokens)

    def at_retention(self, retention: float) -> Self:
        """This stage set to keep a share of the language grid.

        Args:
            retention: the share, from 0 to 1.
        """
        return dataclasses.replace(cast(Any, self), retention=retention)

    def at_tokens(self, tokens: int) -> Self:
        """This stage set to keep a number of tokens of the whole video.

        Args:
            tokens: the number, 1 or more.
        """
        return dataclasses.replace(cast(Any, self), keep_tokens=tokens)


@dataclass(frozen=True)
class Stage(Method):
    """Base of all stages that reduce tokens: times and records itself when called.

    A method is a subclass in a file of its own that defines :meth:`build`. Nearly all of them subclass
    :class:`Budgeted`.
    """

    language_grid: ClassVar[bool] = True
    """Whether the stage works on the language grid, where pending pooling is done for it first."""

    def __call__(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """Reduce a video's tokens into new ones.

        Args:
            tokens: fresh from the encoder or from another stage.
            part: which frames of a streamed video these are; None where they are the whole video.

        Raises:
            InputError: the tokens hold NaN, or are not what this stage reduces.
        """
        start = mark(tokens.features)
        tokens.require_finite()
        reduced = self.reduce(tokens, part) if tokens.frames_left is None else self._on_frames_left(tokens)
        elapsed = Elapsed(start, mark(reduced.features))
        record = StageRecord(self.name, self.settings(), tokens.tokens_kept, reduced.tokens_kept, elapsed)
        return dataclasses.replace(reduced, history=(*reduced.history, record))

    def _on_frames_left(self, tokens: VideoTokens) -> VideoTokens:
        """The frames that a stage inside the tower left, reduced as a video of their own."""
        video = tokens.as_video()
        stage = self.for_frames_left(tokens.layout, video.layout.frames)
        return tokens.reduced_as(stage(dataclasses.replace(video, history=())))

    def for_frames_left(self, layout: Layout, left: int) -> Stage:
        """This stage as it is to run on fewer frames than the video had, where some were merged inside the tower.

        Args:
            layout: of the video, with all its frames.
            left: frames left.
        """
        return self

    def reduce(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """As a call, without the check for NaN and without a record in the history.

        Args:
            tokens: fresh from the encoder or from another stage.
            part: which frames of a streamed video these are; None where they are the whole video.

        Raises:
            InputError: the tokens are not what this stage reduces, or it asks and they come without a question.
        """
        self.require_usable(tokens)
        src = tokens.to_language_grid() if self.language_grid else tokens
        made = self.build(src, part or Part(0, tokens.layout.frames))
        return src.reduced(made.factor, made.place, made.role, scale=made.scale, kept=made.kept, counts=made.counts)

    def require_usable(self, tokens: VideoTokens) -> None:
        """Refuse tokens without the question that this stage asks for, and those that will be reduced inside the LLM.

        Args:
            tokens: to be reduced.

        Raises:
            InputError: they are such.
        """
        if self.needs_question and tokens.question is None:
            raise InputError(
                f"{self.title} chooses tokens by the question, and these come without one; put Ask About before it "
                "(--question on the command line), or take a stage that does not ask."
            )
        if tokens.inner:
            last = tokens.history[-1].name
            raise InputError(f"{self.title} acts before {last} does, inside the LLM; put it in front of {last}.")

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """The stage's W for these tokens, (kept x tokens).

        Args:
            tokens: on the language grid, unless the class variable ``language_grid`` is False.
            part: which frames of the video these are.
        """
        raise NotImplementedError

    def steps(self, layout: Layout, timestamps: Tensor) -> tuple[Stage, ...]:
        """The stages that this one runs one after another; itself unless it is a chain of others.

        Args:
            layout: of the whole video.
            timestamps: (T,) float64 seconds of its frames.
        """
        return (self,)

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """Lengths of the runs of frames that can be reduced one by one with the same result.

        Args:
            layout: of the whole video.
            timestamps: (T,) float64 seconds of its frames.

        Returns:
            Frames of each run, in order; None where the stage has to see the whole video.
        """
        return None


def with_question_time(reduced: VideoTokens, tokens: VideoTokens) -> VideoTokens:
    """Reduced tokens whose last record also has what other models took to look at the video for the question.

    Args:
        reduced: by a stage that needs what they say.
        tokens: that were reduced.
    """
    if tokens.question is None or not tokens.question.seconds:
        return reduced
    *before, own = reduced.history
    elapsed = own.milliseconds + 1e3 * tokens.question.seconds
    return dataclasses.replace(reduced, history=(*before, dataclasses.replace(own, elapsed=elapsed)))


class Budgeted(WithBudget, Stage):
    """A stage that can be set to keep an exact number of tokens; its fields are as :class:`WithBudget` says.

    Args:
        retention: share of the language grid to keep, from 0 to 1; 0 goes by the stage's other settings.
        keep_tokens: language-grid tokens of the whole video to keep; 0 goes by the retention.
    """

    no_frame_budgets: ClassVar[str] = ""
    """Why it cannot be told what each frame gets (:attr:`Part.budgets`), in a sentence; "" where it can."""

    def frame_limits(self, layout: Layout, timestamps: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Fewest and most tokens of every frame that :attr:`Part.budgets` may give it.

        Args:
            layout: of the video.
            timestamps: (T,) float64 seconds of its frames.
        """
        return (1,) * layout.frames, (layout.language_cells,) * layout.frames

    def for_frames_left(self, layout: Layout, left: int) -> Stage:
        """Set to the same number of tokens, which is a larger share of the frames left, or to all that there are.

        Args:
            layout: of the video, with all its frames.
            left: frames left.
        """
        if not self.has_budget:
            return self
        full = layout.frames * layout.language_cells
        most = left * layout.language_cells
        return self.at_tokens(min(self.budget_of(layout, 1, full), most))

    def budget_of(self, video: Layout, least: int, most: int, remedy: str = "") -> int:
        """Tokens to keep of a whole video: :func:`~comfyui_aot.aot.stages.budget.token_budget` of both settings.

        Args:
            video: layout of the whole video.
            least: fewest tokens that can be kept.
            most: most tokens that can be kept.
            remedy: what else would help, for the end of the error.

        Raises:
            InputError: the budget is outside that range, or none is set.
        """
        return token_budget(self.title, self.retention, self.keep_tokens, video, least, most, remedy)

    def shares(self, layout: Layout, part: Part, least: int = 1) -> tuple[int, ...]:
        """Tokens to keep of every frame of ``part``, so that the whole video's budget is met.

        Frames of a video get the same number, or one more, unless the part says what each gets.

        Args:
            layout: of the frames of ``part``.
            part: which frames of the video these are.
            least: fewest tokens a frame can be left with.

        Raises:
            InputError: no budget is set, it is under ``least`` tokens a frame, or above what there is.
        """
        if part.budgets is not None:
            return part.budgets
        video = dataclasses.replace(layout, frames=part.frames)
        total = self.budget_of(video, least * part.frames, part.frames * layout.language_cells)
        return split_evenly(total, part.frames)[part.first : part.first + layout.frames]

    def counts(self, layout: Layout, part: Part, least: int = 1) -> tuple[int, ...] | None:
        """As :meth:`shares`; None where no budget is set.

        Args:
            layout: of the frames of ``part``.
            part: which frames of the video these are.
            least: fewest tokens a frame can be left with.

        Raises:
            InputError: the budget is under ``least`` tokens a frame, or above what there is.
        """
        return self.shares(layout, part, least) if self.has_budget else None
