"""Runs a workflow file without ComfyUI's server, whether or not ComfyUI can be imported.

`load_workflow` reads the file, `to_graph` makes a graph of it, `override` sets values in it, `check` lists
all that is wrong with it, and `run` executes what its output nodes need, each node once.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

import torch

from ...aot.errors import InputError
from ..comfy import io
from .graph import (
    Broken,
    Graph,
    Link,
    Node,
    fits,
    is_widget,
    load_workflow,
    sockets,
    to_graph,
)

__all__ = [
    "Event", "Graph", "Link", "Node", "Problem", "Result",
    "check", "load_workflow", "override", "registry", "run", "to_graph",
]  # fmt: skip

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Problem:
    """What keeps a workflow from running; `node` is None where it concerns the workflow as a whole."""

    node: Node | None
    message: str

    def __str__(self) -> str:
        return f"{self.node or 'the workflow'}: {self.message}"


@dataclass(frozen=True)
class Result:
    """What one node gave: its outputs in order, what the interface would show, and the seconds it took.

    As in ComfyUI an output is a list of values: one, unless the node gives lists or was given one.
    """

    node: Node
    outputs: tuple[list[Any], ...]
    ui: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Event:
    """Node number `index` (from 1) of at most `total` starts or, where there is a `result`, is done."""

    node: Node
    index: int
    total: int
    result: Result | None = None


def registry(classes: Iterable[type]) -> dict[str, type]:
    """Node classes by node id."""
    return {cls.GET_SCHEMA().node_id: cls for cls in classes}


def override(graph: Graph, settings: Iterable[str]) -> Graph:
    """The graph with values set by `NODE.input=value`; NODE is an id, or a title or node type that is unique.

    InputError where there is no such node or input, or the value is not one it takes.
    """
    nodes = dict(graph.nodes)
    for setting in settings:
        target, equals, text = setting.partition("=")
        name, dot, socket = target.strip().rpartition(".")
        if not (equals and dot):
            raise InputError(f"{setting!r} is no setting: write NODE.input=value, such as '7.seed=3'.")
        node = nodes[_find(graph, name).id]
        widgets = {each.id: each for each in sockets(graph.classes, node.type) if is_widget(each)}
        if socket not in widgets:
            raise InputError(f"{node} has no value {socket!r}; it has: {', '.join(widgets) or 'none'}.")
        try:
            value = _convert(widgets[socket], _parse(widgets[socket], text))
        except ValueError as error:
            raise InputError(f"{setting!r}: {socket} {error}.") from None
        nodes[node.id] = replace(node, inputs={**node.inputs, socket: value})
    return replace(graph, nodes=nodes)


def _find(graph: Graph, name: str) -> Node:
    if name in graph.nodes:
        return graph.nodes[name]
    nodes = list(graph.nodes.values())
    titled = [node for node in nodes if node.title.casefold() == name.casefold()]
    matches = titled or [node for node in nodes if node.type == name]
    if len(matches) == 1:
        return matches[0]
    said = f"{len(matches)} nodes are" if matches else "No node is"
    raise InputError(f"{said} called {name!r}; give an id: {', '.join(map(str, matches or nodes))}.")


def _parse(widget: Any, text: str) -> Any:
    kind = str(widget.get_io_type())
    if kind == "BOOLEAN":
        word = text.strip().lower()
        return word in TRUE if word in TRUE + FALSE else text
    if kind == "COMBO":
        return next((option for option in widget.options or () if str(option) == text), text)
    return text


def check(graph: Graph) -> list[Problem]:
    """All that keeps the graph from running, at once.

    As on ComfyUI's server, all node types must be known, but otherwise only what output nodes need counts.
    """
    known = ", ".join(sorted(graph.classes))
    problems = [
        Problem(node, f"unknown node type {node.type}: it runs only in ComfyUI; known here are {known}")
        for node in graph.nodes.values()
        if node.type not in graph.classes
    ]
    outputs = _output_nodes(graph)
    if not outputs and not problems:
        problems.append(Problem(None, "nothing would run: add a node that shows or saves something"))
    needed = _needed(graph, outputs)
    for key in needed:
        problems.extend(Problem(graph.nodes[key], message) for message in _faults(graph, graph.nodes[key]))
    try:
        TopologicalSorter({key: {link.node for link in graph.nodes[key].links()} for key in needed}).prepare()
    except CycleError as error:
        circle = " -> ".join(str(graph.nodes[key]) for key in error.args[1])
        problems.append(Problem(None, f"its links go round in a circle, {circle}: cut one of them"))
    return problems


def _output_nodes(graph: Graph) -> list[str]:
    known = {key: graph.classes[node.type] for key, node in graph.nodes.items() if node.type in graph.classes}
    return [key for key, cls in known.items() if cls.GET_SCHEMA().is_output_node]


def _needed(graph: Graph, outputs: Iterable[str]) -> list[str]:
    """The output nodes and all that they draw on, in the graph's order."""
    found, todo = set(), list(outputs)
    while todo:
        key = todo.pop()
        if key not in found and key in graph.nodes:
            found.add(key)
            todo.extend(link.node for link in graph.nodes[key].links())
    return [key for key in graph.nodes if key in found]


