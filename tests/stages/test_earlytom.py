"""EarlyTom: runs and means of frames worked out by hand, and the cells chosen of those that are left."""

import dataclasses
import math

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages import every_stage
from comfyui_aot.aot.stages.chain import is_fixed, parse
from comfyui_aot.aot.stages.methods.earlytom import EarlyTom, EarlyTomCells, Likeness
from comfyui_aot.aot.tokens.frame_merge import FrameMerge
from comfyui_aot.aot.tokens.video_tokens import Extra, Layout, VideoTokens
from comfyui_aot.aot.video.frames import Frames, resample
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.tests.support.stages import video


def turned(*degrees):
    """(T, 1, 2) states of one patch, at these angles: the likeness of two frames is the cosine between them."""
    angle = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack((angle.cos(), angle.sin()), 1)[:, None]


def runs(states, **settings):
    stage = EarlyTom(**settings)
    return stage.runs(Likeness.of(states, stage.window))


def test_a_run_ends_where_frames_are_no_longer_like_its_first():
    assert runs(turned(0, 10, 80, 80), similarity=0.6, smoothing=1) == [(0, 1), (2, 3)]
    assert runs(turned(0, 10, 80, 80), similarity=0.1, smoothing=1) == [(0, 3)]


def test_a_smoothed_likeness_forgives_one_frame():
    assert runs(turned(0, 0, 80, 0), similarity=0.5, smoothing=0.5) == [(0, 3)]
    assert runs(turned(0, 0, 80, 0), similarity=0.5, smoothing=0.9) == [(0, 1), (2, 2), (3, 3)]


def test_a_run_has_fewer_frames_than_the_window():
    assert runs(turned(*[0] * 7), window=4) == [(0, 2), (3, 5), (6, 6)]
    assert runs(turned(0), window=4) == [(0, 0)]


def test_as_released_the_last_frame_between_the_ends_is_lost():
    assert EarlyTom(similarity=0.1).merge(turned(0, 30, 60, 0)).into.tolist() == [0, 1, -1, 2]
    merge = EarlyTom(similarity=0.1, last_middle="kept").merge(turned(0, 30, 60, 0))
    assert merge.into.tolist() == [0, 1, 2, 3]


def test_neighbours_more_alike_than_the_ends_are_mixed_by_how_alike_they_are():
    states = turned(0, 5, 6, 40, 60)  # between the ends 5, 6 and 40: cosines of 1 and 34 degrees
    merge = EarlyTom(similarity=0.1).merge(states)
    share = math.cos(math.radians(1)) / (math.cos(math.radians(1)) + math.cos(math.radians(34)))
    assert merge.into.tolist() == [0, 1, 1, -1, 2]
    assert merge.weight.tolist() == pytest.approx([1, share, 1 - share, 0, 1])
    kept = EarlyTom(similarity=0.1, last_middle="kept").merge(states)
    assert kept.into.tolist() == [0, 1, 1, 2, 3]


def test_a_last_pair_that_is_alike_is_its_first_frame_as_released_or_the_mean():
    states = turned(0, 30, 30, 60)
    assert EarlyTom(similarity=0.1).merge(states).weight.tolist() == [1, 1, 0, 1]
    assert EarlyTom(similarity=0.1, last_middle="kept").merge(states).weight.tolist() == [1, 0.5, 0.5, 1]


def test_average_is_one_mean_of_all_between_the_ends():
    merge = EarlyTom(similarity=0.1, merging="average").merge(turned(0, 10, 20, 30, 40))
    assert merge.weight.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3, 1])


@pytest.mark.parametrize("kept", ["released", "kept"])
@pytest.mark.parametrize("merging", ["mixing", "average"])
@pytest.mark.parametrize("seed", range(5))
def test_any_states_give_means(seed, merging, kept):
    states = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    merge = EarlyTom(similarity=0, merging=merging, last_middle=kept).merge(states)
    assert float(merge.weight.min()) >= 0
    torch.testing.assert_close(merge.apply(torch.ones(20, 1).double()), torch.ones(merge.left, 1).double())
    if kept == "kept":
        assert (merge.into >= 0).all()


@pytest.mark.parametrize(("used", "blocks"), [(26, (8, 21, 23)), (9, (2, 7)), (24, (7, 19, 21)), (2, (0,)), (1, ())])
def test_other_towers_take_blocks_as_deep_but_not_the_last(used, blocks):
    assert tuple(EarlyTom().blocks(used)) == blocks


