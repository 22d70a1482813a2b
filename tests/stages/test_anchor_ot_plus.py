"""Anchor OT Plus: against an oracle, and what its four steps promise."""

from itertools import combinations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.base import Part
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.anchor_ot.plus import AnchorOTPlus, gains_of
from comfyui_aot.aot.tokens.video_tokens import Layout, Role, VideoTokens
from comfyui_aot.tests.support import plus_oracle
from comfyui_aot.tests.support.searches import examples


def shown(features, attention=None):
    """A video whose cells have these features, (T, L, D), and are attended to alike if nothing else is said."""
    frames, cells, _ = features.shape
    attention = torch.ones(frames, cells) if attention is None else attention
    layout = Layout(frames, (1, cells), "none", "none")
    return VideoTokens.encoded(features, layout, attention, attention, torch.arange(frames).double())


def places(reduced):
    return (reduced.place[:, 0] * reduced.layout.language_cells + reduced.place[:, 2]).tolist()


@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 7),
    cells=st.integers(1, 30),
    width=st.integers(1, 9),
    share=st.floats(0, 1),
    clip_length=st.integers(1, 8),
    carry=st.sampled_from((0.0, 0.3, 1.0, 50.0)),
    eps=st.sampled_from((0.02, 0.05, 0.5)),
    reach=st.sampled_from((0.0, 0.3, 2.0)),
)
@settings(max_examples=examples(60), deadline=None)
def test_it_is_what_the_oracle_makes_of_the_four_steps(
    seed, frames, cells, width, share, clip_length, carry, eps, reach
):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(frames, cells, width)) + 3
    attention = rng.uniform(0.1, 2, (frames, cells)).astype(np.float32).astype(np.float64)
    budget = max(1, round(share * frames * cells))
    stage = AnchorOTPlus(keep_tokens=budget, carry=carry, eps=eps, reach=reach, clip_length=clip_length)
    reduced = stage(shown(torch.from_numpy(features), torch.from_numpy(attention)))
    place, tokens, weights = plus_oracle.reduce(
        features, attention, budget, carry=carry, eps=eps, reach=reach, clip_length=clip_length
    )
    assert places(reduced) == place.tolist()
    np.testing.assert_allclose(reduced.features.numpy(), tokens, atol=1e-9)
    np.testing.assert_allclose(reduced.map.sparse().to_dense().numpy(), weights, atol=1e-9)


@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 6), clip_length=st.integers(1, 4), data=st.data())
@settings(max_examples=examples(30), deadline=None)
def test_frames_get_what_a_stage_before_gives_them(seed, frames, clip_length, data):
    cells, rng = 12, np.random.default_rng(seed)
    budgets = data.draw(st.lists(st.integers(0, cells), min_size=frames, max_size=frames).filter(any))
    features, attention = rng.normal(size=(frames, cells, 5)), np.ones((frames, cells))
    stage = AnchorOTPlus(retention=0.5, clip_length=clip_length, carry=0.5)
    reduced = stage.reduce(shown(torch.from_numpy(features)), Part(0, frames, tuple(budgets)))
    place, tokens, _ = plus_oracle.reduce(features, attention, budgets, carry=0.5, clip_length=clip_length)
    assert places(reduced) == place.tolist()
    np.testing.assert_allclose(reduced.features.numpy(), tokens, atol=1e-9)


def test_a_frame_that_has_its_budget_does_not_make_cells_of_others_old():
    one, other, third = torch.eye(3, dtype=torch.float64)
    shows = torch.stack([torch.stack([3 * one, 2.9 * other, 0 * one]), torch.stack([2.8 * other, third, 0 * one])])
    features = torch.cat((shows, -shows.sum((0, 1), keepdim=True).expand(1, 3, 3) / 3))
    reduced = AnchorOTPlus(retention=0.5).reduce(shown(features), Part(0, 3, (1, 1, 0)))
    assert places(reduced) == [0, 3]


def test_gains_are_those_of_the_largest_determinants():
    z = np.random.default_rng(0).normal(size=(9, 4))
    gains = gains_of(z @ z.T)
    order = np.argsort(-gains)[:4]
    chosen = []
    for cell in order:
        volumes = {i: np.linalg.det(z[[*chosen, i]] @ z[[*chosen, i]].T) for i in range(9) if i not in chosen}
        assert max(volumes, key=volumes.get) == cell
        before = np.linalg.det(z[chosen] @ z[chosen].T) if chosen else 1
        assert gains[cell] == pytest.approx(volumes[cell] / before)
        chosen.append(cell)
    assert sorted(gains)[:5] == [0] * 5  # four directions hold four anchors
    assert gains[order].tolist() == sorted(gains[order], reverse=True)


