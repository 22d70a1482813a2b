"""What nodes report in ComfyUI's own page: it stays, once, in both renderers, in subgraphs, and after a reload."""

import time

import pytest

from comfyui_aot.tests.support.browser import RUN, SCREENSHOTS, of, run, settle, wait_for_the_editor

ROOT = "(app.rootGraph ?? app.graph)"
REPORTS = f"""() => Object.fromEntries(
    [{ROOT}, ...{ROOT}.subgraphs.values()].flatMap((graph) => graph.nodes).flatMap((node) => {{
        const report = node.widgets?.find((each) => each.name === 'aot_report')?.element;
        return report ? [[String(node.id), [...report.children].map((each) => each.textContent)]] : [];
    }}))"""
DEPRECATED = """
    const waiting = setInterval(() => {
        if (!window.LiteGraph?.onDeprecationWarning) return;
        clearInterval(waiting);
        window.deprecated = [];
        LiteGraph.alwaysRepeatWarnings = true;
        LiteGraph.onDeprecationWarning.push((message) => deprecated.push(`${message} ${new Error().stack}`));
    }, 1);
"""
"""Notes what deprecation the editor tells of, and who caused it."""


def prompt(question):
    """A short question about two frames, reduced; numbers no default workflow has."""
    return {
        "101": {"class_type": "AOTLoadVideo", "inputs": {"video": "bigbuckbunny.mp4", "frames": 2}},
        "102": {"class_type": "AOTLoadVLLM", "inputs": {"model": "embedded"}},
        "103": {"class_type": "AOTEncodeVideo", "inputs": {"vllm": ["102", 0], "frames": ["101", 0]}},
        "104": {"class_type": "AOTIntraFrame", "inputs": {"tokens": ["103", 0], "retention": 0.3}},
        "105": {"class_type": "AOTAnswer", "inputs": {
            "vllm": ["102", 0], "tokens": ["104", 0], "question": question, "max_new_tokens": 4}},
    }  # fmt: skip


def unheard():
    """A question that no run before had, so that its answer is not in the cache."""
    return f"What is it? {time.monotonic_ns()}"


def first_nodes_2(page):
    """Whether the frontend is the floor's own, whose Nodes 2.0 was an experiment."""
    return page.evaluate("window.__COMFYUI_FRONTEND_VERSION__").startswith("1.27.")


def opened(page, question):
    """Opens the graph as a workflow of its own, the answer in the middle of the page."""
    page.evaluate(
        """async (prompt) => {
            await app.loadApiJson(prompt, 'reports');
            for (const node of app.graph.nodes) node.pos = [-500, 300 * (node.id - 103)];
            app.graph.nodes.find((node) => node.type === 'AOTAnswer').pos = [100, 0];
            await app.loadGraphData(app.graph.serialize());
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset = [600, 100];
            app.canvas.setDirty(true, true);
        }""",
        prompt(question),
    )
    settle(page)


def reports(page):
    """What every node reports, by the node's id."""
    return page.evaluate(REPORTS)


def given(server):
    """What every node gave in the last run."""
    (entry,) = list(server.client.get("/history?max_items=1").values())
    return {key: entry["outputs"][key]["text"] for key in entry["outputs"]}


def test_a_report_stays_after_the_run_and_a_reload_and_is_not_saved(renderer, page, server):
    opened(page, unheard())
    page.evaluate(
        """() => {
            window.shown = [];
            app.api.addEventListener('progress_text', ({ detail }) => requestAnimationFrame(() => {
                if (`${detail.nodeId}` !== '105') return;
                const texts = [...document.querySelectorAll('.dom-widget, [data-node-id="105"]')];
                const words = texts.map((each) => each.innerText).join(' ');
                window.shown.push(words.split(detail.text).length - 1);
            }));
        }"""
    )
    run(page)
    assert page.evaluate("window.shown").count(1) == len(page.evaluate("window.shown")) > 0
    before = given(server)
    assert set(before) == {"101", "102", "103", "104", "105"}
    assert reports(page) == before
    assert page.locator(".aot-report.aot-answer").count() == 1
    assert page.locator(".aot-report.aot-answer").is_visible()
    assert before["105"][0] not in str(page.evaluate("app.graph.serialize().nodes.map((node) => node.properties)"))
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"reports_{renderer}.png")

    page.reload()
    wait_for_the_editor(page)
    page.wait_for_function(f"Object.values(({REPORTS})()).every((texts) => texts.length)")
    assert reports(page) == before
    assert page.locator(".aot-report.aot-answer").count() == 1


