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


OPTIONS = (
    "solver=sinkhorn",
    "solver=log",
    "solver=emd",
    "solver=pot-log",
    "solver=unbalanced",
    "solver=partial",
    "metric=sqeuclidean",
    "marginals=importance",
    "aggregation=counts",
    "aggregation=paper",
    "scaling=1000",
    "scaling=0",
)
"""One setting at a time away from the default."""

LOCAL = (
    "intra:budget=60,solver=early",
    "intra:retention=0.2,solver=early,aggregation=counts",
    "intra:budget=60,solver=sinkhorn,metric=sqeuclidean",
    "inter:clip_length=4,keep_ratio=0.3",
    "inter:clip_length=4,keep_ratio=0.3,order=time,repeat=false,marginals=importance",
)
"""Chains that reduce a frame or a clip for itself."""

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


def possible(chain, tokens):
    """Whether the video has room for the chain's anchors and lies in the range of its retention."""
    if "budget=60" in chain:
        return tokens.layout.cells > 60
    if "keep_tokens=70" in chain:
        return tokens.tokens_full >= 70
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


@pytest.mark.parametrize("stage", ["aot", "intra", "inter"])
@pytest.mark.parametrize(("pooling", "newline"), [("bilinear", "one_token"), ("average", "grid"), ("none", "none")])
@given(
    frames=st.integers(1, 11),
    height=st.integers(4, 13),
    width=st.integers(4, 13),
    share=st.floats(0, 1),
    options=st.sampled_from(
        ("", "clips=one", "clips=dynamic,cut_lowest=2", "repeat=false", "ranking=frame,order=time")
    ),
)
@settings(max_examples=25, deadline=None)
def test_any_budget_that_can_be_met_is_met_to_the_token(stage, pooling, newline, frames, height, width, share, options):
    tokens = video(frames, (height, width), pooling=pooling, newline=newline)
    least = frames if stage == "intra" or "dynamic" in options else len(range(0, frames, 4))
    wanted = least + round(share * (tokens.tokens_full - least))
    chain = parse(f"{stage}:{options}" if options and stage != "intra" else stage)
    assert chain.at_tokens(wanted)(tokens).tokens_kept == wanted
    retention = wanted / tokens.tokens_full
    assert chain.at_retention(retention)(tokens).tokens_kept == round(retention * tokens.tokens_full) == wanted


def test_a_retention_of_all_keeps_every_token_once_where_keyframes_are_not_repeated():
    tokens = video(8)
    for chain in ("intra:retention=1", "inter:retention=1,repeat=false,order=time", "aot:retention=1,repeat=false"):
        reduced = parse(chain)(tokens)
        assert sorted(map(tuple, reduced.place.tolist())) == sorted(
            map(tuple, tokens.to_language_grid().place.tolist())
        )


def test_keyframes_get_the_share_they_are_promised():
    for share in (0.2, 0.5, 0.9):
        reduced = parse(f"aot:retention=0.25,keyframe_share={share}")(video(16))
        keyframes = int(((reduced.role == Role.KEYFRAME) | (reduced.role == Role.MERGED)).sum())
        assert keyframes == round(share * reduced.tokens_kept)


@pytest.mark.parametrize("phase", ["intra:budget=60", "inter:keep_ratio=0.3", "intra:budget=60+inter:keep_ratio=0.3"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.filterwarnings("ignore:.*marginal error")
def test_every_option_gives_means_of_the_source(phase, option):
    tokens = video(5, (13, 11), dtype=torch.float64)
    reduced = parse("+".join(f"{stage},{option}" for stage in phase.split("+")))(tokens)
    weights = reduced.map.sparse().to_dense()
    assert float(weights.min()) >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights), dtype=torch.float64))
    torch.testing.assert_close(weights @ tokens.features, reduced.features)


@pytest.mark.parametrize("chain", LOCAL)
@given(seed=st.integers(0, 99), clip=st.integers(0, 2))
@settings(max_examples=10, deadline=None)
def test_a_clip_alone_is_reduced_as_in_the_whole_video(chain, seed, clip):
    tokens = video(12, seed=seed, dtype=torch.float64)
    if "retention" in chain:
        chain = chain.replace("retention=0.2", "retention=0.25925925925")  # a whole number of cells in every frame
    whole, alone = parse(chain)(tokens), parse(chain)(tokens.cut(4 * clip, 4 * clip + 4))
    here = (whole.frame >= 4 * clip) & (whole.frame < 4 * clip + 4)
    assert torch.equal(whole.place[here], alone.place + torch.tensor([4 * clip, 0, 0]))
    torch.testing.assert_close(whole.features[here], alone.features)


