"""The protocol of anything that gives frames: decoded frames, or a video file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from .frames import Clock, Frames


class FrameSource(Protocol):
    """Frames, decoded (:class:`.frames.Frames`) or in a file (:class:`.frames.VideoSource`)."""

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

    @abstractmethod
    def parts(self, size: int) -> Iterator[Frames]:
        """The frames in order, ``size`` at a time."""
