"""Workflows as they were first shipped: they load and run in every later version, and nothing they rest on changes.

`tests/frozen/` holds a copy of each workflow from the day it first shipped, and what every node was then. A node's
new inputs go behind its old ones; a node or an input that has to be renamed keeps its old name beside the new one.
"""

import json
import shutil
from pathlib import Path

import pytest

from comfyui_aot.nodes import NODES
from comfyui_aot.nodes.comfy import directories
from comfyui_aot.nodes.workflow import core
from comfyui_aot.nodes.workflow.graph import load_workflow, sockets, to_graph
from comfyui_aot.nodes.workflow.runner import check, override, registry, run

CHECKOUT = Path(__file__).parents[2]
FROZEN = CHECKOUT / "tests" / "frozen"
INTERFACE = FROZEN / "interface.json"
WORKFLOWS = sorted(path for path in FROZEN.glob("*.json") if path != INTERFACE)
CLASSES = registry((*NODES, *core.NODES))
NEEDS_COMFYUI = {"10 VideoHelperSuite", "12 Ask with the text encoder you have", "aot_videohelpersuite"}
"""Workflows with nodes of other packs, or of ComfyUI itself."""
NEEDS_A_SERVER = {"11 vLLM server", "aot_vllm_server"}


def interface():
    """What saved workflows rest on: ids, inputs in the order their values are stored in, outputs."""
    return {
        name: {
            "inputs": [[each.id, str(each.get_io_type())] for each in sockets(CLASSES, name)],
            "outputs": [str(each.get_io_type()) for each in cls.GET_SCHEMA().outputs],
        }
        for name, cls in sorted(CLASSES.items())
    }


def test_every_node_that_ever_shipped_is_there_with_its_inputs_in_their_places():
    shipped, now = json.loads(INTERFACE.read_text()), interface()
    assert set(shipped) <= set(now)
    for name, recorded in shipped.items():
        for kind in ("inputs", "outputs"):
            assert now[name][kind][: len(recorded[kind])] == recorded[kind], f"{name}: {kind}"


def test_what_ships_now_is_recorded():
    now = interface()
    new = INTERFACE.parents[2] / "build" / INTERFACE.name
    if json.loads(INTERFACE.read_text()) != now:
        new.parent.mkdir(exist_ok=True)
        new.write_text(json.dumps(now, indent=1) + "\n")
    assert json.loads(INTERFACE.read_text()) == now, f"If nodes or inputs were added: cp {new} {INTERFACE}"


def test_every_workflow_that_ships_is_frozen():
    assert {path.name for path in (CHECKOUT / "workflows").glob("*.json")} <= {path.name for path in WORKFLOWS}


@pytest.fixture(scope="module")
def base(tmp_path_factory, bunny, bikes):
    """A folder with the workflows' clips in input/."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "input").mkdir()
    for clip in (bunny, bikes):
        shutil.copy(clip, folder / "input" / clip.name)
    return folder


@pytest.fixture(scope="module")
def held():
    """Models that a workflow has loaded, for the next one to share them, as in a ComfyUI that goes on running."""
    return []


def quick(graph):
    """The graph on few frames, with short answers."""
    return override(
        graph,
        [
            f"{key}.{name}={value}"
            for key, node in graph.nodes.items()
            for name, value in (("frames", 4), ("max_new_tokens", 2))
            if isinstance(node.inputs.get(name), int)
        ],
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_as_first_shipped_still_runs(path, base, held, miniature_embedded):
    if path.stem in NEEDS_COMFYUI:
        pytest.skip("has nodes of another pack or of ComfyUI, and is run in a real one (tests/comfyui)")
    with directories(base):
        graph = quick(to_graph(load_workflow(path), CLASSES))
        assert [str(problem) for problem in check(graph)] == []
        if path.stem not in NEEDS_A_SERVER:
            results = run(graph)
            assert results
            held += [each.outputs for each in results.values() if each.node.type == "AOTLoadVLLM"]