def test_two_tokens_are_within_a_factor_of_the_best_two():
    rng = np.random.default_rng(1)
    for _ in range(20):
        z = rng.normal(size=(12, 6))
        best = max(np.linalg.det(z[[i, j]] @ z[[i, j]].T) for i, j in combinations(range(12), 2))
        pair = np.argsort(-gains_of(z @ z.T))[:2]
        assert np.linalg.det(z[pair] @ z[pair].T) >= best / 4  # (1 / k!)^2 of it: Civril and Magdon-Ismail, 2009


def test_what_appears_in_one_frame_alone_is_kept_first():
    features = torch.randn(6, 20, 16, generator=torch.Generator().manual_seed(0)).mul(0.05) + torch.ones(16)
    features[3, 7] = 4 * torch.eye(16)[2]
    assert places(parse("aot-plus:keep_tokens=1")(shown(features))) == [3 * 20 + 7]


def test_a_still_video_gives_every_cell_once_before_any_twice():
    frame = torch.randn(1, 10, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    still = shown(frame.expand(5, -1, -1).contiguous())
    kept = [place % 10 for place in places(parse("aot-plus:keep_tokens=9")(still))]
    assert len(set(kept)) == 9
    apart = places(parse("aot-plus:keep_tokens=20,clip_length=1")(still))
    assert all(len({place % 10 for place in apart if place // 10 == frame}) == 4 for frame in range(5))


def test_what_nobody_looks_at_is_not_kept():
    features = torch.randn(4, 10, 32, generator=torch.Generator().manual_seed(0))
    attention = torch.ones(4, 10)
    attention[:, ::2] = 0
    assert all(place % 10 % 2 for place in places(parse("aot-plus:keep_tokens=20")(shown(features, attention))))


def test_a_cell_out_of_reach_is_carried_nowhere():
    near, far = torch.tensor([1.0, 0.05, 0]), torch.tensor([0, 0, 0.6])
    features = torch.stack([torch.tensor([1.0, 0, 0]), near, far, -torch.tensor([1.0, 0, 0]) - near - far])[None]
    attention = torch.tensor([[9.0, 1, 1, 1e-3]])
    rows = parse("aot-plus:keep_tokens=1,carry=1")(shown(features.double(), attention)).map.sparse().to_dense().numpy()
    assert rows[0, 0] == pytest.approx(0.5, abs=0.01)
    assert rows[0, 1] == pytest.approx(0.5, abs=0.01)
    assert rows[0, 2:].tolist() == [0, 0]


def test_without_transport_cells_stay_as_they_are():
    tokens = shown(torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0)))
    reduced = parse("aot-plus:keep_tokens=7")(tokens)
    assert set(reduced.role.tolist()) == {int(Role.KEPT)}
    assert torch.equal(reduced.features, tokens.features[places(reduced)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "attention"), [(2.0**50, 1.0), (2.0**-100, 1.0), (1.0, 2.0**100), (1.0, 2.0**-100)])
def test_the_size_of_features_and_of_attention_makes_no_difference(size, attention, dtype):
    generator = torch.Generator().manual_seed(0)
    features, seen = torch.randn(3, 12, 8, generator=generator), torch.rand(3, 12, generator=generator)
    usual, sized = (
        parse("aot-plus:keep_tokens=9,carry=1,reach=0.6")(shown((features * by).to(dtype), seen * of_it))
        for by, of_it in ((1.0, 1.0), (size, attention))
    )
    assert places(sized) == places(usual)
    torch.testing.assert_close(sized.features.float() / size, usual.features.float(), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("features", [torch.zeros, torch.ones])
def test_where_nothing_is_new_the_first_cells_are_kept(frames, features):
    for attention in (torch.ones(frames, 6), torch.zeros(frames, 6)):
        reduced = parse("aot-plus:keep_tokens=5,carry=1")(shown(features(frames, 6, 3), attention))
        assert places(reduced) == [0, 1, 2, 3, 4]
        assert bool(torch.isfinite(reduced.features).all())


def test_a_budget_out_of_range_is_one_line():
    tokens = shown(torch.randn(3, 8, 5))
    with pytest.raises(InputError, match="give 1 to 24 tokens"):
        parse("aot-plus:keep_tokens=25")(tokens)
