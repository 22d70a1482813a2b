"""Nodes are found by words of people who do not know their names: in the search, and in their descriptions."""

import dataclasses

import pytest

from comfyui_aot.nodes import NODES, comfy
from comfyui_aot.nodes.comfy import HAS_COMFYUI, io, schema

pytestmark = pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")

WORDS = (
    "optimal transport", "prune", "merge", "compress", "reduce", "token", "VLM", "caption", "describe", "question",
    "LLaVA-OneVision", "LLaVA-Video", "Qwen2.5-VL", "Qwen3-VL", "InternVL",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class NewerSchema(io.Schema):
    """The schema of a ComfyUI that knows the newer fields."""

    search_aliases: tuple = ()
    essentials_category: str | None = None


@pytest.fixture
def newer(monkeypatch):
    monkeypatch.setattr(comfy.io, "Schema", NewerSchema)


@pytest.mark.parametrize("word", WORDS)
def test_a_description_holds_the_word(word):
    assert any(word.lower() in node.GET_SCHEMA().description.lower() for node in NODES)


def test_a_field_that_this_comfyui_is_too_old_for_is_left_out():
    made = schema(node_id="TestOld", search_aliases=["x"], essentials_category="Basics", has_intermediate_output=True)
    assert made.node_id == "TestOld"


def test_a_field_that_this_comfyui_knows_is_set(newer):
    assert schema(node_id="TestNew", search_aliases=["x"], has_intermediate_output=True).search_aliases == ["x"]


def test_a_field_that_is_none_is_refused():
    with pytest.raises(TypeError, match="search_alias"):
        schema(node_id="TestWrong", search_alias=["x"])


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.GET_SCHEMA().node_id)
def test_every_node_has_words_to_be_found_by_and_none_twice(newer, node):
    words = node.define_schema().search_aliases
    assert len(words) >= 3
    assert len({word.lower() for word in words}) == len(words)
