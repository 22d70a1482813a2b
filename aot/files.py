"""Files that are written whole or not at all, and the folders they go to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


def make_folder(folder: Path) -> None:
    """Make a folder and those it lies in.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); give a folder that can be written.") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to; what is there is renamed to ``path`` when the block ends without an error.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.touch()
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); give a folder that can be.") from error
    finally:
        temporary.unlink(missing_ok=True)
