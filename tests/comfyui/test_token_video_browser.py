"""Token Map Video in ComfyUI: it plays on the node, feeds core nodes, and its file brings the workflow back."""

import base64
import json

import av
import pytest

from comfyui_aot.tests.support.browser import SCREENSHOTS, draw_with, has_nodes_2, look_at, of, run, settle


def graph():
    """A drawn clip, full tokens beside reduced ones, the video, and core's node that saves a VIDEO: as a prompt."""
    asked = {"max_new_tokens": 4, "temperature": 0, "top_p": 1, "seed": 0}
    return {
        "1": {"class_type": "AOTDrawnClip", "inputs": {"clip": 2000007, "family": "colour", "frames": 4}},
        "2": {"class_type": "AOTLoadVLLM", "inputs": {
            "model": "embedded", "dtype": "auto", "device": "auto", "attention": "sdpa"}},
        "3": {"class_type": "AOTEncodeVideo", "inputs": {"vllm": ["2", 0], "frames": ["1", 0]}},
        "4": {"class_type": "AOTAnchorTransport", "inputs": {"tokens": ["3", 0], "retention": 0.2}},
        "5": {"class_type": "AOTAnswer", "inputs": {
            "vllm": ["2", 0], "tokens": ["3", 0], "question": ["1", 1], **asked}},
        "6": {"class_type": "AOTAnswer", "inputs": {
            "vllm": ["2", 0], "tokens": ["4", 0], "question": ["1", 1], **asked}},
        "7": {"class_type": "AOTTokenMapVideo", "inputs": {
            "tokens": ["3", 0], "frames": ["1", 0], "answer": ["5", 1], "tokens_b": ["4", 0], "answer_b": ["6", 1],
            "filename_prefix": "aot_videos/token_map", "seconds": 0, "width": 1280}},
        "8": {"class_type": "SaveVideo", "inputs": {
            "video": ["7", 0], "filename_prefix": "video/again", "format": "auto", "codec": "auto"}},
    }  # fmt: skip


def drop(page, path):
    """Drops a file on an empty place of the page."""
    page.evaluate(
        """async ([bytes, name]) => {
            const file = new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name, { type: 'video/mp4' });
            const data = new DataTransfer();
            data.items.add(file);
            document.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        [base64.b64encode(path.read_bytes()).decode(), path.name],
    )


@pytest.fixture(params=["canvas", "vue"])
def renderer(request, page):
    """Who draws the nodes; the canvas again afterwards."""
    if request.param == "vue" and not has_nodes_2(page):
        pytest.skip("this frontend has no Nodes 2.0 yet")
    draw_with(page, nodes_2=request.param == "vue")
    yield request.param
    draw_with(page, nodes_2=False)


def test_the_video_plays_on_the_node_feeds_core_nodes_and_brings_the_workflow_back(page, server, renderer):
    page.evaluate("([prompt]) => app.loadApiJson(prompt, 'sharing')", [graph()])
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'SaveVideo')")
    of(page, "AOTTokenMapVideo", "(() => { node.pos = [6000, 0] })()")
    of(page, "SaveVideo", "(() => { node.pos = [9000, 0] })()")
    run(page)
    look_at(page, "AOTTokenMapVideo")
    page.wait_for_function("[...document.querySelectorAll('video')].some((each) => each.videoWidth === 1280)")
    settle(page)
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"token_video_{renderer}.png")

    (entry,) = list(server.client.get("/history?max_items=1").values())
    ((made,), (again,)) = (entry["outputs"][of(page, kind, "String(node.id)")]["images"] for kind in (
        "AOTTokenMapVideo", "SaveVideo"))  # fmt: skip
    paths = [server.base / "output" / each["subfolder"] / each["filename"] for each in (made, again)]
    for path in paths:
        with av.open(str(path)) as file:
            assert (file.streams.video[0].width, file.streams.video[0].frames) == (1280, 80)
            assert any(node["type"] == "AOTTokenMapVideo" for node in json.loads(file.metadata["workflow"])["nodes"])

    before = page.evaluate("app.graph._nodes.map((node) => node.type).sort()")
    for path in paths:
        page.evaluate("app.graph.clear()")
        drop(page, path)
        page.wait_for_function("(count) => app.graph._nodes.length === count", arg=len(before), timeout=20_000)
        assert page.evaluate("app.graph._nodes.map((node) => node.type).sort()") == before
        assert of(page, "AOTTokenMapVideo", "node.widgets.find(({ name }) => name === 'width').value") == 1280
