"""Where the editor draws a saved workflow's nodes and links, near enough to say what lies over what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

TITLE = 30
"""Height of a node's title, above its position."""
ROW = 20
"""Height of a slot."""
COLLAPSED = 230
"""Width of a collapsed node at most, in either renderer."""
FARTHEST = 80
"""How far a link's curve reaches out at a reroute, at most."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def box(node: Mapping[str, Any]) -> Box:
    """Left, top, right and bottom of a node with its title.

    Args:
        node: as saved.
    """
    (x, y), (width, height) = node["pos"], node["size"]
    if node["flags"].get("collapsed"):
        return x, y - TITLE, x + min(width, COLLAPSED), y
    return x, y - TITLE, x + width, y + height


def group_box(group: Mapping[str, Any]) -> Box:
    """Left, top, right and bottom of a group.

    Args:
        group: as saved.
    """
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes have an area in common.

    Args:
        one: a box.
        other: another one.
    """
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def within(inner: Box, outer: Box) -> bool:
    """Whether a box lies in another.

    Args:
        inner: the smaller one.
        outer: the larger one.
    """
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def bounds(workflow: Mapping[str, Any]) -> Box:
    """The box around all nodes and groups.

    Args:
        workflow: as saved.
    """
    boxes = [*map(box, workflow["nodes"]), *map(group_box, workflow["groups"])]
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _output(node: Mapping[str, Any], number: int) -> Point:
    _, top, right, _ = box(node)
    return (right, top + TITLE / 2) if node["flags"].get("collapsed") else (right, top + TITLE + ROW * (number + 0.7))


def _input(node: Mapping[str, Any], number: int) -> Point:
    left, top, _, _ = box(node)
    return (left, top + TITLE / 2) if node["flags"].get("collapsed") else (left, top + TITLE + ROW * (number + 0.7))


def links(workflow: Mapping[str, Any]) -> Iterator[tuple[int, int, list[Point]]]:
    """Every link's source, target, and the points it is drawn through.

    Args:
        workflow: as saved.
    """
    nodes = {node["id"]: node for node in workflow["nodes"]}
    reroutes = {each["id"]: each for each in workflow["extra"].get("reroutes", ())}
    last = {each["id"]: each["parentId"] for each in workflow["extra"].get("linkExtensions", ())}
    for link, source, output, target, number, *_ in workflow["links"]:
        points: list[Point] = [_input(nodes[target], number)]
        parent = last.get(link)
        while parent is not None:
            points.append(tuple(reroutes[parent]["pos"]))
            parent = reroutes[parent].get("parentId")
        points.append(_output(nodes[source], output))
        yield source, target, points[::-1]


def curve(points: Sequence[Point], steps: int = 24) -> list[Point]:
    """Points along a link: cubic curves that leave and enter nodes level, and pass reroutes as they lie.

    Args:
        points: from the output through the reroutes to the input.
        steps: points of each piece.
    """
    ways = [_unit(one, other) for one, other in pairwise(points)]
    middle = [_unit((0, 0), (a[0] + b[0], a[1] + b[1])) for a, b in pairwise(ways)]
    directions = [(1.0, 0.0), *middle, (1.0, 0.0)]
    farthest = [math.inf, *(FARTHEST for _ in middle), math.inf]
    drawn = []
    for i, (start, end) in enumerate(pairwise(points)):
        leaving, arriving = (min(far, math.dist(start, end) / 4) for far in farthest[i : i + 2])
        one = (start[0] + leaving * directions[i][0], start[1] + leaving * directions[i][1])
        two = (end[0] - arriving * directions[i + 1][0], end[1] - arriving * directions[i + 1][1])
        drawn += [_bezier(start, one, two, end, step / steps) for step in range(steps + 1)]
    return drawn


def _unit(start: Point, end: Point) -> Point:
    length = math.dist(start, end) or 1.0
    return (end[0] - start[0]) / length, (end[1] - start[1]) / length


def _bezier(a: Point, b: Point, c: Point, d: Point, t: float) -> Point:
    s = 1 - t
    weights = (s**3, 3 * s * s * t, 3 * s * t * t, t**3)
    return (
        sum(w * p[0] for w, p in zip(weights, (a, b, c, d), strict=True)),
        sum(w * p[1] for w, p in zip(weights, (a, b, c, d), strict=True)),
    )


def hidden_links(workflow: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """Links that run behind a node, each (source, target, the node).

    Args:
        workflow: as saved.
    """
    found = []
    for source, target, points in links(workflow):
        drawn = curve(points)
        for node in workflow["nodes"]:
            left, top, right, bottom = box(node)
            if any(left + 1 < x < right - 1 and top < y < bottom for x, y in drawn):
                found.append((source, target, node["id"]))
    return found
