"""Budgets of frames in front of any method: what a stage before says that each frame gets is what it keeps."""

import dataclasses

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages import Budgeted, stages
from comfyui_aot.aot.stages.base import Part
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.dytok import methods
from comfyui_aot.aot.stages.toolkit.language_grid import LanguageGrid
from comfyui_aot.aot.tokens.video_tokens import Role
from comfyui_aot.tests.support.searches import examples
from comfyui_aot.tests.support.stages import LAYOUTS, check_map, check_places, video

CHECKS = settings(
    deadline=None, phases=(Phase.explicit, Phase.generate), suppress_health_check=[HealthCheck.differing_executors]
)

BY_SEGMENT = ("fastvid", "flashvid")
"""Methods that move tokens among the frames of a segment by definition: what its frames have together is met."""

pytestmark = pytest.mark.filterwarnings("ignore:.* past the rank")


def counts_of(tokens):
    cells = tokens.frame[tokens.role != int(Role.NEWLINE)]
    return torch.bincount(cells, minlength=tokens.layout.frames).tolist()


def by_segment(name, tokens, counts):
    """The counts of segments' frames added up, for methods that move tokens among them."""
    if name not in BY_SEGMENT:
        return list(counts)
    segments = stages()[name]().segments(LanguageGrid.of("", tokens.to_language_grid()))
    lengths = getattr(segments, "lengths", segments)
    return [sum(each) for each in torch.tensor(counts).split(list(lengths))]


def test_every_budgeted_method_takes_budgets_or_says_why_not():
    budgeted = [kind for kind in stages().values() if issubclass(kind, Budgeted)]
    assert {kind.name for kind in budgeted} == set(stages())
    without = {kind.name: kind.no_frame_budgets for kind in budgeted if kind.no_frame_budgets}
    assert set(methods()) == set(stages()) - set(without)
    assert set(without) == {"dytok", "holitom", "prunevid"}
    assert all(why.endswith(".") and "\n" not in why for why in without.values())


@pytest.mark.parametrize("name", methods())
@given(
    frames=st.integers(1, 9),
    height=st.integers(4, 11),
    width=st.integers(4, 11),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 99),
    data=st.data(),
)
@settings(CHECKS, max_examples=examples(12))
def test_any_budgets_within_the_limits_are_met_by_means(name, frames, height, width, layout, seed, data):
    tokens = video(frames, (height, width), 6, seed, torch.float64, *layout, extras=True)
    method = methods()[name]
    least, most = method.frame_limits(tokens.layout, tokens.timestamps)
    assert len(least) == len(most) == frames
    budgets = tuple(data.draw(st.integers(a, b)) for a, b in zip(least, most, strict=True))
    if not sum(budgets):
        return
    reduced = method.at_tokens(sum(budgets)).reduce(tokens, Part(0, frames, budgets))
    assert reduced.tokens_kept == sum(budgets)
    assert by_segment(name, tokens, counts_of(reduced)) == by_segment(name, tokens, budgets)
    check_map(tokens, reduced)
    check_places(reduced)


@pytest.mark.parametrize("name", methods())
def test_even_budgets_are_what_a_method_that_shares_evenly_does_anyway(name):
    tokens = video(dtype=torch.float64, extras=True)
    stage = methods()[name].at_tokens(8 * 20)
    least, _ = stage.frame_limits(tokens.layout, tokens.timestamps)
    if max(least) > 20:
        return
    alone = stage(tokens)
    if counts_of(alone) != [20] * 8:
        return
    told = stage.reduce(tokens, Part(0, 8, (20,) * 8))
    assert torch.equal(told.place, alone.place)
    torch.testing.assert_close(told.features, alone.features)


@pytest.mark.parametrize("name", methods())
def test_a_frame_that_is_taken_alone_is_as_if_it_were_the_video(name):
    tokens = video(4, dtype=torch.float64, extras=True)
    method = methods()[name]
    if method.runs(tokens.layout, tokens.timestamps) != (1,) * 4:
        return
    budgets = (3, 40, 11, 3)
    together = method.at_tokens(57).reduce(tokens, Part(0, 4, budgets))
    for frame, budget in enumerate(budgets):
        alone = method.at_tokens(budget).reduce(tokens.cut(frame, frame + 1), Part(frame, 4, (budget,)))
        own = together.frame == frame
        assert torch.equal(together.place[own, 1:], alone.place[:, 1:])
        torch.testing.assert_close(together.features[own], alone.features)


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("relevance", ["assistant", "none"])
def test_dytok_meets_its_budget_in_front_of_every_method(name, relevance):
    tokens = video(9, (14, 14), dtype=torch.float64, extras=True)
    question = dataclasses.replace(tokens.question, frames={"assistant": torch.arange(9.0) ** 2})
    asked = dataclasses.replace(tokens, question=question)
    reduced = parse(f"dytok:method={name},relevance={relevance},keep_tokens=160")(asked)
    assert reduced.tokens_kept == 160
    check_map(tokens, reduced)
    assert [record.name for record in reduced.history if record.name != "encode"] == ["dytok"]
    if relevance == "assistant" and name not in (*BY_SEGMENT, "evs", "dtd", "dycoke", "aot", "inter"):
        counts = counts_of(reduced)
        assert counts == sorted(counts)
        assert counts[-1] > 2 * counts[4]


def test_frames_that_a_method_keeps_whole_stay_whole_and_the_others_share():
    tokens = video(4, (8, 8), dtype=torch.float64, extras=True)
    question = dataclasses.replace(tokens.question, frames={"assistant": torch.tensor([9.0, 1.0, 0.0, 3.0])})
    asked = dataclasses.replace(tokens, question=question)
    for name in ("evs", "dtd"):
        assert counts_of(parse(f"dytok:method={name},keep_tokens=24")(asked)) == [16, 2, 0, 6]
    with pytest.raises(InputError, match="give 16 to 64 tokens"):
        parse("dytok:method=evs,keep_tokens=15")(asked)


def test_a_method_without_budgets_of_frames_is_refused_with_those_that_have():
    refused = r"HoliTom takes no budgets of frames. It merges .* alone. Give another method of visionzip, .*vscan\."
    with pytest.raises(InputError, match=refused):
        parse("dytok:method=holitom")
    with pytest.raises(InputError, match=r"method is 'fastv'; give one of visionzip, .*vscan\."):
        parse("dytok:method=fastv")


@pytest.mark.parametrize("method", ["top", "cosine", "random"])
def test_after_another_stage_no_frame_is_given_more_than_it_has_left(method):
    tokens = video(4, (8, 8), dtype=torch.float64, extras=True)
    question = dataclasses.replace(tokens.question, frames={"assistant": torch.tensor([1.0, 0.0, 0.0, 0.0])})
    before = parse("uniform:keep_tokens=24")(dataclasses.replace(tokens, question=question))
    assert counts_of(parse(f"dytok:method={method},keep_tokens=12")(before)) == [6, 2, 2, 2]
