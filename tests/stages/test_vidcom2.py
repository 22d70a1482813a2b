"""VidCom2: similarity, shares and counts worked out by hand; the budget met as vLLM meets it."""

import math

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.methods.vidcom2 import (
    VidCom2,
    brought_to,
    counts_of,
    frame_shares,
    quiet_directions,
    similarities,
)
from comfyui_aot.aot.tokens.video_tokens import Role
from comfyui_aot.tests.support.stages import video


def test_similarity_sums_five_gaussians_of_the_distance_to_the_two_means():
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]], dtype=torch.float64)
    whole, frame = similarities(tokens)
    # The video's mean is (1/4, 3/4): 9/8 from the first token in squared distance, 1/8 from the others.
    near, far = (sum(math.exp(-d / (2 * a)) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2)) for d in (1 / 8, 9 / 8))
    torch.testing.assert_close(whole, torch.tensor([[far, near], [near, near]], dtype=torch.float64))
    middle = sum(math.exp(-1 / (4 * a)) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2))
    torch.testing.assert_close(frame, torch.tensor([[middle, middle], [5, 5]], dtype=torch.float64))


def test_tokens_are_compared_by_the_channels_that_vary_least_of_all_depths():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 9, 6, generator=generator, dtype=torch.float64)
    features = noise[:, :, :4] * torch.tensor([9.0, 1.0, 8.0, 0.5]) + 3
    level = noise[:, :, 4:] * torch.tensor([7.0, 0.1]) - 2
    quiet = torch.stack((features[:, :, 1], features[:, :, 3], level[:, :, 1]), 2)
    expected = quiet / quiet.square().sum(2, keepdim=True).sqrt()
    torch.testing.assert_close(quiet_directions((features, level)), expected)


def test_frames_alike_share_equally():
    torch.testing.assert_close(frame_shares(torch.ones(4, 9), 0.2), torch.full((4,), 0.2, dtype=torch.float64))


def test_a_frame_unlike_the_video_takes_the_bonus_up_to_all_its_tokens():
    similarity = torch.tensor([[4.0, 4.0], [1.0, 1.0], [4.0, 4.0], [4.0, 4.0]])
    assert frame_shares(similarity, 0.2).tolist() == pytest.approx([0.15, 0.35, 0.15, 0.15])
    assert frame_shares(similarity, 0.8).tolist() == pytest.approx([0.6, 1.0, 0.6, 0.6])


def test_counts_round_halves_to_even_and_leave_every_frame_a_token():
    assert counts_of(torch.tensor([0.125, 0.175, 0.01, 1.0]), 20).tolist() == [2, 4, 1, 20]


def test_too_many_tokens_lose_the_most_alike_of_the_whole_video():
    keep = torch.tensor([[True, True, False], [True, True, True]])
    score = torch.tensor([[5.0, 1.0, 0.0], [4.0, 5.0, 2.0]])
    assert brought_to(keep, score, 3).tolist() == [[False, True, False], [True, False, True]]
    assert brought_to(keep, score, 4).tolist() == [[False, True, False], [True, True, True]]


def test_too_few_tokens_gain_the_least_alike_others_of_the_whole_video():
    keep = torch.tensor([[True, False, False], [True, False, False]])
    score = torch.tensor([[0.0, 3.0, 3.0], [0.0, 9.0, 1.0]])
    assert brought_to(keep, score, 4).tolist() == [[True, True, False], [True, False, True]]


def test_as_released_the_total_is_the_ratio_up_to_half_a_token_a_frame():
    tokens = video(9, (10, 10), dim=12, pooling="none")
    assert abs(VidCom2(ratio=0.17)(tokens).tokens_kept - 0.17 * 900) <= 4.5


def test_all_newlines_stay_as_a_run_behind_their_frames_tokens():
    tokens = video(2, (4, 3), pooling="none", newline="grid")
    reduced = VidCom2(keep_tokens=7)(tokens)
    ends = reduced.role == Role.NEWLINE
    for frame in range(2):
        here = reduced.frame == frame
        assert ends[here].tolist() == sorted(ends[here].tolist())
        assert reduced.place[here & ends].tolist() == [[frame, row, 3] for row in range(4)]
        cells = (reduced.place[here & ~ends] * torch.tensor([0, 3, 1])).sum(1)
        assert cells.tolist() == sorted(cells.tolist())
    torch.testing.assert_close(reduced.map.apply(tokens.features), reduced.features)


def test_a_budget_under_a_token_a_frame_is_refused_with_the_range():
    with pytest.raises(InputError, match="give 8 to 648 tokens"):
        VidCom2(keep_tokens=7)(video(8))
