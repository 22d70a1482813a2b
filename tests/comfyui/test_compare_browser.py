"""The comparing nodes in ComfyUI's own page: the table and the slider, in both ways the editor draws nodes."""

from pathlib import Path

import pytest

from comfyui_aot.tests.support.browser import SCREENSHOTS, of, run, settle


def graph(clip):
    """Full tokens and reduced ones, answered, mapped and compared, and a sweep: as a prompt."""
    asked = {"question": "What is it?", "max_new_tokens": 2, "temperature": 0, "top_p": 1, "seed": 0}
    return {
        "101": {"class_type": "AOTLoadVideo", "inputs": {
            "video": clip.name, "sampling": "uniform", "frames": 2, "fps": 1, "every": 1, "start": 0, "end": 0,
            "size": 0}},
        "102": {"class_type": "AOTLoadVLLM", "inputs": {
            "model": "embedded", "dtype": "auto", "device": "auto", "attention": "sdpa"}},
        "103": {"class_type": "AOTEncodeVideo", "inputs": {"vllm": ["102", 0], "frames": ["101", 0]}},
        "104": {"class_type": "AOTIntraFrame", "inputs": {"tokens": ["103", 0], "retention": 0.3}},
        "105": {"class_type": "AOTAnswer", "inputs": {"vllm": ["102", 0], "tokens": ["103", 0], **asked}},
        "106": {"class_type": "AOTAnswer", "inputs": {"vllm": ["102", 0], "tokens": ["104", 0], **asked}},
        "107": {"class_type": "AOTTokenMap", "inputs": {"tokens": ["103", 0], "frames": ["101", 0]}},
        "108": {"class_type": "AOTTokenMap", "inputs": {"tokens": ["104", 0], "frames": ["101", 0]}},
        "109": {"class_type": "AOTCompare", "inputs": {
            "answers": ["105", 1], "answer_2": ["106", 1], "map_a": ["107", 0], "map_b": ["108", 0],
            "filename_prefix": "tables/compare"}},
        "110": {"class_type": "AOTSweep", "inputs": {
            "vllm": ["102", 0], "tokens": ["103", 0], "question": "What is it?", "stages": "aot\nintra",
            "retentions": "0.5, 0.2", "max_new_tokens": 2, "filename_prefix": "tables/sweep"}},
    }  # fmt: skip


def arrange(page, clip):
    """Opens the graph and lays the two comparing nodes side by side, their lower parts in view."""
    page.evaluate("([prompt]) => app.loadApiJson(prompt, 'comparing')", [graph(clip)])
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTSweep')")
    page.evaluate(
        """() => {
            for (const node of app.graph._nodes) node.pos = [-4000, 400 * (Number(node.id) - 100)];
            for (const [kind, x] of [['AOTCompare', 0], ['AOTSweep', 760]]) {
                const node = app.graph._nodes.find((each) => each.type === kind);
                node.pos = [x, 0];
                node.setSize([720, 640]);
            }
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset = [80, -100];
            app.canvas.setDirty(true, true);
        }"""
    )


def room(page):
    """Where the Compare node ends on the page, and where its table and its slider are: left, top, right, bottom."""
    edges = "(({ left, top, right, bottom }) => [left, top, right, bottom])"
    node = of(
        page,
        "AOTCompare",
        f"""(() => {{
            const drawn = document.querySelector(`[data-node-id="${{node.id}}"]`);
            if (drawn) return {edges}(drawn.getBoundingClientRect());
            const [x, y] = app.canvas.ds.offset, {{ left, top }} = app.canvas.canvas.getBoundingClientRect();
            const at = [left + x + node.pos[0], top + y + node.pos[1]];
            return [...at, at[0] + node.size[0], at[1] + node.size[1]];
        }})()""",
    )
    return node, *(
        page.locator(f".aot-compare > {what}").evaluate(f"(each) => {edges}(each.getBoundingClientRect())")
        for what in ("img", ".aot-slider")
    )


def test_the_table_is_shown_and_the_slider_follows_pointer_and_keys(renderer, page, server, bunny):
    arrange(page, Path(bunny))
    run(page)
    slider = page.locator(".aot-slider")
    slider.wait_for(state="visible", timeout=10_000)
    page.wait_for_function("[...document.querySelectorAll('.aot-slider img')].every((each) => each.naturalWidth > 300)")
    box = slider.bounding_box()
    assert box["width"] > 300 and box["height"] > 190
    node, table, shown = room(page)
    assert table[3] - table[1] > 100 and table[3] <= shown[1]
    assert node[0] <= table[0] and table[2] <= node[2] and node[0] <= shown[0] and shown[2] <= node[2]
    assert shown[3] <= node[3]

    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 80)
    assert float(slider.get_attribute("aria-valuenow")) == pytest.approx(20, abs=1)
    before = of(page, "AOTCompare", "[...node.pos]")
    slider.focus()
    for _ in range(5):
        slider.press("ArrowRight")
    assert float(slider.get_attribute("aria-valuenow")) == pytest.approx(30, abs=1)
    slider.press("Home")
    assert slider.get_attribute("aria-valuenow") == "0"
    slider.press("End")
    assert slider.get_attribute("aria-valuenow") == "100"
    page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 90)
    assert of(page, "AOTCompare", "[...node.pos]") == before

    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"comparing_{renderer}.png")
    (entry,) = list(server.client.get("/history?max_items=1").values())
    outputs = {kind: entry["outputs"].get(of(page, kind, "String(node.id)")) for kind in ("AOTCompare", "AOTSweep")}
    assert len(outputs["AOTCompare"]["aot_maps"]) == 2
    for shown in outputs.values():
        assert (server.base / "output" / shown["aot_file"][0]).is_file()
        assert (server.base / "temp" / shown["images"][0]["filename"]).is_file()


def test_the_slider_is_no_part_of_the_saved_workflow(page, bunny):
    arrange(page, Path(bunny))
    run(page)
    page.locator(".aot-slider").wait_for(state="visible", timeout=10_000)
    assert of(page, "AOTCompare", "node.serialize().widgets_values") == ["tables/compare", False]


def test_the_curves_take_the_nodes_width_below_its_fields(renderer, page, bunny):
    arrange(page, Path(bunny))
    run(page)
    page.wait_for_function("document.querySelector('.aot-sweep img')?.naturalWidth > 300")
    settle(page)
    picture, view = page.evaluate(
        """() => [...document.querySelectorAll('.aot-sweep img, .aot-sweep')].reverse().map((each) => {
            const { left, top, right, bottom } = each.getBoundingClientRect();
            return [left, top, right, bottom];
        })"""
    )
    fields = page.evaluate(
        """(left) => [...document.querySelectorAll('textarea')].map((each) => each.getBoundingClientRect())
            .filter((box) => Math.abs(box.left - left) < 30).map((box) => box.bottom)""",
        view[0],
    )
    assert picture == pytest.approx(view, abs=1)
    assert picture[2] - picture[0] >= 640
    assert picture[3] - picture[1] > 180
    assert len(fields) == 2
    assert max(fields) <= picture[1]
    assert of(page, "AOTSweep", "node.imgs[0].naturalWidth") > 300
