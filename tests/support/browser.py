"""ComfyUI's page, as somebody uses it."""

import time
from pathlib import Path

FROZEN = Path(__file__).parents[1] / "frozen"
SCREENSHOTS = Path(__file__).parents[1] / "comfyui" / "screenshots"
PACK = "comfyui-aot"
TEMPLATE = "aot_full_pipeline"
"""The workflow that most tests open: one video, both phases, one answer, the map."""
RUN = '[data-testid="queue-button"]:is(button), [data-testid="queue-button"] button'


def open_template(page):
    """Opens the workflow that most tests use, as somebody does who drops it on the page."""
    open_file(page, FROZEN / f"{TEMPLATE}.json")
    page.wait_for_function("app.graph._nodes.some((node) => node.type === 'AOTAnswer')")
    page.wait_for_timeout(1000)


def clear(page):
    """Leaves nothing on the canvas."""
    page.wait_for_timeout(3000)  # the page opens a workflow of its own
    page.evaluate("void app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_timeout(1500)
    page.wait_for_function("app.graph._nodes.length === 0")


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
    page.wait_for_timeout(1000)


NODES_2 = 49
"""From frontend 1.49 on Nodes 2.0, which draws nodes as page elements, is no experiment."""


def has_nodes_2(page):
    """Whether the frontend is new enough to draw every node as a page element."""
    return page.evaluate("Number(window.__COMFYUI_FRONTEND_VERSION__.split('.')[1])") >= NODES_2


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
    page.wait_for_timeout(1500)


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
    page.wait_for_timeout(500)


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
