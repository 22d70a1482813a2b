"""AOT's two phases: what holds for every setting of theirs, on random videos."""

import dataclasses
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.anchor_ot.clip_transport import nearness
from comfyui_aot.aot.tokens.video_tokens import Layout, Role, VideoTokens
from comfyui_aot.aot.transport.solvers import Solver
from comfyui_aot.tests.support.searches import examples
from comfyui_aot.tests.support.stages import video

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
@settings(max_examples=examples(15), deadline=None)
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
@settings(max_examples=examples(10), deadline=None)
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
@settings(max_examples=examples(10), deadline=None)
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


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["features", "shallow", "deep"])
def test_what_is_not_finite_is_refused_in_a_line(value, where):
    tokens = video()
    changed = getattr(tokens, where).clone()
    changed[3, 2] = value
    with pytest.raises(InputError, match="encode the video again"):
        parse("aot")(dataclasses.replace(tokens, **{where: changed}))


def test_a_budget_above_the_grid_is_refused_with_the_range():
    with pytest.raises(InputError, match="give 1 to 323"):
        parse("intra:budget=400")(video())


def test_phase_one_after_phase_two_says_where_it_belongs():
    with pytest.raises(InputError, match="put it directly after Encode Video"):
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


def test_unbalanced_transport_takes_clips_of_any_length():
    reduced = parse("inter:clip_length=4,solver=unbalanced")(video(6, (8, 8)))
    assert bool(torch.isfinite(reduced.features).all())


def appearing(seed=0):
    """Two frames of alike ground on 4 x 4 cells; in the second, one cell shows what no other does."""
    generator = torch.Generator().manual_seed(seed)
    ground = torch.randn(8, generator=generator)
    features = ground + 0.3 * torch.randn(2, 16, 8, generator=generator)
    features[1, 5] = -3 * ground
    attention = torch.ones(2, 16)
    layout = Layout(2, (4, 4), "none", "none")
    return VideoTokens.encoded(features.double(), layout, attention, attention, torch.arange(2).double())


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("stage", ["inter:clip_length=2,keep_ratio=0.1", "inter:clip_length=2,keep_tokens=10"])
def test_what_is_new_is_distinct_by_its_cost(stage, seed):
    reduced = parse(f"{stage},explained_by=cost")(appearing(seed))
    assert [1, 1, 1] in reduced.place[reduced.role == int(Role.DISTINCT)].tolist()


@pytest.mark.parametrize("solver", ["sinkhorn", "log", "emd"])
def test_a_plan_is_blind_to_what_a_token_costs_with_every_anchor(solver):
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(1, 6, 4, generator=generator, dtype=torch.float64)
    dearer = cost.clone()
    dearer[0, 2] += 1.5
    u, v = torch.full((1, 6), 1 / 6, dtype=torch.float64), torch.full((1, 4), 1 / 4, dtype=torch.float64)
    plans = [Solver(solver, tolerance=1e-12, max_iterations=100_000).plan(each, u, v) for each in (cost, dearer)]
    torch.testing.assert_close(*plans)
    every = torch.ones(1, 4, dtype=torch.bool)
    near, far = (nearness(each, every)[0] for each in (cost, dearer))
    assert far[2] < near[2]
    assert torch.equal(far[[0, 1, 3, 4, 5]], near[[0, 1, 3, 4, 5]])
