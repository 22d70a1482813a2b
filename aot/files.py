"""Files and folders that are written completely or not at all, and JSON files that are checked when read.

Everything is written under a hidden name beside its own, and renamed when it is complete. Two processes that write one
file take turns. What a killed process left under such a name is removed by the next one that writes in that folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError
from .locks import LOCK, WORK, lock, tried
from .names import require_name
from .text import is_whole

PART = ".part"
"""Ends the name of a file or folder that is not complete yet."""

PATIENCE = 60.0
"""Seconds that a write waits for another process that writes the same file."""

_OURS = re.compile(
    rf"\.(?P<name>.+)(?:\.[0-9a-f]{{8}}\.aot{re.escape(PART)}|{re.escape(LOCK)}|{re.escape(WORK)})", re.DOTALL
)
"""Names that only this module makes: of what is not complete, and of locks."""

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""The system's numbers for a disk that is full."""

LARGEST_JSON = 64 * 2**20
"""Bytes of JSON that are read."""
DEEPEST_JSON = 100
"""Values inside each other in JSON that is read."""

_TOO_DEEP = f"values are nested deeper than {DEEPEST_JSON}"


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, or remove from it what a killed process left.

    Raises:
        InputError: it cannot be made.
    """
    require_name(folder, "The folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); give a folder that can be written.") from error
    _sweep(folder)


@contextmanager
def writing(path: Path | str, remedy: str = "give a folder that can be") -> Iterator[None]:
    """Turn the errors of a disk into one line.

    Args:
        path: what is written.
        remedy: the end of the error's message; where the disk is full, "make room there" stands before it.

    Raises:
        InputError: it cannot be written.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number, reason = _of_a_disk(error)
        if not reason:
            raise
        room = "make room there, or " if number in NO_ROOM else ""
        raise InputError(f"{path} cannot be written ({reason}); {room}{remedy}.") from error


