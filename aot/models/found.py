"""The folders in which models may be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import PART, read_json
from ..names import require_name
from ..text import shown

Skipped = Callable[[str], None]
"""Called with a line about each folder or file that cannot be read."""


def folders_in(root: Path, on_skipped: Skipped) -> Iterator[tuple[Path, Sequence[str]]]:
    """``root`` and every folder under it, links followed, each with the names of its files.

    Args:
        root: the folder to look into.
        on_skipped: see :data:`Skipped`.

    Raises:
        InputError: no folder can have that name.
    """

    def unreadable(error: OSError) -> None:
        on_skipped(shown(f"{error.filename} is skipped: it cannot be read ({error.strerror})."))

    require_name(root, "The models' folder")
    visited: set[str] = set()
    for place, folders, files in os.walk(root, followlinks=True, onerror=unreadable):
        real = os.path.realpath(place)
        # A link may lead back to its own folder. An unfinished download is no model yet.
        folders[:] = [] if real in visited else sorted(name for name in folders if not name.endswith(PART))
        visited.add(real)
        yield Path(place), files


def config_of(folder: Path, on_skipped: Skipped) -> Any:
    """What the config.json of a model's folder holds; None if it cannot be read.

    Args:
        folder: that has one.
        on_skipped: see :data:`Skipped`.
    """
    try:
        return read_json(folder / "config.json", "The model's config")
    except InputError as error:
        on_skipped(shown(f"{folder} is skipped: {error}"))
        return None
