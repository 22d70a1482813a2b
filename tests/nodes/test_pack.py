"""The pack as a whole: what every node must have, and the workflows that are bundled."""

import json
import re
import shutil
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.options import settings_of
from comfyui_aot.nodes import NODES
from comfyui_aot.nodes.comfy import directories
from comfyui_aot.nodes.models import AOTLoadVLLM
from comfyui_aot.nodes.workflow import core
from comfyui_aot.nodes.workflow.graph import BYPASSED, load_workflow, to_graph
from comfyui_aot.nodes.workflow.runner import check, registry, run
from comfyui_aot.tests.support.layout import TITLE, bounds, box, group_box, hidden_links, overlap, within

CHECKOUT = Path(__file__).parents[2]
PIPELINE = CHECKOUT / "tests" / "frozen" / "aot_full_pipeline.json"
WORKFLOWS = sorted((CHECKOUT / "workflows").glob("*.json"))
STARTER = CHECKOUT / "workflows" / "01 Ask a video.json"
NEEDS_ANOTHER_PACK = {"10 VideoHelperSuite", "12 Ask with the text encoder you have"}
WIDEST, HIGHEST = 2300, 1160
"""Of a graph that the editor shows whole, with its texts drawn, on a screen of 1920 x 1080."""
CANVAS = (0, 0, 1856, 1002)
"""The editor's canvas on such a screen, in frontend 1.27."""
REDUCTIONS = ("AOTIntraFrame", "AOTInterFrame")
QUICK = ("AOTLoadVideo.frames=4", "AOTAnswer.max_new_tokens=2")

stage_kinds = pytest.mark.parametrize(
    "kind", [kind for kind in stages().values() if kind.node_id], ids=lambda kind: kind.name
)
nodes = pytest.mark.parametrize("node", NODES, ids=[node.GET_SCHEMA().node_id for node in NODES])


@pytest.fixture(scope="module")
def workflow():
    return load_workflow(PIPELINE)


@pytest.fixture(scope="module", params=WORKFLOWS, ids=lambda path: path.stem)
def any_workflow(request):
    return load_workflow(request.param)


