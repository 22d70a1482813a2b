"""Where the videos come from: a folder, a list file, a bucket or a single file, here or at a URL.

A list file may come from somebody else. Its videos are read from the folder that the user gives, and from nowhere else;
a URL in it only if it begins with one that the user has allowed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from ..errors import InputError
from ..names import require_name, spelled, within
from .listing import LISTS, read_list
from .remote import is_url, list_folder, require_allowed, require_url, without_keys

SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv",
    ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip
"""End the names of the videos that are taken of a folder."""

OF_FOLDER = ("id", "name", "folder")
"""Columns of a video in a folder: its path in there, its name without folder and suffix, and its folder in there."""


@dataclass(frozen=True)
class Clip:
    """A video that is asked about.

    Args:
        id: names it in the results.
        place: path of the file, or its URL.
        columns: of its row, for the words of questions.
    """

    id: str
    place: str
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Listed:
    """How a list file is read.

    Args:
        videos: folder that the videos are in; None takes that of the list.
        video: name of the column of videos.
        id: name of the column of ids; "" takes a column ``id`` if there is one, else the videos' own names.
        allowed: URLs that those in the list may begin with.
    """

    videos: Path | None = None
    video: str = "video"
    id: str = ""
    allowed: Sequence[str] = ()


def clips_of(source: str, patterns: Sequence[str] = (), listed: Listed | None = None) -> list[Clip]:
    """The videos that a source names, in order.

    Args:
        source: a folder, a list file, a video, or a URL of a folder or a video.
        patterns: which files of a folder are taken, by their path in there or their name; all if empty. Without a
            video's suffix only those whose suffix a pattern has.
        listed: how a list file is read.

    Raises:
        InputError: there is no such source, it has no video, or a list names one that is not to be read.
    """
    if is_url(source):
        require_url(source)
        kind = PurePosixPath(source.partition("?")[0]).suffix.lower()
        if kind in LISTS:
            raise InputError(f"{source} is a list at a URL; download it, and give the path of the file.")
        if kind in SUFFIXES:
            return [_clip(PurePosixPath(source.partition("?")[0]).name, source)]
        names = [name for name in list_folder(source) if _is_taken(name, patterns)]
        clips = [_clip(name, f"{source.rstrip('/')}/{name}") for name in names]
    else:
        path = Path(require_name(source, "The source"))
        if path.is_file():
            if path.suffix.lower() in LISTS:
                return _listed(path, listed or Listed())
            return [_clip(path.name, str(path))]
        if not path.is_dir():
            raise InputError(f"There is no {source}; give a folder, a list ({', '.join(LISTS)}), a video or a URL.")
        clips = clips_in(path, patterns)
    if not clips:
        wanted = " or ".join(patterns) if patterns else "a video's suffix"
        raise InputError(
            f"{source} holds no video with {wanted}; give another folder, or a --pattern: 'a*.dat' takes what ends so."
        )
    return clips


def clips_in(folder: Path, patterns: Sequence[str] = ()) -> list[Clip]:
    """The videos in a folder and those in it, in order; none if there is none.

    Args:
        folder: that exists.
        patterns: as of :func:`clips_of`.
    """
    return [_clip(name, str(folder / name)) for name in sorted(_files(folder)) if _is_taken(name, patterns)]


def _clip(name: str, place: str) -> Clip:
    name = spelled(name)
    path = PurePosixPath(name)
    folder = "" if path.parent == PurePosixPath(".") else str(path.parent)
    return Clip(name, place, dict(zip(OF_FOLDER, (name, path.stem, folder), strict=True)))


def _files(folder: Path) -> list[str]:
    """Paths of all files in a folder and those in it, with slashes; hidden ones are left out."""
    found: list[str] = []
    for here, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        inside = Path(here).relative_to(folder)
        found += [(inside / each).as_posix() for each in files if not each.startswith(".")]
    return found


def _is_taken(name: str, patterns: Sequence[str]) -> bool:
    """Whether a file is one of the videos: ``day1/*`` means no captions beside them, ``*.dat`` what ends so."""
    path = PurePosixPath(name)
    is_video = path.suffix.lower() in SUFFIXES
    if not patterns:
        return is_video
    wanted = [each for each in patterns if fnmatch(name, each) or fnmatch(path.name, each)]
    return any(is_video or pattern.lower().endswith((path.suffix or path.name).lower()) for pattern in wanted)


def _listed(path: Path, listed: Listed) -> list[Clip]:
    """The videos of a list, each with its row."""
    rows = read_list(path, listed.video)
    folder = listed.videos or path.parent
    column = listed.id or ("id" if "id" in rows[0] else listed.video)
    clips: list[Clip] = []
    for number, row in enumerate(rows, 1):
        where = f"Row {number} of {path.name}"
        for name in (listed.video, column):
            if not row.get(name, "").strip():
                raise InputError(f"{where} has no {name!r}; its columns are {', '.join(row)}.")
        place = _place(row[listed.video].strip(), folder, listed.allowed, where)
        columns = {**row, listed.video: without_keys(row[listed.video])} if is_url(row[listed.video]) else row
        clips.append(Clip(columns[column], place, columns))
    places: dict[str, str] = {}
    for clip in clips:
        if places.setdefault(clip.id, clip.place) != clip.place:
            raise InputError(f"{path.name} has two videos with the id {clip.id!r}; give each an id of its own.")
    return clips


def _place(name: str, folder: Path, allowed: Sequence[str], where: str) -> str:
    """The one door of a list's videos: where one is, if it may be read."""
    if is_url(name):
        require_allowed(name, allowed, where)
        return name
    require_name(name, f"{where}: the video")
    if Path(name).is_absolute():
        path = Path(os.path.normpath(name))
        if path.is_relative_to(Path(os.path.abspath(folder))):
            return str(path)
    elif (path := within(folder, name)) is not None:
        return str(path)
    raise InputError(
        f"{where} names the video {name!r}, which is not inside {folder}; say with --videos FOLDER where the list's "
        "videos are."
    )
