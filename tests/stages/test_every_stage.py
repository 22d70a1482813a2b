"""What every reduction must satisfy, on random videos and settings: the invariants of W and of the order."""

import dataclasses
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.pipeline import parse
from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.tokens import Layout, Role, VideoTokens


def video(frames=8, grid=(18, 18), dim=6, seed=0, dtype=torch.float32, pooling="bilinear", newline="one_token"):
    generator = torch.Generator().manual_seed(seed)
    layout = Layout(frames, grid, pooling, newline)
    base = torch.randn(1, layout.cells, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(frames, layout.cells, dim, generator=generator, dtype=torch.float64)
    shallow, deep = torch.rand(2, frames, layout.cells, generator=generator)
    return VideoTokens.encoded(
        (base + 0.5 * noise).to(dtype),
        layout,
        shallow,
        deep,
        torch.arange(frames, dtype=torch.float64),
        newline=torch.ones(dim, dtype=dtype),
    )


CHAINS = (
    "intra:budget=60",
    "intra:retention=0.2",
    "inter:clip_length=4,keep_ratio=0.3",
    "inter:clip_length=3,retention=0.8",
    "intra:budget=60+inter:clip_length=4,keep_ratio=0.3",
    "aot:retention=0.25",
)


def possible(chain, tokens):
    """Whether the video has room for the chain's anchors and lies in the range of its retention."""
    if "budget=60" in chain:
        return tokens.layout.cells > 60
    return "inter:clip_length=3,retention" not in chain or tokens.layout.frames >= 3


def snapshot(tokens):
    return {
        f.name: getattr(tokens, f.name).clone()
        for f in dataclasses.fields(tokens)
        if isinstance(getattr(tokens, f.name), torch.Tensor)
    }


@pytest.mark.parametrize("chain", CHAINS)
@given(frames=st.integers(1, 9), height=st.integers(9, 21), width=st.integers(9, 21), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_w_is_row_stochastic_and_leads_back_to_the_features(chain, frames, height, width, seed):
    tokens = video(frames, (height, width), seed=seed, dtype=torch.float64)
    assume(possible(chain, tokens))
    reduced = parse(chain)(tokens)
    assert all(float(factor.coordinates()[2].min()) >= 0 for factor in reduced.map.factors)
    torch.testing.assert_close(reduced.map.row_mass(), torch.ones(reduced.map.kept, dtype=torch.float64))
    torch.testing.assert_close(reduced.map.apply(tokens.features), reduced.features)
    assert float(reduced.map.column_mass().sum()) == pytest.approx(reduced.map.kept)


@pytest.mark.parametrize("chain", CHAINS)
def test_places_are_on_the_language_grid_and_frames_in_clip_order(chain):
    reduced = parse(chain)(video())
    assert bool((reduced.place >= 0).all())
    assert bool((reduced.place < torch.tensor([8, 9, 9])).all())
    assert set(reduced.role.tolist()) <= set(Role)


@pytest.mark.parametrize("chain", CHAINS)
def test_inputs_are_left_as_they_were(chain):
    tokens = video()
    before = snapshot(tokens)
    parse(chain)(tokens)
    assert all(torch.equal(value, before[name]) for name, value in snapshot(tokens).items())


@pytest.mark.parametrize("chain", CHAINS)
def test_the_same_video_twice_gives_the_same_tokens(chain):
    tokens = video()
    assert torch.equal(parse(chain)(tokens).features, parse(chain)(tokens).features)


@pytest.mark.parametrize("chain", CHAINS)
def test_float32_is_close_to_float64(chain):
    single, double = (parse(chain)(video(dtype=dtype)) for dtype in (torch.float32, torch.float64))
    assert torch.equal(single.place, double.place)
    torch.testing.assert_close(single.features.double(), double.features, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("chain", CHAINS)
def test_nan_features_are_refused(chain):
    tokens = video()
    features = tokens.features.clone()
    features[0] = torch.nan
    with pytest.raises(InputError, match="1 of 2592 tokens hold NaN"):
        parse(chain)(dataclasses.replace(tokens, features=features))


@pytest.mark.parametrize("chain", CHAINS)
def test_equal_and_zero_tokens_give_no_nan(chain):
    tokens = video()
    for features in (torch.zeros_like(tokens.features), torch.ones_like(tokens.features)):
        reduced = parse(chain)(dataclasses.replace(tokens, features=features))
        assert bool(torch.isfinite(reduced.features).all())


@pytest.mark.parametrize("chain", CHAINS)
def test_history_says_what_ran_and_how_many_tokens_passed(chain):
    reduced = parse(chain)(video())
    first, last = reduced.history[0], reduced.history[-1]
    assert first.tokens_in == 8 * 81
    assert last.tokens_out == reduced.tokens_kept
    assert all(record.milliseconds > 0 for record in reduced.history)


@pytest.mark.parametrize("retention", [0.12, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 13])
def test_aot_meets_its_retention_to_the_token(retention, frames):
    reduced = parse("aot").at_retention(retention)(video(frames))
    assert reduced.tokens_kept == round(retention * frames * 81)


@pytest.mark.parametrize("retention", [0.05, 0.3, 1.0])
def test_intra_meets_its_retention_in_every_frame(retention):
    reduced = parse("intra").at_retention(retention)(video(5))
    assert reduced.tokens_kept == round(retention * 5 * 81)
    assert max(reduced.frame_counts) - min(reduced.frame_counts) <= 1


@pytest.mark.parametrize("chain", ["aot:retention=0.001", "intra:retention=0.001", "inter:retention=0.001"])
def test_an_impossible_retention_is_refused_with_what_works(chain):
    with pytest.raises(InputError, match=r"give|ask for"):
        parse(chain)(video())


def test_a_budget_above_the_grid_is_refused_with_the_range():
    with pytest.raises(InputError, match="give 1 to 323"):
        parse("intra:budget=400")(video())


def test_phase_one_after_phase_two_says_where_it_belongs():
    with pytest.raises(InputError, match="put it directly behind Encode Video"):
        parse("inter+intra:budget=60")(video())


def test_two_temporal_stages_are_refused():
    with pytest.raises(InputError, match="keep only one temporal stage"):
        parse("intra:budget=60+inter+inter")(video())


def test_grid_newlines_go_through_both_phases():
    tokens = video(8, pooling="average", newline="grid")
    reduced = parse("intra:budget=60+inter:clip_length=4,keep_ratio=0.3")(tokens)
    torch.testing.assert_close(reduced.map.apply(tokens.features), reduced.features)
    assert int((reduced.role == Role.NEWLINE).sum()) > 0


def test_released_order_is_keyframe_distinct_updated_in_every_clip():
    reduced = parse("intra:budget=60+inter:clip_length=4,keep_ratio=0.3")(video(8))
    roles = [Role(role).name for role in reduced.role.tolist()]
    runs = [roles[0]] + [b for a, b in pairwise(roles) if a != b]
    assert runs == ["KEYFRAME", "DISTINCT", "MERGED"] * 2


@pytest.mark.parametrize("name", list(stages()))
def test_every_setting_explains_itself(name):
    for item in dataclasses.fields(stages()[name]):
        assert len(item.metadata["help"]) > 20
        assert isinstance(item.default, (str, bool)) or item.metadata["low"] is not None


@pytest.mark.parametrize(
    "spec",
    [
        "nothing",
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
