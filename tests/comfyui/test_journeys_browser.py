"""What people do with a workflow in ComfyUI's page, from one end to the other."""

import base64
import json
import time

import pytest

from comfyui_aot.tests.comfyui.conftest import WORKFLOW
from comfyui_aot.tests.support.browser import RUN, ended, has_nodes_2, listen, look_at, of, open_file, run, settle

QUICK = {"frames": 2, "max_new_tokens": 2, "budget": 36}
QUESTION = "What colour is the square?"


def command(page, name):
    """Runs one of the page's commands, as its menu does."""
    page.evaluate("(name) => void app.extensionManager.command.execute(name)", name)


def put(page, name, value):
    """Sets a widget of every node that has it."""
    page.evaluate(
        """([name, value]) => {
            for (const node of app.graph._nodes)
                for (const widget of node.widgets ?? []) if (widget.name === name) widget.value = value;
        }""",
        [name, value],
    )


def select(page, *kinds):
    """Selects the nodes of some kinds."""
    page.evaluate(
        """(kinds) => {
            app.canvas.deselectAll();
            app.canvas.selectItems(app.graph._nodes.filter((node) => kinds.includes(node.type)));
            app.canvas.canvas.focus();
        }""",
        list(kinds),
    )


def outputs(server):
    """What the nodes of the last run sent, by their numbers."""
    (entry,) = server.client.get("/history?max_items=1").values()
    return entry["outputs"]


def drop(page, kind, name, content):
    """Drops a file from the desktop on a node."""
    x, y = page.evaluate(
        """(kind) => {
            const node = app.graph._nodes.find((each) => each.type === kind);
            const { scale, offset } = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect();
            const place = [node.pos[0] + 40, node.pos[1] + 10].map((each, axis) => (each + offset[axis]) * scale);
            return [box.left + place[0], box.top + place[1]];
        }""",
        kind,
    )
    page.evaluate(
        """([x, y, name, content]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            const type = name.endsWith(".mp4") ? "video/mp4" : "text/plain";
            dataTransfer.items.add(new File([bytes], name, { type }));
            const target = document.elementFromPoint(x, y);
            for (const kind of ["dragenter", "dragover", "drop"]) {
                const made = { bubbles: true, cancelable: true, clientX: x, clientY: y, dataTransfer };
                target.dispatchEvent(new DragEvent(kind, made));
            }
        }""",
        [x, y, name, base64.b64encode(content).decode()],
    )


@pytest.fixture
def opened(page, server):
    """The page of a newer frontend with the bundled workflow, made quick."""
    if not has_nodes_2(page):
        pytest.skip("journeys are tried on newer frontends: make test-frontends")
    open_file(page, WORKFLOW)
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTAnswer')")
    settle(page)
    for name, value in QUICK.items():
        put(page, name, value)
    put(page, "question", QUESTION)
    return page


def test_reductions_are_bypassed_with_one_key(opened, server):
    select(opened, "AOTIntraFrame", "AOTInterFrame")
    opened.keyboard.press("Control+b")
    assert opened.evaluate("app.graph._nodes.filter((node) => node.mode === 4).length") == 2
    run(opened)
    answer = of(opened, "AOTAnswer", "String(node.id)")
    assert "tokens: 392 of 392 (100.0%)" in outputs(server)[answer]["text"][1]


def test_only_what_is_selected_runs(opened, server):
    select(opened, "AOTTokenMap")
    listen(opened)
    command(opened, "Comfy.QueueSelectedOutputNodes")
    ended(opened)
    picture, answer = (of(opened, kind, "String(node.id)") for kind in ("AOTTokenMap", "AOTAnswer"))
    assert picture in outputs(server)
    assert answer not in outputs(server)


def test_cancel_stops_the_run_and_the_next_one_answers(opened, server):
    put(opened, "frames", 63)
    listen(opened)
    opened.click(RUN)
    opened.wait_for_timeout(3000)
    began = time.monotonic()
    command(opened, "Comfy.Interrupt")
    ended(opened, "execution_interrupted")
    assert time.monotonic() - began < 20
    assert not opened.locator('[role="dialog"]').is_visible()
    put(opened, "frames", 2)
    run(opened)
    assert of(opened, "AOTAnswer", "String(node.id)") in outputs(server)


def test_a_video_dropped_on_the_loader_is_the_one_that_is_read(opened, server, carphone):
    drop(opened, "AOTLoadVideo", "dropped.mp4", carphone.read_bytes())
    opened.wait_for_function(
        "app.graph._nodes.find((node) => node.type === 'AOTLoadVideo').widgets[0].value.includes('dropped')"
    )
    run(opened)
    assert of(opened, "AOTLoadVideo", "node.widgets[0].value") == "dropped.mp4"
    assert (server.base / "input" / "dropped.mp4").read_bytes() == carphone.read_bytes()


