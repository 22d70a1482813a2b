"""The protocol of anything that gives frames: decoded frames, or a video file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from .choice import Choice
    from .frames import Clock, Frames


class Step(Protocol):
    """What is to happen to frames inside the vision tower: a stage of the tower, which travels with them."""

    name: ClassVar[str]
    """The stage's."""

    def settings(self) -> dict[str, Any]:
        """The value of every setting by name."""
        ...


class FrameFacts(Protocol):
    """What is known of frames without their pixels: enough to say what tokens a model makes of them."""

    @property
    @abstractmethod
    def count(self) -> int:
        """T, the number of frames."""

    @property
    @abstractmethod
    def height(self) -> int:
        """H, in pixels."""

    @property
    @abstractmethod
    def width(self) -> int:
        """W, in pixels."""

    @property
    @abstractmethod
    def timestamps(self) -> Tensor:
        """(T,) float64, in seconds."""

    @property
    @abstractmethod
    def source(self) -> str:
        """The file's name, without its folder."""

    @property
    @abstractmethod
    def file_s(self) -> float | None:
        """Seconds spent on the file so far; None if there is none, or nobody measured."""

    @property
    @abstractmethod
    def clock(self) -> Clock | None:
        """How the whole video counts its time; None if that is not known."""

    @property
    @abstractmethod
    def choice(self) -> Choice | None:
        """What stages before the encoder chose; None where none has."""


class FrameSource(FrameFacts, Protocol):
    """Frames, decoded (:class:`.frames.Frames`) or in a file (:class:`.video_source.VideoSource`)."""

    @property
    @abstractmethod
    def more(self) -> Callable[[int], FrameSource] | None:
        """Takes a number, and returns so many frames of the same part of the video; None where there are no others."""

    @property
    @abstractmethod
    def steps(self) -> tuple[Step, ...]:
        """What is to happen to the frames inside the tower, in order."""

    @abstractmethod
    def parts(self, size: int) -> Iterator[Frames]:
        """The frames in order, ``size`` at a time."""

    @abstractmethod
    def pick(self, chosen: Tensor) -> FrameSource:
        """The frames at indices, (K,) int64 and increasing, which know what they were chosen of."""

    @abstractmethod
    def with_choice(self, choice: Choice) -> FrameSource:
        """The same frames, of which this was chosen."""

    @abstractmethod
    def with_step(self, step: Step) -> FrameSource:
        """The same frames, to which this is to happen inside the tower, after all that was to happen already."""

    @abstractmethod
    def thumbnails(self, side: int) -> Tensor:
        """Every frame in ``side`` x ``side`` pixels, (T, side, side, 3) float32, levels 0 to 255."""
