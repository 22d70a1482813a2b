"""Many questions about one video at once: each is read and answered as if it were asked alone."""

import dataclasses

import pytest
import torch

from comfyui_aot.aot.answering import packing, session
from comfyui_aot.aot.answering.answerer import ask
from comfyui_aot.aot.answering.generation import Generation, finished_text
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse

QUESTIONS = (
    "What animal is in the video?",
    "Is it day?",
    "Describe, in as many words as you like, what happens from the first moment of this video to its last one.",
    "What colour is the grass, and what colour is the sky above it?",
)
NEW = 6


@pytest.fixture(scope="module")
def reduced(encoded):
    return parse("aot:retention=0.1,clip_length=2")(encoded)


@pytest.fixture(scope="module", params=["full", "reduced"])
def tokens(request, encoded, reduced):
    return encoded.cut(0, 2) if request.param == "full" else reduced


def ask_all(model, tokens, questions, new):
    return Session(model, tokens).ask(questions, Generation(new))


def one_by_one(model, tokens, questions=QUESTIONS):
    return tuple(ask(model, tokens, question, Generation(max_new_tokens=NEW)).text for question in questions)


def test_texts_are_those_of_one_question_at_a_time(model, reduced):
    assert ask_all(model, reduced, QUESTIONS, NEW).texts == one_by_one(model, reduced)


def test_texts_of_many_tokens_are_those_of_one_question_at_a_time(talkative, tokens):
    texts = ask_all(talkative, tokens, QUESTIONS, NEW).texts
    assert texts == one_by_one(talkative, tokens)
    assert all(texts)
    assert len(set(texts)) > 1


def test_answers_that_end_sooner_leave_the_others_alone(talkative, reduced, monkeypatch):
    logits = ask_all(talkative, reduced, QUESTIONS, 1).first_logits
    ends = [int(logits[1].argmax()), 0]
    monkeypatch.setattr(talkative.hf_model.generation_config, "eos_token_id", ends)
    texts = ask_all(talkative, reduced, QUESTIONS, NEW).texts
    assert texts == one_by_one(talkative, reduced)
    assert len({len(talkative._tokenizer(text).input_ids) for text in texts}) > 1


@torch.no_grad()
def test_first_logits_are_those_of_the_whole_prompt(talkative, tokens):
    logits = ask_all(talkative, tokens, QUESTIONS, 1).first_logits
    for found, question in zip(logits, QUESTIONS, strict=True):
        alone = talkative.hf_model(
            inputs_embeds=talkative.prompt_inputs(tokens, question).inputs_embeds[None], logits_to_keep=1
        ).logits[0, -1]
        torch.testing.assert_close(found, alone, atol=1e-4, rtol=0)


def test_small_packs_say_the_same(talkative, reduced, monkeypatch):
    together = ask_all(talkative, reduced, QUESTIONS, NEW)
    monkeypatch.setattr(session, "PACK", 30)
    apart = ask_all(talkative, reduced, QUESTIONS, NEW)
    assert apart.texts == together.texts
    torch.testing.assert_close(apart.first_logits, together.first_logits, atol=1e-4, rtol=0)


def test_attention_that_takes_no_mask_answers_one_after_another(talkative, reduced, monkeypatch):
    together = ask_all(talkative, reduced, QUESTIONS, NEW)
    monkeypatch.setattr(type(talkative), "takes_masks", False)
    monkeypatch.setattr(packing, "_block_mask", None)
    apart = ask_all(talkative, reduced, QUESTIONS, NEW)
    assert apart.ids == together.ids
    torch.testing.assert_close(apart.first_logits, together.first_logits, atol=1e-4, rtol=0)


def test_packs_are_filled_in_order_and_not_beyond_their_size():
    lengths = [400, 600, 30, 2000, 10, 20]
    packs = list(packing.packs([torch.zeros(n, dtype=torch.long) for n in lengths], 1024))
    assert [[len(question) for question in pack] for pack in packs] == [[400, 600], [30], [2000], [10, 20]]


def test_the_mask_shows_the_video_and_the_own_question_only():
    video, a, b = packing._VIDEO, 0, 1
    owners = torch.tensor([video, a, a, b, a, b])
    mask = packing._block_mask(owners, 5, torch.float32)
    assert mask.shape == (1, 1, 5, 6)
    assert (mask[0, 0] == 0).int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [1, 0, 0, 1, 0, 1],
    ]


@torch.no_grad()
def test_blind_questions_are_asked_without_any_visual_token(talkative):
    logits = ask_all(talkative, None, QUESTIONS, 1).first_logits
    for found, question in zip(logits, QUESTIONS, strict=True):
        prompt = talkative.prompt(question)
        ids = torch.cat((*prompt.before, prompt.after))[None]
        torch.testing.assert_close(found, talkative.hf_model(input_ids=ids).logits[0, -1], atol=1e-4, rtol=0)


