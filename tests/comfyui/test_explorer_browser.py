"""The Transport Explorer in ComfyUI's own page, in both of its node renderers: pointer, keys, words, and W itself."""

import re
from pathlib import Path

import numpy as np
import pytest

from comfyui_aot.aot.tokens.storage import load
from comfyui_aot.tests.support.browser import RUN, settle

SCREENSHOTS = Path(__file__).parent / "screenshots"
VIEW = """() => {
    const node = app.graph._nodes.find((each) => each.type === 'AOTTransportExplorer');
    return node.widgets.find((each) => each.name === 'aot_explorer').view;
}"""
PLACED = """() => {
    const explorer = app.graph._nodes.find((each) => each.type === 'AOTTransportExplorer');
    app.graph._nodes.filter((each) => each !== explorer).forEach((each, row) => { each.pos = [-900, 300 * row] });
    explorer.pos = [0, 0];
    explorer.setSize([620, 700]);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [400, 120];
    app.canvas.setDirty(true, true);
}"""


def graph(frames):
    """A prompt that reduces a few frames, saves their tokens and explores them; numbers no default workflow has."""
    return {
        "101": {"class_type": "AOTLoadVideo", "inputs": {"video": "bigbuckbunny.mp4", "frames": frames}},
        "102": {"class_type": "AOTLoadVLLM", "inputs": {"model": "embedded"}},
        "103": {"class_type": "AOTEncodeVideo", "inputs": {"vllm": ["102", 0], "frames": ["101", 0]}},
        "104": {"class_type": "AOTAnchorTransport", "inputs": {"tokens": ["103", 0], "retention": 0.2}},
        "105": {"class_type": "AOTSaveTokens", "inputs": {"tokens": ["104", 0], "filename_prefix": "explorer/reduced"}},
        "106": {"class_type": "AOTTransportExplorer", "inputs": {"tokens": ["104", 0], "frames": ["101", 0]}},
    }


def layered(frames):
    """A prompt with stages inside the LLM, whose answer goes to the explorer."""
    prompt = graph(frames)
    prompt["107"] = {"class_type": "AOTFastV", "inputs": {"tokens": ["104", 0], "layer": 1, "keep": 0.5}}
    prompt["108"] = {"class_type": "AOTHoliTomInner", "inputs": {"tokens": ["107", 0], "layer": 3, "keep": 0.25}}
    prompt["109"] = {
        "class_type": "AOTAnswer",
        "inputs": {"vllm": ["102", 0], "tokens": ["108", 0], "question": "What moves?", "max_new_tokens": 2},
    }
    prompt["105"]["inputs"]["tokens"] = ["108", 0]
    prompt["106"]["inputs"] = {"tokens": ["108", 0], "frames": ["101", 0], "answer": ["109", 1]}
    return prompt


def opened(page, frames=6, prompt=None):
    """Opens the graph as a workflow, the explorer in the middle of the page."""
    page.evaluate("(prompt) => void app.loadApiJson(prompt, 'explored')", prompt or graph(frames))
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTTransportExplorer')")
    settle(page)
    page.evaluate(PLACED)


def run(page):
    """Presses Run and waits until the explorer has something to show."""
    page.evaluate(f"window.before = ({VIEW})().sent")
    page.click(RUN)
    page.wait_for_function(f"({VIEW})().sent && ({VIEW})().sent !== window.before", timeout=120_000)
    page.wait_for_function(f"({VIEW})().picture(0)")
    settle(page)


def words(page):
    return page.locator(".aot-explorer .aot-words").inner_text()


def shown(page, expression):
    """The value of an expression about `view`, the explorer on its node."""
    return page.evaluate(f"() => {{ const view = ({VIEW})(); return {expression}; }}")


def point_at(page, place, grid):
    """Moves the pointer to the middle of a place of a grid, (y, x), on the frame that is shown."""
    box = page.locator(".aot-explorer .aot-frame").bounding_box()
    aspect = shown(page, "view.picture(view.frame).naturalHeight / view.picture(view.frame).naturalWidth")
    width = min(box["width"], box["height"] / aspect)
    left, top = box["x"] + (box["width"] - width) / 2, box["y"] + (box["height"] - width * aspect) / 2
    page.mouse.move(left + (place[1] + 0.5) / grid[1] * width, top + (place[0] + 0.5) / grid[0] * width * aspect)
    page.wait_for_timeout(100)


def told(name, frame, y, x):
    return re.compile(rf"[Ff]rame {frame}, row {y}, column {x}: {name} token")


