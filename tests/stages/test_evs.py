"""EVS: which tokens count as changed, worked out by hand, and how many are kept."""

import dataclasses

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.methods.evs import EVS
from comfyui_aot.aot.tokens.video_tokens import Layout, Role, VideoTokens

SAME, TURNED, OPPOSITE, HALFWAY = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 1.0)


def clip(frames, newline="none", levels=()):
    """Frames of four cells, 2 x 2, nothing pooled."""
    features = torch.tensor(frames, dtype=torch.float64)
    layout = Layout(len(frames), (2, 2), "none", newline)
    times = torch.arange(len(frames), dtype=torch.float64)
    attention = torch.ones(len(frames), 4)
    end = torch.full((2,), 9.0, dtype=torch.float64)
    return VideoTokens.encoded(features, layout, attention, attention, times, newline=end, levels=levels)


@pytest.fixture
def changing():
    """Changes of the second frame: 0, 1, 2, 0.29; of the third: 1, 0, 0, 0."""
    second = [SAME, TURNED, OPPOSITE, HALFWAY]
    return clip([[SAME] * 4, second, [TURNED, *second[1:]]])


def cells(reduced):
    """(frame, cell) of every token."""
    return [(t, 2 * y + x) for t, y, x in reduced.place.tolist()]


def test_the_greatest_changes_stay_and_of_equal_ones_the_earlier(changing):
    first = [(0, cell) for cell in range(4)]
    assert cells(EVS(keep_tokens=4)(changing)) == first
    assert cells(EVS(keep_tokens=5)(changing)) == [*first, (1, 2)]
    assert cells(EVS(keep_tokens=6)(changing)) == [*first, (1, 1), (1, 2)]
    assert cells(EVS(keep_tokens=7)(changing)) == [*first, (1, 1), (1, 2), (2, 0)]
    assert cells(EVS(keep_tokens=8)(changing)) == [*first, (1, 1), (1, 2), (1, 3), (2, 0)]


def test_the_length_of_a_token_is_no_change_and_a_zero_token_changes_by_one():
    first = [HALFWAY] * 4
    reduced = EVS(keep_tokens=6)(clip([first, [(5.0, 5.0), (0.0, 0.0), SAME, HALFWAY]]))
    assert cells(reduced)[4:] == [(1, 1), (1, 2)]


def test_further_depths_count_beside_the_features():
    still = clip([[SAME] * 4] * 2)
    level = torch.tensor([[SAME] * 4, [SAME, SAME, OPPOSITE, SAME]], dtype=torch.float64).reshape(8, 2)
    assert cells(EVS(keep_tokens=5)(dataclasses.replace(still, levels=(level,))))[4:] == [(1, 2)]


@pytest.mark.parametrize(
    ("frames", "side", "rate", "kept"),
    [
        (32, 14, 0.9, 627),
        (32, 14, 0.85, 940),
        (32, 14, 0.75, 1568),
        (16, 10, 0.8, 319),
        (8, 10, 0.9, 100),
        (3, 2, 0, 12),
    ],
)
def test_the_pruning_rate_keeps_the_published_count_and_never_less_than_a_frame(frames, side, rate, kept):
    assert EVS(pruning_rate=rate).total(Layout(frames, (side, side), "none", "none")) == kept


def test_a_budget_under_the_first_frame_is_refused_with_the_range(changing):
    with pytest.raises(InputError, match="give 4 to 12 tokens"):
        EVS(keep_tokens=3)(changing)


def test_a_rows_newline_stays_where_the_row_keeps_a_token():
    second = [SAME, SAME, OPPOSITE, SAME]
    reduced = EVS(keep_tokens=5)(clip([[SAME] * 4, second], newline="grid"))
    ends = reduced.place[reduced.role == Role.NEWLINE]
    assert ends.tolist() == [[0, 0, 2], [0, 1, 2], [1, 1, 2]]
    assert reduced.place[-2:].tolist() == [[1, 1, 0], [1, 1, 2]]


def test_it_waits_for_the_whole_video(changing):
    assert EVS().runs(changing.layout, changing.timestamps) is None