def test_nodes_whose_results_were_cached_report_them(page, browser, server):
    question = unheard()
    opened(page, question)
    of(page, "AOTAnswer", "node.widgets.find((each) => each.name === 'seed').linkedWidgets?.forEach("
       "(each) => { each.value = 'fixed' })")  # fmt: skip
    run(page)
    before = given(server)
    context = browser.new_context()
    another = context.new_page()
    another.goto(f"http://{server.address}")
    wait_for_the_editor(another)
    opened(another, question)
    of(another, "AOTAnswer", "node.widgets.find((each) => each.name === 'seed').value = 0")
    assert not any(reports(another).values())
    run(another)
    another.wait_for_function(f"Object.values(({REPORTS})()).every((texts) => texts.length)")
    assert {key: reports(another)[key] for key in ("101", "102", "103", "104")} == {
        key: before[key] for key in ("101", "102", "103", "104")
    }
    context.close()


def test_nodes_inside_a_subgraph_report_as_well(renderer, page, server):
    opened(page, unheard())
    page.evaluate(
        """() => {
            const inside = app.graph.nodes.filter(({ type }) => ['AOTIntraFrame', 'AOTAnswer'].includes(type));
            app.graph.convertToSubgraph(new Set(inside));
            const { nodes } = [...app.graph.subgraphs.values()].at(-1);
            const { widgets } = nodes.find((node) => node.type === 'AOTAnswer');
            widgets.find(({ name }) => name === 'question').value += '?';
        }"""
    )
    settle(page)
    run(page)
    before = given(server)
    inside = {key.rpartition(":")[2]: texts for key, texts in before.items()}
    assert {key for key in before if ":" in key} and reports(page) == inside
    page.reload()
    wait_for_the_editor(page)
    page.wait_for_function(f"Object.values(({REPORTS})()).every((texts) => texts.length)")
    assert reports(page) == inside
    page.evaluate(
        "() => { const node = app.graph.nodes.find((each) => each.isSubgraphNode?.());"
        " app.canvas.openSubgraph(node.subgraph, node) }"
    )
    settle(page)
    if renderer == "vue" and first_nodes_2(page):
        return  # It is not on the page there.
    assert page.locator(".aot-report.aot-answer").count() == 1
    assert page.locator(".aot-report.aot-answer").inner_text().startswith(inside["105"][0])


def test_advanced_settings_are_hidden_until_they_are_asked_for(renderer, page):
    if renderer == "vue" and first_nodes_2(page):
        pytest.skip("Nodes 2.0 of this frontend, an experiment then, shows advanced settings always")
    opened(page, unheard())
    advanced = of(page, "AOTAnswer", "node.widgets.filter((each) => each.options.advanced).map((each) => each.name)")
    assert advanced == ["system", "unload", "repetition_penalty"]
    if renderer == "vue":
        node = page.locator('[data-node-id="105"]')
        setting = node.get_by_text("unload", exact=True)
        assert not setting.is_visible()
        node.get_by_text("Show advanced inputs").click()
        setting.wait_for(state="visible", timeout=10_000)
    else:
        height = "node.widgets.find((each) => each.name === 'system').element.getBoundingClientRect().height"
        assert of(page, "AOTAnswer", height) == 0
        of(page, "AOTAnswer", "node.toggleAdvanced()")
        settle(page)
        assert of(page, "AOTAnswer", height) > 30
    assert page.locator(".aot-report.aot-answer").is_visible()


