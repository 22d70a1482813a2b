"""Presets: those that settle what they keep, and our own, which keeps what retention asks for."""

import pytest

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages import Stage
from comfyui_aot.aot.stages.chain import PRESETS, Chain, is_fixed, parse


def test_the_papers_presets_settle_what_they_keep():
    assert all(is_fixed(name) for name in PRESETS)


@pytest.mark.parametrize("spec", ["paper:eps=0.1", "intra+paper"])
def test_a_preset_stands_alone(spec):
    with pytest.raises(InputError, match="stands alone"):
        parse(spec)


def test_an_unknown_stage_is_refused_with_all_there_are():
    with pytest.raises(InputError, match="presets paper"):
        parse("magic")


@pytest.mark.parametrize(
    ("chain", "settled"),
    [
        ("inter", False),
        ("intra:eps=0.2+inter:clip_length=2", False),
        ("intra:budget=126+inter", False),
        ("intra:budget=126+inter:keep_ratio=0.3", True),
        ("intra:budget=126", True),
        ("visionzip:tokens_per_frame=20", True),
        ("evs:pruning_rate=0.9", True),
        ("fastvid:retention_ratio=0.1", True),
        ("uniform:keep_tokens=9", True),
        ("visionzip-10", True),
    ],
)
def test_a_chain_that_says_itself_what_it_keeps_is_given_no_retention(chain, settled):
    assert is_fixed(chain) is settled


def test_a_stage_without_a_budget_is_given_none():
    class Everything(Stage):
        name, title = "everything", "Everything"

    chain = Chain([Everything()])
    with pytest.raises(InputError, match="Everything has no setting retention; give its own settings"):
        chain.at_retention(0.1)
    with pytest.raises(InputError, match="Everything has no setting keep_tokens"):
        chain.at_tokens(10)
