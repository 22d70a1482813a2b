"""VisionZip: which cells stay, which are targets, and who joins those."""

import pytest
import torch

from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.visionzip import dominant_and_contextual
from comfyui_aot.aot.tokens.video_tokens import Extra
from comfyui_aot.tests.support.stages import video


def test_the_best_attended_stay_and_the_others_join_the_target_of_the_nearest_key():
    attention = torch.tensor([[1.0, 9.0, 2.0, 3.0, 8.0, 4.0, 5.0]])
    keys = torch.tensor([[[1, 0], [0, 3], [4, 1], [0, 2], [2, 0], [1, 5], [3, 0]]]).double()
    heads, read, owner = dominant_and_contextual(attention, keys, (2,), (2,))
    assert heads.tolist() == [[1, 4, 0, 3]]  # of 0, 2, 3, 5, 6 those at a step of 5 // 2
    assert read.tolist() == [[1, 4, 0, 3]]
    assert owner.tolist() == [[2, 0, 2, 3, 1, 3, 2]]


def test_the_released_order_among_newlines_is_that_of_the_attention():
    _, read, _ = dominant_and_contextual(torch.tensor([[1.0, 8.0, 2.0, 9.0]]), torch.ones(1, 4, 2), (2,), (1,))
    assert read.tolist() == [[3, 1, 0]]


def test_frames_with_different_counts_are_each_reduced_for_themselves():
    tokens = video(3, (6, 6), extras=True)
    attention, keys = tokens.extras[Extra.LAST], tokens.extras[Extra.KEYS]
    dominant, contextual = (3, 4, 0), (2, 1, 5)
    heads, read, owner = dominant_and_contextual(attention, keys, dominant, contextual)
    for frame, (first, further) in enumerate(zip(dominant, contextual, strict=True)):
        here, count = slice(frame, frame + 1), first + further
        alone = dominant_and_contextual(attention[here], keys[here], (first,), (further,))
        assert torch.equal(heads[here, :count], alone[0])
        assert torch.equal(read[here, :count], alone[1])
        assert bool((heads[here, count:] == -1).all())
        assert torch.equal(owner[here], alone[2])


@pytest.mark.filterwarnings("ignore:These tokens come without")
def test_even_where_all_are_to_stay_one_token_of_a_frame_is_a_target():
    reduced = parse("visionzip:tokens_per_frame=5,dominant_ratio=1")(video(2))
    assert reduced.frame_counts == (5, 5)
