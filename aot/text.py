"""Text of servers, files and models, made fit to be shown: no character in it acts on a terminal or reorders a line."""

from __future__ import annotations

from typing import Any

PLACE = "\N{REPLACEMENT CHARACTER}"
"""Stands for a character that is not shown."""

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_ORDERING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Embeddings, overrides and isolates, which show a line in another order than it has. Marks of direction stay."""

_SHOWN = dict.fromkeys((*_CONTROLS, *_ORDERING, *range(0xD800, 0xE000), *range(0xFFF9, 0xFFFC)), PLACE)
_SHOWN |= {ord("\t"): "\t", ord("\n"): "\n", ord("\r"): None, 0x2028: "\n", 0x2029: "\n"}


def shown(text: str) -> str:
    """Text without control characters: tabs and line breaks stay, and every letter of every script, joiners too.

    Args:
        text: from anywhere.
    """
    return text if text.isascii() and text.isprintable() else text.translate(_SHOWN)


def is_whole(text: str) -> bool:
    """Whether a text holds no half of a character, which JSON and names of files can have and no UTF-8.

    Args:
        text: from anywhere.
    """
    return not any("\ud800" <= each <= "\udfff" for each in text)


def all_shown(value: Any) -> Any:
    """A JSON-ready value with :func:`shown` texts.

    Args:
        value: a text, a number, or lists and mappings of them.
    """
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {all_shown(key): all_shown(each) for key, each in value.items()}
    return [all_shown(each) for each in value] if isinstance(value, list) else value
