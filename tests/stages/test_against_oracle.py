"""The stages against the float64 reference of tests/oracle.py: the same tokens, W and places for every option."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from safetensors.torch import load_file

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens.video_tokens import Layout, Role, VideoTokens
from comfyui_aot.tests.support import oracle
from comfyui_aot.tests.support.scenes import video
from comfyui_aot.tests.support.searches import examples

CHECKS = settings(
    deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck)
)
"""Without shrinking: what is drawn is small already, and a failure is told in seconds."""
pytestmark = pytest.mark.filterwarnings("ignore:.*marginal error")


def spec(name, options):
    """``name:key=value,key=value``."""
    return f"{name}:" + ",".join(f"{key}={value!s}" for key, value in options.items())


def dense(tokens):
    """W as a (K, S) float64 matrix."""
    return tokens.map.sparse().to_dense().double()


def phase_one(tokens, options):
    """The oracle's features, W and place after phase I."""
    layout = tokens.layout
    given = tokens.features.double().reshape(layout.frames, layout.sources, -1).numpy()
    newline = given[0, layout.cells] if layout.newlines else None
    attention = tokens.shallow.numpy(), tokens.deep.numpy()
    return oracle.intra(given[:, : layout.cells], *attention, layout.grid, layout.pooling, newline=newline, **options)


def phase_two(tokens, features, w, place, options):
    """The oracle's features, W, place and roles after phase II."""
    layout, deep = tokens.layout, tokens.deep.double()
    sources = torch.cat((deep, deep.mean(1, keepdim=True).expand(-1, layout.newlines)), 1)
    importance = w @ sources.flatten().numpy()
    at = tokens.timestamps.numpy(), layout.frames, layout.language_grid, is_newline(tokens, place)
    return oracle.inter(features, w, place, importance, *at, **options)


def is_newline(tokens, place):
    return place[:, 2] == tokens.layout.language_grid[1]


def by_oracle(tokens, phases):
    """What the oracle makes of a video's tokens: features, W, place and roles."""
    pooled = tokens.to_language_grid()
    state = pooled.features.double().numpy(), dense(pooled).numpy(), pooled.place.numpy()
    for name, options in phases:
        if name == "intra":
            state = phase_one(tokens, options)
            roles = ["newline" if ends else "kept" for ends in is_newline(tokens, state[2])]
        else:
            *state, roles = phase_two(tokens, *state, options)
    return *map(torch.as_tensor, state), roles


def check(tokens, *phases, tolerance=1e-9):
    """Stage chain and oracle agree on a video, or both find the settings impossible."""
    phases = [(name, {"solver": "early"} | options) for name, options in phases]
    chain = parse("+".join(spec(*phase) for phase in phases))
    try:
        features, w, place, roles = by_oracle(tokens, phases)
    except ValueError:
        with pytest.raises(InputError):
            chain(tokens)
        return
    reduced = chain(tokens)
    assert torch.equal(reduced.place, place)
    assert [Role(role).name.lower() for role in reduced.role.tolist()] == roles
    if any(options["solver"] == "unbalanced" for _, options in phases):
        tolerance = UNBALANCED_TOLERANCE
    scale = float(tokens.features.abs().max())
    torch.testing.assert_close(reduced.features.double(), features, atol=tolerance * scale, rtol=0)
    torch.testing.assert_close(dense(reduced), w, atol=tolerance, rtol=0)


def one_of(*values):
    return st.sampled_from(values)