@pytest.fixture(scope="module")
def base(tmp_path_factory, bunny):
    """A folder with input/, output/ and temp/, and the workflow's clip in input/."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "input").mkdir()
    shutil.copy(bunny, folder / "input" / bunny.name)
    return folder


@nodes
def test_every_node_has_a_prefixed_id_a_description_and_a_category(node):
    schema = node.GET_SCHEMA()
    assert schema.node_id.startswith("AOT")
    assert schema.description.endswith(".")
    assert schema.category.split("/")[0] == "AOT"


@nodes
def test_every_input_and_output_has_a_tooltip(node):
    schema = node.GET_SCHEMA()
    for socket in (*schema.inputs, *schema.outputs):
        assert socket.tooltip, f"{schema.node_id}.{socket.id}"


@nodes
def test_every_node_has_a_help_page_that_names_its_inputs(node):
    schema = node.GET_SCHEMA()
    page = (CHECKOUT / "web" / "docs" / f"{schema.node_id}.md").read_text()
    assert page.startswith(f"# {schema.display_name}\n")
    assert [socket.id for socket in schema.inputs if socket.id not in page] == []


@stage_kinds
def test_a_reduction_shows_what_it_keeps_and_at_most_three_settings(kind):
    shown = [name for name, setting in settings_of(kind).items() if not setting.advanced]
    assert "retention" in shown
    assert len(shown) <= 3


@stage_kinds
def test_a_help_page_says_which_settings_are_advanced(kind):
    page = (CHECKOUT / "web" / "docs" / f"{kind.node_id}.md").read_text()
    rows = [re.match(r"\| ([a-z_, ]+) \| (\*advanced\.\*)?", line) for line in page.split("\n## ")[1].splitlines()]
    marked = {name: bool(row[2]) for row in rows if row for name in row[1].split(", ")}
    settings = settings_of(kind)
    assert {name: marked[name] for name in settings} == {name: each.advanced for name, each in settings.items()}
    assert ("Show Advanced" in page) is any(each.advanced for each in settings.values())


def test_there_is_no_help_page_without_a_node():
    pages = {page.stem for page in (CHECKOUT / "web" / "docs").iterdir()}
    assert pages == {node.GET_SCHEMA().node_id for node in NODES}


def test_the_workflow_is_one_the_editor_wrote_with_this_packs_nodes(any_workflow):
    assert any_workflow["version"] == 0.4
    assert re.fullmatch(r"\d+\.\d+\.\d+", any_workflow["extra"]["frontendVersion"])
    ours = [node for node in any_workflow["nodes"] if node["type"].startswith("AOT")]
    assert len(ours) >= 4
    for node in ours:
        assert node["properties"]["cnr_id"] == "comfyui-aot"
        assert node["properties"]["ver"] == "0.1.0"


def test_the_workflow_holds_no_path_and_no_answer(any_workflow):
    for text in _strings(any_workflow):
        assert not re.match(r"(/|~|[A-Za-z]:[\\/])", text), text
    for answer in (node for node in any_workflow["nodes"] if node["type"] == "AOTAnswer"):
        question, *settings = answer["widgets_values"]
        linked = any(each["name"] == "question" and each["link"] for each in answer["inputs"])
        assert question == "" if linked else question.endswith("?")
        assert settings[:6] == [32, 0, 1, 0, "fixed", "own words"]
        assert settings[7:] == ["", False]
        assert "\n" not in question or settings[6] is True


def _strings(value):
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(inner)


def test_the_workflow_explains_itself(any_workflow):
    titles = [group["title"] for group in any_workflow["groups"]]
    assert [int(title.split()[0]) for title in titles] == list(range(1, len(titles) + 1))
    (note,) = [node for node in any_workflow["nodes"] if node["type"] == "MarkdownNote"]
    lines = note["widgets_values"][0].split("\n\n")
    starts = ("**What it does:** ", "**What it needs:** ", "**What to try:** ")
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 3


def test_nothing_in_the_workflow_overlaps_and_groups_hold_their_nodes(any_workflow):
    boxes = [box(node) for node in any_workflow["nodes"]]
    groups = [group_box(group) for group in any_workflow["groups"]]
    assert not any(overlap(one, other) for one, other in combinations(boxes, 2))
    assert not any(overlap(one, other) for one, other in combinations(groups, 2))
    for node, place in zip(any_workflow["nodes"], boxes, strict=True):
        holding = [group for group in groups if overlap(place, group)]
        if node["type"] == "MarkdownNote":
            assert holding == []
        else:
            ((left, top, right, bottom),) = holding
            assert within(place, (left + 1, top + TITLE, right - 1, bottom - 1))


def test_the_workflows_links_run_from_left_to_right_and_behind_no_node(any_workflow):
    by_id = {node["id"]: node for node in any_workflow["nodes"]}
    for _, source, _, target, *_ in any_workflow["links"]:
        assert box(by_id[source])[2] < box(by_id[target])[0]
    assert hidden_links(any_workflow) == []


def test_the_workflow_is_legible_and_whole_on_opening(any_workflow):
    left, top, right, bottom = bounds(any_workflow)
    assert right - left <= WIDEST and bottom - top <= HIGHEST
    scale, (x, y) = (any_workflow["extra"]["ds"][name] for name in ("scale", "offset"))
    assert scale >= 0.6
    assert within(tuple(scale * each for each in (left + x, top + y, right + x, bottom + y)), CANVAS)


def test_the_workflows_are_numbered_in_the_order_to_try_them():
    numbers, names = zip(*(path.stem.split(" ", 1) for path in WORKFLOWS), strict=True)
    assert numbers == tuple(f"{number:02}" for number in range(1, len(WORKFLOWS) + 1))
    assert all(re.fullmatch(r"[A-Za-z ]+", name) for name in names)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_workflow_needs_no_file(path, tmp_path, embedded_folder):
    (tmp_path / "input").mkdir()
    classes = registry((*NODES, *core.NODES))
    if path.stem in NEEDS_ANOTHER_PACK:
        pytest.skip("has a loader of another pack or of ComfyUI itself, which names a file")
    with directories(tmp_path):
        assert [str(problem) for problem in check(to_graph(load_workflow(path), classes))] == []


def test_the_first_workflow_is_right_with_all_tokens_and_with_a_tenth(tmp_path, embedded_folder):
    (tmp_path / "input").mkdir()
    with directories(tmp_path):
        results = run(to_graph(load_workflow(STARTER), registry(NODES)), ())
    ((truth,),) = (each.outputs[2] for each in results.values() if each.node.type == "AOTDrawnClip")
    answers = {each.node.title: each.outputs[1][0] for each in results.values() if each.node.type == "AOTAnswer"}
    assert {title: answer.text.lower() for title, answer in answers.items()} == {"All tokens": truth, "AOT": truth}
    assert answers["All tokens"].retention == 1
    assert answers["AOT"].retention == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_workflow_has_a_thumbnail(path):
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"
        assert min(picture.size) >= 256


def test_the_workflows_folder_holds_nothing_that_is_no_template():
    for path in (CHECKOUT / "workflows").glob("*.json"):
        assert "nodes" in json.loads(path.read_text())


@pytest.mark.parametrize("without", [(), *((kind,) for kind in REDUCTIONS), REDUCTIONS])
def test_the_workflow_runs_headless_with_any_reduction_bypassed(workflow, base, miniature_embedded, without):
    nodes = [{**node, "mode": BYPASSED} if node["type"] in without else node for node in workflow["nodes"]]
    with directories(base):
        results = run(to_graph({**workflow, "nodes": nodes}, registry(NODES)), QUICK)
    by_type = {result.node.type: result for result in results.values()}
    (answer,) = by_type["AOTAnswer"].outputs[1]
    assert len(answer.stages) == len(REDUCTIONS) - len(without)
    assert answer.tokens_full == 4 * 196
    assert (answer.tokens_kept == answer.tokens_full) is (without == REDUCTIONS)
    assert by_type["AOTTokenMap"].ui["images"]


def test_two_loaders_with_equal_settings_share_one_model(miniature_embedded):
    settings = ("embedded", "auto", "auto", "sdpa")
    first, second, other = (
        AOTLoadVLLM.execute(*each).args[0] for each in (settings, settings, (*settings[:3], "eager"))
    )
    assert first is second
    assert other.model.hf_model is not first.model.hf_model
