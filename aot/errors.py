"""The one kind of error that a user can cause: a line with the value, what is allowed, and what to do."""

from __future__ import annotations

from .text import is_whole, shown

LONGEST = 2000
"""Characters of a message. Of a longer one the middle is left out: the end names the remedy."""

_LEFT_OUT = " ... "


class InputError(ValueError):
    """A mistake in the user's input. Its message is one readable line and names the remedy.

    The command line turns it into exit code 2 and that line; ComfyUI shows that line on the node.
    """

    # ComfyUI shows the type with its module in front, and the module of a pack is a path on the user's disk.
    __module__ = "builtins"

    def __init__(self, message: str) -> None:
        super().__init__(readable(message))


class UnreadableVideo(InputError):
    """A video that is there and cannot be read: damaged, cut short, or without the part that was asked for."""

    __module__ = "builtins"


def readable(text: str, longest: int = LONGEST) -> str:
    """A text of any origin as one line of a length that can be read, without control characters.

    Args:
        text: what a file, a server or a user wrote, or a message with such a text in it.
        longest: the most characters that are left.
    """
    line = shown(" ".join(text.split()))
    if len(line) <= longest:
        return line
    start = longest * 2 // 3
    return line[:start] + _LEFT_OUT + line[len(line) - (longest - start - len(_LEFT_OUT)) :]


def require_whole(text: str, what: str) -> None:
    """Refuse halves of characters, which no tokenizer takes and no file of text holds.

    Args:
        text: of a user.
        what: it is, for the error: "The question".

    Raises:
        InputError: there is one.
    """
    if not is_whole(text):
        raise InputError(f"{what} holds half a character: {readable(text, 200)!r}; write it anew, as UTF-8.")