TRANSPORT = {
    "scaling": one_of(0.3, 1.0, 4.0),
    "eps": one_of(0.05, 0.1, 1.0),
    "metric": one_of("cosine", "sqeuclidean"),
    "marginals": one_of("uniform", "importance"),
    "aggregation": one_of("released", "paper", "counts"),
    "max_iterations": one_of(1, 7, 100),
    "tolerance": one_of(1e-3, 1e-6),
    "spatial_weight": one_of(0.0, 0.5, 2.0),
    "relaxation": one_of(0.1, 1.0),
    "mass": one_of(0.5, 0.9),
}
"""Every option of the transport but the solver, drawn at random."""
INTRA = TRANSPORT | {
    "global_ratio": one_of(0.0, 0.3, 1.0),
    "window": one_of(3, 9),
    "nearest_blend": one_of(0.0, 0.1, 1.0),
}
CUTS = {
    "clips": one_of("fixed", "dynamic", "times", "one"),
    "clip_length": st.integers(1, 5),
    "cut_similarity": one_of(-1.0, 0.8),
    "cut_lowest": st.integers(0, 3),
    "cut_times": one_of("", "0.5", "0.7 2", "1.0/1.5;9"),
}
INTER = (
    TRANSPORT
    | CUTS
    | {
        "keep_ratio": one_of(0.0, 0.3, 1.0),
        "time_scale": one_of(0.5, 1.5),
        "order": one_of("released", "time"),
        "repeat": st.booleans(),
        "explained_by": one_of("plan", "cost"),
    }
)
BUDGET = {"keyframe_share": one_of(0.0, 0.3, 0.7, 1.0), "ranking": one_of("video", "frame")}
SHAPES = {
    "frames": st.integers(1, 6),
    "grid": st.tuples(st.integers(4, 10), st.integers(4, 10)),
    "seed": st.integers(0, 999),
    "layout": one_of(("bilinear", "one_token"), ("average", "grid"), ("none", "none"), ("bilinear", "grid")),
}


CONVERGED = {"tolerance": 1e-12, "max_iterations": 5000}
"""For POT's unbalanced variants, which meet at the fixed point only."""
UNBALANCED_TOLERANCE = 1e-7
LINEAR_PROGRAMS = ("emd", "partial")
"""Solvers whose plans have many equal q, 0 or 1, so that rounding would decide between them: none is ranked here."""


def shaped(shape, **settings):
    """The video a drawn shape describes."""
    pooling, newline = shape["layout"]
    return video(shape["frames"], shape["grid"], seed=shape["seed"], pooling=pooling, newline=newline, **settings)


def drawn(options):
    return st.fixed_dictionaries(options)


@pytest.mark.parametrize("solver", oracle.SOLVERS)
@given(shape=drawn(SHAPES), options=drawn(INTRA), share=st.floats(0.02, 0.98))
@settings(CHECKS, max_examples=examples(9))
def test_phase_one_with_an_anchor_budget(solver, shape, options, share):
    tokens = shaped(shape)
    budget = max(1, min(tokens.layout.cells - 1, round(share * tokens.layout.cells)))
    if solver == "unbalanced":
        options |= CONVERGED
    check(tokens, ("intra", options | {"solver": solver, "budget": budget}))


@given(shape=drawn(SHAPES), options=drawn(INTRA), retention=st.floats(0.01, 1.0))
@settings(CHECKS, max_examples=examples(25))
def test_phase_one_on_a_retention(shape, options, retention):
    check(shaped(shape), ("intra", options | {"retention": retention}))


@given(shape=drawn(SHAPES), keep_tokens=st.integers(1, 60))
@settings(CHECKS, max_examples=examples(15))
def test_phase_one_on_a_token_count(shape, keep_tokens):
    check(shaped(shape), ("intra", {"keep_tokens": keep_tokens, "retention": 0.9}))


@pytest.mark.parametrize("solver", oracle.SOLVERS)
@given(shape=drawn(SHAPES), options=drawn(INTER))
@settings(CHECKS, max_examples=examples(9))
def test_phase_two_with_a_keep_ratio(solver, shape, options):
    if solver == "unbalanced":
        options |= CONVERGED
    if solver in LINEAR_PROGRAMS:
        shape |= {"layout": ("bilinear", "one_token")}
        options |= {"keep_ratio": 0.0}
    check(shaped(shape), ("inter", options | {"solver": solver}))