def _of_a_disk(error: Exception) -> tuple[int | None, str]:
    """What a disk has refused, as the system's number and in words; no words for another error."""
    if isinstance(error, OSError):
        return error.errno, error.strerror or str(error)
    # Those of safetensors, of its older versions, and of torch.
    if found := re.search(r"I/O error: (.*) \(os error (\d+)\)", str(error)):
        return int(found[2]), found[1]
    if found := re.search(r"Os \{ code: (\d+),.* message: \"(.*)\" \}", str(error)):
        return int(found[1]), found[2]
    if isinstance(error, RuntimeError) and "inline_container" in str(error):
        return errno.ENOSPC, os.strerror(errno.ENOSPC)
    return None, ""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file to write, beside ``path``. It is renamed to ``path`` when the block ends without an error.

    Raises:
        InputError: the folder does not exist or cannot be written, or another process keeps writing this file.
    """
    require_name(path, "The file")
    with writing(path), lock(path, wait=PATIENCE):
        _sweep(path.parent, path.name)
        temporary = _temporary(path)
        try:
            temporary.touch()
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def alone(
    path: Path,
    *,
    wait: float = 1.0,
    on_wait: Callable[[], None] = lambda: None,
    remedy: str = "give a folder that can be",
) -> Iterator[None]:
    """A block for the work whose result is ``path``, done by one process at a time. It may write ``path``.

    Args:
        path: of a file or folder; the folder it is in is made if need be.
        wait: seconds to wait for another process.
        on_wait: called meanwhile, many times a second; may raise to stop.
        remedy: the end of the message of an error of the disk.

    Raises:
        InputError: another process is at it all the while, or the folder cannot be written.
    """
    with ExitStack() as stack:
        with writing(path, remedy):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent)
            stack.enter_context(lock(path, WORK, wait=wait, on_wait=on_wait))
        yield


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """A block whose result is ``path``, if no process is at work on that; yields whether it is so.

    Args:
        path: of a file or folder, in a folder that exists.

    Raises:
        InputError: the folder cannot be written.
    """
    with ExitStack() as stack:
        with writing(path):
            ours = stack.enter_context(tried(path, WORK))
        yield ours


@contextmanager
def whole_folder(
    folder: Path,
    *,
    is_complete: Callable[[Path], bool] | None = None,
    resume: bool = False,
    remedy: str = "give another folder",
) -> Iterator[Path]:
    """A temporary folder to fill, beside ``folder``. It is renamed to ``folder`` when the block ends without an error.

    The errors of a disk in the block are the caller's to tell: see :func:`writing`.

    Args:
        folder: the folder to make. Its parents are made too.
        is_complete: whether a folder is what this block would make. A complete ``folder`` that another process put
            there in the meantime stays; any other is replaced. None refuses a ``folder`` that exists.
        resume: after an error, keep the temporary folder, whose name is always the same: the next try goes on in it.
        remedy: the end of the error's message.

    Raises:
        InputError: the folder exists where that is refused, its parent cannot be written, or another process is making
            it.
    """
    require_name(folder, "The folder")
    with ExitStack() as stack:
        with writing(folder.parent, remedy):
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(folder, wait=1.0))
        if is_complete is None and folder.exists():
            raise InputError(f"{folder} exists already; {remedy}.")
        _sweep(folder.parent, folder.name)
        temporary = folder.with_name(folder.name + PART) if resume else _temporary(folder)
        try:
            with writing(folder, remedy):
                temporary.mkdir(exist_ok=resume)
            yield temporary
            with writing(folder, remedy):
                _put_in_place(temporary, folder, is_complete)
        finally:
            if resume:
                with suppress(OSError):
                    temporary.rmdir()  # only an empty one
            else:
                shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, folder: Path, is_complete: Callable[[Path], bool] | None) -> None:
    """Rename ``temporary`` to ``folder``. A damaged ``folder`` is moved away first."""
    try:
        if is_complete is not None and folder.exists() and not is_complete(folder):
            damaged = _temporary(folder)
            with suppress(FileNotFoundError):
                os.replace(folder, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError:
        if is_complete is None or not is_complete(folder):
            raise


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder among the system's temporary files, which nobody else can read. It goes when the block ends.

    What killed processes left of such folders goes first.

    Raises:
        InputError: it cannot be made.
    """
    with ExitStack() as stack:
        with writing("A temporary folder", "set TMPDIR to a folder that can be"):
            path = Path(tempfile.gettempdir(), f"aot-{uuid.uuid4().hex[:8]}")
            _sweep(path.parent)
            stack.enter_context(lock(path, wait=1.0))
            folder = _temporary(path)
            folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, completely or not at all, but for a process that is killed in between.

    Args:
        path: of the file; made if need be. Only one process at a time may add to it.
        line: without its end.

    Raises:
        InputError: the file cannot be written.
    """
    with writing(path), path.open("ab") as file:
        before = file.tell()
        try:
            file.write(f"{line}\n".encode())
            file.flush()
        except OSError:
            os.truncate(path, before)
            raise


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aot{PART}")


def _sweep(folder: Path, own: str = "") -> None:
    """Remove from a folder what killed processes left of whole files and folders, and of locks.

    Args:
        folder: to look through; not the folders in it.
        own: a name whose lock this process has.
    """
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            if not (match := _OURS.fullmatch(entry.name)):
                continue
            kind = WORK if entry.name.endswith(WORK) else LOCK
            with suppress(OSError), ExitStack() as stack:
                ours = (match["name"], kind) == (own, LOCK)
                if ours or stack.enter_context(tried(folder / match["name"], kind, sure=True)):
                    _remove(entry)


def _remove(path: Path) -> None:
    """Remove what is not complete. A lock's file goes with its lock."""
    if not path.name.endswith(PART):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
    if not is_whole(text):
        raise ValueError(f"it holds a text with half a character, {text[:40]!r}")


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


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; the file is read in pieces.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be read.
    """
    content = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            content.update(piece)
    return content.hexdigest()


def read_digest(path: Path) -> str:
    """As :func:`sha256_of`, with an error of one line.

    Args:
        path: of the file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a file that can be.") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON-ready content, completely or not at all, indented by 2.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