def test_what_is_pointed_at_is_what_w_says(renderer, page, server):
    view = page.locator(".aot-explorer")
    opened(page)
    assert "Run the workflow" in words(page)
    run(page)
    assert view.count() == 1 and view.is_visible()
    # Its picture is there for others, but not drawn a second time.
    (entry,) = list(server.client.get("/history?max_items=1").values())
    assert entry["outputs"]["106"]["images"]
    assert not page.locator('[data-node-id="106"] .image-preview:visible').count()
    drawn = "app.graph._nodes.find((each) => each.type === 'AOTTransportExplorer').widgets.map((each) => each.name)"
    assert page.evaluate(drawn) == ["choice", "rows", "aot_explorer"]
    (saved, *_) = sorted((server.base / "output" / "explorer").glob("reduced*"))
    tokens = load(saved)
    matrix = tokens.map.sparse().to_dense().numpy()
    grid, cells = tokens.layout.language_grid, tokens.layout.grid

    in_first = tokens.place[:, 0].numpy() == 0
    _, y, x = place = tokens.place[int(np.argmax((matrix > 1e-4).sum(1) * in_first))].tolist()
    here = np.flatnonzero((tokens.place.numpy() == place).all(1))
    point_at(page, (y, x), grid)
    assert told("updated", *place).match(words(page))
    token = shown(page, "view.selected.token")
    assert token in here and len(here) == 2
    entries = shown(page, f"view.transport.intoToken({token}).map(({{source, weight}}) => [source, weight])")
    sources, weights = np.array(entries).T
    np.testing.assert_allclose(weights, matrix[token, sources.astype(int)], atol=1e-5)
    assert weights.sum() > 0.989
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"explorer_{renderer}.png")

    taken = {tuple(each) for each in tokens.place.tolist()}
    free = [(t, i, j) for t, i, j in np.ndindex(1, *grid) if (t, i, j) not in taken]
    cell = max(
        ((int((i + 0.5) * cells[0] / grid[0]), int((j + 0.5) * cells[1] / grid[1])) for _, i, j in free),
        key=lambda at: matrix[:, at[0] * cells[1] + at[1]].max(),
    )
    point_at(page, cell, cells)
    source = cell[0] * cells[1] + cell[1]
    assert words(page).startswith(f"Frame 0, cell row {cell[0]}, column {cell[1]}: went into")
    went = shown(page, f"view.transport.fromSource({source}).map(({{token, weight}}) => [token, weight])")
    assert went[0][0] == int(matrix[:, source].argmax())
    assert went[0][1] == pytest.approx(matrix[:, source].max(), abs=1e-5)


def test_the_keys_reach_everything_the_pointer_does(renderer, page):
    view = page.locator(".aot-explorer")
    opened(page)
    run(page)
    view.focus()
    page.keyboard.press("t")
    assert shown(page, "view.selected.token !== undefined")
    before = words(page)
    page.keyboard.press("n")
    assert words(page) != before and "here)" in words(page)
    page.keyboard.press("n")
    assert words(page) == before
    page.keyboard.press("Enter")
    page.keyboard.press("PageDown")
    page.keyboard.press("]")
    assert shown(page, "[view.frame, view.pinned]") == [2, True]
    assert words(page).startswith("Pinned. " + before[:-1]) and "in this frame, 2" in words(page)
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowDown")
    assert "rame 2, " in words(page) and shown(page, "view.pinned") is False
    page.keyboard.press("c")
    page.keyboard.press("ArrowRight")
    assert words(page).startswith("Frame 2, cell row ")
    page.keyboard.press("[")
    page.keyboard.press("Home")
    assert shown(page, "view.frame") == 0
    assert page.evaluate("app.graph._nodes.length") == 6
    assert view.get_attribute("tabindex") == "0" and view.get_attribute("aria-label")


