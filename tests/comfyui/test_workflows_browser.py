"""Every bundled workflow in ComfyUI's own page: it opens, runs, and its pictures bring it back."""

import json
import urllib.request
from pathlib import Path

import pytest

from comfyui_aot.tests.support.browser import open_file, run

CHECKOUT = Path(__file__).parents[2]
WORKFLOWS = sorted((CHECKOUT / "workflows").glob("*.json"))
NEEDS_A_SERVER = {"aot_vllm_server"}
ELSEWHERE = {"aot_full_pipeline"}
"""Run in test_browser.py."""

QUICK = """() => {
    for (const node of app.graph._nodes) {
        for (const widget of node.widgets ?? []) {
            if (widget.name === 'frames' || widget.name === 'frame_load_cap') widget.value = 4;
            if (widget.name === 'max_new_tokens') widget.value = 2;
            if (widget.name === 'retentions') widget.value = '0.3, 0.2';
        }
    }
}"""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_opens_and_runs(page, server, object_info, path):
    saved = json.loads(path.read_text())
    missing = {node["type"] for node in saved["nodes"]} - {*object_info, "MarkdownNote"}
    if missing:
        pytest.skip(f"{', '.join(missing)} of another pack is not installed in this ComfyUI")
    open_file(page, path)
    page.wait_for_function("(count) => app.graph._nodes.length === count", arg=len(saved["nodes"]))
    page.wait_for_timeout(500)
    sizes = {str(node["id"]): node["size"] for node in saved["nodes"]}
    shown = page.evaluate("Object.fromEntries(app.graph._nodes.map((node) => [node.id, [...node.size]]))")
    # A video's height follows from its width, in the last digits by the frontend.
    assert shown == {key: pytest.approx(size, abs=0.01) for key, size in sizes.items()}
    if path.stem in NEEDS_A_SERVER | ELSEWHERE:
        return
    page.evaluate(QUICK)
    run(page)
    (entry,) = list(server.client.get("/history?max_items=1").values())
    ends = {str(node["id"]) for node in saved["nodes"] if object_info.get(node["type"], {}).get("output_node")}
    assert ends <= set(entry["outputs"])


def test_a_picture_brings_its_workflow_back(page, server, tmp_path):
    path = CHECKOUT / "workflows" / "aot_dynamic_clips.json"
    open_file(page, path)
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
