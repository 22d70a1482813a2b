"""Stages that act inside the LLM: what they attach, what they choose, and what they refuse."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages import inner_stages
from comfyui_aot.aot.stages.carried import carried
from comfyui_aot.aot.stages.chain import is_fixed, parse, published
from comfyui_aot.aot.stages.inner import InnerStage
from comfyui_aot.aot.stages.methods.dycoke_inner import DyCokeInner
from comfyui_aot.aot.stages.methods.fastv import FastV
from comfyui_aot.aot.stages.methods.holitom_inner import HoliTomInner
from comfyui_aot.aot.stages.methods.pyramiddrop import PyramidDrop
from comfyui_aot.aot.tokens.storage import load, save
from comfyui_aot.aot.tokens.video_tokens import VideoTokens
from comfyui_aot.aot.verification.findings import fresh
from comfyui_aot.tests.support.simulated_device import DEVICE, simulated

LAYERS = 28
CUTTING = [name for name, kind in inner_stages().items() if kind().cuts(100, LAYERS)]

every_inner = pytest.mark.parametrize("name", list(inner_stages()))
every_cutting = pytest.mark.parametrize("name", CUTTING)


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return fresh(torch.randn(4, 9, 8))


@pytest.fixture
def rows():
    torch.manual_seed(1)
    return torch.randn(50, 16, dtype=torch.float64), torch.rand(50, dtype=torch.float64)


@every_inner
def test_called_on_tokens_it_only_attaches_itself(name, tokens):
    stage = inner_stages()[name]()
    given = stage(tokens)
    assert given.features is tokens.features and given.map is tokens.map
    assert [each.name for each in given.inner] == [name] == [given.history[-1].name]
    assert carried(given) == (stage,)


@every_inner
def test_it_stays_on_saved_tokens(name, tokens, tmp_path):
    given = inner_stages()[name]()(tokens)
    save(given, tmp_path / "tokens.safetensors")
    assert load(tmp_path / "tokens.safetensors").inner == given.inner


def test_it_stays_on_a_video_in_parts(tokens):
    stage = FastV(layer=3)
    parts = [stage(tokens.cut(0, 2)), stage(tokens.cut(2, 4))]
    assert carried(VideoTokens.concatenate(parts)) == (stage,)


def test_tokens_saved_without_one_load_as_before(tokens, tmp_path):
    save(tokens, tmp_path / "tokens.safetensors")
    assert load(tmp_path / "tokens.safetensors").inner == ()


def test_a_stage_before_the_llm_is_refused_after_it(tokens):
    with pytest.raises(InputError, match="acts before fastv does, inside the LLM; put it in front"):
        parse("uniform:retention=0.5")(FastV()(tokens))


def test_a_stage_that_is_not_known_here_is_one_line(tokens):
    given = FastV()(tokens)
    other = dataclasses.replace(given, inner=(dataclasses.replace(given.inner[0], name="poetry"),))
    with pytest.raises(InputError, match="'poetry' inside the LLM, which is not known here"):
        carried(other)


def test_a_stage_of_ones_own_is_found():
    @dataclasses.dataclass(frozen=True)
    class Mine(InnerStage):
        name = "mine"
        title = "Mine"
        source = "this test"

    assert isinstance(carried(Mine()(fresh(torch.ones(1, 4, 2))))[0], Mine)


@every_cutting
@pytest.mark.parametrize("count", [1, 2, 49])
def test_what_stays_is_a_row_stochastic_matrix_over_what_was(name, count, rows):
    hidden_states, scores = rows
    choice = inner_stages()[name]().choose(hidden_states, scores, count)
    dense = torch.zeros(count, len(scores), dtype=torch.float64)
    row, col, weight = choice.factor.coordinates()
    dense.index_put_((row, col), weight.double(), accumulate=True)
    torch.testing.assert_close(dense.sum(1), torch.ones(count, dtype=torch.float64))
    assert (dense >= 0).all()
    assert choice.kept.tolist() == sorted(set(choice.kept.tolist()))
    assert set(choice.kept.tolist()) == set(scores.topk(count).indices.tolist())
    torch.testing.assert_close(choice.factor.apply(hidden_states), dense @ hidden_states)


@every_cutting
def test_all_that_stay_stay_as_they_are(name, rows):
    hidden_states, scores = rows
    choice = inner_stages()[name]().choose(hidden_states, scores, len(scores))
    assert choice.factor.apply(hidden_states).equal(hidden_states)


@every_cutting
def test_a_choice_does_not_wait_for_the_device(name):
    stage = inner_stages()[name]()
    with simulated() as waits:
        choice = stage.choose(torch.rand(50, 16, device=DEVICE), torch.rand(50, device=DEVICE), 20)
        choice.factor.apply(torch.rand(50, 16, device=DEVICE))
        assert waits.total() == 0, waits


def test_holitoms_newcomers_halve_what_was_there(rows):
    hidden_states, scores = rows
    choice = HoliTomInner().choose(hidden_states, scores, 1)
    (best,) = choice.kept.tolist()
    expected = hidden_states[best]
    for place in range(len(scores)):
        if place != best:
            expected = (expected + hidden_states[place]) / 2
    torch.testing.assert_close(choice.factor.apply(hidden_states)[0], expected)


@pytest.mark.parametrize(
    ("stage", "tokens", "expected"),
    [
        ("fastv", 25, [(2, 12)]),  # half to even
        ("holitom-inner", 25, [(18, 12)]),
        ("holitom-inner:keep=0", 25, [(18, 1)]),
        ("flashvid-inner", 31, [(20, 10)]),
        ("flashvid-inner:keep=0.14", 50, [(20, 8)]),  # of a product just above 7
        ("pyramiddrop", 45, [(7, 22), (14, 11), (21, 5)]),
        ("pyramiddrop:layers=3/9,ratios=0.58/0.29", 50, [(3, 28), (9, 14)]),
        ("dycoke-inner", 45, []),
    ],
)
def test_counts_are_the_authors(stage, tokens, expected):
    (made,) = parse(stage).stages
    assert [tuple(cut) for cut in made.cuts(tokens, LAYERS)] == expected


@pytest.mark.parametrize("name", [name for name in inner_stages() if name not in ("positions", "pyramiddrop")])
def test_an_llm_with_too_few_layers_is_one_line(name):
    stage = inner_stages()[name](layer=4)
    with pytest.raises(InputError, match="acts before layer 4 and this LLM has layers 0 to 3; set it to 3 or less"):
        _ = stage.cuts(10, 4), stage.reads_from(4)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"layers": "8/8/9"}, "rising numbers"),
        ({"layers": "0/8/9"}, "rising numbers"),
        ({"layers": "a"}, "whole numbers"),
        ({"ratios": "0.5/x"}, "shares with /"),
        ({"ratios": "0.5/0.6"}, "falling shares"),
        ({"ratios": "nan"}, "falling shares"),
        ({"layers": "8/16"}, "2 layers and 3 ratios"),
    ],
)
def test_lists_of_pyramiddrop_that_make_no_sense_are_one_line(settings, reason):
    with pytest.raises(InputError, match=reason):
        PyramidDrop(**settings)


def test_decoding_reads_the_best_and_the_last_unless_it_is_as_before():
    stage = DyCokeInner(unread=0.5)
    scores = torch.tensor([0.1, 0.4, 0.3, 0.05, 0.15])
    assert stage.read(scores, None).tolist() == [1, 2, 4]
    assert stage.read(scores, scores) is None
    assert stage.read(scores, scores.flip(0)).tolist() == [1, 2, 4]


def test_a_chain_of_inner_stages_says_by_itself_how_much_it_keeps():
    assert is_fixed("fastv") and is_fixed("fastv:layer=3+holitom-inner")
    assert not is_fixed("aot+fastv") and is_fixed("aot:retention=0.1+fastv")
    assert parse("aot+fastv").at_retention(0.25).stages == parse("aot:retention=0.25+fastv").stages


def test_whole_methods_are_presets():
    assert published()["holitom-15-whole"] == "holitom:target=0.15,similarity=0.8+holitom-inner"
    assert published()["flashvid-10-whole"] == "flashvid:retention_ratio=0.1,expansion=1.25+flashvid-inner"
    for name, chain in published().items():
        if name.endswith("-whole"):
            assert parse(name).stages == parse(chain).stages and len(parse(name).stages) == 2
