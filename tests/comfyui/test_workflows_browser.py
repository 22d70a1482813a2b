"""Every bundled workflow in ComfyUI's own page: legible as it opens, it runs, and its pictures bring it back."""

import json
import urllib.request
from itertools import combinations
from pathlib import Path

import pytest

from comfyui_aot.tests.comfyui.conftest import open_page
from comfyui_aot.tests.support.browser import (
    SCREENSHOTS,
    browse_template,
    draw_with,
    has_nodes_2,
    of_another_pack,
    open_file,
    run,
    settle,
)
from comfyui_aot.tests.support.layout import TITLE, group_box, overlap, within

CHECKOUT = Path(__file__).parents[2]
WORKFLOWS = sorted((CHECKOUT / "workflows").glob("*.json"))
STARTER = WORKFLOWS[0].stem
NEEDS_A_SERVER = {"11 vLLM server"}
NEEDS_ANSWERING_TEXT_ENCODERS = {"12 Ask with the text encoder you have"}
SMALLEST = 0.6
"""The scale under which a frontend draws no text, and a little."""

QUICK = """() => {
    for (const node of app.graph._nodes) {
        for (const widget of node.widgets ?? []) {
            if (widget.name === 'frames' || widget.name === 'frame_load_cap') widget.value = 4;
            if (widget.name === 'max_new_tokens') widget.value = 2;
            if (widget.name === 'retentions') widget.value = '0.3, 0.2';
            if (widget.name === 'reinvest' && widget.value === '4') widget.value = '2';
        }
    }
}"""

OPEN = """async (name) => {
    const file = await fetch(app.api.apiURL(`/workflow_templates/comfyui-aot/${name}.json`));
    await app.loadGraphData(await file.json(), true, true, name, { openSource: 'template' });
}"""

DRAWN = """() => app.graph._nodes.map((node) => {
    const { scale, offset } = app.canvas.ds, page = app.canvas.canvas.getBoundingClientRect();
    const [x, y] = node.pos, element = document.querySelector(`[data-node-id="${node.id}"]`);
    const height = node.flags.collapsed ? 0 : Math.max(node.size[1], element ? 0 : node.computeSize()[1]);
    const width = node.flags.collapsed ? 0 : node.size[0];
    if (!element) return [x, y - 30, x + width, y + height];
    const { left, top, right, bottom } = element.getBoundingClientRect();
    return [
        (left - page.left) / scale - offset[0], (top - page.top) / scale - offset[1],
        (right - page.left) / scale - offset[0], (bottom - page.top) / scale - offset[1],
    ];
})"""
"""Left, top, right and bottom of every node as it is drawn, in the graph's own units."""


def needs_another_pack(saved, object_info):
    """Skips where a node of another pack is missing."""
    missing = of_another_pack(saved, object_info)
    if missing:
        pytest.skip(f"{', '.join(missing)} of another pack is not installed in this ComfyUI")


def groups_hold_their_nodes(saved, boxes):
    """That no node lies on another, and each but a note lies within a group, under its title."""
    groups = [group_box(group) for group in saved["groups"]]
    assert not any(overlap(one, other) for one, other in combinations(boxes, 2))
    for node, box in zip(saved["nodes"], boxes, strict=True):
        if node["type"] != "MarkdownNote":
            assert any(within(box, (left, top + TITLE - 4, right, bottom)) for left, top, right, bottom in groups), node


