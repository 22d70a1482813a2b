"""Blueprints that ComfyUI offers from the pack's folder subgraphs/: each is one subgraph of our nodes, and runs."""

import json
import shutil
from pathlib import Path

import pytest

from comfyui_aot.nodes import NODES
from comfyui_aot.nodes.comfy import directories
from comfyui_aot.nodes.workflow.graph import to_graph
from comfyui_aot.nodes.workflow.runner import registry, run

BLUEPRINTS = sorted((Path(__file__).parents[2] / "subgraphs").glob("*.json"))
INPUT, OUTPUT = -10, -20
"""Where the links of a subgraph's own inputs begin, and those of its outputs end."""


@pytest.fixture(params=BLUEPRINTS, ids=lambda path: path.stem)
def path(request):
    return request.param


def read(path):
    """The node on the canvas, and its subgraph."""
    blueprint = json.loads(path.read_text())
    (host,), (subgraph,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    return host, subgraph


def opened(subgraph):
    """The subgraph as a workflow of its own: what comes from outside is what its widgets hold."""
    links = [link for link in subgraph["links"] if link["origin_id"] != INPUT and link["target_id"] != OUTPUT]
    numbers = {link["id"] for link in links}

    def unlinked_outside(node):
        inputs = [{**each, "link": each["link"] if each["link"] in numbers else None} for each in node["inputs"]]
        return {**node, "inputs": inputs}

    nodes = [unlinked_outside(node) for node in subgraph["nodes"]]
    return {"nodes": nodes, "links": links}


def test_it_is_one_subgraph_that_bears_its_files_name(path):
    host, subgraph = read(path)
    assert host["type"] == subgraph["id"]
    assert host["title"] == subgraph["name"] == path.stem
    assert subgraph["description"].endswith(".") and subgraph["category"] == "AOT"


def test_what_it_takes_and_gives_are_the_inputs_and_outputs_of_nodes_inside(path):
    host, subgraph = read(path)
    inner = {node["id"]: node for node in subgraph["nodes"]}
    for kind, end, far, slots in (("inputs", "origin", "target", INPUT), ("outputs", "target", "origin", OUTPUT)):
        assert [each["name"] for each in host[kind]] == [each["name"] for each in subgraph[kind]]
        for number, each in enumerate(subgraph[kind]):
            links = [x for x in subgraph["links"] if x[f"{end}_id"] == slots and x[f"{end}_slot"] == number]
            assert [link["id"] for link in links] == each["linkIds"]
            for link in links:
                socket = inner[link[f"{far}_id"]][kind][link[f"{far}_slot"]]
                assert (socket["name"], socket["type"]) == (each["name"], each["type"])


def test_its_nodes_answer(path, tmp_path, bunny, embedded_folder):
    _, subgraph = read(path)
    (tmp_path / "input").mkdir()
    shutil.copy(bunny, tmp_path / "input" / "clip.mp4")
    with directories(tmp_path):
        graph = to_graph(opened(subgraph), registry(NODES))
        quick = ["AOTLoadVideo.video=clip.mp4", "AOTLoadVideo.frames=4", "AOTAnswer.max_new_tokens=2"]
        results = {result.node.type: result for result in run(graph, quick).values()}
    assert results["AOTAnswer"].outputs[0][0]
    assert results["AOTAnchorTransport"].outputs[0][0].tokens_kept == 196
