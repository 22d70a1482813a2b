"""What the user allows a workflow to do beyond this machine. A workflow's file cannot allow it, whoever wrote it.

In ComfyUI the user's own folder says it, in lists of a line each; `aot run` says it with its options.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from ..aot.answering.server_address import is_this_machine, origin
from ..aot.errors import InputError
from .comfy import user_directory

SERVERS = "aot_servers.txt"
"""In ComfyUI's user folder: addresses of servers that workflows may send tokens to."""

DOWNLOADS = "aot_downloads.txt"
"""In ComfyUI's user folder: names of published models that workflows may download."""

FOLDERS = "aot_folders.txt"
"""In ComfyUI's user folder: folders whose videos workflows may read, and whose captions they may replace."""


@dataclass(frozen=True)
class Permissions:
    """What a command's options allow.

    Args:
        servers: their origins.
        downloads: whether published models may be downloaded.
        folders: with all links followed, whose videos may be read, and whose captions replaced.
    """

    servers: frozenset[str] = frozenset()
    downloads: bool = False
    folders: tuple[Path, ...] = ()


_options: ContextVar[Permissions | None] = ContextVar("options", default=None)


@contextmanager
def permitted(servers: Iterable[str] = (), *, downloads: bool = False, folders: Iterable[Path] = ()) -> Iterator[None]:
    """Inside this block only this is allowed, whatever the lists in the user's folder say.

    Args:
        servers: URLs that tokens may be sent to.
        downloads: whether published models may be downloaded.
        folders: whose videos may be read, and whose captions replaced.

    Raises:
        InputError: a URL is none.
    """
    resolved = tuple(folder.resolve() for folder in folders)
    token = _options.set(Permissions(frozenset(map(origin, servers)), downloads, resolved))
    try:
        yield
    finally:
        _options.reset(token)


def require_server(url: str) -> None:
    """Refuse to send anything to a server that the user has not allowed; this machine's own need no leave.

    Args:
        url: of the server.

    Raises:
        InputError: it is not allowed, or no URL of a server.
    """
    if is_this_machine(url):
        return
    server, options, path = origin(url), _options.get(), user_directory() / SERVERS
    if server in (options.servers if options else map(origin, _listed(path))):
        return
    remedy = f"give --allow-server {server}" if options else f"add the line {server} to {path}"
    raise InputError(
        f"The video's tokens would be sent to {server}, which you have not allowed; if you trust it, {remedy}."
    )


def require_download(model: str) -> None:
    """Refuse to download a model that the user has not allowed.

    Args:
        model: its name on huggingface.co.

    Raises:
        InputError: it is not allowed.
    """
    options, path = _options.get(), user_directory() / DOWNLOADS
    if options.downloads if options else model in _listed(path):
        return
    remedy = "give --allow-download" if options else f"add the line {model} to {path}"
    raise InputError(
        f"{model} would be downloaded from huggingface.co, many gigabytes, which you have not allowed; to have it "
        f"fetched, {remedy}."
    )


def allowed_folders() -> tuple[Path, ...]:
    """The folders whose videos workflows may read and whose captions they may replace, with all links followed.

    Raises:
        InputError: the user's list cannot be read, or has a line that is no full path.
    """
    if options := _options.get():
        return options.folders
    path = user_directory() / FOLDERS
    folders = tuple(map(Path, _listed(path)))
    for folder in folders:
        if not folder.is_absolute():
            raise InputError(
                f"{path} has the line {str(folder)!r}, which is no full path; write folders as /data/clips."
            )
    return tuple(folder.resolve() for folder in folders)


def allow_folder(folder: Path) -> str:
    """What the user is to do so that workflows may use a folder, for the end of an error.

    Args:
        folder: that is not allowed.
    """
    if _options.get():
        return f"give --allow-folder {folder}"
    return f"add the line {folder} to {user_directory() / FOLDERS}"


def _listed(path: Path) -> list[str]:
    """The lines of a list, without empty ones and comments; none where there is no list."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read; write it as plain text, a line each.") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
