"""Frames merged inside a tower that takes a video's patches as one sequence: Qwen's, GLM-V's, VideoLLaMA3's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.importance import depths
from comfyui_aot.aot.models.inside import Blocks
from comfyui_aot.aot.stages import TowerStage
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.earlytom import EarlyTom, EarlyTomCells
from comfyui_aot.aot.streaming import stream
from comfyui_aot.aot.tokens import storage
from comfyui_aot.aot.tokens.frame_merge import FrameMerge
from comfyui_aot.aot.tokens.video_tokens import Extra
from comfyui_aot.tests.support.small_models import saved_or_skipped
from comfyui_aot.tests.support.stock_inputs import QUESTION, random_frames

FAMILIES = (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "glm4v", "glm46v", "video_llama_3",
)  # fmt: skip
TIMES, LEFT = 5, [0, 2, 4]
"""Frames of the layout, which are pairs of the clip's with most of these families, and those that stay."""


@dataclass(frozen=True)
class Merging(TowerStage):
    """Frames 0, 2 and 4 as they are, or frames 1 and 2 mixed, after one block."""

    name = "merging"
    title = "Merging"
    source = "this test"
    block: int = 0
    mixes: bool = False

    def __post_init__(self) -> None:
        pass

    def settings(self) -> dict[str, object]:
        return {"block": self.block, "mixes": self.mixes}

    def blocks(self, used: int) -> tuple[int, ...]:
        return (self.block,)

    def merge(self, states: torch.Tensor) -> FrameMerge:
        middle = {1: 0.25, 2: 0.75} if self.mixes else {2: 1.0}
        return FrameMerge.of([{0: 1.0}, middle, {4: 1.0}], TIMES)

    def notes(self, states: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return {"left": torch.ones(len(states))}


@pytest.fixture(scope="module", params=FAMILIES)
def small(request, tmp_path_factory, embedded_folder):
    return load(saved_or_skipped(request.param, tmp_path_factory.mktemp("models"), embedded_folder))


@pytest.fixture(scope="module")
def together(small):
    return getattr(small.hf_model.config.vision_config, "temporal_patch_size", 1)


@pytest.fixture(scope="module")
def clip(together):
    return random_frames(TIMES * together)


@pytest.fixture(scope="module")
def full(small, clip):
    tokens = small.encode(clip)
    assert tokens.layout.frames == TIMES
    return tokens


@pytest.fixture(scope="module")
def alone(small, clip, together):
    """What the tower gives for the frames that stay, without the others, at the size that they have among those."""
    size = small.frame_size(clip)
    pixel_values = small.preprocess(clip, size).unflatten(0, (TIMES, together))[LEFT].flatten(0, 1)
    with torch.no_grad():
        return small.run_tower(pixel_values, small.layout_of(len(pixel_values), size))


def by_frame(values, tokens):
    return values.reshape(-1, tokens.layout.cells, values.shape[1])


@pytest.mark.parametrize("block", [0, 2, 5])
def test_frames_left_are_to_the_bit_what_they_are_alone(block, small, clip, full, alone):
    tokens = small.encode(Merging(block)(clip))
    assert tokens.frames_left == tuple(LEFT) and tokens.layout == full.layout
    ours, theirs = (tokens.features, *tokens.levels), (alone.image_features, *alone.levels)
    for kept, lone, whole in zip(ours, theirs, (full.features, *full.levels), strict=True):
        assert torch.equal(kept, lone.flatten(0, 1))
        assert torch.equal(kept, by_frame(whole, full)[LEFT].flatten(0, 1))
        assert torch.equal(tokens.map.apply(whole), kept)
    assert tokens.map.exact


def test_what_is_known_of_the_frames_left_is_theirs_and_of_the_others_nothing(small, clip, full):
    tokens = small.encode(Merging()(clip))
    for name in (Extra.LAST, Extra.KEYS):
        torch.testing.assert_close(tokens.extras[name][LEFT], full.extras[name][LEFT])
        assert not tokens.extras[name][[1, 3]].any()
    for ours, whole in ((tokens.shallow, full.shallow), (tokens.deep, full.deep)):
        torch.testing.assert_close(ours[LEFT], whole[LEFT])
    assert tokens.extras["left"].tolist() == [1, 0, 1, 0, 1]


def test_a_mixed_frame_is_attributed_and_its_neighbours_are_as_they_were(small, clip, full):
    tokens = small.encode(Merging(2, mixes=True)(clip))
    assert tokens.frames_left == tuple(LEFT) and not tokens.map.exact
    torch.testing.assert_close(tokens.map.row_mass(), torch.ones(len(tokens.features), dtype=torch.float64))
    claimed = by_frame(tokens.map.apply(full.features), full)
    features = by_frame(tokens.features, full)
    assert torch.equal(features[[0, 2]], claimed[[0, 2]])
    assert not torch.allclose(features[1], claimed[1], atol=1e-4)
    levels = zip(tokens.levels, full.levels, strict=True)
    changed = [not torch.allclose(level, tokens.map.apply(whole)) for level, whole in levels]
    assert changed == [False, True, True][: len(changed)]  # of blocks 1, 3 and 5


def test_steps_follow_each_other_and_every_level_knows_which_came_before_it(small, clip, full):
    if not full.levels:
        pytest.skip("no levels")

    class Ends(Merging):
        def merge(self, states):
            return FrameMerge.of([{0: 0.5, 1: 0.5}, {2: 1.0}], 3)

    tokens = small.encode(Ends(3)(Merging(1)(clip)))
    assert tokens.frames_left == (0, 4)
    torch.testing.assert_close(tokens.levels[0], tokens.map.apply(full.levels[0]))
    for level, whole in zip((tokens.features, *tokens.levels), (full.features, *full.levels), strict=True):
        assert torch.equal(by_frame(level, full)[1], by_frame(whole, full)[4])
    assert [record.tokens_out // full.layout.cells for record in tokens.history] == [5, 3, 2]


def test_attention_is_that_of_the_nearest_block_over_full_frames(small, clip, full):
    tokens = small.encode(Merging(depths(small.blocks.used)[0])(clip))
    attention = tokens.extras[Extra.TOWER]
    assert not attention[[1, 3]].any()
    assert attention.shape == full.shallow.shape
    torch.testing.assert_close(attention[LEFT], full.shallow[LEFT])  # of the shallow layer, or the nearest


def test_of_two_blocks_as_near_the_earlier_is_attended():
    blocks = Blocks((), 8, over_frames=(1, 4, 7))
    assert [blocks.attended(last) for last in range(8)] == [1, 1, 1, 4, 4, 4, 7, 7]
    assert Blocks((), 8).attended(3) == 3


@torch.no_grad()
def test_frames_left_can_be_reduced_saved_streamed_and_asked_about(small, clip, tmp_path):
    carried = Merging()(clip)
    tokens = small.encode(carried)
    for chain in ("aot:retention=0.3", "evs:retention=0.3", "earlytom-cells:retention=0.3"):
        reduced = parse(chain)(tokens)
        assert reduced.tokens_kept == round(0.3 * tokens.tokens_full)
        assert set(reduced.frame.tolist()) <= set(LEFT)
        assert torch.equal(stream(small, carried, parse(chain).on_tokens).features, reduced.features)
        storage.save(reduced, tmp_path / "tokens.safetensors")
        again = storage.load(tmp_path / "tokens.safetensors")
        assert all(torch.equal(*levels) for levels in zip(again.levels, reduced.levels, strict=True))
        logits = small.forward(small.prompt_inputs(reduced, QUESTION), small.new_cache())
        assert bool(torch.isfinite(logits).all())


def test_earlytom_runs_on_it_and_its_hooks_are_gone_after_it(small, clip, full):
    tokens = small.encode(EarlyTom(similarity=0, layers="0")(clip))
    assert tokens.frames_left[0] == 0 and tokens.frames_left[-1] == TIMES - 1
    assert len(tokens.frames_left) in (3, 4)  # one run of five: its three middle frames become one or two as released
    assert EarlyTomCells(target=0.2)(tokens).tokens_kept <= tokens.tokens_kept
    modules = list(small.tower.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert torch.equal(small.encode(clip).features, full.features)


@pytest.mark.parametrize("family", ["gemma4", "minicpmv4_6", "molmo2"])
def test_a_tower_that_needs_all_frames_after_it_is_refused_in_a_line(family, tmp_path, embedded_folder):
    folder = saved_or_skipped(family, tmp_path, embedded_folder)
    with pytest.raises(InputError, match=r"needs all of them after it; leave the stage out, or use") as error:
        load(folder).encode(EarlyTom()(random_frames()))
    assert "\n" not in str(error.value)
