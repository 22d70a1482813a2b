"""Files and folders that are written completely or not at all, and JSON files that are checked when read."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError

PART = ".part"
"""Ends the name of a file or folder that is not complete yet."""


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); give a folder that can be written.") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file to write, beside ``path``. It is renamed to ``path`` when the block ends without an error.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        temporary.touch()
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); give a folder that can be.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(
    folder: Path,
    *,
    is_complete: Callable[[Path], bool] | None = None,
    resume: bool = False,
    remedy: str = "give another folder",
) -> Iterator[Path]:
    """A temporary folder to fill, beside ``folder``. It is renamed to ``folder`` when the block ends without an error.

    Args:
        folder: the folder to make. Its parents are made too.
        is_complete: whether a folder is what this block would make. A complete ``folder`` that another process put
            there in the meantime stays; any other is replaced. None refuses a ``folder`` that exists.
        resume: after an error, keep the temporary folder, whose name is always the same: the next try goes on in it.
        remedy: the end of the error's message.

    Raises:
        InputError: the folder exists where that is refused, or its parent cannot be written.
    """
    if is_complete is None and folder.exists():
        raise InputError(f"{folder} exists already; {remedy}.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if resume:
            temporary = folder.with_name(folder.name + PART)
            temporary.mkdir(exist_ok=True)
        else:
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.", suffix=PART))
    except OSError as error:
        raise InputError(f"{folder.parent} cannot be written ({error.strerror}); {remedy}.") from error
    try:
        yield temporary
        _put_in_place(temporary, folder, is_complete, remedy)
    finally:
        if resume:
            with suppress(OSError):
                temporary.rmdir()  # only an empty one
        else:
            shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, folder: Path, is_complete: Callable[[Path], bool] | None, remedy: str) -> None:
    """Rename ``temporary`` to ``folder``. A damaged ``folder`` is moved away first."""
    try:
        if is_complete is not None and folder.exists() and not is_complete(folder):
            damaged = temporary.with_suffix(".old")
            with suppress(FileNotFoundError):
                os.replace(folder, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:
        if is_complete is None or not is_complete(folder):
            raise InputError(f"{folder} cannot be written ({error.strerror}); {remedy}.") from error


def read_json(
    path: Path,
    what: str,
    *,
    kind: type[dict] | type[list] = dict,
    keys: Sequence[str] = (),
    remedy: str = "copy or download it again",
) -> Any:
    """Read a JSON file and check its outermost value.

    Args:
        path: the file, UTF-8.
        what: what the file is, for the error: "The model's config".
        kind: dict for a JSON object, list for an array.
        keys: names that the object must have.
        remedy: the end of the error's message.

    Returns:
        A value of this kind.

    Raises:
        InputError: the file cannot be read, is not JSON, is of another kind, or lacks one of the keys.
    """

    def error(reason: str) -> InputError:
        return InputError(f"{what} {path} cannot be read ({reason}); {remedy}.")

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as reason:
        raise error(reason.strerror or str(reason)) from reason
    except (ValueError, RecursionError) as reason:
        raise error(f"no valid JSON: {reason}") from reason
    if not isinstance(content, kind):
        raise error(f"it holds a {type(content).__name__}, not a {kind.__name__}")
    if missing := [key for key in keys if key not in content]:
        raise error(f"it has no {', '.join(missing)}")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write JSON-ready content, completely or not at all, indented by 2.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
