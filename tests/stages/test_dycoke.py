"""DyCoke: what is compared with what, how many tokens that leaves, and in which order."""

import math

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.base import Part
from comfyui_aot.aot.stages.methods.dycoke import DyCoke, references_of
from comfyui_aot.aot.tokens.video_tokens import Layout, Role, VideoTokens
from comfyui_aot.tests.support.stages import video


def turned(*degrees):
    """A frame of four cells, 2 x 2: unit vectors at these angles."""
    return [(math.cos(math.radians(angle)), math.sin(math.radians(angle))) for angle in degrees]


def clip(*frames, newline="none"):
    features = torch.tensor(frames, dtype=torch.float64)
    layout = Layout(len(frames), (2, 2), "none", newline)
    times = torch.arange(len(frames), dtype=torch.float64)
    attention = torch.ones(len(frames), 4)
    return VideoTokens.encoded(features, layout, attention, attention, times, newline=torch.zeros(2).double())


def cells(reduced):
    """(frame, cell) of every token that is no newline."""
    return [(t, 2 * y + x) for t, y, x in reduced.place[reduced.role != Role.NEWLINE].tolist()]


def test_odd_frames_go_by_the_one_before_and_a_groups_third_by_its_first():
    assert references_of(10) == (-1, 0, 0, 2, -1, 4, 4, 6, -1, 8)


def test_a_groups_third_frame_among_the_last_two_stays_whole():
    assert references_of(8) == (-1, 0, 0, 2, -1, 4, -1, 6)


@pytest.mark.parametrize(
    ("frames", "side", "ratio", "kept"),
    [
        (32, 14, 0.7, 3098),
        (32, 14, 0.3, 4915),
        (32, 14, 0.9, 2201),
        (32, 14, 1.0, 1764),
        (64, 14, 0.7, 6058),
        (8, 14, 0.7, 878),
        (33, 14, 0.7, 2960),
        (12, 10, 0.8, 552),
        (1, 10, 1.0, 100),
    ],
)
def test_the_pruning_ratio_keeps_the_released_count(frames, side, ratio, kept):
    layout = Layout(frames, (side, side), "none", "none")
    assert sum(DyCoke(pruning_ratio=ratio).kept_of_each(layout, frames)) == kept


def test_the_least_alike_cells_stay_most_changed_first():
    reduced = DyCoke(pruning_ratio=0.25)(clip(turned(0, 0, 0, 0), turned(10, 90, 0, 40)))
    assert cells(reduced) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 3), (1, 0)]


def test_the_fourth_frame_goes_by_the_third_as_it_was_before_pruning():
    first, third = turned(0, 0, 0, 0), turned(0, 0, 90, 0)
    reduced = DyCoke(pruning_ratio=0.75)(clip(first, first, third, turned(0, 80, 90, 0), first, first))
    assert [cell for cell in cells(reduced) if cell[0] in (2, 3)] == [(2, 2), (3, 1)]


def test_with_a_newline_a_row_tokens_go_by_their_place():
    reduced = DyCoke(pruning_ratio=0.5)(clip(turned(0, 0, 0, 0), turned(0, 0, 10, 50), newline="grid"))
    assert cells(reduced)[4:] == [(1, 2), (1, 3)]
    assert reduced.place[reduced.role == Role.NEWLINE].tolist() == [[0, 0, 2], [0, 1, 2], [1, 1, 2]]


def test_an_odd_last_frame_is_lost_as_released_and_kept_by_a_budget():
    tokens = video(5, (6, 6), pooling="none")
    assert DyCoke()(tokens).frame_counts == (36, 10, 10, 10, 0)
    assert DyCoke(keep_tokens=100)(tokens).frame_counts == (36, 9, 9, 10, 36)
    assert DyCoke(retention=1)(tokens).tokens_kept == 180


def test_a_budget_under_the_whole_frames_is_refused_with_the_range():
    with pytest.raises(InputError, match=r"give 45 to 160 tokens, retention 0\.2813 to 1"):
        DyCoke(retention=0.25)(video(32, (1, 5), pooling="none"))


@pytest.mark.parametrize("frames", range(2, 14))
@pytest.mark.parametrize("settings", [{}, {"retention": 0.8}])
def test_groups_reduced_one_by_one_are_the_video_reduced_whole(frames, settings):
    tokens = video(frames, (4, 6), dtype=torch.float64)
    stage = DyCoke(**settings)
    parts, first = [], 0
    for length in stage.runs(tokens.layout, tokens.timestamps):
        parts.append(stage(tokens.cut(first, first + length), Part(first, frames)))
        first += length
    whole, pieces = stage(tokens), VideoTokens.concatenate(parts)
    assert first == frames
    assert torch.equal(whole.place, pieces.place)
    assert torch.equal(whole.features, pieces.features)
