"""Parts of a result: a Parquet file for every piece of work, in a folder that all workers reach, here or in a bucket.

A part's name is a digest of the work alone. Whoever does that work again writes the same part again, whole or not at
all, so that a worker may die at any moment and its work be given to another.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError, readable

_PART = ".parquet"
_TRIES = ".tries"


def name_of(work: Any) -> str:
    """The name of the part that comes of a piece of work.

    Args:
        work: JSON-ready.
    """
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()[:24]


class Parts:
    """The parts in a folder.

    Args:
        place: the folder, a path or a URL that fsspec knows.

    Raises:
        InputError: a library is missing, or the folder cannot be made.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        try:
            import pyarrow.parquet  # noqa: F401
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise InputError(f"Parts need pyarrow and fsspec ({error}); pip install comfyui-aot[ray].") from error
        with telling(place, "made"):
            self._system, self._folder = url_to_fs(place)
            self._is_local = "file" in self._system.protocol
            if self._is_local:  # elsewhere that could make a bucket
                self._system.makedirs(self._folder, exist_ok=True)

    def names(self) -> list[str]:
        """Names of the parts that are there, sorted."""
        return sorted(file.removesuffix(_PART) for file in self._files() if file.endswith(_PART))

    def write(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a part, whole or not at all.

        Args:
            name: see :func:`name_of`.
            rows: of it; a column that one lacks is None there.

        Raises:
            InputError: it cannot be written.
        """
        import pyarrow
        from pyarrow import parquet

        content = io.BytesIO()
        columns = {name: None for row in rows for name in row}  # pyarrow would take those of the first row for all
        parquet.write_table(pyarrow.Table.from_pylist([{**columns, **row} for row in rows]), content)
        self._put(name + _PART, content.getvalue())

    def read(self, name: str) -> list[dict[str, Any]]:
        """The rows of a part.

        Args:
            name: of one that is there.

        Raises:
            InputError: it cannot be read.
        """
        from pyarrow import parquet

        with telling(f"{self.place}/{name}{_PART}", "read"):
            return parquet.read_table(io.BytesIO(self._system.cat_file(self._path(name + _PART)))).to_pylist()

    def count(self, name: str) -> int | None:
        """How many rows a part has; None if it is not there.

        Args:
            name: see :func:`name_of`.

        Raises:
            InputError: the folder cannot be read.
        """
        with telling(self.place, "read"):
            is_there = self._system.exists(self._path(name + _PART))
        return len(self.read(name)) if is_there else None

    def begin(self, name: str) -> int:
        """Take note that the work for a part begins.

        Args:
            name: see :func:`name_of`.

        Returns:
            How often it has begun, with this time.

        Raises:
            InputError: the folder cannot be written.
        """
        path = self._path(name + _TRIES)
        with telling(self.place, "read"):
            before = int(self._system.cat_file(path) or b"0") if self._system.exists(path) else 0
        self._put(name + _TRIES, str(before + 1).encode())
        return before + 1

    def remove(self, names: Iterable[str] = ()) -> None:
        """Remove parts, and all that workers have left beside parts.

        Args:
            names: of the parts.

        Raises:
            InputError: they cannot be removed.
        """
        gone = {name + _PART for name in names}
        with telling(self.place, "removed"):
            for file in self._files():
                if file in gone or not file.endswith(_PART):
                    self._system.rm_file(self._path(file))
            if self._is_local and self._system.exists(self._folder) and not self._files():
                self._system.rmdir(self._folder)

    def _files(self) -> list[str]:
        with telling(self.place, "read"):
            self._system.invalidate_cache()
            if not self._system.exists(self._folder):
                return []
            return [str(path).rpartition("/")[2] for path in self._system.ls(self._folder, detail=False)]

    def _put(self, file: str, content: bytes) -> None:
        """A bucket takes a file whole or not at all; in a folder it is renamed when it is whole."""
        with telling(self.place, "written"):
            if not self._is_local:
                self._system.pipe_file(self._path(file), content)
                return
            self._system.makedirs(self._folder, exist_ok=True)
            temporary = Path(self._path(f".{file}.{uuid.uuid4().hex[:8]}"))
            temporary.write_bytes(content)
            os.replace(temporary, self._path(file))

    def _path(self, file: str) -> str:
        return f"{self._folder.rstrip('/')}/{file}"


@contextmanager
def telling(place: str, what: str) -> Iterator[None]:
    """Turn an error of a file system, of whatever kind, into one line.

    Args:
        place: a folder or a file.
        what: cannot be done with it.

    Raises:
        InputError: in place of the error.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of the libraries' own kinds
        reason = readable(str(error) or type(error).__name__, 200)
        raise InputError(
            f"{place} cannot be {what} ({reason}); give a folder or a bucket that every worker reaches."
        ) from error