@pytest.mark.parametrize("solver", oracle.SOLVERS)
@given(shape=drawn(SHAPES), options=drawn(INTER | BUDGET), retention=st.floats(0.05, 1.0))
@settings(CHECKS, max_examples=examples(9))
def test_phase_two_on_a_retention(solver, shape, options, retention):
    if solver == "unbalanced":
        options |= CONVERGED
    if solver in LINEAR_PROGRAMS:
        options |= {"keyframe_share": 1.0}
        retention /= shape["frames"]
    check(shaped(shape), ("inter", options | {"solver": solver, "retention": retention}))


@given(shape=drawn(SHAPES), keep_tokens=st.integers(1, 200))
@settings(CHECKS, max_examples=examples(15))
def test_phase_two_on_a_token_count(shape, keep_tokens):
    check(shaped(shape), ("inter", {"keep_tokens": keep_tokens, "retention": 0.9}))


@given(shape=drawn(SHAPES), first=drawn(INTRA), second=drawn(INTER), share=st.floats(0.2, 0.95))
@settings(CHECKS, max_examples=examples(25))
def test_both_phases_with_an_anchor_budget_and_a_keep_ratio(shape, first, second, share):
    tokens = shaped(shape)
    budget = round(share * tokens.layout.cells)
    check(tokens, ("intra", first | {"budget": budget}), ("inter", second))


@given(shape=drawn(SHAPES), first=drawn(INTRA), second=drawn(INTER | BUDGET), retention=st.floats(0.05, 0.7))
@settings(CHECKS, max_examples=examples(25))
def test_both_phases_on_a_retention(shape, first, second, retention):
    ahead = min(1.0, 1.5 * retention)
    check(shaped(shape), ("intra", first | {"retention": ahead}), ("inter", second | {"retention": retention}))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"budget": 60}, {}),
        ({"retention": 0.5}, {"retention": 0.3}),
        ({"budget": 60, "metric": "sqeuclidean"}, {"metric": "sqeuclidean", "spatial_weight": 1.0, "solver": "log"}),
        ({"budget": 60, "aggregation": "counts"}, {"aggregation": "counts", "marginals": "importance"}),
    ],
)
def test_float32_finds_the_same_tokens(seed, first, second):
    tokens = video(6, (10, 13), dim=16, seed=seed, dtype=torch.float32)
    check(tokens, ("intra", first), ("inter", second | {"clip_length": 3}), tolerance=2e-5)


RECORDED = Path(__file__).parents[1] / "recorded"


def test_the_oracle_chooses_the_recorded_anchors():
    recorded = load_file(RECORDED / "anchors_126_50.safetensors")
    for shallow, deep, mask in zip(*(recorded[key].numpy() for key in ("shallow", "deep", "mask")), strict=True):
        assert oracle.select_anchors(shallow, deep, (27, 27), 126, 0.5, 9).tolist() == mask.nonzero()[0].tolist()


def test_the_oracle_reproduces_the_released_code():
    recorded = load_file(RECORDED / "pipeline_llava_onevision_126_30.safetensors")
    released = {"solver": "released"}
    features, shallow, deep, expected = (recorded[key] for key in ("features", "shallow", "deep", "tokens"))
    layout = Layout(32, (27, 27), "bilinear", "one_token")
    tokens = VideoTokens.encoded(features, layout, shallow, deep, torch.arange(32, dtype=torch.float64))
    found, *_ = by_oracle(tokens, (("intra", released), ("inter", released)))
    torch.testing.assert_close(found.float(), expected, atol=2e-6, rtol=0)


def test_equal_tokens_are_explained_equally_well():
    """Newlines are all the same: where their q falls together with a quantile, rounding must not part them."""
    tokens = shaped({"frames": 5, "grid": (9, 9), "seed": 921, "layout": ("average", "grid")})
    first = {"budget": 20, "eps": 1.0, "marginals": "importance", "spatial_weight": 0.0, "global_ratio": 1.0}
    second = {"clips": "one", "metric": "sqeuclidean", "scaling": 4.0, "eps": 0.05, "time_scale": 0.5}
    check(
        tokens,
        ("intra", first | {"aggregation": "counts"}),
        ("inter", second | {"aggregation": "counts", "max_iterations": 7, "repeat": False}),
    )