def test_the_console_has_nothing_to_say_about_us(page, server):
    said = []
    page.on("console", lambda message: said.append(f"{message.type} {message.text} {message.location}"))
    page.on("pageerror", lambda error: said.append(f"error {error} {error.stack}"))
    page.add_init_script(DEPRECATED)
    page.reload()
    wait_for_the_editor(page)
    opened(page, unheard())
    of(page, "AOTIntraFrame", "app.canvas.selectNode(node)")
    of(page, "AOTIntraFrame", "node.toggleAdvanced()")
    page.evaluate(
        """() => {
            const node = app.graph.nodes.find((each) => each.type === 'AOTIntraFrame');
            const options = app.collectNodeMenuItems?.(node) ?? [];
            if (!options.length) node.getExtraMenuOptions(app.canvas, options);
            const swap = options.find((each) => each?.content === 'Swap Stage');
            swap.submenu.options.find(({ content }) => content.includes('VScan')).callback();
        }"""
    )
    settle(page)
    assert of(page, "AOTVScan", "node.isInputConnected(0) && node.isOutputConnected(0)")
    run(page)
    ours = "extensions/comfyui-aot"
    deprecated = page.evaluate("window.deprecated")
    assert not [each for each in deprecated if ours in each]
    # The small warnings of a frontend about itself, and what it does not find on an older server, are not ours.
    assert not [each for each in said if not each.startswith(("log", "debug", "info")) and ours in each]


def test_a_stage_in_a_subgraph_is_swapped_with_its_links_to_the_outside(page):
    opened(page, unheard())
    page.evaluate(
        """() => {
            const stage = app.graph.nodes.find((node) => node.type === 'AOTIntraFrame');
            app.graph.convertToSubgraph(new Set([stage]));
        }"""
    )
    settle(page)
    page.evaluate(
        """() => {
            const holder = app.graph.nodes.find((each) => each.isSubgraphNode?.());
            app.canvas.openSubgraph(holder.subgraph, holder);
            const [node] = holder.subgraph.nodes;
            const options = app.collectNodeMenuItems?.(node) ?? [];
            if (!options.length) node.getExtraMenuOptions(app.canvas, options);
            const swap = options.find((each) => each?.content === 'Swap Stage');
            swap.submenu.options.find(({ content }) => content.includes('VScan')).callback();
        }"""
    )
    settle(page)
    assert page.evaluate(
        "(() => { const [node] = app.graph.nodes.find((each) => each.isSubgraphNode?.()).subgraph.nodes;"
        " return [node.type, node.isInputConnected(0), node.isOutputConnected(0)] })()"
    ) == ["AOTVScan", True, True]
    page.evaluate("app.canvas.setGraph(app.graph)")
    page.click(RUN)
    page.wait_for_function(f"({REPORTS})()['105'].length === 2", timeout=200_000)


REFUSED = """() => [...document.querySelectorAll('[data-aot-error]')].map((each) => each.dataset.aotError)"""


def ask_for(page, kind, widget, value):
    """Sets a widget of the only node of a kind and runs, whatever comes of it."""
    page.evaluate(
        """async ([kind, widget, value]) => {
            const node = app.graph.nodes.find((each) => each.type === kind);
            node.widgets.find((each) => each.name === widget).value = value;
            await app.queuePrompt(0);
        }""",
        [kind, widget, value],
    )


def test_why_a_node_was_refused_or_failed_stands_on_it_until_the_next_run(renderer, page, server):
    opened(page, unheard())
    ask_for(page, "AOTLoadVideo", "video", "gone.mp4")
    page.wait_for_function(f"({REFUSED})().length === 1")
    (line,) = page.evaluate(REFUSED)
    assert "gone.mp4" in line and not line.startswith("video - ")

    ask_for(page, "AOTLoadVideo", "video", "bigbuckbunny.mp4")
    ask_for(page, "AOTIntraFrame", "retention", 0.0001)
    page.wait_for_function(f"({REFUSED})().length === 1 && !({REFUSED})()[0].includes('gone.mp4')", timeout=60_000)
    (line,) = page.evaluate(REFUSED)
    assert "0.0001" in line and "Error:" not in line
    shown = page.locator("[data-aot-error]").evaluate("(each) => getComputedStyle(each, '::before').content")
    assert "0.0001" in shown
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"refused_{renderer}.png")

    ask_for(page, "AOTIntraFrame", "retention", 0.3)
    page.wait_for_function(f"({REFUSED})().length === 0", timeout=60_000)