def test_a_prompt_that_begins_with_the_question_can_be_asked_blind(talkative, monkeypatch):
    whole = talkative.prompt

    def headless(question, tokens, **others):
        (before,), after = (prompt := whole(question)).before, prompt.after
        return dataclasses.replace(prompt, before=(before[:0],), after=torch.cat((before, after)))

    expected = ask_all(talkative, None, QUESTIONS, 1).first_logits
    monkeypatch.setattr(talkative, "prompt", headless)
    found = ask_all(talkative, None, QUESTIONS, 1).first_logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_seconds_are_of_the_video_and_of_the_questions(talkative, tokens):
    replies = ask_all(talkative, tokens, QUESTIONS, 2)
    assert min(replies.prefill_s, replies.questions_s) > 0


def test_a_video_longer_than_the_context_is_refused_as_for_one_question(model, encoded):
    with pytest.raises(InputError) as alone:
        ask(model, encoded, QUESTIONS[2], Generation(max_new_tokens=16_000))
    with pytest.raises(InputError) as together:
        ask_all(model, encoded, QUESTIONS, 16_000)
    assert str(together.value) == str(alone.value)


def test_positions_of_the_full_video_beyond_the_context_are_refused(model, encoded, reduced):
    kept = parse("positions")(reduced)
    new = model.language.context - encoded.tokens_full
    for video in (kept, kept.to_language_grid()):
        with pytest.raises(InputError, match=r"end at position \d+, above the 16384 .* leave Keep Positions out"):
            ask_all(model, video, QUESTIONS, new)
    with pytest.raises(InputError, match=r"end at position"):
        ask(model, kept, QUESTIONS[0], Generation(max_new_tokens=new))


def test_a_blind_question_longer_than_the_context_is_refused(model):
    with pytest.raises(InputError, match=r"above the 16384 .* ask a shorter question"):
        ask_all(model, None, QUESTIONS, 16_382)


@pytest.mark.parametrize(("questions", "new"), [((), 4), (QUESTIONS, 0)])
def test_no_question_and_no_answer_are_refused(model, questions, new):
    with pytest.raises(InputError, match=r"at least 1|tokens start at 1"):
        ask_all(model, None, questions, new)


def test_an_empty_question_is_refused(model, encoded):
    with pytest.raises(InputError, match="question is empty"):
        ask_all(model, encoded, ("What?", " "), 2)


def test_nan_features_are_refused_before_the_model_runs(model, encoded):
    features = encoded.features.clone()
    features[7] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        ask_all(model, dataclasses.replace(encoded, features=features), QUESTIONS, 2)


def test_what_was_asked_before_does_not_matter(talkative, reduced):
    before = reduced.features.clone()
    first, again = (ask_all(talkative, reduced, QUESTIONS, NEW).texts for _ in range(2))
    assert first == again
    assert torch.equal(reduced.features, before)


@pytest.mark.parametrize("at", ["video", "question"])
def test_memory_that_runs_out_between_layers_is_no_harm_to_the_next_answer(talkative, reduced, at):
    """Some layers have read more than others then."""
    expected = ask_all(talkative, reduced, QUESTIONS[:1], NEW)
    asked = Session(talkative, reduced)
    if at == "question":
        asked.ask(QUESTIONS[:1], Generation(NEW))

    def fail(*args):
        raise MemoryError

    hook = talkative.language_model.layers[2].register_forward_pre_hook(fail)
    with pytest.raises(InputError, match="out of memory"):
        asked.answer(QUESTIONS[:1], Generation(NEW))
    hook.remove()
    again = asked.ask(QUESTIONS[:1], Generation(NEW))
    assert again.ids == expected.ids
    torch.testing.assert_close(again.first_logits, expected.first_logits)


def test_a_model_that_reads_the_question_before_the_video_is_not_asked_together(model, monkeypatch):
    usual = model.prompt
    monkeypatch.setattr(
        model,
        "prompt",
        lambda question, *_, **__: dataclasses.replace(usual(question), before=(usual(question).after,)),
    )
    with pytest.raises(ValueError, match="before the video"):
        ask_all(model, None, QUESTIONS, 1)


def test_a_text_ends_before_a_character_that_is_not_finished(model):
    ids = model._tokenizer("yes \N{SLIGHTLY SMILING FACE}", add_special_tokens=False).input_ids
    assert finished_text(model, ids) == "yes \N{SLIGHTLY SMILING FACE}"
    assert finished_text(model, ids[:-1]).strip() == "yes"
    assert finished_text(model, []) == ""
