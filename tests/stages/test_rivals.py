"""Every other method against its recorded cases, and what all of them promise on any video."""

import dataclasses
import math
import re
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.base import Part
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens.video_tokens import VideoTokens
from comfyui_aot.aot.verification import COMPANIONS, methods, verify
from comfyui_aot.tests.support.searches import examples
from comfyui_aot.tests.support.stages import asked, attempted, video

RIVALS = [name for name in methods() if name in stages()]
SHIPPED = Path(__file__).parents[1] / "recorded" / "variants"
LAYOUTS = [("bilinear", "one_token"), ("bilinear", "grid"), ("average", "grid"), ("average", "none"), ("none", "none")]

LEAST_A_FRAME = {"holitom": 0, "prunevid": 2}
"""Tokens of every frame from which on any budget can be met, where it is the same for all videos."""

rivals = pytest.mark.parametrize("name", RIVALS)
pytestmark = pytest.mark.filterwarnings("ignore:These tokens come without")


def failed(folder):
    """Cases of a folder that do not pass, and how many there are."""
    results = list(verify(folder))
    return [result for result in results if not result.passed], len(results)


@pytest.mark.parametrize("name", sorted(folder.name for folder in SHIPPED.iterdir()))
def test_every_recorded_case_passes_in_both_precisions(name):
    assert name in methods()
    wrong, cases = failed(SHIPPED / name)
    assert wrong == []
    files = [file for file in (SHIPPED / name).glob("*.safetensors") if file.stem not in COMPANIONS]
    assert cases == 2 * len(files) > 2


@rivals
def test_every_rival_is_a_node_and_its_published_settings_are_its_own(name):
    kind = stages()[name]
    assert kind.node_id.startswith("AOT")
    for preset in kind.presets:
        assert name in [stage.name for stage in parse(preset).stages]


@rivals
@given(
    frames=st.integers(1, 9),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    layout=st.sampled_from(LAYOUTS),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=examples(12), deadline=None)
def test_a_budget_is_met_to_the_token_or_refused_with_the_range(name, frames, height, width, layout, share, seed):
    tokens = asked(video(frames, (height, width), 8, seed, torch.float64, *layout))
    wanted = max(1, round(share * tokens.tokens_full))
    reduced, refused = attempted(stages()[name](keep_tokens=wanted), tokens)
    if reduced is None:
        least, most = map(int, re.search(r"give (\d+) to (\d+) tokens", refused).groups())
        assert not least <= wanted <= most
        assert wanted < LEAST_A_FRAME.get(name, math.inf) * frames
        return
    assert reduced.tokens_kept == wanted
    means = reduced.map.means
    assert all(float(factor.coordinates()[2].min()) >= 0 for factor in means.factors)
    torch.testing.assert_close(means.row_mass(), torch.ones(means.kept, dtype=torch.float64))
    torch.testing.assert_close(reduced.map.apply(tokens.features), reduced.features)
    assert bool(torch.isfinite(reduced.features).all())


@rivals
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_tokens_of_float32(name, half):
    tokens = asked(video(8, (9, 9), 16, dtype=half, pooling="none"))
    single = dataclasses.replace(tokens, features=tokens.features.float())
    reduced, expected = (stages()[name](retention=0.5)(each) for each in (tokens, single))
    assert reduced.features.dtype == half
    assert torch.equal(reduced.place, expected.place)
    torch.testing.assert_close(reduced.features.float(), expected.features, atol=2e-2, rtol=1e-2)


@rivals
@pytest.mark.parametrize("budget", [{}, {"retention": 0.5}])
@pytest.mark.parametrize("frames", [8, 11])
def test_runs_reduced_one_by_one_are_the_video_reduced_whole(name, budget, frames):
    tokens = video(frames, (18, 18), 8, dtype=torch.float64)
    stage = stages()[name](**budget)
    runs = stage.runs(tokens.layout, tokens.timestamps)
    if runs is None:
        pytest.skip(f"{name} needs the whole video")
    ends = torch.tensor(runs).cumsum(0).tolist()
    parts = [
        stage(tokens.cut(end - length, end), Part(end - length, frames)) for end, length in zip(ends, runs, strict=True)
    ]
    whole, pieces = stage(tokens), VideoTokens.concatenate(parts)
    assert torch.equal(whole.place, pieces.place)
    torch.testing.assert_close(whole.features, pieces.features)
