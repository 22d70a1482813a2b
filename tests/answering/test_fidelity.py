"""Closeness to the full answer, against the stock model's own logits over prompt and answer in one pass."""

import dataclasses
import json
import math

import pytest
import torch

from comfyui_aot.aot.answering import fidelity
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.stages.chain import parse

QUESTION = "What happens?"
NEW = 7


@pytest.fixture(scope="module")
def full(encoded):
    return encoded.cut(0, 2)


@pytest.fixture(scope="module")
def reduced(full):
    return parse("aot:retention=0.1,clip_length=2")(full)


def asked(model, tokens, **settings):
    """A session and what was said in it."""
    session = Session(model, tokens)
    (said,) = session.answer([QUESTION], Generation(NEW, **settings))
    return session, said


@pytest.fixture(scope="module")
def whole(talkative, full):
    """The full answer, and how likely it was."""
    session, said = asked(talkative, full)
    return said, fidelity.reference(session, said)


@pytest.fixture(scope="module")
def measured(talkative, reduced, whole):
    said, known = whole
    session, other = asked(talkative, reduced)
    return fidelity.fidelity(session, said, known, other)


@torch.no_grad()
def stock(model, tokens, ids):
    """(n, vocabulary) log-probabilities of an answer's tokens, prompt and answer in one pass of the stock model."""
    prompt = model.prompt_inputs(tokens, QUESTION).inputs_embeds
    words = model.hf_model.get_input_embeddings()(torch.tensor(ids))
    logits = model.hf_model(inputs_embeds=torch.cat((prompt, words))[None]).logits[0]
    return logits[len(prompt) - 1 : -1].float().log_softmax(-1)


def test_every_figure_is_the_one_computed_from_the_stock_models_logits(talkative, full, reduced, whole, measured):
    said, known = whole
    p, q = (stock(talkative, tokens, said.ids) for tokens in (full, reduced))
    kl = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    ids = torch.tensor(said.ids)[:, None]
    total = q.gather(1, ids).sum().item()
    torch.testing.assert_close(known.log_probabilities, p, atol=2e-4, rtol=0)
    assert len(said.ids) == NEW
    assert measured.kl == pytest.approx(kl.mean().item(), abs=1e-4)
    assert measured.kl_first == pytest.approx(kl[0].item(), abs=1e-4)
    assert measured.log_probability == pytest.approx(total, abs=1e-3)
    assert measured.per_token == pytest.approx(total / NEW, abs=1e-3)
    assert measured.top1 == (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    assert measured.kl > 0.01


def test_the_full_answer_against_itself_is_as_likely_as_it_was(talkative, full, whole):
    said, known = whole
    itself = fidelity.of_itself(said, known)
    again = fidelity.fidelity(Session(talkative, full), said, known, said)
    assert (itself.same, itself.alike, itself.kl_first, itself.kl, itself.top1) == (True, 1.0, 0.0, 0.0, 1.0)
    assert (again.same, again.alike, again.top1) == (True, 1.0, 1.0)
    assert again.kl == pytest.approx(0, abs=1e-5)
    assert again.log_probability == pytest.approx(itself.log_probability, abs=1e-3)


def test_a_long_answer_is_scored_a_few_tokens_at_a_time(talkative, reduced, whole, measured, monkeypatch):
    said, known = whole
    session, other = asked(talkative, reduced)
    monkeypatch.setattr(fidelity, "AT_ONCE", 3)
    with torch.no_grad():
        assert [len(part) for part in fidelity.forced(session, QUESTION, said.ids)] == [1, 3, 3]
    again = fidelity.fidelity(session, said, known, other)
    assert dataclasses.asdict(again) == pytest.approx(dataclasses.asdict(measured), abs=1e-4)


def test_the_video_is_not_read_again_and_the_session_answers_on_as_before(talkative, reduced, whole, monkeypatch):
    said, known = whole
    session, other = asked(talkative, reduced)
    held, forward, lengths = session.cached_tokens, talkative.forward, []
    monkeypatch.setattr(
        talkative,
        "forward",
        lambda inputs, *rest, **more: lengths.append(len(inputs)) or forward(inputs, *rest, **more),
    )
    fidelity.fidelity(session, said, known, other)
    assert sum(lengths) == len(talkative.prompt(QUESTION).after) + NEW - 1
    assert session.cached_tokens == held
    assert session.ask([QUESTION], Generation(NEW)).texts == (other.text,)


def test_answers_alone_tell_how_far_they_go_together(whole):
    said, _ = whole
    parted = dataclasses.replace(said, text="other", ids=(*said.ids[:3], said.ids[3] + 1, 5, 6))
    found = fidelity.from_answers(said, parted)
    assert (found.same, found.alike, found.kl_first) == (False, 3 / NEW, 0.0)
    assert (found.kl, found.log_probability, found.top1) == (None, None, None)
    longer = dataclasses.replace(said, ids=(*said.ids, 1))
    assert fidelity.from_answers(said, longer).alike == NEW / (NEW + 1)


def test_a_servers_answer_tells_only_its_text(whole):
    said, _ = whole
    served = dataclasses.replace(said, ids=(), first=None)
    assert fidelity.from_answers(said, served) == fidelity.Fidelity(same=True)
    assert fidelity.from_answers(served, said) == fidelity.Fidelity(same=True)


def test_divergence_takes_what_is_impossible_and_is_never_negative():
    never = -math.inf
    p = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]).log()
    q = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]]).log()
    found = fidelity.divergence(p, q).tolist()
    assert found == [pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3)), math.inf, 0.0]
    assert p[0, 2] == q[0, 2] == never


def test_ids_and_distribution_are_no_part_of_an_answers_json_or_equality(whole):
    said, _ = whole
    assert "ids" not in said.to_dict()
    assert "first" not in said.to_dict()
    assert json.loads(json.dumps(said.to_dict()))["answer"] == said.text
    assert said == dataclasses.replace(said, ids=(), first=None)
    assert said.first.exp().sum().item() == pytest.approx(1, abs=1e-3)