@pytest.mark.parametrize("layers", ["", "a", "8,21", "26", "-1"])
def test_layers_that_are_none_are_refused(layers):
    with pytest.raises(InputError, match="give blocks from 0 to 25"):
        EarlyTom(layers=layers)


def test_it_travels_with_frames_and_their_parts():
    frames = Frames(torch.zeros(5, 2, 2, 3, dtype=torch.uint8), torch.arange(5).double(), "x")
    stage = EarlyTom(similarity=0.5)
    given = stage(stage(frames))
    assert frames.steps == ()
    assert given.steps == (stage, stage)
    assert [part.steps for part in given.parts(2)] == [(stage, stage)] * 3


def test_others_of_the_video_and_chosen_ones_have_it_too():
    def others(count):
        return Frames(torch.zeros(count, 2, 2, 3, dtype=torch.uint8), torch.arange(count).double(), "x", more=others)

    stage = EarlyTom()
    given = stage(others(5))
    assert given.more(8).steps == given.more(8).more(9).steps == (stage,)
    assert parse("fewer:frames=2+earlytom").on_frames(others(5)).steps == (stage,)
    assert given.pick(torch.tensor([1, 3])).steps == resample(given, Sampling(frames=2)).steps == (stage,)
    assert is_fixed("earlytom") and not is_fixed("earlytom+aot")


def test_its_presets_are_chains_that_settle_what_they_keep():
    for name, chain in EarlyTom.presets.items():
        assert is_fixed(name) and [stage.name for stage in parse(chain).stages] == ["earlytom", "earlytom-cells"]
    assert not is_fixed("earlytom+earlytom-cells")
    assert "earlytom" in every_stage()


def left_of(runs, attention, side, merge=None):
    """Tokens of frames with attention and runs, of which some were merged."""
    frames = merge.frames if merge else len(attention)
    layout = Layout(frames, (1, side), "none", "none")
    features = torch.randn(len(attention), side, 4, dtype=torch.float64)
    received, numbers = torch.tensor(attention), torch.tensor(runs).float()
    extras = {Extra.TOWER: received, Extra.RUNS: numbers}
    extras = {name: merge.spread(extra) for name, extra in extras.items()} if merge else extras
    ones = torch.ones(frames, side)
    times = torch.arange(frames).double()
    return VideoTokens.encoded(features, layout, ones, ones, times, extras=extras, merge=merge)


def test_ends_keep_the_most_attended_and_others_one_of_each_stretch():
    attention = [[0.1, 0.2, 0.9, 0.8, 0.3]] * 3
    reduced = EarlyTomCells(keep_tokens=6)(left_of([1, 1, 1], attention, 5))
    assert reduced.place[:, [0, 2]].tolist() == [[0, 2], [0, 3], [1, 2], [1, 3], [2, 2], [2, 3]]
    reduced = EarlyTomCells(keep_tokens=6)(left_of([1, 1, 1], [[0.9, 0.8, 0.1, 0.2, 0.3]] * 3, 5))
    assert reduced.place[:, [0, 2]].tolist() == [[0, 0], [0, 1], [1, 0], [1, 4], [2, 0], [2, 1]]


def test_the_target_counts_frames_that_were_merged():
    merge = FrameMerge.of([{0: 1.0}, {3: 1.0}], 4)
    tokens = left_of([1, 1], [[0.1, 0.2, 0.9, 0.8]] * 2, 4, merge)
    assert tokens.tokens_full == 16
    reduced = EarlyTomCells(target=0.25)(tokens)
    assert reduced.tokens_kept == 4  # ceil(4 x 0.25 x 4 / 2) of both
    assert reduced.frame.tolist() == [0, 0, 3, 3]
    assert EarlyTomCells(target=0.9)(tokens).tokens_kept == 8
    assert EarlyTomCells(keep_tokens=5)(tokens).tokens_kept == 5
    assert reduced.map.exact


def test_without_earlytom_before_it_every_frame_is_a_run_of_its_own():
    tokens = video(4, extras=True)
    alone = {name: extra for name, extra in tokens.extras.items() if name != Extra.RUNS}
    reduced = EarlyTomCells(target=0.1)(dataclasses.replace(tokens, extras=alone))
    assert reduced.frame_counts == (math.ceil(8.1),) * 4
