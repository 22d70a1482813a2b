"""The stages of docs/adding-a-stage.md, put beside the others: found, listed, nodes, and as good as their words."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from comfyui_aot.aot import stages as package
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.stages import methods
from comfyui_aot.aot.stages.base import Part
from comfyui_aot.aot.stages.chain import parse, published
from comfyui_aot.aot.tokens.video_tokens import VideoTokens
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.nodes.frame_stages import frame_node
from comfyui_aot.nodes.stages import stage_node
from comfyui_aot.nodes.tower_stages import tower_node
from comfyui_aot.tests.support.stages import LAYOUTS, budgets, check_map, check_places, video

DOCS = Path(__file__).parents[2] / "docs"


def sources():
    """The files that the page says to save, by name."""
    page = (DOCS / "adding-a-stage.md").read_text(encoding="utf-8")
    found = re.findall(r"Save this as `aot/stages/methods/(\w+)\.py`.*?```python\n(.*?)```", page, re.DOTALL)
    return dict(found)


def look_again():
    for known in (package.every_stage, package.stages, package.inner_stages):
        known.cache_clear()
    published.cache_clear()


@pytest.fixture
def every_own(tmp_path):
    """The stages, in a folder that stages are found in as long as the test runs."""
    for name, text in sources().items():
        (tmp_path / f"{name}.py").write_text(text)
    methods.__path__.append(str(tmp_path))
    look_again()
    yield package.every_stage()
    methods.__path__.remove(str(tmp_path))
    for name in sources():
        sys.modules.pop(f"{methods.__name__}.{name}", None)
        delattr(methods, name)
    look_again()


@pytest.fixture
def own(every_own):
    """The one on tokens."""
    return every_own["stand-out"]


def test_there_is_one_of_each_place():
    assert set(sources()) == {"stand_out", "most_contrast", "moving", "long_states"}


@pytest.mark.parametrize("name", sources())
def test_each_is_short(name):
    assert len(sources()[name].splitlines()) < 40


def test_the_table_of_methods_has_every_stage():
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    missing = [name for name in package.every_stage() if f"`{name}`" not in text]
    assert not missing, f"docs/methods.md has no {', '.join(missing)}: add a row"


def test_the_docs_name_every_stage_there_is():
    text = (DOCS / "how-it-works.md").read_text(encoding="utf-8")
    missing = [name for name in package.every_stage() if f"`{name}`" not in text]
    assert not missing, f"docs/how-it-works.md names no {', '.join(missing)}: write the name there, in backticks"


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", DOCS / "nodes.md"], ids=lambda page: page.name)
def test_the_tables_of_nodes_have_every_stage(page):
    text = page.read_text(encoding="utf-8")
    missing = [kind.title for kind in package.every_stage().values() if kind.node_id and kind.title not in text]
    assert not missing, f"{page.name} has no {', '.join(missing)} in its table of nodes: add it"


def test_the_command_line_lists_it(own, capsys):
    assert main(["stages", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.splitlines()[-1])["stages"]
    (found,) = [stage for stage in listed if stage["name"] == "stand-out"]
    assert found["node"] == "AOTStandOut"
    assert [setting["name"] for setting in found["settings"]] == ["merge", "retention", "keep_tokens"]


def test_it_is_a_node_with_its_settings_for_widgets(own):
    node, tokens = stage_node(own), video()
    schema = node.GET_SCHEMA()
    assert (schema.node_id, schema.display_name) == ("AOTStandOut", "Stand Out")
    assert [socket.id for socket in schema.inputs] == ["tokens", "merge", "retention", "keep_tokens"]
    (reduced,) = node.execute(tokens, merge=False, retention=0.1, keep_tokens=0).args
    assert reduced.tokens_kept == round(0.1 * tokens.tokens_full)


@pytest.mark.parametrize("settings", ["", ":merge=false"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_meets_any_budget_with_means_of_the_source(own, settings, layout):
    tokens = video(3, (7, 8), 6, 0, torch.float64, *layout)
    chain = parse(f"stand-out{settings}")
    least, most = budgets(chain, tokens)
    assert (least, most) == (3, tokens.tokens_full)
    for wanted in (least, 17, most):
        reduced = chain.at_tokens(wanted)(tokens)
        assert reduced.tokens_kept == wanted
        check_map(tokens, reduced)
        check_places(reduced)


def test_it_keeps_what_stands_out_and_streams(own):
    tokens = video(3, (4, 4), dtype=torch.float64, pooling="none", newline="none")
    features = torch.ones_like(tokens.features)
    features[[5, 16 + 7, 32 + 9]] = -1
    odd = VideoTokens.encoded(
        features.reshape(3, 16, -1), tokens.layout, tokens.shallow, tokens.deep, tokens.timestamps
    )
    stage = own(keep_tokens=3)
    whole = stage(odd)
    assert whole.place.tolist() == [[0, 1, 1], [1, 1, 3], [2, 2, 1]]
    pieces = VideoTokens.concatenate([stage(odd.cut(t, t + 1), Part(t, 3)) for t in range(3)])
    assert torch.equal(pieces.features, whole.features)


def test_the_one_on_frames_picks_them_in_a_chain_and_is_a_node(every_own):
    pixels = torch.full((6, 32, 32, 3), 128, dtype=torch.uint8)
    pixels[[1, 3], :16] = 0
    frames = Frames(pixels, torch.arange(6, dtype=torch.float64), "made")
    chain = parse("contrast:frames=2+aot")
    assert chain.on_frames(frames).timestamps.tolist() == [1, 3]
    assert every_own["contrast"](frames=3)(frames).timestamps.tolist()[:2] == [1, 3]
    schema = frame_node(every_own["contrast"]).GET_SCHEMA()
    assert (schema.node_id, schema.display_name) == ("AOTMostContrast", "Most Contrast")


def test_the_one_inside_the_tower_leaves_out_still_frames_and_is_a_node(every_own, model, frames):
    still = torch.tensor([0, 0, 1, 1, 1])
    pixels = torch.stack((torch.zeros_like(frames.pixels[0]), torch.full_like(frames.pixels[0], 255)))[still]
    moving = Frames(pixels, torch.arange(5, dtype=torch.float64), "made")
    chain = parse("moving+aot:retention=0.1")
    tokens = model.encode(chain.on_frames(moving))
    assert (tokens.frames_left, tokens.map.exact) == ((0, 2), True)
    assert chain.after_encoding(tokens).tokens_kept == round(0.1 * tokens.tokens_full)
    schema = tower_node(every_own["moving"]).GET_SCHEMA()
    assert (schema.node_id, schema.display_name) == ("AOTMovingFrames", "Moving Frames")


def test_the_one_inside_the_llm_takes_part_in_an_answer(every_own, model, frames):
    full = parse("uniform:retention=0.1")(model.encode(frames))
    reduced = parse("long-states:layer=3,keep=0.5")(full)
    answers = [
        Session(model, each).answer(["What is it?"], Generation(max_new_tokens=2))[0] for each in (full, reduced)
    ]
    assert answers[1].text
    assert answers[1].kv_cache_bytes < answers[0].kv_cache_bytes
