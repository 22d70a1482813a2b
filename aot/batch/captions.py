"""Caption files: ``clip.txt`` beside ``clip.mp4``, as programs that train on videos read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..files import whole_file
from .remote import is_url
from .sources import Clip


@dataclass(frozen=True)
class Captions:
    """Where captions go, and what is around them.

    Args:
        prefix: in front of the answer, as it is.
        suffix: after it.
        replace: whether a file that is there is written anew.
    """

    prefix: str = ""
    suffix: str = ""
    replace: bool = False

    def exists(self, clip: Clip) -> bool:
        """Whether a clip has a caption that is to stay."""
        return not self.replace and self.path(clip).exists()

    def write(self, clip: Clip, answer: str) -> bool:
        """Write a clip's caption, completely or not at all, unless one is there that is to stay.

        Args:
            clip: a file.
            answer: of the model.

        Returns:
            Whether it was written.

        Raises:
            InputError: its folder cannot be written.
        """
        path, text = self.path(clip), f"{self.prefix}{answer}{self.suffix}\n"
        if self.exists(clip):
            return False
        if self.replace and path.is_file() and path.read_bytes() == text.encode():
            return False
        with whole_file(path) as temporary:
            temporary.write_bytes(text.encode())
        return True

    @staticmethod
    def path(clip: Clip) -> Path:
        """The file of a clip's caption."""
        return Path(clip.place).with_suffix(".txt")


def require_places(clips: list[Clip]) -> None:
    """Refuse, before any work, clips that no caption can be written beside, or two that would have the same.

    Args:
        clips: to be captioned.

    Raises:
        InputError: one is at a URL, or two differ in their suffix only.
    """
    of_caption: dict[Path, str] = {}
    for clip in clips:
        if is_url(clip.place):
            raise InputError(f"{clip.place} is at a URL, and captions are written beside files; leave out --captions.")
        other = of_caption.setdefault(Captions.path(clip), clip.place)
        if other != clip.place:
            raise InputError(f"{other} and {clip.place} would have the same caption file; rename one of them.")
