"""Server-sent events: what a server says while it answers, read as the standard has it.

An event whose final blank line is missing is read as well.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, on interpreting an event stream.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

_END = re.compile(r"\r\n|\n|\r")


def event_data(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of every event, lines joined by newlines. Comments, and fields other than data, are passed over.

    Args:
        chunks: what comes, UTF-8, in parts of any length.
    """
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield "\n".join(data)
            data = []
        elif line == "data" or line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
    if data:
        yield "\n".join(data)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """The lines without their ends: a newline, a carriage return, or both."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    is_first, after_return = True, False
    for chunk in chunks:
        text = decoder.decode(chunk)
        if is_first and text:
            text, is_first = text.removeprefix("\ufeff"), False
        if after_return and text:  # That line has ended with its carriage return.
            text, after_return = text.removeprefix("\n"), False
        after_return = after_return or text.endswith("\r")
        *lines, rest = _END.split(rest + text)
        yield from lines
    if rest:
        yield rest
