"""Runs a workflow file without ComfyUI's server, whether or not ComfyUI can be imported.

`load_workflow` reads the file, `to_graph` makes a graph of it, `override` sets values in it, `check` lists
all that is wrong with it, and `run` executes what its output nodes need, each node once.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar, cast

import torch

from ...aot.errors import InputError
from ..comfy import io
from .graph import (
    Broken,
    Graph,
    Link,
    Node,
    compatible,
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
    """What keeps a workflow from running.

    Args:
        node: that it concerns; None is the workflow.
        message: what is wrong, and what to do.
    """

    node: Node | None
    message: str

    def __str__(self) -> str:
        return f"{self.node or 'the workflow'}: {self.message}"


@dataclass(frozen=True)
class Result:
    """What one node returned.

    Args:
        node: that was executed.
        outputs: in order. As in ComfyUI each is a list of values: one, unless the node returns or received lists.
        ui: what the editor would show.
        seconds: that the node took.
    """

    node: Node
    outputs: tuple[list[Any], ...]
    ui: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Event:
    """A node starts or is done.

    Args:
        node: that starts or is done.
        index: its number in the order of execution, from 1.
        total: nodes to execute at most.
        result: of the node; None when it starts.
    """

    node: Node
    index: int
    total: int
    result: Result | None = None


def registry(classes: Iterable[type]) -> dict[str, type]:
    """Node classes by node id.

    Args:
        classes: any order.
    """
    return {cls.GET_SCHEMA().node_id: cls for cls in classes}


def override(graph: Graph, settings: Iterable[str]) -> Graph:
    """The graph with some of its values replaced.

    Args:
        graph: of the workflow.
        settings: each `NODE.input=value`; NODE is an id, or a title or node type that is unique.

    Raises:
        InputError: there is no such node or input, or the input does not take the value.
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
            # What a workflow needs is looked for before it runs, and that error says where.
            is_needed = socket in getattr(graph.classes[node.type], "NEEDS", {})
            value = _convert(widgets[socket], _parse(widgets[socket], text), ranges=not is_needed)
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
    subject = f"{len(matches)} nodes are" if matches else "No node is"
    raise InputError(f"{subject} called {name!r}; give an id: {', '.join(map(str, matches or nodes))}.")


def _parse(widget: Any, text: str) -> Any:
    kind = str(widget.get_io_type())
    if kind == "BOOLEAN":
        word = text.strip().lower()
        return word in TRUE if word in TRUE + FALSE else text
    if kind == "COMBO":
        return next((option for option in widget.options or () if str(option) == text), text)
    return text


def check(graph: Graph) -> list[Problem]:
    """All problems that keep the graph from running.

    As on ComfyUI's server, all node types must be known; apart from that only what output nodes need is checked.

    Args:
        graph: of the workflow.
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
    """The output nodes and all that they depend on, in the graph's order."""
    needed, todo = set(), list(outputs)
    while todo:
        key = todo.pop()
        if key not in needed and key in graph.nodes:
            needed.add(key)
            todo.extend(link.node for link in graph.nodes[key].links())
    return [key for key in graph.nodes if key in needed]


def _faults(graph: Graph, node: Node) -> Iterator[str]:
    """What is wrong with a node's inputs; if nothing is, what its own `validate_inputs` reports."""
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
        if cls.GET_SCHEMA().is_input_list:
            values = {name: [value] for name, value in values.items()}
        try:
            answer = _awaited(cls.validate_inputs(**values))
        except InputError as error:
            answer = str(error)
        if answer is not True:
            yield answer or "these values do not go together"


def _checked(graph: Graph, node: Node, socket: Any, ranges: bool) -> Any:
    """The input's constant as its type; of a link None, or the raw link; ValueError if it is wrong."""
    input_type = socket.get_io_type()
    if socket.id not in node.inputs:
        if socket.optional:
            return None
        raise ValueError("has no value" if is_widget(socket) else f"is not linked: connect a {input_type} output")
    value = node.inputs[socket.id]
    if isinstance(value, Broken):
        raise ValueError(value.reason)
    if isinstance(value, Link):
        _check_link(graph, input_type, value)
        return _raw(value) if _takes_raw_links(socket) else None
    if not is_widget(socket):
        raise ValueError(f"takes a link from a {input_type} output, not the value {value!r}")
    return _convert(socket, value, ranges)


def _takes_raw_links(socket: Any) -> bool:
    return bool(socket.extra_dict.get("rawLink"))


def _raw(link: Link) -> list[Any]:
    return [link.node, link.slot]


def _check_link(graph: Graph, input_type: Any, link: Link) -> None:
    origin = graph.nodes.get(link.node)
    if origin is None:
        raise ValueError(f"is linked to node {link.node}, which is not in the workflow: connect it again")
    if origin.type not in graph.classes:
        return
    outputs = graph.classes[origin.type].GET_SCHEMA().outputs or ()
    if not 0 <= link.slot < len(outputs):
        raise ValueError(f"is linked to output {link.slot} of {origin}, which has only {len(outputs)}")
    output_type = outputs[link.slot].get_io_type()
    if not compatible(output_type, input_type):
        raise ValueError(
            f"takes {input_type}, but is linked to {output_type} of {origin}: connect a {input_type} output"
        )


def _convert(widget: Any, value: Any, ranges: bool = True) -> Any:
    """`value` as the widget's type; ValueError if it is of another type or, with `ranges`, not allowed."""
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
    """Execute what the output nodes need, each node once and after those it depends on; results by node id.

    As in ComfyUI, no gradients are recorded.

    Args:
        graph: of the workflow.
        overrides: values to replace, as :func:`override` takes them.
        on_event: called when a node starts and when it is done.

    Raises:
        InputError: :func:`check` reports problems, all of which are named; or a node raises one, and is named.
    """
    graph = override(graph, overrides)
    if problems := check(graph):
        raise InputError(f"The workflow cannot run. {'; '.join(str(problem).rstrip('.') for problem in problems)}.")
    with torch.inference_mode():
        return _Run(graph, on_event or (lambda event: None)).results()


