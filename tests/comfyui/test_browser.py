"""The pack in ComfyUI's own page, as somebody sees it who opens the bundled template and presses Run."""

import json

from comfyui_aot.aot.stages.methods.anchor_ot.inter import InterFrame
from comfyui_aot.aot.stages.options import settings_of
from comfyui_aot.tests.support.browser import SCREENSHOTS, TEMPLATE, look_at, of, open_template, point, run, settle


def test_the_template_opens_runs_and_shows_its_answer_and_its_picture(page, server):
    open_template(page)
    sizes = page.evaluate("app.graph._nodes.map((node) => [node.type, ...node.size])")
    run(page)
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{TEMPLATE}.png")

    (entry,) = list(server.client.get("/history?max_items=1").values())
    answer = of(page, "AOTAnswer", "String(node.id)")
    text, figures = entry["outputs"][answer]["text"]
    look_at(page, "AOTAnswer")
    report = page.locator(".aot-report.aot-answer")
    assert report.count() == 1
    assert report.is_visible()
    assert report.inner_text().startswith(text)
    assert figures.splitlines()[0] in report.inner_text()

    image = of(page, "AOTTokenMap", "[node.imgs.length, node.imgs[0].complete, node.imgs[0].naturalWidth]")
    assert image[:2] == [1, True]
    assert image[2] > 1000
    assert page.evaluate("app.graph._nodes.map((node) => [node.type, ...node.size])") == sizes


def test_every_other_node_shows_one_line_about_what_it_did(page):
    open_template(page)
    of(page, "AOTLoadVideo", "node.widgets.find((each) => each.name === 'frames').value = 2")
    of(page, "AOTAnswer", "node.widgets.find((each) => each.name === 'max_new_tokens').value = 2")
    # Otherwise nodes that an earlier test has run report nothing.
    of(page, "AOTIntraFrame", "node.widgets.find((each) => each.name === 'budget').value = 144")
    run(page)
    assert page.locator(".aot-clip img").count() == 1
    look_at(page, "AOTLoadVideo")
    assert "bigbuckbunny.mp4: 2 frames" in page.locator(".aot-report").all_inner_texts()[0]
    look_at(page, "AOTIntraFrame")
    assert any("392 to " in text for text in page.locator(".aot-report").all_inner_texts())


def test_a_report_is_not_saved_with_the_workflow(page):
    open_template(page)
    for report in page.locator(".aot-report").all():
        report.evaluate("(element) => { element.textContent = 'reported' }")
    assert "reported" not in json.dumps(page.evaluate("app.graph.serialize()"))


def test_the_editor_queues_what_the_file_is_read_as(page, prompt):
    open_template(page)
    queued = page.evaluate("app.graphToPrompt().then((both) => both.output)")
    # The editor also sends what its own upload button and video preview hold; no node takes that.
    extra = ("upload", "video-preview")
    inputs = {key: {k: v for k, v in node["inputs"].items() if k not in extra} for key, node in queued.items()}
    assert inputs == {key: node["inputs"] for key, node in prompt.items()}


def test_a_file_from_before_a_nodes_newest_inputs_has_its_values_in_their_places(page):
    open_template(page)
    values = "Object.fromEntries(node.widgets.map(({ name, value }) => [name, value]))"
    loaded = of(page, "AOTLoadVideo", values)
    assert (loaded["frames"], loaded["size"], loaded["fewer"], loaded["upload"]) == (16, 0, False, "image")
    of(page, "AOTLoadVideo", "node.widgets.find((each) => each.name === 'fewer').value = true")
    page.evaluate("app.loadGraphData(app.graph.serialize())")
    page.wait_for_timeout(1000)
    loaded = of(page, "AOTLoadVideo", values)
    assert (loaded["size"], loaded["fewer"], loaded["upload"]) == (0, True, "image")
    older = """() => {
        const node = LiteGraph.createNode("AOTAskVideo"), saved = node.serialize();
        const at = saved.widgets_values.length - 3;
        node.configure({ ...saved, widgets_values: [...saved.widgets_values.slice(0, at - 1), true, "image"] });
        return VALUES;
    }"""
    asks = page.evaluate(older.replace("VALUES", values))
    assert (asks["unload"], asks["sample_fps"], asks["fewer"], asks["upload"]) == (True, 0, False, "image")


def test_the_help_page_opens_from_the_node(page):
    open_template(page)
    of(page, "AOTIntraFrame", "app.canvas.selectNode(node)")
    page.locator('[data-testid="info-button"], .selection-toolbox .pi-question-circle').first.click()
    page.get_by_text("Phase I of AOT").wait_for(timeout=10_000)


def test_a_tooltip_appears_on_a_widget(page):
    open_template(page)
    page.mouse.move(*point(page, "AOTIntraFrame", "budget"))
    tooltip = page.locator(".node-tooltip")
    tooltip.wait_for(timeout=5_000)
    assert "nchors" in tooltip.inner_text()


