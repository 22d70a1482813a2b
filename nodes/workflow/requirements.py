"""What a shared workflow needs of the machine it is run on: clips, models, files of tokens, other packs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...aot.errors import InputError
from .graph import Graph


@dataclass(frozen=True)
class Kind:
    """What a widget's value names; a node class lists its own under NEEDS, by the widget's name.

    Args:
        name: of such a thing.
        find: takes the value and all of the node's inputs, and raises an InputError where nothing is called so.
    """

    name: str
    find: Callable[[str, Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Need:
    """One thing a workflow needs; ``lacking`` says what is wrong with it and is empty where it is there."""

    kind: str
    name: str
    lacking: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.lacking or 'there'}"


def needs(graph: Graph) -> list[Need]:
    """Everything named in the workflow that is not in its file, each once: packs first."""
    found: dict[tuple[str, str], Need] = {}
    foreign: dict[str, list[str]] = {}
    for node in graph.nodes.values():
        if node.type not in graph.classes:
            foreign.setdefault(node.pack, []).append(node.type)
            continue
        for widget, kind in getattr(graph.classes[node.type], "NEEDS", {}).items():
            value = node.inputs.get(widget)
            if isinstance(value, str):
                found[kind.name, value] = Need(kind.name, value, _lacking(kind, value, node.inputs))
    packs = [
        Need(
            "pack",
            pack or "(the file does not name it)",
            f"for {', '.join(dict.fromkeys(types))}: run it in ComfyUI",
        )
        for pack, types in foreign.items()
    ]
    return [*packs, *found.values()]


def require(graph: Graph, name: str) -> list[Need]:
    """What the workflow needs, all of it there.

    Args:
        name: of the workflow, for the error.

    Raises:
        InputError: something is missing; every missing thing is named.
    """
    listed = needs(graph)
    missing = [f"{need.kind} {need.name} ({need.lacking})" for need in listed if need.lacking]
    if missing:
        raise InputError(f"{name} needs what is not here: {'; '.join(missing)}")
    return listed


def _lacking(kind: Kind, value: str, inputs: Mapping[str, Any]) -> str:
    try:
        kind.find(value, inputs)
    except InputError as error:
        return str(error)
    return ""