T = TypeVar("T")
Steps = Generator[str, Any, T]
"""A piece of work that yields the id of each node whose result it needs, and is sent that result."""


class _Run:
    """One execution of a checked graph: a node is executed when its result is first needed."""

    def __init__(self, graph: Graph, on_event: Callable[[Event], None]) -> None:
        self.graph, self.on_event = graph, on_event
        self.outputs = _output_nodes(graph)
        self.total = len(_needed(graph, self.outputs))
        self.done: dict[str, Result] = {}

    def results(self) -> dict[str, Result]:
        visible = self.graph.nodes
        for key in self.outputs:
            self._evaluate(key)
        return {key: result for key, result in self.done.items() if key in visible}

    def _evaluate(self, key: str) -> Result:
        """Execute a node after those it depends on. Chains of nodes may be longer than Python's stack."""
        waiting, result = [self._steps(key)], None
        while waiting:
            try:
                needed = waiting[-1].send(result)
            except StopIteration as end:
                waiting.pop()
                result = end.value
            else:
                result = self.done.get(needed)
                if result is None:
                    waiting.append(self._steps(needed))
        return cast(Result, result)

    def _steps(self, key: str) -> Steps[Result]:
        """Execute a node. Yields the id of each node whose result it needs, and is sent that result."""
        if key in self.done:
            return self.done[key]
        node = self.graph.nodes[key]
        cls = self.graph.classes[node.type]
        hidden = [each for each in cls.GET_SCHEMA().hidden or () if each == io.Hidden.unique_id]
        cls = cls.PREPARE_CLASS_CLONE(dict.fromkeys(hidden, key))
        inputs = yield from self._inputs(node, cls)
        self.on_event(Event(node, len(self.done) + 1, self.total))
        start = time.perf_counter()
        try:
            returned = [_node_output(_awaited(cls.execute(**each))) for each in _rounds(cls, inputs)]
        except InputError as error:
            raise InputError(f"{node}: {error}") from error
        for i, each in enumerate(returned):
            if each.expand:
                returned[i] = yield from self._expanded(node, each)
        lists = [bool(each.is_output_list) for each in cls.GET_SCHEMA().outputs or ()]
        outputs = tuple(
            [value for output in returned for value in (output.args[i] if is_list else (output.args[i],))]
            for i, is_list in enumerate(lists)
        )
        views = _together([_view(each) for each in returned])
        self.done[key] = Result(node, outputs, views, time.perf_counter() - start)
        self.on_event(Event(node, len(self.done), self.total, self.done[key]))
        return self.done[key]

    def _expanded(self, node: Node, output: io.NodeOutput) -> Steps[io.NodeOutput]:
        """What the graph that a node expands into gives; in messages its nodes bear the visible node's name."""
        inner = to_graph(output.expand or {}, self.graph.classes).nodes
        inner = {key: replace(each, id=node.id, title=node.title) for key, each in inner.items()}
        self.graph = replace(self.graph, nodes={**self.graph.nodes, **inner})
        self.total += len(inner)
        views, values = [], []
        for key in _output_nodes(replace(self.graph, nodes=inner)):
            views.append((yield key).ui)
        for node_id, slot in output.args:
            values.extend((yield node_id).outputs[slot])
        return io.NodeOutput(*values, ui=_together(views))

    def _inputs(self, node: Node, cls: type) -> Steps[dict[str, list[Any]]]:
        """The inputs' values; one that is linked and lazy is None until `check_lazy_status` names it."""
        present = {each.id: each for each in sockets(self.graph.classes, node.type) if each.id in node.inputs}
        lazy = {name for name, each in present.items() if each.lazy and isinstance(node.inputs[name], Link)}
        values: dict[str, list[Any]] = {}
        for name, each in present.items():
            values[name] = [None] if name in lazy else (yield from self._values(node, each))
        while _overrides(cls, "check_lazy_status"):
            needed = lazy & {
                name for each in _rounds(cls, values) for name in _awaited(cls.check_lazy_status(**each)) or ()
            }
            if not needed:
                break
            for name in needed:
                values[name] = yield from self._values(node, present[name])
            lazy -= needed
        return values

    def _values(self, node: Node, socket: Any) -> Steps[list[Any]]:
        value = node.inputs[socket.id]
        if not isinstance(value, Link):
            return [_convert(socket, value, ranges=False)]
        if _takes_raw_links(socket):
            return [_raw(value)]
        return (yield value.node).outputs[value.slot]


def _rounds(cls: type, values: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """The arguments of each execution of a node: one with all lists if it takes lists, else one for each value.

    As in ComfyUI, a shorter list repeats its last value.
    """
    if cls.GET_SCHEMA().is_input_list:
        return [dict(values)]
    rounds = max(map(len, values.values()), default=1)
    return [{name: each[min(i, len(each) - 1)] for name, each in values.items()} for i in range(rounds)]


def _node_output(output: Any) -> io.NodeOutput:
    return output if isinstance(output, io.NodeOutput) else io.NodeOutput(*(output or ()))


def _view(output: io.NodeOutput) -> Mapping[str, Any]:
    return output.ui if isinstance(output.ui, Mapping) else {} if output.ui is None else output.ui.as_dict()


def _together(views: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What all executions of a node show, one after the other."""
    if len(views) == 1:
        return views[0]
    names = dict.fromkeys(name for each in views for name in each)
    return {name: [value for each in views for value in each.get(name, ())] for name in names}
