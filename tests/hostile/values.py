"""Hostile values, and damage to whole files: what every kind of input is broken with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


class Kind(NamedTuple):
    """A kind of input that the product reads.

    Args:
        name: in reports.
        table: cases made by hand.
        cases: of Hypothesis; plain data, as those of the table.
        prepare: writes what is whole, once, into the folder that it takes.
        run: takes a case, the folder of what is whole and an empty one. An InputError refuses the case; one that
            comes to its end is accepted.
    """

    name: str
    table: Sequence[Any]
    cases: SearchStrategy[Any]
    prepare: Callable[[Path], None]
    run: Callable[[Any, Path, Path], None]


TEXTS = (
    "", " ", "\0", "a\0b", ".", "..", "../../etc/passwd", "/etc/passwd", "/dev/zero", "a/b", "a\\b", "C:\\x", "~",
    "x" * 300, "x" * 5000, "\u00e9" * 200, "\ud800", "a\udcffb", "\u202egpj", "\x1b[31mred", "a\nb\r\tc", "nan", "inf",
    "-1", "1e999", "9" * 5000, "%s%n", "{0}{x}", "{{ x }}", "{% for i in range(10**9) %}{% endfor %}", "*", "[", "?",
    "**/*", "$HOME", "file:///etc/passwd", "http://127.0.0.1:9/", "http://[::1", "true", "null", "None", "\U0001f600",
    "=", ":", "+", ",", "a=b", "full", "embedded", "cuda", "cuda:99", "cpu:0:0", "__class__", "<|video|>", "\ufeff",
)  # fmt: skip

NUMBERS = (
    0, -1, 1, 2, 7, 255, 2**31, -(2**31) - 1, 2**53 + 1, 2**63, 2**64, 10**9, 10**400, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip

texts = st.sampled_from(TEXTS) | st.text(max_size=30)
numbers = st.sampled_from(NUMBERS) | st.integers(-1000, 1000) | st.floats()
leaves = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
places = st.floats(0, 1, exclude_max=True)
"""Of one among several, whose number the strategy need not know."""


def pick(among: Sequence[Any], place: float) -> Any:
    """The one at a place."""
    return among[int(place * len(among))]


@dataclass(frozen=True)
class Edit:
    """A change of one value in a tree of JSON."""

    place: float
    change: str
    value: Any = None


edits = st.lists(
    st.builds(
        Edit, places, st.sampled_from(("replace", "replace", "remove", "repeat", "add", "rename", "nest")), values
    ),
    min_size=1,
    max_size=3,
)


def _sites(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _sites(value, (*path, key))


def edited(tree: Any, changes: Sequence[Edit]) -> Any:
    """A copy of a tree with these changes."""
    tree = json.loads(json.dumps(tree))
    for edit in changes:
        path = pick(list(_sites(tree)), edit.place)
        if not path:
            tree = edit.value if edit.change == "replace" else tree
            continue
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        _apply(parent, path[-1], edit)
    return tree


def _apply(parent: Any, key: Any, edit: Edit) -> None:
    match edit.change:
        case "remove":
            del parent[key]
        case "nest":
            parent[key] = [parent[key]]
        case "repeat" if isinstance(parent, list):
            parent.extend([parent[key]] * 3)
        case "rename" if isinstance(parent, dict):
            parent[str(edit.value)] = parent.pop(key)
        case "add" if isinstance(parent, list):
            parent.insert(key, edit.value)
        case "add":
            parent[str(edit.value)] = edit.value
        case _:
            parent[key] = edit.value


@dataclass(frozen=True)
class Damage:
    """A change of some bytes."""

    place: float
    change: str
    content: bytes = b""


damages = st.lists(
    st.builds(Damage, places, st.sampled_from(("over", "over", "remove", "insert", "cut")), st.binary(max_size=12)),
    min_size=1,
    max_size=3,
)


def damaged(content: bytes, changes: Sequence[Damage]) -> bytes:
    """The bytes with these changes."""
    for change in changes:
        start, size = int(change.place * len(content)), len(change.content)
        match change.change:
            case "over":
                content = content[:start] + change.content + content[start + size :]
            case "remove":
                content = content[:start] + content[start + 4 * size + 1 :]
            case "insert":
                content = content[:start] + change.content * 3 + content[start:]
            case _:
                content = content[:start]
    return content


@dataclass(frozen=True)
class Hurt:
    """What is done to a file of JSON: its text is another, or its tree and then its bytes are changed."""

    text: bytes | None = None
    edits: Sequence[Edit] = ()
    damages: Sequence[Damage] = ()


NOTHING = Hurt()
"""Leaves a file as it is."""

RAW = (
    b"", b" ", b"{", b"[]", b"{}", b"null", b"0", b'""', b"NaN", b"{}{}", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}",
    b"\0" * 40,
    b"[" * 200_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"1" * 6000, b'{"a": 1e999}', b'"\\ud800"', b"\x80",
    b'{"a": [' + b"0," * 100_000 + b"0]}", b'{"' + b"k" * 100_000 + b'": 1}',
)  # fmt: skip

hurts = (
    st.builds(Hurt, edits=edits)
    | st.builds(Hurt, edits=edits)
    | st.builds(Hurt, damages=damages)
    | st.builds(Hurt, text=st.sampled_from(range(len(RAW))).map(RAW.__getitem__))
    | st.builds(Hurt, text=values.map(lambda value: json.dumps(value).encode()))
)


def hurt(tree: Any, how: Hurt) -> bytes:
    """A tree as JSON, hurt."""
    if how.text is not None:
        return how.text
    return damaged(json.dumps(edited(tree, how.edits)).encode(), how.damages)


def hurt_file(path: Path, how: Hurt) -> None:
    """Write a file of JSON anew, hurt."""
    path.write_bytes(hurt(json.loads(path.read_text(encoding="utf-8")), how))
