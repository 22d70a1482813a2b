"""What every reduction must satisfy, on random videos and settings: the invariants of W, of order and of budgets."""

import dataclasses
import re

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.base import Part
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.options import settings_of
from comfyui_aot.aot.tokens.video_tokens import VideoTokens
from comfyui_aot.tests.support.searches import examples
from comfyui_aot.tests.support.stages import LAYOUTS, attempted, budgets, check_map, check_places, video

CHECKS = settings(
    deadline=None, phases=(Phase.explicit, Phase.generate), suppress_health_check=[HealthCheck.differing_executors]
)
"""Without shrinking: what is drawn is small already, and a failure is told in seconds."""


CHAINS = (
    "intra:budget=60",
    "intra:retention=0.2",
    "inter:clip_length=4,keep_ratio=0.3",
    "inter:clip_length=3,retention=0.8",
    "intra:budget=60+inter:clip_length=4,keep_ratio=0.3",
    "aot:retention=0.25",
    "aot:retention=0.2,clips=dynamic,cut_lowest=1,ranking=frame",
    "aot:keep_tokens=70,clips=one,order=time,repeat=false",
)
"""AOT's stages alone and together."""

OTHERS = tuple(name for name in stages() if name not in ("aot", "inter", "intra"))
EVERY = (*CHAINS, *OTHERS, *(f"{name}:retention=0.5" for name in OTHERS))
"""Those, and every other stage as it is and on a budget."""


every = pytest.mark.parametrize("chain", EVERY)
every_stage = pytest.mark.parametrize("name", list(stages()))


def possible(chain, tokens):
    """Whether the video has room for the chain's anchors and lies in the range of its retention."""
    if "budget=60" in chain:
        return tokens.layout.cells > 60
    if "keep_tokens=70" in chain:
        return tokens.tokens_full >= 70
    return "inter:clip_length=3,retention" not in chain or tokens.layout.frames >= 3