def _faults(graph: Graph, node: Node) -> Iterator[str]:
    """What is wrong with a node's inputs; where nothing is, what its `validate_inputs` has to say."""
    cls = graph.classes.get(node.type)
    if cls is None:
        return
    spec = inspect.getfullargspec(cls.validate_inputs) if _overrides(cls, "validate_inputs") else None
    values, faulty = {}, False
    for socket in sockets(graph.classes, node.type):
        checks_itself = spec is not None and (spec.varkw is not None or socket.id in spec.args)
        try:
            value = _checked(graph, node, socket, ranges=not checks_itself)
        except ValueError as error:
            faulty = True
            yield f'input "{socket.id}" {error}'
        else:
            if checks_itself and socket.id in node.inputs:
                values[socket.id] = value
    if spec is not None and not faulty:
        try:
            answer = _awaited(cls.validate_inputs(**values))
        except InputError as error:
            answer = str(error)
        if answer is not True:
            yield answer or "these values do not go together"


def _checked(graph: Graph, node: Node, socket: Any, ranges: bool) -> Any:
    """The input's constant as its type, None for a link, as `validate_inputs` gets it; ValueError if wrong."""
    wanted = socket.get_io_type()
    if socket.id not in node.inputs:
        if socket.optional:
            return None
        raise ValueError("has no value" if is_widget(socket) else f"is not linked: connect a {wanted} output")
    value = node.inputs[socket.id]
    if isinstance(value, Broken):
        raise ValueError(value.reason)
    if isinstance(value, Link):
        _check_link(graph, wanted, value)
        return None
    if not is_widget(socket):
        raise ValueError(f"takes a link from a {wanted} output, not the value {value!r}")
    return _convert(socket, value, ranges)


def _check_link(graph: Graph, wanted: Any, link: Link) -> None:
    source = graph.nodes.get(link.node)
    if source is None:
        raise ValueError(f"is linked to node {link.node}, which is not in the workflow: connect it again")
    if source.type not in graph.classes:
        return
    outputs = graph.classes[source.type].GET_SCHEMA().outputs or ()
    if not 0 <= link.slot < len(outputs):
        raise ValueError(f"is linked to output {link.slot} of {source}, which has only {len(outputs)}")
    given = outputs[link.slot].get_io_type()
    if not fits(given, wanted):
        raise ValueError(f"takes {wanted}, but is linked to {given} of {source}: connect a {wanted} output")


def _convert(widget: Any, value: Any, ranges: bool = True) -> Any:
    """`value` as the widget's type; ValueError where it is not one or, with `ranges`, is not allowed."""
    kind = str(widget.get_io_type())
    if kind in ("INT", "FLOAT"):
        return _number(widget, kind, value, ranges)
    if kind == "BOOLEAN":
        if value not in (True, False):
            raise ValueError(f"takes true or false, not {value!r}")
        return bool(value)
    if kind == "COMBO" and ranges and value not in (widget.options or ()):
        options = ", ".join(map(str, widget.options or ())) or "(there are none)"
        raise ValueError(f"is {value!r}, but must be one of: {options}")
    return str(value) if kind == "STRING" else value


def _number(widget: Any, kind: str, value: Any, ranges: bool) -> int | float:
    try:
        number = int(value) if kind == "INT" else float(value)
        # int() would quietly cut 2.7 down to 2.
        if not math.isfinite(number) or (isinstance(value, float) and number != value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"takes a {'whole ' if kind == 'INT' else ''}number, not {value!r}") from None
    low, high = widget.min, widget.max
    if ranges and ((low is not None and number < low) or (high is not None and number > high)):
        bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
        raise ValueError(f"is {number}, but must be {' and '.join(bounds)}")
    return number


def _overrides(cls: type, name: str) -> bool:
    return getattr(cls, name).__func__ is not getattr(io.ComfyNode, name).__func__


