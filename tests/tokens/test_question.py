"""The question on the tokens: it stays with them wherever they go, and must fit them."""

import dataclasses

import pytest
import torch
from safetensors import safe_open

from comfyui_aot.aot.comparison.cache import digest_of
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.base import Part
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.replay import replay
from comfyui_aot.aot.tokens import storage
from comfyui_aot.aot.tokens.video_tokens import Question, VideoTokens
from comfyui_aot.tests.support.stages import question, video


def require_same(left, right):
    assert left.text == right.text
    assert left.tensors.keys() == right.tensors.keys()
    assert all(torch.equal(tensor, right.tensors[name]) for name, tensor in left.tensors.items())


def test_it_is_kept_by_every_stage():
    tokens = video(extras=True)
    reduced = parse("visionzip:retention=0.3+cosine:retention=0.2")(tokens)
    require_same(reduced.question, tokens.question)


def test_parts_of_a_video_have_their_parts_of_it_and_together_all_of_it():
    tokens = video(extras=True)
    parts = [tokens.cut(0, 3), tokens.cut(3, 8)]
    assert [len(part.question.frames["assistant"]) for part in parts] == [3, 5]
    assert torch.equal(parts[1].question.places["clip"], tokens.question.places["clip"][3:])
    require_same(VideoTokens.concatenate(parts).question, tokens.question)


def test_parts_of_which_one_has_none_have_none():
    tokens = video(extras=True)
    parts = [tokens.cut(0, 3), dataclasses.replace(tokens.cut(3, 8), question=None)]
    assert VideoTokens.concatenate(parts).question is None


def test_it_comes_back_from_a_file(tmp_path):
    tokens = parse("dart:retention=0.3")(video(extras=True))
    storage.save(tokens, tmp_path / "tokens.safetensors")
    require_same(storage.load(tmp_path / "tokens.safetensors").question, tokens.question)


def test_tokens_without_one_are_saved_as_before(tmp_path):
    storage.save(video(), tmp_path / "tokens.safetensors")
    assert storage.load(tmp_path / "tokens.safetensors").question is None
    with safe_open(tmp_path / "tokens.safetensors", "pt") as stored:
        assert "question" not in stored.metadata()
        assert not any(name.startswith("question") for name in stored.keys())  # noqa: SIM118


def test_it_counts_in_the_digest_and_its_absence_does_not():
    tokens = video(extras=True)
    without = dataclasses.replace(tokens, question=None)
    other = dataclasses.replace(tokens, question=question(tokens, seed=5))
    renamed = dataclasses.replace(tokens, question=dataclasses.replace(tokens.question, text="Why?"))
    assert len({digest_of(each) for each in (tokens, without, other, renamed)}) == 4
    assert digest_of(video(extras=True)) == digest_of(tokens)


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"words": torch.zeros(3, 5)}, "question"),
        ({"places": {"clip": torch.zeros(8, 7)}}, "question in clip"),
        ({"frames": {"assistant": torch.zeros(7)}}, "question in assistant"),
    ],
)
def test_one_that_does_not_fit_the_tokens_is_refused(changed, where):
    tokens = video(extras=True)
    with pytest.raises(InputError, match=f"whose {where} has shape"):
        dataclasses.replace(tokens, question=dataclasses.replace(tokens.question, **changed))


def test_stages_run_again_on_full_tokens_have_it():
    full = video(extras=True)
    reduced = parse("dart:retention=0.3")(full)
    (step,) = replay(dataclasses.replace(full, question=None), reduced)
    assert torch.equal(step.reduced.features, reduced.features)


def test_a_stage_that_asks_refuses_tokens_without_one_in_a_line():
    tokens = dataclasses.replace(video(extras=True), question=None)
    with pytest.raises(InputError, match="put Ask About before it") as error:
        parse("dart")(tokens)
    assert "\n" not in str(error.value)
    assert parse("dart:relevance=none,retention=0.3")(tokens).tokens_kept == round(0.3 * tokens.tokens_full)


def test_what_it_says_decides_what_is_kept():
    tokens = video(extras=True)
    other = dataclasses.replace(tokens, question=Question("Who?", -3 * tokens.question.words.flip(1)))
    first, second = (parse("dart:retention=0.3")(each) for each in (tokens, other))
    assert not torch.equal(first.place, second.place)


def test_a_streamed_stage_that_asks_sees_the_whole_video():
    tokens = video(extras=True)
    stage = parse("dart:retention=0.3").on_tokens[0]
    assert stage.runs(tokens.layout, tokens.timestamps) is None
    assert torch.equal(stage(tokens).place, stage(tokens, Part(0, tokens.layout.frames)).place)
