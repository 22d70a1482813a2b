"""What Load Video shows of its clip: the file before a run, the sampled frames after it, and nothing broken."""

import pytest

from comfyui_aot.tests.support.browser import SCREENSHOTS, clear, look_at, of, run, settle

RENDERERS = ("canvas", "nodes 2.0")

CHOOSE = (
    "(([clip, frames]) => {{ const widget = (name) => node.widgets.find((each) => each.name === name);"
    " widget('frames').value = frames; widget('video').value = clip; widget('video').callback(clip) }})({})"
)


def choose(page, clip, frames):
    of(page, "AOTLoadVideo", CHOOSE.format(f"[{clip!r}, {frames}]"))
    settle(page, quiet=500)


def failed(page):
    return page.get_by_text("failed to load").count() + page.get_by_text("Error loading").count()


@pytest.fixture(params=RENDERERS)
def loader(page, request):
    """A page with Load Video and what it takes to run it, in each of the editor's renderers."""
    page.evaluate(
        "(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", request.param == "nodes 2.0"
    )
    clear(page)
    page.evaluate(
        """() => {
            const nodes = ["AOTLoadVideo", "AOTFramesToImages", "PreviewImage"].map((type, i) => {
                const node = LiteGraph.createNode(type);
                node.pos = [100 + 420 * i, 100];
                app.graph.add(node);
                return node;
            });
            nodes[0].connect(0, nodes[1], 0);
            nodes[1].connect(0, nodes[2], 0);
        }"""
    )
    settle(page, quiet=500)
    # What an earlier test has run is not run again, and then nothing is shown.
    page.frames_taken = 5 + RENDERERS.index(request.param)
    if request.param == "nodes 2.0" and not page.locator("[data-node-id]", has_text="Load Video (AOT)").count():
        pytest.skip("this frontend does not draw this node as a page element")
    look_at(page, "AOTLoadVideo")
    yield page
    page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")


def test_a_file_is_played_before_a_run_and_its_frames_are_shown_after(loader, request):
    choose(loader, "bigbuckbunny.mp4", loader.frames_taken)
    player = loader.locator(".aot-clip video")
    assert player.count() == 1
    assert player.evaluate("(video) => video.readyState") > 0
    assert loader.locator("video").count() == 1
    size = of(loader, "AOTLoadVideo", "[...node.size]")
    run(loader)
    strip = loader.locator(".aot-clip img")
    assert strip.count() == 1
    assert strip.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [500, 340]
    box = strip.bounding_box()
    assert box["width"] >= 200
    assert box["height"] >= 150
    assert loader.locator("video").count() == 0
    assert failed(loader) == 0
    assert of(loader, "AOTLoadVideo", "[...node.size]") == size
    SCREENSHOTS.mkdir(exist_ok=True)
    loader.screenshot(path=SCREENSHOTS / f"clip {request.node.callspec.id}.png")


def test_the_drawn_clip_shows_no_broken_player_and_takes_the_place_of_a_file(loader):
    choose(loader, "bigbuckbunny.mp4", 3)
    choose(loader, "drawn clip", loader.frames_taken)
    assert loader.locator("video").count() == 0
    assert "draws the clip" in loader.locator(".aot-clip").inner_text()
    assert failed(loader) == 0
    run(loader)
    assert loader.locator(".aot-clip img").count() == 1
    assert f"drawn clip: {loader.frames_taken} frames" in " ".join(loader.locator(".aot-report").all_inner_texts())
    choose(loader, "bigbuckbunny.mp4", 3)
    assert loader.locator(".aot-clip video").count() == 1
    assert loader.locator(".aot-clip img").count() == 0


def test_a_file_that_the_browser_cannot_play_is_said_to_be_such(loader, server):
    (server.base / "input" / "sub").mkdir(exist_ok=True)
    (server.base / "input" / "sub" / "broken.mp4").write_bytes(b"no video")
    choose(loader, "sub/broken.mp4", 3)
    loader.get_by_text("Not played here.").wait_for(timeout=10_000)
    assert loader.locator("video").count() == 0
    assert failed(loader) == 0
