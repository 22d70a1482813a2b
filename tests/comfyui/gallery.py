"""The pictures of docs/gallery: every template after a run, or as it opens where a run needs what is not here.

`make gallery` takes them. It is no test: what the pictures show is looked at.
"""

import json
from pathlib import Path

import pytest

from comfyui_aot.tests.support.browser import of_another_pack, open_file, run, settle

CHECKOUT = Path(__file__).parents[2]
WORKFLOWS = sorted((CHECKOUT / "workflows").glob("*.json"))
AS_THEY_OPEN = {"11 vLLM server", "12 Ask with the text encoder you have"}
MARGIN = 10
QUALITY = 88
NOTICE = 6_000
"""Milliseconds that newer frontends show over the canvas that a run has ended."""

SHOWN = """() => {
    const { scale, offset } = app.canvas.ds, page = app.canvas.canvas.getBoundingClientRect();
    const boxes = [...app.graph._groups, ...app.graph._nodes].map((each) => {
        const [x, y, width, height] = each.boundingRect ?? each.getBounding();
        return [x, y, x + width, y + height];
    });
    const at = (end, pick) => pick(...boxes.map((box) => box[end]));
    const x = (at(0, Math.min) + offset[0]) * scale + page.left, y = (at(1, Math.min) + offset[1]) * scale + page.top;
    const right = (at(2, Math.max) + offset[0]) * scale + page.left;
    const bottom = (at(3, Math.max) + offset[1]) * scale + page.top;
    return { x, y, width: right - x, height: bottom - y };
}"""
"""The rectangle of the page that holds all groups and nodes."""

WITHOUT_BAR = ".actionbar-container, .actionbar { display: none !important }"
"""Hides the bar with Run in it, which newer frontends have over the canvas."""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_picture(page, object_info, path):
    saved = json.loads(path.read_text())
    missing = of_another_pack(saved, object_info)
    assert not missing, f"{missing} of another pack: make comfyui SUITE=CHECKOUT"
    open_file(page, path)
    page.wait_for_function("(count) => app.graph._nodes.length === count", arg=len(saved["nodes"]))
    settle(page, quiet=800)
    if path.stem not in AS_THEY_OPEN:
        run(page, timeout=900_000)
        page.wait_for_timeout(NOTICE)
    page.add_style_tag(content=WITHOUT_BAR)
    box = page.evaluate(SHOWN)
    around = {
        "x": box["x"] - MARGIN,
        "y": box["y"] - MARGIN,
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + 2 * MARGIN,
    }
    picture = CHECKOUT / "docs" / "gallery" / f"{path.stem[:2]}.jpg"
    page.screenshot(path=picture, type="jpeg", quality=QUALITY, clip=around)
