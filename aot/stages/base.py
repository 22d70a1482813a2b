"""What a reduction stage is: settings, and a function that builds its token map.

A stage is a frozen dataclass. Its fields, declared with :func:`option`, are at once its settings in Python,
its ``name:key=value`` form on the command line and the widgets of its ComfyUI node, in that order.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from torch import Tensor

from ..devices import synchronise
from ..errors import InputError
from ..tokens.factors import Factor
from ..tokens.video_tokens import Layout, StageRecord, VideoTokens
from .budget import split_evenly, wanted


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] = (),
    advanced: bool = False,
) -> Any:
    """A setting of a stage: its default, what it means, what is allowed, and whether few will want to change it."""
    metadata = {"help": help, "low": low, "high": high, "step": step, "choices": choices, "advanced": advanced}
    return dataclasses.field(default=default, metadata=metadata)


def share_kept(default: float = 0.0, otherwise: str = "what the other settings give") -> Any:
    """The setting ``retention`` of a stage that meets budgets; 0 leaves the choice to the stage's other settings."""
    help = "Share of the language grid to keep, met to the token."
    return option(default, help if default else f"{help} 0 keeps {otherwise}.", low=0, high=1, step=0.01)


def tokens_kept() -> Any:
    """The setting ``keep_tokens`` of a stage that meets budgets."""
    help = "Tokens of the whole video to keep, met exactly. 0 goes by the retention."
    return option(0, help, low=0, high=100_000_000)


@dataclass(frozen=True)
class Part:
    """Which frames of which video a run of tokens is: all of them unless the video is streamed.

    Args:
        first: index of the run's first frame in the video.
        frames: of the whole video.
    """

    first: int
    frames: int


@dataclass(frozen=True)
class Reduction:
    """What a stage built.

    Args:
        factor: (kept x tokens given), the stage's W.
        place: (kept, 3) long, frame, y and x on the language grid.
        role: (kept,) uint8 of :class:`~comfyui_aot.aot.tokens.video_tokens.Role`.
        scale: (kept,) what a method multiplies the means with, stated beside W; None where it emits means.
    """

    factor: Factor
    place: Tensor
    role: Tensor
    scale: Tensor | None = None


class Budgeted(Protocol):
    """What a stage that meets budgets has beside what all stages have."""

    @property
    def title(self) -> str: ...

    @property
    def retention(self) -> float: ...

    @property
    def keep_tokens(self) -> int: ...

    def shares(self, layout: Layout, part: Part, least: int = 1) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Stage:
    """Base of all stages: checks its settings when made, times and records itself when called.

    A method is a subclass in a file of its own that defines :meth:`build`; ``source`` names its paper.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    node_id: ClassVar[str | None] = None
    source: ClassVar[str]
    language_grid: ClassVar[bool] = True
    """Whether the stage works on the language grid, where pending pooling is done for it first."""
    settling: ClassVar[tuple[str, ...]] = ()
    """Settings of the stage's own that settle what it keeps: given in a chain, no retention is set over them."""
    presets: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Published settings by the name they are known under, as chains that keep what their authors' code keeps."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check_option(self.title, item, getattr(self, item.name))

    def __call__(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """Reduce ``tokens``; they are left as they are.

        Args:
            part: which frames of a streamed video these are.

        Raises:
            InputError: the tokens hold NaN, or are not what this stage reduces.
        """
        tokens.require_finite()
        synchronise(tokens.features)
        start = time.perf_counter()
        given = tokens.to_language_grid() if self.language_grid else tokens
        reduction = self.build(given, part or Part(0, tokens.layout.frames))
        reduced = given.reduced(reduction.factor, reduction.place, reduction.role, scale=reduction.scale)
        synchronise(reduced.features)
        milliseconds = (time.perf_counter() - start) * 1e3
        record = StageRecord(self.name, self.settings(), tokens.tokens_kept, reduced.tokens_kept, milliseconds)
        return dataclasses.replace(reduced, history=(*reduced.history, record))

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """The stage's W for these tokens, (kept x tokens given)."""
        raise NotImplementedError

    def steps(self, layout: Layout, timestamps: Tensor) -> tuple[Stage, ...]:
        """The stages this one runs one after another on such a video; itself unless it is a chain of others."""
        return (self,)

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """Lengths of the runs of frames that can be reduced for themselves, in order, with the same result.

        None where the stage has to see the whole video.
        """
        return None

    def at_retention(self, retention: float) -> Stage:
        """This stage set to keep ``retention`` of the language grid.

        Raises:
            InputError: the stage's settings fix what it keeps.
        """
        return self._with("retention", retention)

    def at_tokens(self, tokens: int) -> Stage:
        """This stage set to keep so many tokens of the whole video.

        Raises:
            InputError: the stage's settings fix what it keeps.
        """
        return self._with("keep_tokens", tokens)

    def counts(self: Budgeted, layout: Layout, part: Part, least: int = 1) -> tuple[int, ...] | None:
        """Tokens to keep of every frame of ``part`` so that the whole video's budget is met; None where none is set.

        Frames of a video get the same number, or one more.

        Args:
            least: tokens a frame that the stage cannot do without.

        Raises:
            InputError: the budget is under that, or above what there is.
        """
        return self.shares(layout, part, least) if self.retention or self.keep_tokens else None

    def shares(self: Budgeted, layout: Layout, part: Part, least: int = 1) -> tuple[int, ...]:
        """As :meth:`counts`, of a stage that always has a budget.

        Raises:
            InputError: none is set, it is under ``least`` tokens a frame, or above what there is.
        """
        video = dataclasses.replace(layout, frames=part.frames)
        most = part.frames * layout.language_cells
        total = wanted(self.title, self.retention, self.keep_tokens, video, least * part.frames, most)
        return split_evenly(total, part.frames)[part.first : part.first + layout.frames]

    def _with(self, setting: str, value: float) -> Stage:
        if not any(item.name == setting for item in dataclasses.fields(self)):
            raise InputError(f"{self.title} has no setting {setting}; give its own settings instead.")
        return dataclasses.replace(self, **{setting: value})

    def settings(self) -> dict[str, Any]:
        """Field names and values, in declared order."""
        return dataclasses.asdict(self)


def check_option(title: str, item: dataclasses.Field[Any], value: Any) -> None:
    """Raise an InputError where ``value`` is not one the option's metadata allows."""
    low, high, choices = (item.metadata[key] for key in ("low", "high", "choices"))
    if choices:
        if value not in choices:
            raise InputError(f"{title}: {item.name} is {value!r}; give one of {', '.join(choices)}.")
        return
    if isinstance(item.default, (bool, str)):
        fits = isinstance(value, type(item.default))
    elif isinstance(item.default, int):
        fits = isinstance(value, int) and not isinstance(value, bool)
    else:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits:
        raise InputError(f"{title}: {item.name} is {value!r}; give a {type(item.default).__name__}.")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"from {low:g} to {high:g}" if high is not None else f"of {low:g} or more"
        raise InputError(f"{title}: {item.name} is {value:g}; give a value {bounds}.")
