"""Files and folders that are written completely or not at all, and JSON files that are checked when read."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import Any

from .errors import InputError, readable

PART = ".part"
"""Ends the name of a file or folder that is not complete yet."""

LARGEST_JSON = 64 * 2**20
"""Bytes of JSON that are read."""
DEEPEST_JSON = 100
"""Values inside each other in JSON that is read."""

LONGEST_NAME = 255
"""Bytes of a file's or folder's name, as far as file systems go."""
LONGEST_PATH = 2000
"""Characters of a name with the folders in front of it."""

_TOO_DEEP = f"values are nested deeper than {DEEPEST_JSON}"


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


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        InputError: it cannot be made.
    """
    require_name(folder, "The folder")
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
    require_name(path, "The file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        temporary.touch()
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); give a folder that can be.") from error
    finally:
        with suppress(OSError):
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
    require_name(folder, "The folder")
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


def parse_json(content: bytes | str, *, kind: type[dict] | type[list] | None = None, keys: Sequence[str] = ()) -> Any:
    """Read JSON of any origin: what comes back can be walked, printed and written again.

    Args:
        content: the JSON, as UTF-8 where it is bytes.
        kind: dict for a JSON object, list for an array; None for any value.
        keys: names that the object must have.

    Raises:
        ValueError: it is too large, no JSON, nested too deep, of another kind, lacks one of the keys, or holds a number
            that is not finite or a text that is none. The message is a few words for the middle of a line.
    """
    if len(content) > LARGEST_JSON:
        raise ValueError(f"it is larger than {LARGEST_JSON >> 20} MiB")
    try:
        value = json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    except ValueError as error:
        raise ValueError(f"no valid JSON: {error}") from error
    _require_plain(value)
    if kind is not None and not isinstance(value, kind):
        raise ValueError(f"it holds a {type(value).__name__}, not a {kind.__name__}")
    if missing := [key for key in keys if key not in value]:
        raise ValueError(f"it has no {', '.join(missing)}")
    return value


def _require_plain(value: Any) -> None:
    """Refuse values that are nested too deep, numbers that no float can hold, and texts that cannot be written."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST_JSON:
            raise ValueError(_TOO_DEEP)
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below.extend(each)
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
            elif isinstance(each, str):
                _require_text(each)
            elif (isinstance(each, float) and not math.isfinite(each)) or (
                isinstance(each, int) and each.bit_length() > 1023
            ):
                raise ValueError("it holds a number that is not finite")
        level = below


def _require_text(text: str) -> None:
    """Refuse halves of characters, which JSON can spell and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"it holds a text with half a character, {text[:40]!r}") from error


def read_json(
    path: Path,
    what: str,
    *,
    kind: type[dict] | type[list] = dict,
    keys: Sequence[str] = (),
    remedy: str = "copy or download it again",
) -> Any:
    """Read a JSON file and check its outermost value; see :func:`parse_json`.

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
    require_name(path, what)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_JSON + 1)
        return parse_json(content, kind=kind, keys=keys)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise InputError(f"{what} {path} cannot be read ({reason}); {remedy}.") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON-ready content, completely or not at all, indented by 2.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