def test_a_file_that_is_no_video_ends_in_one_line_that_says_so(opened, server):
    drop(opened, "AOTLoadVideo", "notes.txt", b"no video")
    settle(opened)
    assert of(opened, "AOTLoadVideo", "node.widgets[0].value") == "bigbuckbunny.mp4"
    drop(opened, "AOTLoadVideo", "broken.mp4", b"no video")
    opened.wait_for_function(
        "app.graph._nodes.find((node) => node.type === 'AOTLoadVideo').widgets[0].value.includes('broken')"
    )
    listen(opened)
    opened.click(RUN)
    ended(opened, "execution_error")
    (entry,) = server.client.get("/history?max_items=1").values()
    (error,) = (data for kind, data in entry["status"]["messages"] if kind == "execution_error")
    assert error["node_type"] == "AOTLoadVideo"
    assert "broken.mp4" in error["exception_message"]
    assert len(error["exception_message"].strip().splitlines()) == 1


def test_a_workflow_is_saved_and_comes_back_with_the_page(opened, server):
    put(opened, "retention", 0.37)
    run(opened)
    before = opened.evaluate("app.graph._nodes.map((node) => [node.type, ...node.size]).sort()")
    command(opened, "Comfy.SaveWorkflowAs")
    name = opened.locator('[role="dialog"] input').first
    name.fill("kept")
    name.press("Enter")
    saved = server.base / "user" / "default" / "workflows" / "kept.json"
    deadline = time.monotonic() + 20
    while not saved.is_file() and time.monotonic() < deadline:
        opened.wait_for_timeout(200)
    assert "TFLOPs" not in saved.read_text()
    assert (
        0.37
        in next(n for n in json.loads(saved.read_text())["nodes"] if n["type"] == "AOTIntraFrame")["widgets_values"]
    )
    opened.reload()
    opened.wait_for_function("window.app?.graph?._nodes?.some((node) => node.type === 'AOTAnswer')", timeout=60_000)
    settle(opened)
    assert of(opened, "AOTIntraFrame", "node.widgets.find((each) => each.name === 'retention').value") == 0.37
    assert opened.evaluate("app.graph._nodes.map((node) => [node.type, ...node.size]).sort()") == before
    saved.unlink()


def test_what_is_exported_for_the_api_runs_there(opened, server, tmp_path):
    put(opened, "seed", 7)
    with opened.expect_download() as download:
        command(opened, "Comfy.ExportWorkflowAPI")
        name = opened.locator('[role="dialog"] input').first
        name.fill("exported")
        name.press("Enter")
    file = tmp_path / "exported.json"
    download.value.save_as(file)
    exported = json.loads(file.read_text())
    done = server.client.run(exported)
    assert done.ended == "execution_success"
    answer = next(key for key, node in exported.items() if node["class_type"] == "AOTAnswer")
    assert exported[answer]["inputs"]["seed"] == 7
    assert done.text(answer)[0]


def test_three_quick_prompts_give_three_answers_and_the_last_one_is_shown(opened, server):
    listen(opened)
    opened.evaluate(
        "window.finished = 0; app.api.addEventListener('execution_success', () => { window.finished += 1 })"
    )
    questions = ("What colour is the square?", "Is there a circle?", "How many stars are there?")
    for question in questions:
        put(opened, "question", question)
        opened.click(RUN)
        opened.wait_for_timeout(100)
    opened.wait_for_function("window.finished === 3", timeout=200_000)
    settle(opened)
    entries = list(server.client.get("/history?max_items=3").values())
    answer = of(opened, "AOTAnswer", "String(node.id)")
    asked = sorted(entry["prompt"][2][answer]["inputs"]["question"] for entry in entries)
    assert asked == sorted(questions)
    last = max(entries, key=lambda entry: entry["prompt"][0])
    look_at(opened, "AOTAnswer")
    assert opened.locator(".aot-report.aot-answer").inner_text().startswith(last["outputs"][answer]["text"][0])


def test_a_copied_stage_has_its_settings_and_a_report_of_its_own(opened, server):
    put(opened, "retention", 0.41)
    select(opened, "AOTIntraFrame")
    opened.keyboard.press("Control+c")
    opened.keyboard.press("Control+Shift+v")
    opened.wait_for_function("app.graph._nodes.filter((node) => node.type === 'AOTIntraFrame').length === 2")
    copies = opened.evaluate(
        """app.graph._nodes.filter((node) => node.type === 'AOTIntraFrame').map((node) => [
            node.widgets.find((each) => each.name === 'retention').value,
            node.widgets.filter((each) => each.type === 'aot_report').length,
            node.inputs[0].link !== null])"""
    )
    assert copies == [[0.41, 1, True], [0.41, 1, True]]
    run(opened)


def test_a_part_becomes_a_subgraph_and_runs_as_before(opened, server):
    run(opened)
    answer = of(opened, "AOTAnswer", "String(node.id)")
    before = outputs(server)[answer]["text"][0]
    select(opened, "AOTEncodeVideo", "AOTIntraFrame", "AOTInterFrame")
    command(opened, "Comfy.Graph.ConvertToSubgraph")
    opened.wait_for_function("!app.graph._nodes.some((node) => node.type === 'AOTIntraFrame')")
    put(opened, "seed", 1)
    run(opened)
    assert outputs(server)[answer]["text"][0] == before
