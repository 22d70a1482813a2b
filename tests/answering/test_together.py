"""Questions about several videos answered in the same passes get the answers that each gets alone."""

import dataclasses

import pytest
import torch

from comfyui_aot.aot.answering import together
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.answering.together import AskedVideo, TogetherAnswerer
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.tests.support.stock_inputs import random_frames

QUESTIONS = (("Is it day?",), ("What happens?", "Describe all that moves in it, to its last moment."), ("Who?",))
LONG = Generation(max_new_tokens=12, repetition_penalty=1.3)


def alone(model, video, generation=LONG):
    return Session(model, video.tokens).answer(list(video.questions), generation)


def ids(answers):
    return [each.ids for each in answers]


@pytest.fixture(scope="module")
def videos(small):
    tokens = small.encode(random_frames())
    chains = ("aot:retention=0.3,clip_length=2", "full", "uniform:retention=0.5+positions")
    return [AskedVideo(parse(chain)(tokens), each) for chain, each in zip(chains, QUESTIONS, strict=True)]


def test_answers_are_those_of_every_video_alone(small, videos):
    found = TogetherAnswerer(small).answer(videos, LONG)
    expected = [alone(small, video) for video in videos]
    assert list(map(ids, found)) == list(map(ids, expected))
    assert len({each for answers in found for each in ids(answers)}) > 1
    for one, other in zip(found, expected, strict=True):
        figures = ("text", "prompt_tokens", "new_tokens", "tokens_kept", "retention", "question")
        assert [[getattr(each, name) for name in figures] for each in one] == [
            [getattr(each, name) for name in figures] for each in other
        ]


def test_sampled_answers_are_those_of_every_video_alone(small, videos):
    drawn = Generation(max_new_tokens=8, temperature=1.0, seed=5)
    found = TogetherAnswerer(small).answer(videos, drawn)
    assert list(map(ids, found)) == [ids(alone(small, video, drawn)) for video in videos]


@pytest.fixture(scope="module")
def spoken(encoded):
    """Two videos of the embedded model, whose answers end by themselves."""
    return [
        AskedVideo(parse("aot:retention=0.1,clip_length=2")(encoded), ("What colour is it?", "How many are there?")),
        AskedVideo(parse("uniform:retention=0.05")(encoded), ("Describe the video in many words.",)),
    ]


@pytest.fixture(scope="module")
def expected(model, spoken):
    return [ids(alone(model, video, Generation())) for video in spoken]


def test_a_video_that_cannot_be_read_leaves_the_others_their_answers(model, spoken, expected):
    features = torch.full_like(spoken[0].tokens.features, float("nan"))
    bad = dataclasses.replace(spoken[0], tokens=dataclasses.replace(spoken[0].tokens, features=features))
    first, broken, empty, second = TogetherAnswerer(model).answer(
        [spoken[0], bad, dataclasses.replace(spoken[1], questions=("",)), spoken[1]]
    )
    assert isinstance(broken, InputError) and isinstance(empty, InputError)
    assert [ids(first), ids(second)] == expected


@pytest.mark.parametrize("columns", [1, 100])
def test_videos_too_long_for_one_pass_take_several(model, spoken, expected, monkeypatch, columns):
    monkeypatch.setattr(together, "COLUMNS", columns)
    assert list(map(ids, TogetherAnswerer(model).answer(spoken))) == expected


def test_a_stage_inside_the_llm_has_each_video_answered_alone(model, encoded):
    inside = AskedVideo(parse("uniform:retention=0.1+fastv")(encoded), ("What colour is it?",))
    other = AskedVideo(parse("uniform:retention=0.05")(encoded), ("What colour is it?",))
    found = TogetherAnswerer(model).answer([inside, other])
    assert list(map(ids, found)) == [ids(alone(model, video, Generation())) for video in (inside, other)]
    assert found[0][0].layer_tokens and not found[1][0].layer_tokens


def test_memory_that_runs_out_for_all_has_them_answered_one_after_another(model, spoken, expected, monkeypatch):
    def too_much(*args):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(together, "_joined", too_much)
    assert list(map(ids, TogetherAnswerer(model).answer(spoken))) == expected
