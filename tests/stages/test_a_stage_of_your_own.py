"""The stage of docs/adding-a-stage.md, put beside the others: found, listed, a node, and as good as its word."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from comfyui_aot.aot import stages as package
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.stages import methods
from comfyui_aot.aot.stages.base import Part
from comfyui_aot.aot.stages.chain import parse, published
from comfyui_aot.aot.tokens.video_tokens import VideoTokens
from comfyui_aot.nodes.stages import stage_node
from comfyui_aot.tests.support.stages import LAYOUTS, budgets, check_map, check_places, video

DOCS = Path(__file__).parents[2] / "docs"


def source():
    """The file that the page says to save, and where."""
    section = (DOCS / "adding-a-stage.md").read_text(encoding="utf-8")
    name = re.search(r"Save this as `aot/stages/methods/(\w+)\.py`", section).group(1)
    return name, re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)


def look_again():
    package.every_stage.cache_clear()
    package.stages.cache_clear()
    published.cache_clear()


@pytest.fixture
def own(tmp_path):
    """The stage, in a folder that stages are found in as long as the test runs."""
    name, text = source()
    (tmp_path / f"{name}.py").write_text(text)
    methods.__path__.append(str(tmp_path))
    look_again()
    yield package.stages()["stand-out"]
    methods.__path__.remove(str(tmp_path))
    sys.modules.pop(f"{methods.__name__}.{name}", None)
    delattr(methods, name)
    look_again()


def test_it_is_short():
    assert len(source()[1].splitlines()) < 40


def test_the_docs_name_every_stage_there_is():
    text = (DOCS / "how-it-works.md").read_text(encoding="utf-8")
    missing = [name for name in package.stages() if f"`{name}`" not in text]
    assert not missing, f"docs/how-it-works.md names no {', '.join(missing)}: write the name there, in backticks"


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", DOCS / "nodes.md"], ids=lambda page: page.name)
def test_the_tables_of_nodes_have_every_stage(page):
    text = page.read_text(encoding="utf-8")
    missing = [kind.title for kind in package.stages().values() if kind.node_id and kind.title not in text]
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
