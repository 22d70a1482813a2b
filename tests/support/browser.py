"""ComfyUI's page, as somebody uses it."""

import time
from pathlib import Path

FROZEN = Path(__file__).parents[1] / "frozen"
SCREENSHOTS = Path(__file__).parents[1] / "comfyui" / "screenshots"
PACK = "comfyui-aot"
TEMPLATE = "aot_full_pipeline"
"""The workflow that most tests open: one video, both phases, one answer, the map."""
STILL = """([quiet, longest]) => {
    const { ds } = app.canvas, now = performance.now();
    const nodes = app.graph._nodes.map(({ type, pos, size, widgets, imgs }) =>
        [type, ...pos, ...size, widgets?.length, imgs?.length]);
    const elements = [...document.querySelectorAll(".dom-widget, [data-node-id], [role=dialog]")].map((each) => {
        const { x, y, width, height } = each.getBoundingClientRect();
        return [x, y, width, height];
    });
    const all = [document.querySelectorAll("*").length, document.body.textContent.length];
    const pictures = [...document.images].filter((each) => !each.complete).length;
    const seen = JSON.stringify([ds.scale, ...ds.offset, nodes, elements, all, pictures]);
    const still = window.still ??= { began: now, seen, since: now };
    if (seen !== still.seen) Object.assign(still, { seen, since: now });
    return now - still.since >= quiet && !pictures || now - still.began >= longest;
}"""
"""Whether nothing that is shown has changed for so many milliseconds, or as many have gone by as shall at most."""
RUN = '[data-testid="queue-button"]:is(button), [data-testid="queue-button"] button'


READY = """window.LiteGraph?.registered_node_types?.AOTAnswer && window.app?.graph
    && app.extensionManager?.workflow?.activeWorkflow"""
"""Whether the page has the pack's nodes and has opened a workflow of its own."""


def wait_for_the_editor(page):
    """Waits until the page is loaded."""
    page.wait_for_function(READY, timeout=60_000)
    settle(page)


def settle(page, quiet=300, longest=3000):
    """Waits until the page has been still for `quiet` milliseconds, for `longest` at most."""
    page.evaluate("window.still = undefined")
    page.wait_for_function(STILL, arg=[quiet, longest], polling=50)


def of_another_pack(saved, object_info):
    """The kinds of a workflow's nodes that a server does not know."""
    return {node["type"] for node in saved["nodes"]} - {*object_info, "MarkdownNote"}


def open_template(page):
    """Opens the workflow that most tests use, as somebody does who drops it on the page."""
    open_file(page, FROZEN / f"{TEMPLATE}.json")
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTAnswer')")
    settle(page)


def clear(page):
    """Leaves nothing on the canvas."""
    page.evaluate("void app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("app.graph._nodes.length === 0")
    settle(page)


def browse_template(page, name):
    """Opens a bundled workflow through the template browser."""
    page.evaluate("void app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = page.locator('[role="dialog"]')
    card = dialog.get_by_text(name, exact=True).first
    deadline = time.monotonic() + 60
    while not card.is_visible() and time.monotonic() < deadline:
        # The page goes back to its first category when the list of templates arrives after the click.
        dialog.get_by_text(PACK, exact=True).first.click()
        page.wait_for_timeout(1000)
    card.click()
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTAnswer')")
    settle(page)


NODES_2 = 49
"""From frontend 1.49 on Nodes 2.0, which draws nodes as page elements, is no experiment."""


def has_nodes_2(page):
    """Whether the frontend is new enough to draw every node as a page element."""
    return page.evaluate("Number(window.__COMFYUI_FRONTEND_VERSION__.split('.')[1])") >= NODES_2


def draw_with(page, nodes_2):
    """Has the page draw the nodes as its own elements, or on the editor's canvas."""
    page.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", nodes_2)
    page.wait_for_function(
        "(on) => !app.graph._nodes.length || !!document.querySelector('[data-node-id]') === on", arg=nodes_2
    )
    settle(page)


def open_file(page, path):
    """Opens a file as somebody does who drops it on the page."""
    page.set_input_files("#comfy-file-input", path)


def listen(page):
    """Notes how the next run ends."""
    page.evaluate(
        "window.ended = null; for (const end of ['execution_success', 'execution_error', 'execution_interrupted'])"
        " app.api.addEventListener(end, () => { window.ended = end })"
    )


def ended(page, end="execution_success", timeout=200_000):
    """Waits for the end of a run, which must be this one."""
    page.wait_for_function("window.ended", timeout=timeout)
    assert page.evaluate("window.ended") == end
    settle(page, quiet=800)


def run(page, timeout=200_000):
    """Presses Run and waits for the end."""
    listen(page)
    page.click(RUN)
    ended(page, timeout=timeout)


def of(page, kind, expression):
    """The value of a JavaScript expression about `node`, the only node of a kind."""
    return page.evaluate(
        f"(kind) => {{ const node = app.graph._nodes.find((each) => each.type === kind); return {expression} }}", kind
    )


def look_at(page, kind):
    """Brings the only node of a kind into view, at full size: far away, newer frontends draw no text."""
    of(
        page,
        kind,
        "(() => { const { ds, canvas } = app.canvas; ds.scale = 1;"
        " ds.offset = [canvas.clientWidth / 2 - node.pos[0] - node.size[0] / 2, 120 - node.pos[1]];"
        " app.canvas.setDirty(true, true) })()",
    )
    settle(page)


def point(page, kind, widget):
    """Where on the page the middle of a widget is."""
    return page.evaluate(
        """([kind, name]) => {
            const node = app.graph._nodes.find((each) => each.type === kind);
            const widget = node.widgets.find((each) => each.name === name);
            const [x, y] = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10];
            const { scale, offset } = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect();
            return [box.left + (x + offset[0]) * scale, box.top + (y + offset[1]) * scale];
        }""",
        [kind, widget],
    )
