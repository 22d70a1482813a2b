"""Names of files and folders, whoever gave them: whether a file can have them, and whether they stay in a folder."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path, PureWindowsPath

from .errors import InputError, readable
from .text import is_whole

LONGEST_NAME = 255
"""Bytes of a file's or folder's name, as far as file systems go."""
LONGEST_PATH = 2000
"""Characters of a name with the folders in front of it."""


def require_name(name: str | Path, what: str) -> str:
    """Refuse a name that no file can have, before the system or a library is asked for it.

    Args:
        name: of a file or folder, perhaps with folders in front.
        what: what is named, for the error: "filename_prefix".

    Returns:
        The name as text.

    Raises:
        InputError: it is no text, holds control characters or half a character, or is too long.
    """
    if not isinstance(name, (str, Path)):
        fault = "a text"
    elif any(unicodedata.category(each) == "Cc" for each in str(name)) or not _is_encodable(str(name)):
        fault = "a name without control characters or halves of characters"
    elif max(map(len, re.split(rb"[/\\]", os.fsencode(name)))) > LONGEST_NAME or len(str(name)) > LONGEST_PATH:
        fault = f"a name of at most {LONGEST_NAME} bytes, folders not counted"
    else:
        return str(name)
    raise InputError(f"{what} is {readable(repr(name), 80)}; give {fault}.")


def _is_encodable(name: str) -> bool:
    """Whether the file system can spell a name: bytes of another encoding, which Python carries along, are fine."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def spelled(name: str) -> str:
    """A name as text that any file of text can hold: bytes of another encoding as ``\\xfc``.

    Args:
        name: of a file that is there.
    """
    return name if is_whole(name) else os.fsencode(name).decode("utf-8", "backslashreplace")


def natural(name: str) -> tuple[tuple[str, int], ...]:
    """A key that sorts names as people do: clip 2 before clip 10, whatever the case.

    Args:
        name: of a file, perhaps with folders in front.
    """
    pieces = re.findall(r"(\D*)(\d*)", name.casefold())
    return tuple((letters, int(number) if number.isdecimal() else -1) for letters, number in pieces)


def within(folder: Path, name: str, *, links: bool = True) -> Path | None:
    """The path that a name means inside a folder; None for a name that leads out of it. It need not exist.

    Every name that comes out of a file, of a workflow, an index, a config or a question set, becomes a path here and
    nowhere else. The rules are those of every system at once, since a file may come from any: relative, without a
    drive, without ``..``.

    Args:
        folder: that the name is meant in.
        name: with either kind of slash; perhaps a pattern of ``glob``.
        links: whether links on this disk may lead out, as those of Hugging Face's cache and of folders that a user has
            put on another disk do. No name can make one.
    """
    parts = PureWindowsPath(name)
    if not name.strip() or "\0" in name or parts.drive or parts.root or ".." in parts.parts or Path(name).is_absolute():
        return None
    path = folder / name
    return path if links or path.resolve().is_relative_to(folder.resolve()) else None
