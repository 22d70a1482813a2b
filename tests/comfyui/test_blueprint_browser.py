"""The blueprint Ask Video, and the words that find the pack's nodes, in the search of a ComfyUI that has both."""

import json
from pathlib import Path

import pytest

from comfyui_aot.nodes import NODES
from comfyui_aot.tests.support.browser import SCREENSHOTS, clear, run, settle
from comfyui_aot.tests.support.comfyui_client import Refused

BLUEPRINT = Path(__file__).parents[2] / "subgraphs" / "Ask Video.json"
FIVE = {"AOTLoadVideo", "AOTLoadVLLM", "AOTEncodeVideo", "AOTAnchorTransport", "AOTAnswer"}
WORDS = (
    "optimal transport", "prune", "merge", "compress", "reduce", "token", "VLM", "caption", "describe",
    "video question", "LLaVA-OneVision", "LLaVA-Video", "Qwen2.5-VL", "Qwen3-VL", "InternVL",
)  # fmt: skip


@pytest.fixture
def blueprints(server):
    """The blueprints that the server lists, where it lists any."""
    try:
        return server.client.get("/global_subgraphs")
    except (Refused, json.JSONDecodeError):
        pytest.skip("this ComfyUI has no blueprints")


@pytest.fixture
def aliases(object_info):
    """The words to search for each of the pack's nodes by, where the server has such words."""
    ours = {name: info.get("search_aliases") for name, info in object_info.items() if name.startswith("AOT")}
    if all(words is None for words in ours.values()):
        pytest.skip("this ComfyUI has no search aliases")
    return ours


@pytest.fixture
def canvas(page):
    """The page with nothing on its canvas."""
    clear(page)
    return page


def search(page, words):
    """Types words into the search for nodes; the results."""
    box = page.get_by_role("combobox")
    for _ in range(5):
        # The editor misses a double click now and then, just after the search was closed.
        page.mouse.dblclick(900, 700)
        page.wait_for_timeout(1000)
        if box.is_visible():
            break
    page.keyboard.type(words)
    page.wait_for_timeout(1000)
    return page.get_by_test_id("result-item")


def test_every_node_has_its_search_aliases(aliases):
    assert len(aliases) == len(NODES)
    assert all(len(words) >= 3 for words in aliases.values())


def test_each_word_finds_a_node_of_the_pack(canvas, aliases):
    for word in WORDS:
        found = search(canvas, word)
        found.first.wait_for(timeout=10_000)
        assert found.filter(has_text="comfyui-aot").count() > 0, word
        canvas.keyboard.press("Escape")
        canvas.wait_for_timeout(300)


def test_the_server_lists_the_blueprint_as_it_ships(server, blueprints):
    (key,) = [key for key, entry in blueprints.items() if entry["info"]["node_pack"] == "custom_nodes.comfyui-aot"]
    assert blueprints[key]["name"] == "Ask Video"
    assert json.loads(server.client.get(f"/global_subgraphs/{key}")["data"]) == json.loads(BLUEPRINT.read_text())


def test_the_blueprint_is_found_added_run_and_opens_into_the_five_nodes(canvas, server, blueprints):
    search(canvas, "Ask Video").filter(has_text="Blueprint").first.click()
    settle(canvas)
    canvas.mouse.click(900, 300)
    canvas.wait_for_function("app.graph._nodes.length === 1 && app.graph._nodes[0].isSubgraphNode()")
    canvas.evaluate("app.canvas.ds.scale = 1")
    settle(canvas)
    shown = canvas.evaluate("app.graph._nodes[0].widgets.map((each) => each.name)")
    assert shown == ["video", "question", "retention", "model"]
    assert set(canvas.evaluate("app.graph._nodes[0].subgraph.nodes.map((each) => each.type)")) == FIVE
    canvas.evaluate(
        """() => {
            const [node] = app.graph._nodes;
            node.widgets.find((each) => each.name === 'video').value = 'bigbuckbunny.mp4';
            node.widgets.find((each) => each.name === 'retention').value = 0.2;
            const inside = (type, name) =>
                node.subgraph.nodes.find((each) => each.type === type).widgets.find((each) => each.name === name);
            inside('AOTLoadVideo', 'frames').value = 4;
            inside('AOTAnswer', 'max_new_tokens').value = 4;
        }"""
    )
    run(canvas)
    SCREENSHOTS.mkdir(exist_ok=True)
    canvas.screenshot(path=SCREENSHOTS / "blueprint.png")
    (entry,) = server.client.get("/history?max_items=1").values()
    texts = [output["text"] for output in entry["outputs"].values() if len(output.get("text", ())) == 2]
    ((answer, figures),) = texts
    assert answer and figures.startswith("tokens: 157 of 784 (20.0%)")

    canvas.evaluate("app.canvas.openSubgraph(app.graph._nodes[0].subgraph, app.graph._nodes[0])")
    settle(canvas)
    canvas.screenshot(path=SCREENSHOTS / "blueprint_open.png")
    canvas.evaluate("app.canvas.setGraph(app.rootGraph ?? app.graph.rootGraph)")
    canvas.evaluate("app.graph.unpackSubgraph(app.graph._nodes[0])")
    assert set(canvas.evaluate("app.graph._nodes.map((each) => each.type)")) == FIVE
