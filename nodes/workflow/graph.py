"""Reads a workflow file, in UI or API format, into the graph of nodes, links and values to execute.

API format is that graph already. UI format, which the editor saves, is read as the editor reads it to queue a prompt
(frontend 1.27, graphToPrompt): bypassed, muted, reroute, primitive and note nodes vanish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ...aot.errors import InputError, readable
from ...aot.files import read_json
from ..comfy import io

MUTED, BYPASSED = 2, 4
NOTES = frozenset({"Note", "MarkdownNote"})
SEEDS = frozenset({"seed", "noise_seed"})
BUTTON = "image"
"""What the editor stores for an upload button, of videos too."""


@dataclass(frozen=True)
class Link:
    """An input that takes the output of another node.

    Args:
        node: id of that node.
        slot: number of its output, from 0.
    """

    node: str
    slot: int


@dataclass(frozen=True)
class Broken:
    """An input whose link leads to no output.

    Args:
        reason: what is wrong, and what to do.
    """

    reason: str


@dataclass(frozen=True)
class Node:
    """A node to execute.

    Args:
        id: in the workflow.
        type: the node id of its class.
        title: for messages.
        inputs: by socket id, each a :class:`Link`, a :class:`Broken` link or a constant.
        pack: registry name of the node's pack; "" if the file does not name it.
    """

    id: str
    type: str
    title: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    pack: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f'"{self.title}" (node {self.id})'

    def links(self) -> list[Link]:
        """The inputs that are links."""
        return [value for value in self.inputs.values() if isinstance(value, Link)]


@dataclass(frozen=True)
class Graph:
    """The nodes to execute.

    Args:
        nodes: by id.
        classes: the known node classes, by type.
    """

    nodes: Mapping[str, Node]
    classes: Mapping[str, type]


def load_workflow(path: str | Path) -> dict[str, Any]:
    """The workflow in a JSON file, in UI or API format.

    Args:
        path: of the file.

    Raises:
        InputError: the file cannot be read, is no JSON object or holds no nodes.
    """
    path = Path(path)
    workflow = read_json(path, "Workflow", remedy="give a .json file that ComfyUI exported")
    if isinstance(workflow.get("prompt"), dict):
        workflow = workflow["prompt"]
    if not (_is_ui(workflow) or _is_api(workflow)):
        raise InputError(f"Workflow {path} holds JSON but no nodes; export it from ComfyUI again.")
    return workflow


def _is_ui(workflow: Any) -> bool:
    return isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list)


def _is_api(workflow: Any) -> bool:
    nodes = workflow.values() if isinstance(workflow, dict) else ()
    return bool(nodes) and all(isinstance(n, dict) and isinstance(n.get("class_type"), str) for n in nodes)


def to_graph(workflow: Mapping[str, Any], node_classes: Mapping[str, type]) -> Graph:
    """The graph to execute, with any faults still in it.

    Args:
        workflow: in UI or API format.
        node_classes: by type.

    Raises:
        InputError: the workflow has a subgraph.
    """
    read = _ui_nodes if _is_ui(workflow) else _api_nodes
    return Graph(read(workflow, node_classes), node_classes)


def sockets(classes: Mapping[str, type], node_type: str) -> list[Any]:
    """The inputs of a node type in the editor's order, required ones first; none of an unknown type.

    Args:
        classes: node classes by type.
        node_type: node id of the class.
    """
    inputs = classes[node_type].GET_SCHEMA().inputs if node_type in classes else ()
    return sorted(inputs or (), key=lambda each: bool(each.optional))


def is_widget(socket: Any) -> bool:
    """Whether an input has a widget for its value, and takes not only a link.

    Args:
        socket: an input of a schema.
    """
    return isinstance(socket, io.WidgetInput) and not socket.force_input


def compatible(output_type: Any, input_type: Any) -> bool:
    """Whether an output can be linked to an input: their types have one in common.

    Args:
        output_type: one type, or several joined by commas.
        input_type: the same.
    """
    sides = [set(kind.split(",")) if isinstance(kind, str) else {"COMBO"} for kind in (output_type, input_type)]
    return any(side & {"*", ""} for side in sides) or bool(sides[0] & sides[1])


def _api_nodes(workflow: Mapping[str, Any], classes: Mapping[str, type]) -> dict[str, Node]:
    nodes = {}
    for key, raw in workflow.items():
        kind = raw["class_type"]
        title = _part(_part(raw, "_meta", dict, f"node {key}"), "title", str, f"node {key}") or _title(kind, classes)
        inputs = _part(raw, "inputs", dict, f"node {key}")
        nodes[key] = Node(key, kind, title, {name: _api_value(value) for name, value in inputs.items()})
    return nodes


def _api_value(value: Any) -> Any:
    match value:
        case [str(node), int(slot)]:
            return Link(node, slot)
        case {"__value__": inner}:
            return inner
    return value


P = TypeVar("P", dict, list, str)


def _part(raw: Mapping[str, Any], name: str, kind: type[P], owner: str) -> P:
    """A part of a node or of the file; an empty one where there is none.

    Raises:
        InputError: it is of another kind.
    """
    value = raw.get(name)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise _damaged(f"{owner} has {name} {value!r}")
    return value


def _damaged(fault: str) -> InputError:
    return InputError(f"The workflow's {readable(fault, 200)}, which no editor saves; export it from ComfyUI again.")


def _title(node_type: str, classes: Mapping[str, type]) -> str:
    return (classes[node_type].GET_SCHEMA().display_name if node_type in classes else None) or node_type


def _ui_nodes(workflow: Mapping[str, Any], classes: Mapping[str, type]) -> dict[str, Node]:
    return _Canvas(workflow, classes).nodes()


class _Canvas:
    """A workflow in UI format.

    Raises:
        InputError: it has a subgraph, or parts that no editor saves.
    """

    def __init__(self, workflow: Mapping[str, Any], classes: Mapping[str, type]) -> None:
        self.classes = classes
        self.raw = dict(map(_ui_node, workflow["nodes"]))
        self.links = dict(_link(link) for link in _part(workflow, "links", list, "file"))
        self._known: dict[tuple[Any, str], Any] = {}
        definitions = _part(_part(workflow, "definitions", dict, "file"), "subgraphs", list, "file")
        subgraphs = {str(each.get("id")) for each in definitions if isinstance(each, dict)}
        if used := [key for key, raw in self.raw.items() if raw["type"] in subgraphs]:
            raise InputError(
                f"Subgraphs run only in ComfyUI, and node {', '.join(used)} is one:"
                " unpack it there and save again, or export the workflow in API format."
            )

    def nodes(self) -> dict[str, Node]:
        """The nodes to execute."""
        nodes = {}
        for key, raw in self.raw.items():
            if raw.get("mode") in (MUTED, BYPASSED) or raw["type"] in NOTES | {"Reroute", "PrimitiveNode"}:
                continue
            inputs = self._widget_values(raw)
            for socket in raw["inputs"]:
                value = self._follow(socket)
                if value is not None:
                    inputs[socket["name"]] = value
            about = _part(raw, "properties", dict, f"node {key}")
            pack = str(about.get("cnr_id") or about.get("aux_id") or "")
            title = _part(raw, "title", str, f"node {key}") or _title(raw["type"], self.classes)
            nodes[key] = Node(key, raw["type"], title, inputs, pack)
        return self._without_muted(nodes)

    def _widget_values(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Values by name. The file has them by position; one that an older file lacks is the default.

        An upload button's value comes after all others, since its widget is made last. A file from before a node's
        newest inputs has it where the first of these would be.
        """
        widgets = [each for each in sockets(self.classes, raw["type"]) if is_widget(each)]
        stored = raw["widgets_values"]
        if isinstance(stored, Mapping):
            return {each.id: stored.get(each.id, _default(each)) for each in widgets}
        places = sum(1 + _control_widgets(each) for each in widgets)
        has_button = any(getattr(each, "upload", None) for each in widgets)
        if has_button and 1 < len(stored) <= places and stored[-1] == BUTTON:
            stored = stored[:-1]
        left, values = iter(stored), {}
        for widget in widgets:
            values[widget.id] = next(left, _default(widget))
            for _ in range(_control_widgets(widget)):
                next(left, None)
        return values

    def _follow(self, socket: Mapping[str, Any]) -> Any:
        """What feeds `socket`, through reroutes and bypassed nodes: a link or a value; None for nothing."""
        input_type, way = socket["type"], {}
        while True:
            number = socket.get("link")
            if number is None:
                value = None
                break
            step = number, input_type
            if step in self._known:
                value = self._known[step]
                break
            if step in way:
                value = Broken("is fed by reroutes or bypassed nodes in a circle: cut one of their links")
                break
            way[step] = None
            key, slot = self.links.get(number, ("", 0))
            if key not in self.raw:
                value = Broken("is linked to a node that is not in the file: connect it again")
                break
            raw = self.raw[key]
            if raw.get("mode") == BYPASSED:
                through = self._passed_through(raw, slot, input_type)
                input_type = through["type"] if through else input_type
            elif raw["type"] == "Reroute":
                through = next(iter(raw["inputs"]), None)
            else:
                is_value = raw["type"] == "PrimitiveNode"
                value = next(iter(raw["widgets_values"]), None) if is_value else Link(key, slot)
                break
            if through is None:
                value = None
                break
            socket = through
        self._known.update(dict.fromkeys(way, value))
        return value

    def _passed_through(self, raw: Mapping[str, Any], slot: int, input_type: str) -> Mapping[str, Any] | None:
        """The input that a bypassed node passes on as output `slot`: the opposite one, else the first of its type."""
        inputs = self._sockets(raw)
        opposite = inputs[slot : slot + 1]
        if input_type in ("*", ""):
            return next(iter(opposite or inputs), None)
        outputs = raw["outputs"]
        if not 0 <= slot < len(outputs):
            return None
        output_type = outputs[slot]["type"]
        both = [
            each for each in inputs if compatible(each["type"], output_type) and compatible(each["type"], input_type)
        ]
        exact = [each for each in inputs if each["type"] == input_type]
        return next(iter([each for each in opposite if each in both] or exact or both), None)

    def _sockets(self, raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """All inputs, those with a widget last, as in the editor: a file may lack unlinked ones."""
        saved = {socket["name"]: socket for socket in raw["inputs"]}
        known = sorted(sockets(self.classes, raw["type"]), key=is_widget)
        listed = [saved.pop(each.id, {"name": each.id, "type": str(each.get_io_type())}) for each in known]
        return listed + list(saved.values())

    def _without_muted(self, nodes: Mapping[str, Node]) -> dict[str, Node]:
        """The nodes without inputs from muted nodes, and without nodes that need such an input."""
        left, followers, gone = dict(nodes), {}, []
        for key, node in nodes.items():
            optional = {each.id for each in sockets(self.classes, node.type) if each.optional}
            for name, each in node.inputs.items():
                if isinstance(each, Link) and name not in optional:
                    followers.setdefault(each.node, []).append(key)
                    if each.node not in nodes:
                        gone.append(key)
        while gone:
            key = gone.pop()
            if left.pop(key, None) is not None:
                gone.extend(followers.get(key, ()))
        return {key: replace(node, inputs=_linked_to(left, node.inputs)) for key, node in left.items()}


def _linked_to(nodes: Mapping[str, Node], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that are values, or linked to one of these nodes."""
    return {name: each for name, each in inputs.items() if not isinstance(each, Link) or each.node in nodes}


def _ui_node(raw: Any) -> tuple[str, dict[str, Any]]:
    """A node's id, and the node with all parts that are read of it.

    Raises:
        InputError: one of them is of a kind that no editor saves.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("id"), (int, str)) or not isinstance(raw.get("type"), str):
        raise _damaged(f"node {raw!r} has no id or type")
    key = str(raw["id"])
    stored = raw.get("widgets_values")
    if not isinstance(stored, (list, dict, type(None))):
        raise _damaged(f"node {key} has widgets_values {stored!r}")
    parts = {
        name: [_socket(each, key) for each in _part(raw, name, list, f"node {key}")] for name in ("inputs", "outputs")
    }
    return key, {**raw, **parts, "widgets_values": stored or []}


def _socket(raw: Any, node: str) -> dict[str, Any]:
    """An input or an output, with a type that is a text: a combo's was once the list of its options."""
    link = raw.get("link") if isinstance(raw, dict) else [raw]
    if not isinstance(link, (int, str, type(None))) or not isinstance(raw.get("name"), str):
        raise _damaged(f"node {node} has an input or output {raw!r}")
    kind = raw.get("type", "*")
    return {**raw, "type": kind if isinstance(kind, str) else "COMBO"}


def _link(link: Any) -> tuple[Any, tuple[str, int]]:
    """A link's id, and the node and output it comes from; schema 0.4 stores a list, schema 1 an object."""
    match link:
        case [int() | str() as number, int() | str() as node, int(slot), *_]:
            return number, (str(node), slot)
        case {"id": int() | str() as number, "origin_id": int() | str() as node, "origin_slot": int(slot)}:
            return number, (str(node), slot)
    raise _damaged(f"link {link!r} leads nowhere")


def _control_widgets(widget: Any) -> int:
    """How many values the editor stores after a widget's own: control after generate, a combo's filter."""
    kind, control = str(widget.get_io_type()), getattr(widget, "control_after_generate", None)
    if control is None:
        control = kind == "INT" and widget.id in SEEDS
    return (2 if kind == "COMBO" else 1) if control else 0


def _default(widget: Any) -> Any:
    if widget.default is not None:
        return widget.default
    first = next(iter(getattr(widget, "options", None) or ()), None)
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(str(widget.get_io_type()), first)