def snapshot(tokens):
    tensors = {f.name: getattr(tokens, f.name) for f in dataclasses.fields(tokens)} | dict(tokens.extras)
    return {name: value.clone() for name, value in tensors.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("chain", CHAINS)
@given(frames=st.integers(1, 9), height=st.integers(9, 21), width=st.integers(9, 21), seed=st.integers(0, 99))
@settings(CHECKS, max_examples=examples(5))
def test_w_is_row_stochastic_and_leads_back_to_the_features(chain, frames, height, width, seed):
    tokens = video(frames, (height, width), seed=seed, dtype=torch.float64)
    assume(possible(chain, tokens))
    check_map(tokens, parse(chain)(tokens))


@pytest.mark.parametrize("name", OTHERS)
@given(
    frames=st.integers(1, 9),
    height=st.integers(4, 11),
    width=st.integers(4, 11),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
)
@settings(CHECKS, max_examples=examples(8))
def test_any_budget_in_its_range_is_met_to_the_token_by_means(name, frames, height, width, layout, seed, share):
    tokens = video(frames, (height, width), 6, seed, torch.float64, *layout, extras=True)
    stage = stages()[name]()
    least, most = budgets(stage, tokens)
    wanted = least + round(share * (most - least))
    reduced = stage.at_tokens(wanted)(tokens)
    assert reduced.tokens_kept == wanted
    check_map(tokens, reduced)
    check_places(reduced)
    retention = wanted / tokens.tokens_full
    assert stage.at_retention(retention)(tokens).tokens_kept == wanted


@every
def test_w_and_places_fit_the_video(chain):
    tokens = video(dtype=torch.float64, extras=True)
    reduced = parse(chain)(tokens)
    check_map(tokens, reduced)
    check_places(reduced)


@every
def test_inputs_are_left_as_they_were(chain):
    tokens = video(extras=True)
    before = snapshot(tokens)
    parse(chain)(tokens)
    assert all(torch.equal(value, before[name]) for name, value in snapshot(tokens).items())


@every
def test_the_same_video_twice_gives_the_same_tokens(chain):
    tokens = video(extras=True)
    assert torch.equal(parse(chain)(tokens).features, parse(chain)(tokens).features)


@every
def test_float32_is_close_to_float64(chain):
    single, double = (parse(chain)(video(dtype=dtype, extras=True)) for dtype in (torch.float32, torch.float64))
    assert torch.equal(single.place, double.place)
    torch.testing.assert_close(single.features.double(), double.features, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("chain", ["intra:budget=60", "intra:budget=60+inter", "aot", "aot:solver=sinkhorn", *OTHERS])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(chain, dtype):
    half = video(dtype=dtype, extras=True)
    half = half if chain.partition(":")[0] in ("intra", "aot") else half.to_language_grid()
    single = dataclasses.replace(half, features=half.features.float())
    reduced, expected = parse(chain)(half), parse(chain)(single)
    assert reduced.features.dtype == dtype
    assert torch.equal(reduced.place, expected.place)
    torch.testing.assert_close(reduced.features.float(), expected.features, atol=2e-2, rtol=1e-2)


@every
def test_nan_features_are_refused(chain):
    tokens = video(extras=True)
    features = tokens.features.clone()
    features[0] = torch.nan
    with pytest.raises(InputError, match="1 of 2592 tokens hold NaN"):
        parse(chain)(dataclasses.replace(tokens, features=features))


@every
def test_equal_and_zero_tokens_give_no_nan(chain):
    tokens = video(extras=True)
    for features in (torch.zeros_like(tokens.features), torch.ones_like(tokens.features)):
        flat = dataclasses.replace(
            tokens, features=features, extras={name: torch.zeros_like(extra) for name, extra in tokens.extras.items()}
        )
        assert bool(torch.isfinite(parse(chain)(flat).features).all())


@every
def test_history_says_what_ran_and_how_many_tokens_passed(chain):
    reduced = parse(chain)(video(extras=True))
    first, last = reduced.history[0], reduced.history[-1]
    assert first.tokens_in == 8 * 81
    assert last.tokens_out == reduced.tokens_kept
    assert all(record.milliseconds > 0 for record in reduced.history)


@pytest.mark.parametrize("chain", ["inter", "aot:retention=1", *(f"{name}:retention=1" for name in stages())])
def test_the_smallest_video_there_is(chain):
    tokens = video(1, (2, 2), extras=True)
    reduced = parse(chain)(tokens)
    assert reduced.tokens_kept == 1
    assert bool(torch.isfinite(reduced.features).all())


@every_stage
def test_a_retention_that_cannot_be_met_is_refused_with_what_can(name):
    tokens = video(extras=True)
    with pytest.raises(InputError, match=r"give|ask for") as error:
        stages()[name]().at_retention(0.0001)(tokens)
    assert "\n" not in str(error.value)
    least, most = budgets(stages()[name](), tokens)
    assert 1 <= least <= most <= tokens.tokens_full


@pytest.mark.parametrize("frames", [1, 7])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_runs_reduced_one_by_one_are_the_video_reduced_whole(name, exact, frames):
    tokens = video(frames, dtype=torch.float64, extras=True)
    stage = stages()[name]()
    if exact:
        least, most = budgets(stage, tokens)
        stage = stage.at_tokens(least + (most - least) // 3)
    runs = stage.runs(tokens.layout, tokens.timestamps)
    if runs is None:
        return
    assert sum(runs) == frames
    first, parts = 0, []
    for length in runs:
        parts.append(stage(tokens.cut(first, first + length), Part(first, frames)))
        first += length
    whole, pieces = stage(tokens), VideoTokens.concatenate(parts)
    assert torch.equal(whole.place, pieces.place)
    assert torch.equal(whole.role, pieces.role)
    torch.testing.assert_close(whole.features, pieces.features)


@pytest.mark.filterwarnings("ignore:These tokens come without")
@every_stage
def test_behind_any_other_stage_it_reduces_further_or_says_in_a_line_why_not(name):
    tokens = video(4, (12, 12), dtype=torch.float64, extras=True)
    for earlier in stages().values():
        given = earlier().at_retention(0.75)(tokens)
        reduced, refused = attempted(stages()[name]().at_tokens(given.tokens_kept // 2), given)
        if refused:
            assert re.fullmatch(r".*(put it|keep |give ).*", refused)
            continue
        assert reduced.tokens_kept == given.tokens_kept // 2
        check_map(tokens, reduced)
        check_places(reduced)


@pytest.mark.parametrize("later", ["inter", "cosine", "random", "top", "top:span=video"])
@every_stage
def test_what_a_stage_leaves_of_every_frame_can_be_reduced_further(name, later):
    tokens = video(dtype=torch.float64, extras=True)
    stage = stages()[name]().at_retention(0.7)
    if stage.runs(tokens.layout, tokens.timestamps) != (1,) * 8:
        return
    given = stage(tokens)
    reduced = parse(later).at_tokens(100)(given)
    assert reduced.tokens_kept == 100
    check_map(tokens, reduced)


@every_stage
def test_every_setting_explains_itself(name):
    for setting in settings_of(stages()[name]).values():
        assert len(setting.help) > 20
        assert isinstance(setting.default, (str, bool)) or setting.low is not None


@pytest.mark.parametrize(
    "spec",
    [
        "nothing",
        "paper:retention=0.1",
        "paper+inter",
        "intra:budget",
        "intra:speed=3",
        "intra:budget=many",
        "intra:eps=0",
        "inter:keep_ratio=2",
        "intra:budget=1.5",
    ],
)
def test_a_wrong_specification_is_one_line_with_the_remedy(spec):
    with pytest.raises(InputError, match=r"give|write|there are") as error:
        parse(spec)
    assert "\n" not in str(error.value)
