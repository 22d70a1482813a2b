"""Questions packed behind one video: each reads as if it were alone."""

from __future__ import annotations

import torch

from comfyui_aot.aot.training.packing import IGNORED, Pointing, pack


def ids(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.long)


def packed():
    return pack(3, [(ids(10, 11), ids(12, 13)), (ids(20, 21, 22), ids(23, 24, 25))])


def test_the_tokens_read_are_the_questions_and_their_answers_up_to_the_last_token():
    assert packed().ids.tolist() == [10, 11, 12, 20, 21, 22, 23, 24]


def test_every_question_stands_right_behind_the_prefix():
    assert packed().positions.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7]


def test_only_answers_are_learnt():
    assert packed().targets.tolist() == [IGNORED, 12, 13, IGNORED, IGNORED, 23, 24, 25]


def test_the_first_token_of_each_answer_is_predicted_at_the_end_of_its_question():
    assert packed().first.tolist() == [1, 5]
    assert packed().targets[packed().first].tolist() == [12, 23]


def test_a_token_sees_the_prefix_and_its_own_question_up_to_itself():
    mask = packed().mask[0, 0]
    assert mask[:, :3].all()
    own = torch.block_diag(torch.ones(3, 3), torch.ones(5, 5)).tril().bool()
    assert torch.equal(mask[:, 3:], own)


def test_pointing_is_the_mean_negative_log_of_the_attention_that_falls_on_what_is_asked_about():
    query, key = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 7, 8)
    mask = torch.ones(1, 1, 4, 7, dtype=torch.bool)
    mask[0, 0, :, 5] = False
    about = torch.tensor([[True, False, True], [False, True, False]])
    pointing = Pointing(torch.tensor([1, 3]), about, layers=(4,), heads=(1,))
    pointing.watch(3, query, key, mask, 0.3)
    pointing.watch(4, query, key, mask, 0.3)
    scores = (query[0, 1] @ key[0, 1].T * 0.3).masked_fill(~mask[0, 0], float("-inf")).softmax(-1)
    expected = -(torch.log(scores[1, 0] + scores[1, 2]) + torch.log(scores[3, 1])) / 2
    assert torch.allclose(pointing.loss, expected, atol=1e-6)


def test_a_text_without_an_answer_is_read_only():
    both = pack(2, [(ids(10, 11, 12), ids()), (ids(20, 21), ids(22, 23))])
    assert both.ids.tolist() == [10, 11, 12, 20, 21, 22]
    assert both.targets.tolist() == [IGNORED, IGNORED, IGNORED, IGNORED, 22, 23]
    assert both.first.tolist() == [2, 4]