def test_only_the_released_stop_rule_makes_a_frame_depend_on_its_batch():
    tokens = video(8, dtype=torch.float64)
    same = [
        torch.allclose(parse(chain)(tokens).features[: len(alone)], alone, atol=1e-12, rtol=0)
        for chain in ("intra:budget=60,solver=released,eps=0.05", "intra:budget=60,solver=early,eps=0.05")
        for alone in [parse(chain)(tokens.cut(0, 1)).features]
    ]
    assert same == [False, True]


@given(seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_the_order_of_a_frames_sources_changes_no_anchor(seed):
    """Cells of equal importance at mirrored places: mirroring the frame mirrors what becomes of it."""
    tokens = video(3, (9, 9), seed=seed, dtype=torch.float64, pooling="none", newline="none")
    mirror = torch.arange(81).reshape(9, 9).flip(1).flatten()
    by_frame = tokens.features.reshape(3, 81, -1)[:, mirror].flatten(0, 1)
    mirrored = dataclasses.replace(
        tokens, features=by_frame, shallow=tokens.shallow[:, mirror], deep=tokens.deep[:, mirror]
    )
    for chain in ("intra:budget=20,window=3", "inter:keep_ratio=0.3,spatial_weight=1"):
        one, other = parse(chain)(tokens), parse(chain)(mirrored)
        keys = (tuple(place) for place in one.place.tolist())
        there = {
            (t, y, 8 - x, role): i for i, ((t, y, x), role) in enumerate(zip(keys, one.role.tolist(), strict=True))
        }
        order = [there[(*place, role)] for place, role in zip(other.place.tolist(), other.role.tolist(), strict=True)]
        torch.testing.assert_close(other.features, one.features[order])


@pytest.mark.parametrize("chain", ["intra:budget=60", "inter", "intra:budget=60+inter", "aot", "aot:solver=sinkhorn"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(chain, dtype):
    half = video(dtype=dtype)
    half = half.to_language_grid() if chain == "inter" else half
    single = dataclasses.replace(half, features=half.features.float())
    reduced, expected = parse(chain)(half), parse(chain)(single)
    assert reduced.features.dtype == dtype
    assert torch.equal(reduced.place, expected.place)
    torch.testing.assert_close(reduced.features.float(), expected.features, atol=2e-2, rtol=1e-2)


def test_float16_of_great_length_does_not_overflow():
    tokens = video(dtype=torch.float16)
    large = dataclasses.replace(tokens, features=(tokens.features.float() * 9000).half())
    assert bool(torch.isfinite(parse("intra:budget=60+inter")(large).features).all())


@pytest.mark.parametrize("chain", ["intra:budget=60,{}", "inter:{}", "aot:{}"])
@pytest.mark.parametrize("eps", [1e-4, 1e-3, 0.02, 1, 10])
@pytest.mark.parametrize("solver", ["released", "early", "sinkhorn", "log"])
@pytest.mark.filterwarnings("ignore:.*marginal error")
def test_any_epsilon_gives_sensible_tokens(chain, eps, solver):
    tokens = video(5, (12, 12))
    reduced = parse(chain.format(f"eps={eps},solver={solver}"))(tokens)
    assert bool(torch.isfinite(reduced.features).all())
    torch.testing.assert_close(reduced.map.row_mass(), torch.ones(reduced.map.kept, dtype=torch.float64))


@pytest.mark.parametrize("chain", ["intra:budget=1", "inter", "aot:retention=1", "inter:retention=1"])
def test_the_smallest_video_there_is(chain):
    tokens = video(1, (2, 2))
    reduced = parse(chain.replace("budget=1", "retention=1"))(tokens)
    assert reduced.tokens_kept == 1
    assert bool(torch.isfinite(reduced.features).all())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["features", "shallow", "deep"])
def test_what_is_not_finite_is_refused_in_a_line(value, where):
    tokens = video()
    changed = getattr(tokens, where).clone()
    changed[3, 2] = value
    with pytest.raises(InputError, match="encode the video again"):
        parse("aot")(dataclasses.replace(tokens, **{where: changed}))


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
