"""Swap Stage in ComfyUI's own page: what it offers at each of the places where stages act, and what it keeps."""

import pytest

from comfyui_aot.aot.stages import every_stage
from comfyui_aot.tests.support.browser import has_nodes_2, look_at, of, settle

PROMPT = {
    "201": {"class_type": "AOTLoadVideo", "inputs": {"video": "bigbuckbunny.mp4", "frames": 4}},
    "202": {"class_type": "AOTLoadVLLM", "inputs": {"model": "embedded"}},
    "203": {"class_type": "AOTFewerFrames", "inputs": {"video": ["201", 0], "vllm": ["202", 0], "frames": 3}},
    "204": {"class_type": "AOTEarlyTom", "inputs": {"video": ["203", 0]}},
    "205": {"class_type": "AOTEncodeVideo", "inputs": {"vllm": ["202", 0], "frames": ["204", 0]}},
    "206": {"class_type": "AOTAskAbout", "inputs": {"vllm": ["202", 0], "tokens": ["205", 0], "question": "Who?"}},
    "207": {"class_type": "AOTCDPruner", "inputs": {"tokens": ["206", 0], "retention": 0.3}},
    "208": {"class_type": "AOTFastV", "inputs": {"tokens": ["207", 0], "layer": 3, "keep": 0.3}},
    "209": {"class_type": "AOTAnswer", "inputs": {"vllm": ["202", 0], "tokens": ["208", 0], "question": "Who?"}},
}
MENU = """(node) => {
    const options = app.collectNodeMenuItems?.(node) ?? [];
    if (!options.length) node.getExtraMenuOptions(app.canvas, options);
    return options.find((each) => each?.content === 'Swap Stage')?.submenu.options ?? [];
}"""
OFFERED = f"""(kinds) => kinds.map((kind) => {{
    const node = LiteGraph.createNode(kind);
    app.graph.add(node);
    const offered = ({MENU})(node).map(({{ content }}) => content);
    app.graph.remove(node);
    return offered;
}})"""
LINKS = """(() => {
    const to = node.inputs.flatMap(({ name, link }) => {
        const from = app.graph.links.get?.(link) ?? app.graph.links[link];
        return from ? [[name, from.origin_id, from.origin_slot]] : [];
    });
    const out = (node.outputs[0].links ?? []).map((link) => {
        const next = app.graph.links.get?.(link) ?? app.graph.links[link];
        return app.graph.getNodeById(next.target_id).type;
    });
    return [to.map((each) => each.map(String)), out, [...node.pos].map(Math.round)];
})()"""


def opened(page):
    """Opens a workflow with a stage at every place."""
    page.evaluate("(prompt) => void app.loadApiJson(prompt, 'swapped')", PROMPT)
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTFastV')")
    settle(page)


def swap(page, kind, title):
    """Chooses an entry of the menu of the only node of a kind."""
    of(page, kind, f"({MENU})(node).find(({{ content }}) => content === '{title}').callback()")
    settle(page)


def value(page, kind, name):
    return of(page, kind, f"node.widgets.find((each) => each.name === '{name}').value")


def test_a_stage_is_offered_those_that_act_at_its_place(page):
    kinds = [kind for kind in every_stage().values() if kind.node_id]
    offered = page.evaluate(OFFERED, [kind.node_id for kind in kinds])
    for kind, titles in zip(kinds, offered, strict=True):
        others = {each.title for each in kinds if each.acts == kind.acts and each is not kind}
        assert sorted(titles, key=str.lower) == sorted(others, key=str.lower), kind.title


@pytest.mark.parametrize(
    ("kind", "other", "title", "kept"),
    [
        ("AOTFewerFrames", "AOTFramesThatDiffer", "Frames that Differ", {"frames": 3}),
        ("AOTCDPruner", "AOTSemVID", "SemVID", {"retention": 0.3}),
        ("AOTFastV", "AOTHoliTomInner", "HoliTom Inner", {"layer": 3, "keep": 0.3}),
    ],
)
def test_a_swap_keeps_links_and_settings_and_is_undone(page, renderer, kind, other, title, kept):
    opened(page)
    before = of(page, kind, LINKS)
    assert before[0] and before[1]
    swap(page, kind, title)
    assert not page.evaluate("(kind) => app.graph._nodes.some((node) => node.type === kind)", kind)
    assert of(page, other, LINKS) == before
    assert {name: value(page, other, name) for name in kept} == kept
    page.keyboard.press("Control+z")
    page.wait_for_function("(kind) => app.graph._nodes.some((node) => node.type === kind)", arg=kind)
    settle(page)
    assert not page.evaluate("(kind) => app.graph._nodes.some((node) => node.type === kind)", other)
    assert of(page, kind, LINKS) == before
    assert {name: value(page, kind, name) for name in kept} == kept


def test_a_budget_that_the_other_stage_refuses_is_left_behind(page):
    opened(page)
    swap(page, "AOTCDPruner", "HoliTom")
    of(page, "AOTHoliTom", "node.widgets.find((each) => each.name === 'retention').value = 0")
    swap(page, "AOTHoliTom", "CDPruner")
    assert value(page, "AOTCDPruner", "retention") > 0


def test_it_is_chosen_in_the_menu(renderer, page):
    if renderer == "vue" and not has_nodes_2(page):
        pytest.skip("Nodes 2.0 of this frontend, an experiment then, has no menu of a node's own")
    opened(page)
    look_at(page, "AOTFastV")
    title = of(
        page,
        "AOTFastV",
        """(() => {
            const { scale, offset } = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect();
            const [x, y] = [node.pos[0] + 60, node.pos[1] - 12];
            return [box.left + (x + offset[0]) * scale, box.top + (y + offset[1]) * scale];
        })()""",
    )
    page.mouse.click(*title, button="right")
    page.get_by_text("Swap Stage", exact=True).first.click()
    page.get_by_text("PyramidDrop", exact=True).first.click()
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTPyramidDrop')")
    settle(page)
    page.keyboard.press("Control+z")
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTFastV')")
