"""A published set's folder: its annotations and videos, and an error of one line for what is missing."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import read_json
from ...names import require_name, within


@dataclass(frozen=True)
class Release:
    """A set as it was published, on this disk.

    Args:
        title: the set's name in print.
        folder: the set's, with its archives extracted.
        layout: the files it must hold, in a few words, for errors.
    """

    title: str
    folder: Path
    layout: str

    def json(self, relative: str, kind: type[dict] | type[list] = list) -> Any:
        """The content of an annotation file in JSON.

        Args:
            relative: the file's path in the folder.
            kind: list, of questions, or dict.

        Raises:
            InputError: there is no such file, or it is not JSON of this kind.
        """
        path = self._annotations(relative)
        return read_json(path, f"{self.title}'s", kind=kind, remedy="download it again")

    def parquet(self, relative: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of an annotation file in Parquet, those columns of it.

        Raises:
            InputError: there is no such file, it does not read, or pyarrow is not installed.
        """
        path = self._annotations(relative)
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise InputError(
                f"{self.title}'s questions are a Parquet file, which pyarrow reads, and pyarrow is not installed; "
                "pip install pyarrow."
            ) from error
        try:
            return parquet.read_table(path, columns=list(columns)).to_pylist()
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise InputError(
                f"{self.title}'s {path} is no Parquet file with the columns {', '.join(columns)} ({error}); "
                "download it again."
            ) from error

    def first(self, patterns: Sequence[str]) -> Path:
        """The first file or folder there is of these, which are relative and may hold the wildcards of `glob`.

        Raises:
            InputError: there is none, or a pattern leads out of the folder.
        """
        for pattern in patterns:
            if within(self.folder, pattern) is None:
                raise InputError(
                    f"{self.title} names a video {pattern!r}, which is not inside {self.folder}; download its "
                    "questions again."
                )
            if paths := sorted(self.folder.glob(pattern)):
                return paths[0]
        raise self._missing(" or ".join(patterns))

    def _annotations(self, relative: str) -> Path:
        path = self.folder / relative
        if not path.is_file():
            raise self._missing(relative)
        return path

    def _missing(self, name: str) -> InputError:
        return InputError(f"{self.title}'s {name} is missing in {self.folder}; lay the folder out as {self.layout}.")


def literal(name: str) -> str:
    """A name as a pattern of `Release.first` that means nothing but itself.

    Raises:
        InputError: no file can have that name.
    """
    return glob.escape(require_name(name, "The video's name"))
