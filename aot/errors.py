"""The one kind of error that a user can cause: a line with the value, what is allowed, and what to do."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in the user's input. Its message is one line and names the remedy.

    The command line turns it into exit code 2 and that line; ComfyUI shows that line on the node.
    """

    # ComfyUI shows the type with its module in front, and the module of a pack is a path on the user's disk.
    __module__ = "builtins"

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class UnreadableVideo(InputError):
    """A video that is there and cannot be read: damaged, cut short, or without the part that was asked for."""

    __module__ = "builtins"
