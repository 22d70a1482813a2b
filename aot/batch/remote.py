"""Videos at URLs, read through fsspec: buckets (``s3://``, ``gs://``) and ``https://``, with the user's credentials.

Nothing but the video is asked for, and no redirect is followed: it would lead to an address that nobody has allowed.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import InputError, UnreadableVideo, readable
from ..names import LONGEST_NAME

LIBRARIES = MappingProxyType({"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp", "http": "aiohttp"})
"""By scheme: what fsspec needs for it."""

BUCKETS = ("s3", "gs")
"""Schemes of which a folder can be listed."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_KEYED = re.compile(rf"({_URL.pattern}[^\s?]*)\?\S*")
_PORTS = {"http": 80, "https": 443}
_CHUNK = 2**20
_LONGEST_NAME = LONGEST_NAME // 4
"""Characters, of four bytes at most."""


def is_url(name: str) -> bool:
    """Whether a name is a URL, of any scheme, or several in a chain."""
    return bool(_URL.match(name)) or "::" in name


def without_keys(text: str) -> str:
    """A text without what URLs in it have after the question mark, which may be a key.

    Args:
        text: a URL, or a message with some in it.
    """
    return _KEYED.sub(r"\1", text)


def require_url(url: str) -> str:
    """Refuse a URL of another kind than those that are read.

    Args:
        url: of a folder or a file.

    Returns:
        Its scheme.

    Raises:
        InputError: another scheme, no host, or a name and password in it.
    """
    parts = _split(url)
    if parts is None or parts.scheme not in LIBRARIES or not parts.hostname or parts.username is not None:
        raise InputError(f"The URL is {url[:200]!r}; give one of {', '.join(f'{each}://' for each in LIBRARIES)}.")
    return parts.scheme


def require_allowed(url: str, allowed: Sequence[str], where: str) -> None:
    """Refuse a URL that a list names unless it begins with one that the user allows.

    Args:
        url: in the list.
        allowed: by the user. Scheme, host and port must be the same, and its path must be the beginning, up to a slash.
        where: it is, for the error: "Row 3 of clips.csv".

    Raises:
        InputError: it is not allowed, or no URL that is read.
    """
    require_url(url)
    if not any(_begins(url, each) for each in allowed):
        raise InputError(
            f"{where} names {url[:200]}, and nothing is fetched that you do not allow; if you trust the list, give "
            f"--allow-url {_folder(url)}"
        )


def list_folder(url: str) -> list[str]:
    """Paths of the files in a folder of a bucket and those in it, sorted.

    Args:
        url: of the folder.

    Raises:
        InputError: no folder of it can be listed.
    """
    scheme = require_url(url)
    if scheme not in BUCKETS:
        raise InputError(f"{url} is no video's address, and a folder cannot be listed there; give a list file.")
    system = _system(scheme)
    try:
        base = system._strip_protocol(url).rstrip("/")
        return sorted(path[len(base) + 1 :] for path in system.find(base) if path.startswith(f"{base}/"))
    except Exception as error:  # of the library's own kinds
        raise InputError(f"{url} cannot be listed ({_reason(error)}); check address and credentials.") from error


def fetch(url: str, folder: Path) -> tuple[Path, str]:
    """Download a video into a folder.

    Args:
        url: of the video.
        folder: to put it into.

    Returns:
        The file, named as in the URL so that errors name it, and the SHA-256 of its content.

    Raises:
        InputError: a library is missing.
        UnreadableVideo: it cannot be downloaded.
    """
    system = _system(require_url(url))
    parts = urllib.parse.urlsplit(url)
    file = folder / _file_name(parts.path)
    content = hashlib.sha256()
    try:
        _require_no_redirect(system, url, parts.scheme)
        with system.open(url, "rb", cache_type="none", block_size=_CHUNK) as remote, file.open("wb") as local:
            while chunk := remote.read(_CHUNK):
                content.update(chunk)
                local.write(chunk)
    except InputError:
        raise
    except Exception as error:  # of the library's own kinds
        raise UnreadableVideo(
            f"{without_keys(url)} cannot be fetched ({_reason(error)}); check address and credentials."
        ) from error
    return file, content.hexdigest()


def _file_name(path: str) -> str:
    """The last part of a URL's path, in characters that every file system takes; "video" where nothing is left."""
    name = urllib.parse.unquote(path).rpartition("/")[2]
    return re.sub(r"[^\w.-]", "_", name)[-_LONGEST_NAME:].lstrip(".") or "video"


def _require_no_redirect(system: Any, url: str, scheme: str) -> None:
    """Refuse an address that leads to another: where that is asked for again, it is not followed either."""
    if scheme in BUCKETS:
        return
    from fsspec.asyn import sync

    async def target() -> str:
        session = await system.set_session()
        async with session.get(url, allow_redirects=False) as response:
            return response.headers.get("Location", "an unknown address") if 300 <= response.status < 400 else ""

    if to := sync(system.loop, target):
        where = readable(to.partition("?")[0], 200)
        raise UnreadableVideo(f"{without_keys(url)} leads elsewhere, to {where}; give that address instead.")


def _system(scheme: str) -> Any:
    """The file system of a scheme, as fsspec has it."""
    library = LIBRARIES[scheme]
    try:
        importlib.import_module(library)
        import fsspec
    except ImportError as error:
        raise InputError(f"{scheme}:// needs {library}, which is missing; pip install fsspec {library}.") from error
    options = {} if scheme in BUCKETS else {"allow_redirects": False}
    return fsspec.filesystem(scheme, **options)


def _begins(url: str, allowed: str) -> bool:
    """Whether a URL is in the folder of one that is allowed, or is that one."""
    require_url(allowed)
    mine, theirs = _split(url), _split(allowed)
    assert mine is not None and theirs is not None
    if _origin(mine) != _origin(theirs):
        return False
    path = urllib.parse.unquote(mine.path)
    if ".." in re.split(r"[/\\]", path) or "%" in path:
        return False
    return mine.path == theirs.path or mine.path.startswith(f"{theirs.path.rstrip('/')}/")


def _folder(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[0] + "/"


def _origin(parts: urllib.parse.SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)


def _split(url: str) -> urllib.parse.SplitResult | None:
    """The parts of a URL; None where it has none, or is a chain of them."""
    if "::" in url or not url.isprintable() or set(" \\") & set(url):
        return None
    try:
        parts = urllib.parse.urlsplit(url)
        return parts if parts.port != 0 else None
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    return readable(without_keys(str(error)) or type(error).__name__, 200)