def test_advanced_settings_take_room_only_when_they_are_shown(page):
    open_template(page)
    state = "[node.size[1], node.widgets.find((each) => each.type === 'aot_report').y]"
    shut = of(page, "AOTInterFrame", state)
    of(page, "AOTInterFrame", "node.toggleAdvanced()")
    settle(page)
    hidden = of(page, "AOTInterFrame", "node.widgets.filter((each) => each.advanced).length")
    opened = of(page, "AOTInterFrame", state)
    assert hidden == sum(setting.advanced for setting in settings_of(InterFrame).values())
    assert opened[1] - shut[1] == hidden * 24
    assert opened[0] > opened[1]


def test_the_upload_button_uploads_and_chooses_the_file(page, server, carphone, tmp_path):
    clip = tmp_path / "uploaded.mp4"
    clip.write_bytes(carphone.read_bytes())
    open_template(page)
    with page.expect_file_chooser() as chooser:
        page.mouse.click(*point(page, "AOTLoadVideo", "upload"))
    with page.expect_response("**/upload/image"):  # from 1.58 the name is shown before the file is there
        chooser.value.set_files(clip)
    page.wait_for_function(
        "app.graph._nodes.find((node) => node.type === 'AOTLoadVideo').widgets[0].value === 'uploaded.mp4'"
    )
    assert (server.base / "input" / "uploaded.mp4").read_bytes() == clip.read_bytes()


def test_a_report_is_still_there_when_its_tab_is_left_and_returned_to(page):
    open_template(page)
    of(page, "AOTAnswer", "node.widgets.find((each) => each.name === 'max_new_tokens').value = 2")
    of(page, "AOTLoadVideo", "node.widgets.find((each) => each.name === 'frames').value = 2")
    run(page)
    look_at(page, "AOTAnswer")
    before = page.locator(".aot-report.aot-answer").inner_text()
    page.evaluate("void app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("!app.graph._nodes.some((node) => node.type === 'AOTAnswer')")
    page.locator(".workflow-tabs").get_by_text(TEMPLATE).first.click()
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTAnswer')")
    settle(page)
    look_at(page, "AOTAnswer")
    assert page.locator(".aot-report.aot-answer").inner_text() == before


def test_a_new_node_is_as_tall_as_what_it_shows(page):
    few, many = page.evaluate(
        """() => ["AOTFastV", "AOTSemVID"].map((kind) => {
            const node = LiteGraph.createNode(kind);
            app.graph.add(node);
            const shown = node.widgets.filter(({ advanced, name }) => !advanced && name !== 'aot_report');
            const figures = [shown.length, node.widgets.length, node.size[1]];
            app.graph.remove(node);
            return figures;
        })"""
    )
    assert few[0] == many[0] == 2 and many[1] > few[1] + 10
    assert few[2] == many[2]


def test_a_stage_is_swapped_from_its_menu_and_keeps_its_links_and_settings(page):
    open_template(page)
    of(page, "AOTLoadVideo", "node.widgets.find((each) => each.name === 'frames').value = 2")
    of(page, "AOTAnswer", "node.widgets.find((each) => each.name === 'max_new_tokens').value = 2")
    of(page, "AOTIntraFrame", "node.widgets.find((each) => each.name === 'retention').value = 0.5")
    of(page, "AOTInterFrame", "node.title = 'Intra-Frame Anchor OT'")
    links = "[node.inputs[0].link !== null, node.outputs[0].links.length, ...node.pos]"
    before = of(page, "AOTIntraFrame", links)
    page.mouse.click(*point(page, "AOTIntraFrame", "retention"), button="right")
    page.locator(".litemenu-entry", has_text="Swap Stage").click()
    page.locator(".litemenu-entry", has_text="VScan").click()
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTVScan')")
    assert not page.evaluate("app.graph._nodes.some((node) => node.type === 'AOTIntraFrame')")
    assert of(page, "AOTVScan", links) == before
    assert of(page, "AOTVScan", "node.widgets.find((each) => each.name === 'retention').value") == 0.5
    assert of(page, "AOTInterFrame", "node.title") == "VScan"
    run(page)
    look_at(page, "AOTVScan")
    assert "392 to 196 tokens, 50.0% of 392" in " ".join(page.locator(".aot-report").all_inner_texts())
    page.keyboard.press("Control+z")
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTIntraFrame')")
    assert of(page, "AOTIntraFrame", links) == before


def test_an_answer_is_shown_once_while_it_is_written_and_after(page):
    open_template(page)
    of(page, "AOTLoadVideo", "node.widgets.find((each) => each.name === 'frames').value = 3")
    look_at(page, "AOTAnswer")
    page.evaluate(
        "window.seen = []; app.api.addEventListener('progress_text', () => setTimeout(() => window.seen.push("
        "document.body.innerText.match(/orange|blue|green|red|yellow|white|black/g)?.length ?? 0), 50))"
    )
    run(page)
    assert page.locator(".aot-report.aot-answer").count() == 1
    assert max(page.evaluate("window.seen"), default=1) <= 1
    shown = of(page, "AOTAnswer", "node.widgets.filter((each) => !each.hidden).map((each) => each.name)")
    assert len([name for name in shown if name in ("aot_report", "$$node-text-preview")]) == 1
