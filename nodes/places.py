"""Folders of clips that a workflow may name, and the files in them.

A workflow calls ComfyUI's own folders `input`, `input/clips` and `output/video`, and a folder that the user has allowed
by its full path. Its clips have the names that Load Video takes, `clips/a.mp4` and `video/a.mp4 [output]`, or full
paths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from ..aot.batch.sources import Clip, clips_in
from ..aot.errors import InputError
from ..aot.names import natural, require_name, within
from .comfy import input_directory, list_videos, output_directory, resolve_file
from .permissions import allow_folder, allowed_folders

KINDS = ("input", "output")
"""ComfyUI's folders that clips are taken of."""


@dataclass(frozen=True)
class Place:
    """A clip's file.

    Args:
        path: with all links followed.
        inside: its path in ComfyUI's folder, or in the one that the user has allowed.
        replaceable: whether the caption beside it may be replaced.
    """

    path: Path
    inside: PurePath
    replaceable: bool


def folder_choices() -> list[str]:
    """The folders that hold a video, in them or below them, each as a workflow names it."""
    found: list[str] = []
    for kind, folder in (("input", input_directory()), ("output", output_directory())):
        found += [(PurePosixPath(kind) / each).as_posix() for each in _with_videos(folder)]
    for folder in allowed_folders():
        found += [(folder / each).as_posix() for each in _with_videos(folder)]
    return found


def _with_videos(folder: Path) -> list[str]:
    folders = {parent.as_posix() for name in list_videos(folder) for parent in PurePosixPath(name).parents}
    return sorted(folders, key=lambda name: (name != ".", natural(name)))


def resolve_folder(name: str) -> Path:
    """The folder that a workflow names, with all links followed.

    Args:
        name: `input`, `output/clips` and so on, or a full path.

    Raises:
        InputError: there is no such folder, or the user has not allowed it.
    """
    if Path(require_name(name, "The folder")).is_absolute():
        path = Path(name).resolve()
        if _allowed_root(path) is None:
            raise InputError(f"The videos of {name} would be read, which you have not allowed; {allow_folder(path)}.")
    else:
        kind, _, rest = name.replace("\\", "/").partition("/")
        home: Mapping[str, Path] = {"input": input_directory(), "output": output_directory()}
        found = within(home[kind], rest or ".", links=False) if kind in home else None
        if found is None:
            raise InputError(
                f"The folder is {name!r}; give {' or '.join(KINDS)}, a folder in one of them as {KINDS[0]}/clips, "
                "without '..', or the full path of a folder that you have allowed."
            )
        path = found.resolve()
    if not path.is_dir():
        raise InputError(f"There is no folder {name!r} ({path}); make it, or choose another.")
    return path


def list_clips(name: str, patterns: Sequence[str] = (), *, below: bool = True) -> list[tuple[str, Path]]:
    """The clips in a folder, each (its name in workflows, its path), sorted as people do.

    A link that leads out of the folders that a workflow may read is left out.

    Args:
        name: of the folder, as :func:`resolve_folder` takes it.
        patterns: see :func:`~..aot.batch.sources.clips_of`.
        below: whether those of folders in it are taken too.

    Raises:
        InputError: there is no such folder, it is not to be read, or holds no such clip.
    """
    folder = resolve_folder(name)
    root = _allowed_root(folder) if Path(name).is_absolute() else _home(name).resolve()
    clips = [clip for clip in clips_in(folder, patterns) if below or not clip.columns["folder"]]
    paths = [Path(clip.place) for clip in sorted(clips, key=lambda clip: natural(clip.id))]
    found = [(_name(name, path), path) for path in paths if root and path.resolve().is_relative_to(root)]
    if not found:
        what = f"named {' or '.join(patterns)}" if patterns else "that ends as videos do"
        raise InputError(f"{name} holds no file {what}; choose another folder, or change the pattern.")
    return found


def _home(name: str) -> Path:
    return output_directory() if PurePosixPath(name.replace("\\", "/")).parts[0] == "output" else input_directory()


def _name(folder: str, path: Path) -> str:
    if Path(folder).is_absolute():
        return path.as_posix()
    home = _home(folder)
    label = " [output]" if home == output_directory() else ""
    return f"{path.relative_to(home.resolve()).as_posix()}{label}"


def _allowed_root(path: Path) -> Path | None:
    """The folder allowed by the user that holds a path; None if none does."""
    return next((folder for folder in allowed_folders() if path.is_relative_to(folder)), None)


def resolve_clip(name: str) -> Place:
    """The file of a clip.

    Args:
        name: as :func:`list_clips` gives it.

    Raises:
        InputError: there is no such file, or it is not to be read.
    """
    if Path(require_name(name, "A clip's name")).is_absolute():
        path = Path(name).resolve()
        root = _allowed_root(path)
        if root is None:
            raise InputError(f"{name} is in no folder that you have allowed; {allow_folder(path.parent)}.")
        if not path.is_file():
            raise InputError(f"There is no file {name}; put it there, or give another name.")
        return Place(path, path.relative_to(root), True)
    path = resolve_file(name)
    ours = path.is_relative_to(output_directory().resolve())
    return Place(path, inside(name), ours or _allowed_root(path) is not None)


def inside(name: str) -> PurePath:
    """A clip's path in ComfyUI's folder, or in the one that the user has allowed; the file need not be there.

    Args:
        name: of a clip.

    Raises:
        InputError: the user has not allowed its folder.
    """
    if Path(name).is_absolute():
        return resolve_clip(name).inside
    return PurePath(re.sub(r" ?\[(input|output|temp)\]$", "", name).replace("\\", "/"))


def caption_place(name: str, folder: str) -> tuple[Clip, bool]:
    """Where the caption of a clip belongs: beside the clip that is returned, which need not exist.

    Args:
        name: of the clip.
        folder: in ComfyUI's output folder; "" is that of the clip itself.

    Returns:
        A clip, and whether a caption that is there may be replaced.

    Raises:
        InputError: the clip is not there or not in a folder that may be used, or a name leads out of its folder.
    """
    if not folder.strip():
        place = resolve_clip(name)
        if place.path.suffix.lower() == ".txt":
            raise InputError(f"{name} is a text, and its caption would take its place; give the name of a clip.")
        return Clip(name, str(place.path), {}), place.replaceable
    home = caption_folder(folder)
    path = within(home, inside(require_name(name, "A clip's name")).as_posix(), links=False)
    if path is None:
        raise InputError(f"The clip's name is {name!r}; give a relative name without '..'.")
    return Clip(name, str(path), {}), True


def caption_folder(folder: str) -> Path:
    """The folder in ComfyUI's output folder that captions go into; it need not exist.

    Args:
        folder: its name in there.

    Raises:
        InputError: the name leads out of the output folder.
    """
    path = within(output_directory(), require_name(folder, "The folder"), links=False)
    if path is None:
        raise InputError(
            f"The folder is {folder!r}; give a folder's name inside ComfyUI's output folder, without '..', or nothing "
            "for captions beside the clips."
        )
    return path.resolve()