def test_it_outlives_another_run_another_tab_and_another_size(renderer, page):
    opened(page, frames=4)
    run(page)
    assert shown(page, "view.transport.frames") == 4
    kept = shown(page, "view.transport.kept")
    page.evaluate(
        "const loader = app.graph._nodes.find((each) => each.type === 'AOTLoadVideo');"
        "loader.widgets.find((each) => each.name === 'frames').value = 6"
    )
    run(page)
    assert shown(page, "view.transport.frames") == 6
    assert shown(page, "view.transport.kept") > kept
    note = page.locator(".aot-explorer .aot-bar").inner_text()

    page.evaluate("void app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("!app.graph._nodes.some((node) => node.type === 'AOTTransportExplorer')")
    settle(page)
    assert page.locator(".aot-explorer").count() == 0
    page.locator(".workflow-tabs").get_by_text("explored").first.click()
    page.wait_for_function(f"app.graph._nodes.some((node) => node.type === 'AOTTransportExplorer') && ({VIEW})().sent")
    settle(page)
    view = page.locator(".aot-explorer")
    assert view.count() == 1 and view.is_visible()
    assert page.locator(".aot-explorer .aot-bar").inner_text() == note

    before = view.bounding_box()["width"]
    page.evaluate(
        "const node = app.graph._nodes.find((each) => each.type === 'AOTTransportExplorer');"
        "node.setSize([node.size[0] + 200, node.size[1] + 100]); app.canvas.setDirty(true, true);"
        "const loose = document.querySelector('.aot-explorer.aot-loose'); if (loose) loose.style.width = '720px'"
    )
    settle(page)
    assert view.bounding_box()["width"] == pytest.approx(before + 200, abs=2)
    canvas = page.locator(".aot-frame")
    assert canvas.evaluate("(each) => each.width >= each.clientWidth")
    point_at(page, (0, 0), (1, 1))
    assert words(page).startswith("Frame 0")


def test_a_map_of_an_earlier_version_still_opens(page):
    opened(page, frames=4)
    run(page)
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.evaluate(f"""() => {{
        const view = ({VIEW})();
        const earlier = {{ ...view.sent }};
        for (const name of ["outlines", "order", "background", "shade"]) delete earlier[name];
        view.load(earlier, view.addresses);
        view.selectToken(0);
    }}""")
    settle(page)
    assert not errors
    assert shown(page, "view.transport.shade") is None
    assert words(page).startswith("Frame 0, row ")


def test_the_layers_of_the_llm_are_gone_through(renderer, page):
    opened(page, prompt=layered(4))
    run(page)
    slider = page.get_by_role("slider", name="Layer of the LLM")
    line = page.locator(".aot-explorer .aot-layer")
    tokens = shown(page, "view.layers.tokens")
    given, last = tokens[0], tokens[-1]
    assert tokens == sorted(tokens, reverse=True) and last < tokens[1] < given
    assert line.inner_text().startswith(f"Layer 0 of 0 to {len(tokens) - 1} sees {given} of {given} tokens. Mean")
    assert f"Mean over layers: {sum(tokens) / len(tokens):.1f}, " in line.inner_text()
    assert shown(page, "view.transport.kept") == given

    view = page.locator(".aot-explorer")
    view.focus()
    page.keyboard.press("t")
    chosen = shown(page, "view.transport.placeOf(view.selected.token)")
    page.keyboard.press("l")
    assert line.inner_text().startswith(f"Layer 1 of 0 to {len(tokens) - 1} sees {tokens[1]} of {given} tokens, since")
    assert "FastV before layer 1" in line.inner_text()
    assert shown(page, "view.transport.kept") == tokens[1]
    page.keyboard.press("Shift+L")
    assert shown(page, "[view.layer, view.transport.placeOf(view.selected.token)]") == [0, chosen]

    slider.focus()
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == f"layer {len(tokens) - 1}, {last} tokens"
    assert slider.get_attribute("aria-valuemax") == str(len(tokens) - 1)
    assert shown(page, "view.transport.kept") == last
    # Some that are left took others in, and tokens that are gone say when they went and into which.
    taker = shown(page, "[...view.step.of.keys()].find((token) => view.step.joinedTo(token).length)")
    page.evaluate(f"({VIEW})().selectToken({taker})")
    assert "went into it inside the LLM" in words(page)
    for shape, said in (("length", "HoliTom Inner): went into"), ("length === 0", "FastV): in none of the tokens")):
        gone = shown(
            page,
            "Array.from({ length: view.layers.transport.kept }, (_, each) => each).find("
            f"(each) => view.step.tokenOf(each) === undefined && view.step.wentTo(each).{shape})",
        )
        place = shown(page, f"view.layers.transport.placeOf({gone})")
        page.evaluate(f"({VIEW})().showFrame({place['frame']})")
        page.evaluate(f"({VIEW})().selected = {{ gone: {gone} }}; ({VIEW})().render()")
        assert said in words(page)
    SCREENSHOTS.mkdir(exist_ok=True)
    settle(page)
    page.screenshot(path=SCREENSHOTS / f"explorer_layers_{renderer}.png")

    box = slider.bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + 10)
    assert shown(page, "view.layer") == 0
    assert page.evaluate("app.graph._nodes.length") == 9


def test_without_stages_inside_there_are_no_layers(page):
    opened(page, frames=4)
    run(page)
    assert not page.locator(".aot-explorer .aot-layers").is_visible()
    assert not page.locator(".aot-explorer .aot-layer").is_visible()
    page.locator(".aot-explorer").focus()
    page.keyboard.press("l")
    assert shown(page, "view.layer") == 0
