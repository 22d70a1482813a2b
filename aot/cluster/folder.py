"""A run's folder that may be in a bucket: there, its files are fetched at the start and put back whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError
from ..files import scratch_folder
from .parts import telling


@contextmanager
def kept(place: str, names: Sequence[str]) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder on this machine for the files of one that may be elsewhere.

    Args:
        place: a path or a URL that fsspec knows.
        names: of the files that are read again at the start.

    Yields:
        The folder, and what puts all its files where they belong; nothing to do for a path.

    Raises:
        InputError: a file of a URL cannot be read or written, or fsspec is missing.
    """
    if "://" not in place:
        yield Path(place), lambda: None
        return
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise InputError(f"{place} needs fsspec, which is missing; pip install comfyui-aot[ray].") from error
    with scratch_folder() as folder:
        with telling(place, "read"):
            system, base = url_to_fs(place)
            for name in names:
                if system.exists(f"{base}/{name}"):
                    (folder / name).write_bytes(system.cat_file(f"{base}/{name}"))

        def save() -> None:
            with telling(place, "written"):
                for file in folder.iterdir():
                    if file.is_file() and not file.name.startswith("."):
                        system.pipe_file(f"{base}/{file.name}", file.read_bytes())

        yield folder, save