def _awaited(value: Any) -> Any:
    if not inspect.isawaitable(value):
        return value

    async def wait() -> Any:
        return await value

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    # A notebook's loop is already running in this thread, and a thread has only one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, asyncio.run, wait()).result()


def run(
    graph: Graph, overrides: Iterable[str] = (), on_event: Callable[[Event], None] | None = None
) -> dict[str, Result]:
    """Executes what the output nodes need, each node once and after those it depends on; results by node id.

    InputError naming all problems where :func:`check` finds any, and naming the node where a node raises one.
    As in ComfyUI, no gradients are recorded.
    """
    graph = override(graph, overrides)
    if problems := check(graph):
        raise InputError(f"The workflow cannot run. {'; '.join(str(problem).rstrip('.') for problem in problems)}.")
    with torch.inference_mode():
        return _Run(graph, on_event or (lambda event: None)).results()


class _Run:
    """One execution of a checked graph: a node is evaluated when something first asks for it."""

    def __init__(self, graph: Graph, on_event: Callable[[Event], None]) -> None:
        self.graph, self.on_event = graph, on_event
        self.outputs = _output_nodes(graph)
        self.total = len(_needed(graph, self.outputs))
        self.done: dict[str, Result] = {}

    def results(self) -> dict[str, Result]:
        for key in self.outputs:
            self._evaluate(key)
        return self.done

    def _evaluate(self, key: str) -> Result:
        if key in self.done:
            return self.done[key]
        node = self.graph.nodes[key]
        cls = self.graph.classes[node.type]
        hidden = [each for each in cls.GET_SCHEMA().hidden or () if each == io.Hidden.unique_id]
        cls = cls.PREPARE_CLASS_CLONE(dict.fromkeys(hidden, key))
        inputs = self._inputs(node, cls)
        self.on_event(Event(node, len(self.done) + 1, self.total))
        start = time.perf_counter()
        try:
            given = [_given(_awaited(cls.execute(**each))) for each in _rounds(cls, inputs)]
        except InputError as error:
            raise InputError(f"{node}: {error}") from error
        lists = [bool(each.is_output_list) for each in cls.GET_SCHEMA().outputs or ()]
        outputs = tuple(
            [value for output in given for value in (output.args[i] if is_list else (output.args[i],))]
            for i, is_list in enumerate(lists)
        )
        self.done[key] = Result(node, outputs, _together([_shown(each) for each in given]), time.perf_counter() - start)
        self.on_event(Event(node, len(self.done), self.total, self.done[key]))
        return self.done[key]

    def _inputs(self, node: Node, cls: type) -> dict[str, list[Any]]:
        """The inputs' values; one that is linked and lazy is None until `check_lazy_status` asks for it."""
        given = {each.id: each for each in sockets(self.graph.classes, node.type) if each.id in node.inputs}
        lazy = {name for name, each in given.items() if each.lazy and isinstance(node.inputs[name], Link)}
        values = {name: [None] if name in lazy else self._values(node, each) for name, each in given.items()}
        while _overrides(cls, "check_lazy_status"):
            asked = lazy & {
                name for each in _rounds(cls, values) for name in _awaited(cls.check_lazy_status(**each)) or ()
            }
            if not asked:
                break
            values |= {name: self._values(node, given[name]) for name in asked}
            lazy -= asked
        return values

    def _values(self, node: Node, socket: Any) -> list[Any]:
        value = node.inputs[socket.id]
        if isinstance(value, Link):
            return self._evaluate(value.node).outputs[value.slot]
        return [_convert(socket, value, ranges=False)]


def _rounds(cls: type, values: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """What a node is executed with: once with whole lists where it takes them, else once for each of their values.

    As in ComfyUI the shorter lists' last values are given again.
    """
    if cls.GET_SCHEMA().is_input_list:
        return [dict(values)]
    rounds = max(map(len, values.values()), default=1)
    return [{name: each[min(i, len(each) - 1)] for name, each in values.items()} for i in range(rounds)]


def _given(output: Any) -> io.NodeOutput:
    return output if isinstance(output, io.NodeOutput) else io.NodeOutput(*(output or ()))


def _shown(output: io.NodeOutput) -> Mapping[str, Any]:
    return output.ui if isinstance(output.ui, Mapping) else {} if output.ui is None else output.ui.as_dict()


def _together(shown: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What all rounds show, one behind another."""
    if len(shown) == 1:
        return shown[0]
    names = dict.fromkeys(name for each in shown for name in each)
    return {name: [value for each in shown for value in each.get(name, ())] for name in names}
