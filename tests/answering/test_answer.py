"""Answers of the embedded model: the stock model's own where nothing is reduced, and honest figures."""

import dataclasses
import itertools

import pytest
import torch

from comfyui_aot.aot.answering.answerer import ask
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.prompt import Turn
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.video.frames import Frames

QUESTION = "What animal is in the video?"


@torch.no_grad()
def test_unreduced_logits_are_the_stock_models_own(model, frames, encoded):
    prompt = model.prompt(QUESTION)
    count = encoded.tokens_full + 1
    ids = torch.cat((prompt.before[0], torch.full((count,), model.hf_model.config.video_token_id), prompt.after))[None]
    stock = model.hf_model(input_ids=ids, pixel_values_videos=model.preprocess(frames)[None]).logits
    ours = model.hf_model(inputs_embeds=model.prompt_inputs(encoded, QUESTION).inputs_embeds[None]).logits
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=0)


@torch.no_grad()
def test_greedy_answers_are_the_stock_models_own(model, frames, encoded):
    prompt = model.prompt(QUESTION)
    count = encoded.tokens_full + 1
    ids = torch.cat((prompt.before[0], torch.full((count,), model.hf_model.config.video_token_id), prompt.after))[None]
    stock = model.hf_model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=model.preprocess(frames)[None],
        max_new_tokens=8,
        do_sample=False,
    )
    said = ask(model, encoded, QUESTION, Generation(max_new_tokens=8))
    assert said.text == model.decode(stock[0, ids.shape[1] :].tolist()).strip()


def test_the_answer_reports_what_it_took(model, encoded):
    reduced = parse("aot:retention=0.25,clip_length=2")(encoded)
    said = ask(model, reduced, QUESTION, Generation(max_new_tokens=5))
    assert (said.tokens_full, said.tokens_kept, said.retention) == (784, 196, 0.25)
    assert said.stages == ("intra", "inter")
    assert said.prompt_tokens == len(model.prompt_inputs(reduced, QUESTION))
    assert 1 <= said.new_tokens <= 5
    assert min(said.encode_s, said.reduce_s, said.prefill_s) > 0
    assert said.prefill_flops == model.language.prefill_flops(196)
    assert said.kv_cache_bytes == 2 * 30 * 3 * 64 * 4 * (said.prompt_tokens + said.new_tokens)
    assert said.peak_memory_bytes > 4 * sum(p.numel() for p in model.hf_model.parameters())


def test_greedy_is_deterministic_and_sampling_follows_its_seed(model, encoded):
    reduced = parse("aot:retention=0.1,clip_length=2")(encoded)

    def said(**settings):
        return ask(model, reduced, QUESTION, Generation(max_new_tokens=12, **settings)).text

    assert said() == said(seed=5)
    assert said(temperature=2.0, seed=1) == said(temperature=2.0, seed=1)
    assert len({said(temperature=2.0, seed=seed) for seed in range(4)}) > 1


def test_sampling_leaves_the_callers_random_state_alone(model, encoded):
    reduced = parse("aot:retention=0.1,clip_length=2")(encoded)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    ask(model, reduced, QUESTION, Generation(max_new_tokens=2, temperature=1.0, seed=9))
    assert torch.equal(torch.rand(1), expected)


def test_text_streams_as_it_grows(talkative, encoded):
    seen = []
    reduced = parse("aot:retention=0.1,clip_length=2")(encoded)
    said = ask(talkative, reduced, QUESTION, Generation(max_new_tokens=8), on_text=seen.append)
    assert seen[-1].strip() == said.text
    assert len(set(seen)) > 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))


class Stop(Exception):
    pass


def test_generation_stops_between_tokens_and_the_next_one_works(talkative, encoded):
    reduced = parse("aot:retention=0.1,clip_length=2")(encoded)
    counts = []

    def on_token(count):
        counts.append(count)
        if count == 3:
            raise Stop

    with pytest.raises(Stop):
        ask(talkative, reduced, QUESTION, Generation(max_new_tokens=20), on_token=on_token)
    assert counts == [0, 1, 2, 3]
    assert ask(talkative, reduced, QUESTION, Generation(max_new_tokens=2)).new_tokens >= 1


@pytest.mark.parametrize("question", ["", "   \n"])
def test_an_empty_question_is_refused(model, encoded, question):
    with pytest.raises(InputError, match="question is empty"):
        ask(model, encoded, question)


@pytest.mark.parametrize(
    ("question", "settings", "what"),
    [
        ("What \udcff is it?", {}, "The question"),
        ("Why?", {"system": "Be \ud800."}, "The system prompt"),
        ("Why?", {"turns": [Turn("Is \udcff it?", "yes")]}, "The question"),
        ("Why?", {"turns": [Turn("Is it?", "\udcff")]}, "An answer"),
    ],
)
def test_half_a_character_is_refused(model, question, settings, what):
    with pytest.raises(InputError, match=f"^{what} holds half a character"):
        model.prompt(question, **settings)


def test_a_question_that_holds_the_placeholder_is_refused(model, encoded):
    with pytest.raises(InputError, match="leave <video> out"):
        ask(model, encoded, "What is <video>?")


def test_nan_features_are_refused_before_the_model_runs(model, encoded):
    features = encoded.features.clone()
    features[7] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        ask(model, dataclasses.replace(encoded, features=features), QUESTION)


def test_tokens_of_another_width_are_refused(model, encoded):
    narrow = dataclasses.replace(encoded, features=encoded.features[:, :100].clone(), model="other")
    with pytest.raises(InputError, match="encode the video with the model that answers"):
        ask(model, narrow, QUESTION)


def test_a_video_longer_than_the_context_says_what_fits(model, encoded):
    with pytest.raises(InputError, match=r"above the 16384 .* keep at most"):
        ask(model, encoded, QUESTION, Generation(max_new_tokens=16_000))


@pytest.mark.parametrize(
    "settings", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"seed": -1}]
)
def test_impossible_generation_settings_are_refused(settings):
    with pytest.raises(InputError, match="Generation with"):
        Generation(**settings)


@pytest.mark.parametrize("penalty", [-0.1, float("nan"), float("inf")])
def test_an_impossible_repetition_penalty_is_refused(penalty):
    with pytest.raises(InputError, match=r"The repetition penalty is .*; give 0 for the model's own"):
        Generation(repetition_penalty=penalty)


def test_encoding_frames_alone_or_together_gives_the_same_tokens(model, frames, encoded):
    alone = model.encode(Frames(frames.pixels[2:3], frames.timestamps[2:3], frames.source))
    together = encoded.features.reshape(4, 729, -1)[2]
    torch.testing.assert_close(alone.features, together, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.deep[0], encoded.deep[2], atol=1e-4, rtol=1e-4)


def test_encoding_reports_progress_and_can_be_stopped(model, frames):
    seen = []
    model.encode(frames, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 4)
    assert seen[-1] == (4, 4)
