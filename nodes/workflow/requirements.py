"""What a shared workflow needs on the machine that runs it: clips, models, files, other packs, servers, downloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...aot.errors import InputError
from .graph import Graph


@dataclass(frozen=True)
class Kind:
    """A kind of thing that a widget's value names. A node class lists its kinds in NEEDS, by the widget's name.

    Args:
        name: of the kind: "clip", "model".
        find: takes the name and all of the node's inputs; raises an InputError if there is no such thing.
        without: values that name nothing of the kind.
        named: takes the value and all of the node's inputs; returns the thing's name, "" if there is none.
    """

    name: str
    find: Callable[[str, Mapping[str, Any]], Any]
    without: tuple[str, ...] = ()
    named: Callable[[Any, Mapping[str, Any]], str] = lambda value, inputs: value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Need:
    """One thing that a workflow needs.

    Args:
        kind: "clip", "model", "pack" and so on.
        name: of the thing.
        lacking: what is wrong with it; "" if it is there.
    """

    kind: str
    name: str
    lacking: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.lacking or 'there'}"


def needs(graph: Graph) -> list[Need]:
    """Everything that the workflow names and its file does not hold, each once; packs first.

    Args:
        graph: of the workflow.
    """
    named: dict[tuple[str, str], Need] = {}
    foreign: dict[str, list[str]] = {}
    for node in graph.nodes.values():
        if node.type not in graph.classes:
            foreign.setdefault(node.pack, []).append(node.type)
            continue
        for widget, kind in getattr(graph.classes[node.type], "NEEDS", {}).items():
            name = kind.named(node.inputs.get(widget), node.inputs)
            if name and name not in kind.without:
                named[kind.name, name] = Need(kind.name, name, _lacking(kind, name, node.inputs))
    packs = [
        Need(
            "pack",
            pack or "(the file does not name it)",
            f"for {', '.join(dict.fromkeys(types))}: run it in ComfyUI",
        )
        for pack, types in foreign.items()
    ]
    return [*packs, *named.values()]


def require(graph: Graph, name: str) -> list[Need]:
    """What the workflow needs, after checking that all of it is there.

    Args:
        graph: of the workflow.
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
