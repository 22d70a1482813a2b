"""Stages that choose by the question: what they take, by hand or step by step, and what their controls do."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.budget import split_by_share
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.cdpruner import greedy_determinant, of_clip, of_words
from comfyui_aot.aot.stages.methods.semvid_sharing import plan, shared_out, shared_within
from comfyui_aot.aot.stages.toolkit.language_grid import SubstituteWarning, unit
from comfyui_aot.aot.tokens.video_tokens import Layout, Question, VideoTokens
from comfyui_aot.tests.support.stages import video

ASKING = tuple(name for name, kind in stages().items() if kind.asks)


def clip(features, words=None):
    """Frames of cells in one row, with a question."""
    frames, cells, _ = features.shape
    received = torch.ones(frames, cells)
    times = torch.arange(frames, dtype=torch.float64)
    tokens = VideoTokens.encoded(features, Layout(frames, (1, cells), "none", "none"), received, received, times)
    return tokens if words is None else dataclasses.replace(tokens, question=Question("What?", words))


@pytest.mark.parametrize("name", ASKING)
def test_without_relevance_the_question_changes_nothing(name):
    tokens = video(dtype=torch.float64, extras=True)
    chain = parse(f"{name}:relevance=none,retention=0.3")
    assert not chain.needs_question
    others = (None, Question("Why?", torch.randn(3, 6, dtype=torch.float64)))
    alone, asked = (chain(dataclasses.replace(tokens, question=each)) for each in others)
    assert torch.equal(alone.place, asked.place)


@pytest.mark.parametrize("name", ASKING)
def test_another_question_keeps_other_tokens(name):
    tokens = video(dtype=torch.float64, extras=True)
    words = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    other = Question("Why?", words, frames={"assistant": torch.arange(8.0)})
    first, second = (
        parse(f"{name}:retention=0.3")(each) for each in (tokens, dataclasses.replace(tokens, question=other))
    )
    assert first.place.shape == second.place.shape
    assert not torch.equal(first.place, second.place)


def determinants(kernel, count):
    """By the definition: each time the cell with which the determinant is largest."""
    chosen = []
    for _ in range(count):
        left = [i for i in range(len(kernel)) if i not in chosen]
        chosen.append(max(left, key=lambda i: np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])])))
    return chosen


def test_cdpruner_takes_what_makes_the_determinant_grow_most():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 12, 20, generator=generator, dtype=torch.float64)
    relevance = torch.rand(3, 12, generator=generator, dtype=torch.float64)
    order, gains = greedy_determinant(unit(features), relevance, 7)
    for frame, weights, taken, grown in zip(features, relevance, order, gains, strict=True):
        directions = (unit(frame) * weights[:, None]).numpy()
        kernel = directions @ directions.T
        assert taken.tolist() == determinants(kernel, 7)
        determinant = np.linalg.det(kernel[np.ix_(taken, taken)])
        assert float(grown.prod()) == pytest.approx(determinant)


def test_cdpruner_goes_on_by_relevance_past_the_rank_and_says_so():
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, 12, 3, generator=generator, dtype=torch.float64)
    words = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    with pytest.warns(SubstituteWarning, match="6 of 12 tokens are past the rank"):
        reduced = parse("cdpruner:keep_tokens=12")(clip(features, words))
    relevance = of_words(unit(features) @ unit(words.mean(0)))
    order, gains = greedy_determinant(unit(features), relevance, 6)
    assert ((gains < 0).sum(1) == 3).all()
    for weights, taken in zip(relevance, order, strict=True):
        left = [i for i in weights.argsort(descending=True).tolist() if i not in taken[:3]]
        assert taken[3:].tolist() == left[:3]
    assert reduced.tokens_kept == 12


def test_cdpruner_takes_one_of_equal_tokens_before_any_copy():
    features = torch.eye(4, dtype=torch.float64).repeat(3, 1)[None]
    order, gains = greedy_determinant(features, torch.ones(1, 12, dtype=torch.float64), 6)
    assert order[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert gains[0].tolist() == [1, 1, 1, 1, -1, -1]


def test_released_relevance_turns_the_sign_and_equal_places_count_the_same():
    cosines = torch.tensor([[0.1, 0.3], [0.2, -0.1]], dtype=torch.float64)
    assert of_clip(cosines).flatten().argsort(descending=True).tolist() == [3, 0, 2, 1]
    assert of_words(cosines).argmax() == 1
    for form in (of_clip, of_words):
        assert form(torch.full((2, 3), 0.4)).tolist() == [[1] * 3] * 2


def test_cdpruner_over_the_video_gives_more_to_frames_that_add_more():
    still = torch.ones(1, 9, 16, dtype=torch.float64)
    moving = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    tokens = clip(torch.cat((still, moving)))
    shared = parse("cdpruner:relevance=none,span=video,keep_tokens=8")(tokens)
    assert shared.frame_counts == (1, 7)
    with pytest.warns(SubstituteWarning):
        assert parse("cdpruner:relevance=none,keep_tokens=8")(tokens).frame_counts == (4, 4)


def test_the_released_form_says_what_it_lacks():
    tokens = clip(torch.randn(2, 9, 4), torch.randn(3, 4))
    with pytest.raises(InputError, match="relevance=words"):
        parse("cdpruner:relevance=clip")(tokens)


def test_semvid_finds_the_token_that_a_word_points_at():
    features = torch.randn(4, 25, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    features[2, 7] = 3 * torch.nn.functional.one_hot(torch.tensor(0), 12)
    words = torch.nn.functional.one_hot(torch.tensor([0]), 12).double()
    reduced = parse("semvid:retention=0.2,object_share=1,mmr=1")(clip(features, words))
    assert [2, 0, 7] in reduced.place.tolist()
    for frame in range(4):
        kept = [x for t, _, x in reduced.place.tolist() if t == frame]
        likeness = unit(features[frame]) @ unit(words)[0]
        best = likeness.argsort(descending=True).tolist()
        # One is there for context; all the others are the most like the word.
        assert len(set(kept) - set(best[: len(kept)])) <= 1


def test_semvid_takes_what_moves_where_nothing_is_asked():
    features = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64).repeat(3, 1, 1)
    features[1, 5] += 4
    reduced = parse("semvid:relevance=none,object_share=0,keep_tokens=9")(clip(features))
    assert [1, 0, 5] in reduced.place.tolist()


def test_whole_shares_are_in_proportion_and_complete():
    weights = np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 2.0, 2.0]])
    totals = np.array([5, 4, 3])
    # 3.75 and 1.25; all the same; 1.5 each, the first gets the rest.
    assert shared_out(weights, totals).tolist() == [[4, 1, 0], [2, 1, 1], [0, 2, 1]]


def test_what_does_not_fit_is_shared_out_again():
    given = shared_within(np.array([10.0, 1.0, 1.0]), 9, np.array([3, 5, 5]))
    assert given.tolist() == [3, 3, 3]


def test_words_take_turns_from_the_most_present_one():
    steps = plan(np.array([[0.1, 0.9], [0.5, 0.4]]), np.array([4, 2]))
    rows = [list(itertools.compress(word, active)) for word, active in zip(steps.word, steps.active, strict=True)]
    assert rows == [[1, 1, 1, 1], [0, 1]]
    assert steps.begins[:, 0].all()


def test_dytok_gives_frames_what_the_assistant_attends_to():
    tokens = clip(torch.randn(3, 10, 8, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64))
    weights = torch.tensor([0.0, 1.0, 3.0])
    question = dataclasses.replace(tokens.question, frames={"assistant": weights})
    asked = dataclasses.replace(tokens, question=question)
    for method in ("cdpruner", "top", "cosine", "random"):
        # One of every frame, then 9 in proportion 0 : 1 : 3, of which the last has room for all.
        reduced = parse(f"dytok:method={method},keep_tokens=12")(asked)
        assert reduced.frame_counts == (1, 3, 8)
        even = parse(f"dytok:method={method},keep_tokens=12,relevance=none")(asked)
        assert even.frame_counts == (4, 4, 4)
    with pytest.warns(SubstituteWarning):
        assert parse("dytok:keep_tokens=12")(asked).frame_counts == (0, 3, 9)


def test_dytok_without_an_assistant_says_what_to_link():
    tokens = clip(torch.randn(2, 9, 4), torch.randn(3, 4))
    with pytest.raises(InputError, match="link a model to the assistant of Ask About"):
        parse("dytok")(tokens)


def test_the_assistants_time_is_part_of_the_stages():
    tokens = video(extras=True)
    slow = dataclasses.replace(tokens, question=dataclasses.replace(tokens.question, seconds=2.5))
    assert (
        parse("dytok:retention=0.2")(slow).history[-1].milliseconds
        > 2500
        > parse("dytok:retention=0.2")(tokens).history[-1].milliseconds
    )


@pytest.mark.parametrize(
    ("shares", "total", "most", "expected"),
    [
        ((1, 1, 2), 8, 10, (2, 2, 4)),
        ((1, 1, 1), 5, 10, (2, 2, 1)),
        ((8, 1, 1), 10, 5, (5, 3, 2)),
        ((0, 0, 0), 6, 10, (2, 2, 2)),
        ((1, 0, 0), 6, 2, (2, 2, 2)),
    ],
)
def test_a_total_is_split_by_share_and_what_does_not_fit_goes_round(shares, total, most, expected):
    assert split_by_share(shares, total, most) == expected
