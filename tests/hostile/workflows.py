"""Workflow files, of the editor's format and of the server's, with nodes, links and values that no editor saves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from comfyui_aot.aot.tokens import storage
from comfyui_aot.aot.tokens.video_tokens import VideoTokens
from comfyui_aot.nodes import NODES
from comfyui_aot.nodes.comfy import directories
from comfyui_aot.nodes.workflow import core
from comfyui_aot.nodes.workflow.graph import load_workflow, to_graph
from comfyui_aot.nodes.workflow.requirements import needs, require
from comfyui_aot.nodes.workflow.runner import check, override, registry
from comfyui_aot.nodes.workflow.runner import run as run_graph
from comfyui_aot.tests.hostile import chains
from comfyui_aot.tests.hostile.token_files import require_sound
from comfyui_aot.tests.hostile.values import RAW, TEXTS, Edit, Hurt, Kind, hurt_file, hurts, pick, places, texts

CHECKOUT = Path(__file__).parents[2]
CLASSES = registry((*NODES, *core.NODES))
LONG = 10_000
"""Nodes of the long chains."""


@dataclass(frozen=True)
class Case:
    """A workflow, what is done to its file, and a value that is set in it."""

    place: float
    how: Hurt
    setting: str = ""


SMALL = {
    "1": {"class_type": "AOTLoadTokens", "inputs": {"file": "small.aot.safetensors [output]"}},
    "2": {"class_type": "AOTUniformGrid", "inputs": {"tokens": ["1", 0], "retention": 0.5, "keep_tokens": 0}},
    "3": {"class_type": "AOTSaveTokens", "inputs": {"tokens": ["2", 0], "filename_prefix": "kept/video"}},
}
"""A workflow that runs without a model."""

SMALL_UI = {
    "nodes": [
        {
            "id": 1,
            "type": "AOTLoadTokens",
            "inputs": [],
            "outputs": [{"name": "tokens", "type": "AOT_TOKENS", "links": [1]}],
            "widgets_values": ["small.aot.safetensors [output]"],
        },
        {
            "id": 5,
            "type": "Reroute",
            "inputs": [{"name": "", "type": "*", "link": 1}],
            "outputs": [{"name": "", "type": "AOT_TOKENS", "links": [2]}],
        },
        {
            "id": 2,
            "type": "AOTUniformGrid",
            "mode": 0,
            "inputs": [{"name": "tokens", "type": "AOT_TOKENS", "link": 2}],
            "outputs": [{"name": "tokens", "type": "AOT_TOKENS", "links": [3]}],
            "widgets_values": [0.5, 0],
        },
        {
            "id": 3,
            "type": "AOTSaveTokens",
            "inputs": [{"name": "tokens", "type": "AOT_TOKENS", "link": 4}],
            "outputs": [],
            "widgets_values": ["kept/video"],
        },
        {
            "id": 4,
            "type": "AOTRandomTokens",
            "mode": 4,
            "inputs": [{"name": "tokens", "type": "AOT_TOKENS", "link": 3}],
            "outputs": [{"name": "tokens", "type": "AOT_TOKENS", "links": [4]}],
            "widgets_values": [0.5, 0, 0],
        },
    ],
    "links": [
        [1, 1, 0, 5, 0, "AOT_TOKENS"],
        [2, 5, 0, 2, 0, "AOT_TOKENS"],
        [3, 2, 0, 4, 0, "AOT_TOKENS"],
        [4, 4, 0, 3, 0, "AOT_TOKENS"],
    ],
}


def _ui_chain(kind: str, mode: int, first: int = 0) -> dict[str, Any]:
    """A file of tokens, a long chain of nodes, and one that saves; the first of the chain has a mode of its own."""
    nodes = [{**SMALL_UI["nodes"][0], "id": 0, "outputs": [{"name": "tokens", "type": "AOT_TOKENS", "links": [0]}]}]
    for i in range(1, LONG + 1):
        nodes.append(
            {
                "id": i,
                "type": kind,
                "mode": first if i == 1 else mode,
                "inputs": [{"name": "tokens", "type": "AOT_TOKENS", "link": i - 1}],
                "outputs": [{"name": "tokens", "type": "AOT_TOKENS", "links": [i]}],
                "widgets_values": [1.0, 0],
            }
        )
    nodes.append(
        {
            "id": LONG + 1,
            "type": "AOTSaveTokens",
            "inputs": [{"name": "tokens", "type": "AOT_TOKENS", "link": LONG}],
            "outputs": [],
            "widgets_values": ["kept/video"],
        }
    )
    return {"nodes": nodes, "links": [[i, i, 0, i + 1, 0, "AOT_TOKENS"] for i in range(LONG + 1)]}


def _api_chain(closed: bool = False) -> dict[str, Any]:
    nodes: dict[str, Any] = {"0": SMALL["1"]}
    for i in range(1, LONG + 1):
        link = [str(LONG), 0] if closed and i == 1 else [str(i - 1), 0]
        nodes[str(i)] = {"class_type": "AOTUniformGrid", "inputs": {"tokens": link, "retention": 1.0, "keep_tokens": 0}}
    return {
        **nodes,
        "end": {"class_type": "AOTSaveTokens", "inputs": {"tokens": [str(LONG), 0], "filename_prefix": "a"}},
    }


CHAINS = {
    "reroutes": lambda: _ui_chain("Reroute", 0),
    "bypassed": lambda: _ui_chain("AOTUniformGrid", 4, 4),
    "muted first": lambda: _ui_chain("AOTUniformGrid", 0, 2),
    "nodes": lambda: _ui_chain("AOTUniformGrid", 0),
    "unknown": lambda: _ui_chain("Somebody's", 0),
    "a circle": lambda: _api_chain(closed=True),
    "api nodes": _api_chain,
}
SET = ("2.retention", "3.filename_prefix", "1.file", "2.keep_tokens")
settings = texts | st.tuples(st.sampled_from(SET), texts).map("=".join)
broken = st.builds(Case, places, hurts)
cases = broken | broken | st.builds(Case, places, st.just(Hurt()), settings)
table: tuple[Any, ...] = (
    *CHAINS,
    *(Case(0.0, Hurt(text)) for text in RAW),
    *(Case(place, Hurt(), f"{name}={text}") for place in (0.0, 0.99) for text in TEXTS for name in SET[1:3]),
    *(
        Case(place, Hurt(edits=[Edit(k / 40, "replace", value)]))
        for place in (0.0, 0.99)
        for value in (None, [], {}, -1, "x")
        for k in range(40)
    ),
)


def prepare(whole: Path) -> None:
    """The workflows that are shipped and were, and two small ones that run."""
    for i, workflow in enumerate((SMALL, SMALL_UI)):
        for name in (f"{9 * i}-small-{k}.json" for k in range(8)):  # as often as there are others
            (whole / name).write_text(json.dumps(workflow))
    for path in sorted((CHECKOUT / "tests" / "frozen").glob("*.json")):
        if path.name != "interface.json":
            (whole / f"5-{path.name}").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    chains.prepare(whole)


def run(case: Case | str, whole: Path, folder: Path) -> None:
    """Read it, say what it needs and what is wrong with it, and run it if it is one of the small ones."""
    (folder / "output").mkdir()
    storage.save(chains.tokens(chains.LAYOUTS[0]), folder / "output" / "small.aot.safetensors")
    path = folder / "workflow.json"
    if isinstance(case, str):
        path.write_text(json.dumps(CHAINS[case]()))
        runs, sets = case not in ("nodes", "api nodes"), ""  # ten thousand stages take their time
    else:
        source = pick(sorted(each for each in whole.iterdir() if each.suffix == ".json"), case.place)
        path.write_bytes(source.read_bytes())
        if case.how != Hurt():
            hurt_file(path, case.how)
        runs, sets = "small" in source.name, case.setting
    with directories(folder), torch.inference_mode():
        graph = to_graph(load_workflow(path), CLASSES)
        graph = override(graph, [sets] if sets else [])
        if not runs:
            for each in (*needs(graph), *check(graph)):
                str(each)
            return
        require(graph, path.name)
        results = run_graph(graph)
    outputs = [value for result in results.values() for output in result.outputs for value in output]
    for tokens in (each for each in outputs if isinstance(each, VideoTokens)):
        if len(outputs) < 100:
            require_sound(tokens)
    left = {each.name for each in folder.iterdir()} - {"output", "workflow.json", "input", "temp", "user", "models"}
    assert not left, f"files outside the output folder: {left}"


KIND = Kind("workflows", table, cases, prepare, run)