@pytest.fixture(scope="module", params=["canvas", "vue"])
def drawn(request, context, server):
    """A page, and who draws the nodes on it: the editor's canvas, or the page itself."""
    page = open_page(context, server)
    if request.param == "vue" and not has_nodes_2(page):
        pytest.skip("this frontend has no Nodes 2.0 yet")
    draw_with(page, nodes_2=request.param == "vue")
    yield page, request.param
    draw_with(page, nodes_2=False)
    page.close()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_legible_and_whole_as_it_opens(drawn, object_info, path):
    page, renderer = drawn
    saved = json.loads(path.read_text())
    needs_another_pack(saved, object_info)
    page.evaluate(OPEN, path.stem)
    page.wait_for_function("(count) => app.graph._nodes.length === count", arg=len(saved["nodes"]))
    settle(page, quiet=500)
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{path.stem} {renderer}.png")
    scale, (x, y), *size = page.evaluate(
        "(({ ds, canvas }) => [ds.scale, [...ds.offset], canvas.clientWidth, canvas.clientHeight])(app.canvas)"
    )
    boxes, groups = page.evaluate(DRAWN), [group_box(group) for group in saved["groups"]]
    assert scale >= SMALLEST
    for box in (*boxes, *groups):
        assert within(tuple(scale * (each + by) for each, by in zip(box, (x, y, x, y), strict=True)), (0, 0, *size))
    groups_hold_their_nodes(saved, boxes)
    if renderer == "canvas":
        assert all(
            box[3] <= node["pos"][1] + node["size"][1] + 1 for node, box in zip(saved["nodes"], boxes, strict=True)
        )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_and_shows_its_answers(page, server, object_info, path, request):
    saved = json.loads(path.read_text())
    needs_another_pack(saved, object_info)
    open_file(page, path)
    page.wait_for_function("(count) => app.graph._nodes.length === count", arg=len(saved["nodes"]))
    settle(page)
    sizes = {str(node["id"]): node["size"] for node in saved["nodes"]}
    shown = page.evaluate("Object.fromEntries(app.graph._nodes.map((node) => [node.id, [...node.size]]))")
    # VideoHelperSuite's loader is as high as its video.
    videos = {str(node["id"]) for node in saved["nodes"] if node["type"].startswith("VHS_")}
    assert {key: shown[key] for key in shown if key not in videos} == {
        key: pytest.approx(size, abs=0.01) for key, size in sizes.items() if key not in videos
    }
    if path.stem in NEEDS_A_SERVER:
        return
    if path.stem in NEEDS_ANSWERING_TEXT_ENCODERS:
        request.getfixturevalue("answering")
    page.evaluate(QUICK)
    run(page)
    (entry,) = list(server.client.get("/history?max_items=1").values())
    ends = {str(node["id"]) for node in saved["nodes"] if object_info.get(node["type"], {}).get("output_node")}
    assert ends <= set(entry["outputs"])
    reports = page.locator(".aot-report.aot-answer").all_inner_texts()
    for node in saved["nodes"]:
        if node["type"] == "AOTAnswer" and not node["flags"].get("collapsed"):
            text = entry["outputs"][str(node["id"])]["text"]
            answers, figures = text[::2], text[-1].splitlines()[0]
            # Of a list of videos all answers, with their numbers.
            said = "\n".join(f"{i}. {each}" for i, each in enumerate(answers, 1)) if len(answers) > 1 else answers[0]
            assert any(shown.startswith(said) and figures in shown for shown in reports)
    for nodes_2 in (False, True) if has_nodes_2(page) else (False,):
        draw_with(page, nodes_2)
        groups_hold_their_nodes(saved, page.evaluate(DRAWN))
    draw_with(page, nodes_2=False)


def test_the_template_browser_lists_them_by_name_with_thumbnails(page):
    browse_template(page, STARTER)
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTDrawnClip')")
    listed = page.evaluate("fetch(app.api.apiURL('/workflow_templates')).then((answer) => answer.json())")
    assert sorted(listed["comfyui-aot"]) == [path.stem for path in WORKFLOWS]
    widths = page.evaluate(
        """(names) => Promise.all(names.map((name) => new Promise((done) => {
            const image = new Image();
            image.onload = image.onerror = () => done(image.naturalWidth);
            image.src = app.api.apiURL(`/workflow_templates/comfyui-aot/${name}.jpg`);
        })))""",
        listed["comfyui-aot"],
    )
    assert min(widths) >= 256


def test_a_picture_brings_its_workflow_back(page, server, tmp_path):
    open_file(page, CHECKOUT / "workflows" / "07 Clips that follow cuts.json")
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTClipTimeline')")
    page.evaluate(QUICK)
    run(page)
    (entry,) = list(server.client.get("/history?max_items=1").values())
    timeline = page.evaluate("String(app.graph._nodes.find((node) => node.type === 'AOTClipTimeline').id)")
    (image,) = entry["outputs"][timeline]["images"]
    where = f"http://{server.address}/view?filename={image['filename']}&type={image['type']}&subfolder="
    picture = tmp_path / "timeline.png"
    with urllib.request.urlopen(where) as response:
        picture.write_bytes(response.read())
    before = page.evaluate("app.graph._nodes.map((node) => node.type).sort()")
    page.evaluate("void app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("!app.graph._nodes.some((node) => node.type === 'AOTClipTimeline')")
    open_file(page, picture)
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTClipTimeline')")
    assert page.evaluate("app.graph._nodes.map((node) => node.type).sort()") == before
