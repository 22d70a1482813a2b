"""Where a server is, whether that is this machine, and which key belongs to it.

A key goes to the origin that its file names, over a connection that no redirect leads elsewhere, and nowhere else.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from pathlib import Path
from urllib.request import BaseHandler, HTTPRedirectHandler, OpenerDirector, ProxyHandler, build_opener, getproxies

from ..errors import InputError
from ..names import require_name

EXAMPLE = "http://127.0.0.1:8000"
PORTS = {"http": 80, "https": 443}
"""By scheme: the port of a URL without one."""

_LONGEST_FILE = 10_000
"""Characters of a key file that are read."""

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*)")
_PATH = re.compile(r"(/[A-Za-z0-9_~.-]+)*/*")


def require_url(url: str) -> str:
    """A server's URL, checked: scheme, host, perhaps a port and a plain path.

    Args:
        url: of the server.

    Raises:
        InputError: another scheme, no host, or a part that a server's URL has not: a user name, a query, a fragment,
            spaces, or letters that are not plain ASCII.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        literal = ":" not in host or ipaddress.IPv6Address(host)
    except ValueError:
        parts, host, literal = urllib.parse.urlsplit(""), "", False
    if "@" in url:
        raise InputError(f"The server's URL holds a user name or an @; give one without, like {EXAMPLE}.")
    plain = url.isascii() and url.isprintable() and not set(" ?#\\") & set(url)
    known = parts.scheme in PORTS and (":" in host or _HOST.fullmatch(host))
    path = _PATH.fullmatch(parts.path) and ".." not in parts.path.split("/")
    if not (plain and literal and known and path and parts.port != 0):
        raise InputError(f"The server's URL is {url[:200]!r}; give one like {EXAMPLE}, without a query or a fragment.")
    return url


def origin(url: str) -> str:
    """Scheme, host and port of a URL, in one spelling; a port that goes without saying is left out.

    Args:
        url: of the server.

    Raises:
        InputError: it is none.
    """
    parts = urllib.parse.urlsplit(require_url(url))
    host = (parts.hostname or "").lower()
    name = f"[{ipaddress.IPv6Address(host).compressed}]" if ":" in host else host
    port = "" if parts.port in (None, PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{name}{port}"


def is_this_machine(url: str) -> bool:
    """Whether a server is reached over loopback, so that nothing leaves this machine.

    Args:
        url: of the server.

    Raises:
        InputError: it is no URL of a server.
    """
    host = urllib.parse.urlsplit(require_url(url)).hostname or ""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_key(path: Path, url: str) -> str:
    """The API key in a file, if it belongs to this server.

    Args:
        path: a text file of two lines, the server's address and the key.
        url: of the server that would get the key.

    Raises:
        InputError: no such file, not these two lines in it, or the address of another server.
    """
    require_name(path, "The key file")
    try:
        with path.open(encoding="utf-8") as file:
            words = file.read(_LONGEST_FILE).split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The key file {path.name} cannot be read; give a text file with the server's address on its first line "
            "and the key on its second."
        ) from error
    if len(words) == 1 and "://" not in words[0]:
        raise InputError(
            f"The key file {path.name} does not say whose key it is; put the address of its server on a line above "
            f"the key, {EXAMPLE} for instance: the key goes there and nowhere else."
        )
    if len(words) != 2 or not words[1].isascii() or not words[1].isprintable():
        raise InputError(
            f"The key file {path.name} does not hold two words; put the server's address on its first line and the "
            "key on its second, and nothing else."
        )
    try:
        owner = origin(words[0])
    except InputError as error:
        raise InputError(f"The first line of the key file {path.name} is no server's address. {error}") from error
    if owner != origin(url):
        raise InputError(
            f"The key in {path.name} belongs to {owner} and is not sent to {origin(url)}; take the key file of that "
            "server, or correct the URL."
        )
    return words[1]


def opener(url: str, *handlers: BaseHandler) -> OpenerDirector:
    """What opens requests to a server: it follows no redirect, and no proxy can read what is sent.

    Only a proxy for https is used, which passes encrypted bytes on; this machine is reached without one.

    Args:
        url: of the server.
        handlers: of connections, in place of the ordinary ones.
    """
    proxies = {} if is_this_machine(url) else {key: each for key, each in getproxies().items() if key == "https"}
    return build_opener(ProxyHandler(proxies), _Stay, *handlers)


class _Stay(HTTPRedirectHandler):
    """Follows no redirect: it would take the key and the tokens to another server. It is an HTTPError instead."""

    def redirect_request(self, *given: object) -> None:
        """No request."""
