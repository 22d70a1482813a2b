"""The house: a folder imports only folders below it, and only the command that runs workflows knows of nodes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
FLOORS = (
    ("text",),
    ("errors",),
    ("locks", "names"),
    ("files", "tables", "memory", "devices"),
    ("video", "tokens"),
    ("transport",),
    ("stages",),
    ("models",),
    ("streaming", "answering", "pictures"),
    ("comparison", "cluster"),
    ("batch", "evaluation", "verification"),
    ("benchmarks", "training"),
    ("cli",),
)
"""From the ground up; rooms on one floor do not know each other, save that pictures show answers' and frames' words."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports(file: Path) -> Iterator[tuple[str, ...]]:
    """The modules of this pack that a file imports, as paths from the checkout."""
    here = file.relative_to(CHECKOUT).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = here[: len(here) - node.level + 1]
        if node.module:
            yield (*base, *node.module.split("."))
        else:
            yield from ((*base, alias.name) for alias in node.names)


def arrows() -> Iterator[tuple[Path, str, str]]:
    """Every import from one room of the library into another: the file, its room, the other room."""
    for file in sorted((CHECKOUT / "aot").rglob("*.py")):
        room = file.relative_to(CHECKOUT / "aot").parts[0].removesuffix(".py")
        for target in imports(file):
            if target[0] == "aot" and len(target) > 1 and target[1] != room:
                yield file, room, target[1]


def test_every_room_has_a_floor():
    rooms = {path.name.removesuffix(".py") for path in (CHECKOUT / "aot").iterdir() if path.suffix in ("", ".py")}
    assert rooms - {"__init__", "__pycache__"} == set(FLOOR)


def test_no_import_goes_up():
    up = [f"{file.name}: {room} -> {other}" for file, room, other in arrows() if FLOOR[other] >= FLOOR[room]]
    assert up == []


@pytest.mark.parametrize("file", sorted((CHECKOUT / "aot").rglob("*.py")), ids=lambda file: file.name)
def test_only_the_command_that_runs_workflows_knows_of_nodes(file):
    assert file.name == "run.py" or not any(target[0] == "nodes" for target in imports(file))


def test_no_test_module_is_a_library():
    modules = sorted((CHECKOUT / "tests").rglob("*.py"))
    borrowed = [
        f"{file.name}: {node.module}"
        for file in modules
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2].startswith("test_")
    ]
    assert borrowed == []
