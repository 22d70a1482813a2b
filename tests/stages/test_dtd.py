"""DTD: which tokens count as like the ones before, worked out by hand, and how many are kept."""

import dataclasses

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.methods.dtd import DTD
from comfyui_aot.aot.stages.methods.evs import EVS
from comfyui_aot.aot.tokens.video_tokens import Extra, Layout, VideoTokens
from comfyui_aot.tests.support.stages import video

SAME, TURNED, OPPOSITE, HALFWAY = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 1.0)


def clip(*frames, times=None, extras=None):
    """Frames of four cells, 2 x 2, nothing pooled."""
    features = torch.tensor(frames, dtype=torch.float64)
    seconds = torch.arange(len(frames)).double() if times is None else torch.tensor(times).double()
    attention = torch.ones(len(frames), 4)
    layout = Layout(len(frames), (2, 2), "none", "none")
    return VideoTokens.encoded(features, layout, attention, attention, seconds, extras=extras or {})


def cells(reduced):
    """Cells after the first frame, as frame * 4 + cell."""
    return [4 * t + 2 * y + x for t, y, x in reduced.place.tolist() if t]


def test_what_is_alike_is_dropped_and_what_is_not_above_the_threshold_stays():
    tokens = clip([SAME] * 4, [SAME, TURNED, OPPOSITE, HALFWAY])
    assert cells(DTD(threshold=0.5)(tokens)) == [5, 6]
    assert cells(DTD(threshold=0.8)(tokens)) == [5, 6, 7]
    assert cells(DTD(threshold=1)(tokens)) == [4, 5, 6, 7]


def test_slow_change_is_never_seen():
    turning = torch.arange(9) * torch.pi / 9
    frames = torch.stack((turning.cos(), turning.sin()), 1)[:, None].expand(-1, 4, -1)
    assert cells(DTD()(clip(*frames.tolist()))) == []


def test_shares_drop_the_most_alike_of_every_later_frame():
    tokens = clip([SAME] * 4, [SAME, TURNED, OPPOSITE, HALFWAY], [SAME, TURNED, OPPOSITE, SAME])
    assert cells(DTD(threshold=0.7, shares=True)(tokens)) == [5, 6, 8, 11]
    assert cells(DTD(threshold=0.75, shares=True)(tokens)) == [6, 11]
    assert cells(DTD(shares=True, keep_tokens=7)(tokens)) == [6, 8, 11]


def test_frames_that_share_a_time_position_are_compared_together():
    tokens = clip([SAME] * 4, [TURNED] * 4, [SAME] * 4, [OPPOSITE] * 4, times=[0, 0.5, 1, 1.5])
    assert cells(DTD()(tokens)) == [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    assert cells(DTD(rate=1)(tokens)) == [4, 5, 6, 7, 12, 13, 14, 15]


def test_a_frame_with_none_to_compare_with_stays():
    tokens = clip([SAME] * 4, [SAME] * 4, [SAME] * 4, times=[0, 1, 1.5])
    assert cells(DTD(rate=1)(tokens)) == [8, 9, 10, 11]
    assert cells(DTD(rate=1, shares=True, threshold=0.5)(tokens)) == [8, 9, 10, 11]


def test_pixels_are_dropped_where_they_differ_less():
    change = torch.tensor([[0.0, 0, 0, 0], [0.0, 0.05, 0.1, 0.2]])
    tokens = clip([SAME] * 4, [SAME] * 4, extras={Extra.PIXELS: change})
    assert cells(DTD(rule="pixel", threshold=0.1)(tokens)) == [6, 7]
    with pytest.raises(InputError, match="choose rule feature"):
        DTD(rule="pixel")(dataclasses.replace(tokens, extras={}))


def test_with_a_retention_it_keeps_what_evs_keeps():
    tokens = video(dtype=torch.float64)
    assert torch.equal(DTD(retention=0.4)(tokens).place, EVS(retention=0.4)(tokens).place)


def test_a_budget_under_the_first_frame_is_refused_with_the_range():
    with pytest.raises(InputError, match="give 4 to 8 tokens"):
        DTD(keep_tokens=3)(clip([SAME] * 4, [SAME] * 4))
