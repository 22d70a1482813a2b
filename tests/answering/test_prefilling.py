"""Prompts read in passes of rounded lengths: what reading them as they are gives, here and as CUDA graphs."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional
from transformers import DynamicCache

from comfyui_aot.aot.answering import prefilling
from comfyui_aot.aot.answering.answerer import LocalAnswerer
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.memory_advice import bytes_to_read
from comfyui_aot.aot.answering.prefilling import KEPT, LONGEST, ROUND, Prefiller, PrefillPass
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.prompt import Inputs
from comfyui_aot.tests.support.graph_stand_in import GraphStandIn
from comfyui_aot.tests.support.on_the_device import OnTheDevice
from comfyui_aot.tests.support.small_models import save
from comfyui_aot.tests.support.stock_inputs import QUESTION, random_frames

QUESTIONS = ("Is it day?", QUESTION, "Describe all that moves in it, from its first moment to its last.")
SHORT = Generation(max_new_tokens=4)
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}
"""Of float32: products of other sizes take their sums in another order, more so on a GPU."""
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU to capture a graph on")


@pytest.fixture(scope="module")
def takes_part(small):
    """Whether the family's video prompts are padded."""
    return not small.family.startswith("qwen3_vl")


@pytest.fixture(scope="module")
def prompt(small, reduced, takes_part):
    """Tokens of a video and a question, without the levels that some families add."""
    inputs = small.prompt_inputs(reduced, " ".join(QUESTIONS * 3))
    assert bool(inputs.levels) != takes_part
    assert len(inputs) > ROUND
    return dataclasses.replace(inputs, levels=())


def rounded(inputs):
    return -(-len(inputs) // ROUND) * ROUND


def read(prefiller, inputs):
    """What a prefiller reads: the logits, then every layer's keys and values."""
    cache = DynamicCache()
    logits = prefiller.read(inputs, cache)
    return logits, [(layer.keys, layer.values) for layer in cache.layers]


def as_it_is(small, inputs):
    return read(Prefiller(small, "eager"), inputs)


def assert_alike(small, found, expected):
    torch.testing.assert_close(found, expected, atol=TOLERANCE[small.device.type], rtol=1e-4)


def caches_of(*sessions):
    return ([(layer.keys, layer.values) for layer in each._cache.layers] for each in sessions)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, ROUND - 1, ROUND, ROUND + 1, None])
def test_logits_keys_and_values_are_those_without_padding(small, prompt, tokens):
    inputs = prompt.part(0, tokens or len(prompt))
    expected, prefiller = as_it_is(small, inputs), Prefiller(small, "graph")
    assert expected[0].shape == (1, len(small.hf_model.lm_head.weight))
    for _ in range(3):
        assert_alike(small, read(prefiller, inputs), expected)
    assert list(prefiller._passes) == [rounded(inputs)]
    assert bool(prefiller.captured) == (small.device.type == "cuda")


@torch.no_grad()
def test_prompts_of_one_rounded_length_leave_nothing_to_each_other(small, prompt):
    prefiller = Prefiller(small, "graph")
    long, short = prompt.part(0, ROUND), prompt.part(0, ROUND // 2)
    nan = dataclasses.replace(long, inputs_embeds=torch.full_like(long.inputs_embeds, torch.nan))
    kept = []
    for inputs in (long, short, nan, short, long, nan, short):
        found = read(prefiller, inputs)
        if inputs is not nan:
            kept.append((inputs, found))
    for inputs, found in kept:
        assert_alike(small, found, as_it_is(small, inputs))


@torch.no_grad()
def test_the_padded_pass_attends_as_the_plain_one_does(small, prompt, monkeypatch):
    """Causal without a mask: what flash kernels take."""
    calls = {"eager": [], "graph": []}
    whole = functional.scaled_dot_product_attention
    for decoding, made in calls.items():

        def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, made=made, **others):
            made.append((attn_mask is None, is_causal, others.get("enable_gqa")))
            return whole(query, key, value, attn_mask, dropout_p, is_causal, **others)

        monkeypatch.setattr(functional, "scaled_dot_product_attention", attend)
        read(Prefiller(small, decoding), prompt)
    assert calls["graph"] == calls["eager"] == [(True, True, True)] * small.language.layers


@torch.no_grad()
def test_a_pass_neither_waits_for_the_host_nor_takes_tensors_from_it(small, prompt, monkeypatch):
    if small.family == "qwen3_vl_moe":
        pytest.skip("the product of experts does not apply to float32 on the meta device")
    model = copy.deepcopy(small)
    model.hf_model.to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # knows no meta device
    tensors = (each.to("meta") for each in (prompt.inputs_embeds, prompt.position_ids, prompt.visual))
    made = PrefillPass(model, Inputs(*tensors), rounded(prompt))
    with OnTheDevice() as noted:
        made._run()
    assert noted.operations > 100
    assert not noted.unfit


@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS])
def test_answers_and_what_stays_in_the_cache_are_those_of_plain_reading(small, reduced, takes_part, questions):
    prefiller = Prefiller(small, "graph")
    for _ in range(3):
        padded = Session(small, reduced, prefiller=prefiller)
        plain = Session(small, reduced, prefiller=Prefiller(small, "eager"))
        for asked in (questions, QUESTIONS[1:2], QUESTIONS[::-1]):  # follow-ups
            found, expected = padded.ask(asked, SHORT), plain.ask(asked, SHORT)
            assert found.ids == expected.ids
            assert_alike(small, found.first_logits, expected.first_logits)
            assert padded.cached_tokens == plain.cached_tokens
        assert_alike(small, *caches_of(padded, plain))
    assert bool(prefiller._passes) == takes_part


def test_blind_questions_are_padded_in_every_family(small):
    prefiller = Prefiller(small, "graph")
    expected = Session(small, None, prefiller=Prefiller(small, "eager")).ask([QUESTION], SHORT)
    for _ in range(2):
        found = Session(small, None, prefiller=prefiller).ask([QUESTION], SHORT)
        assert found.ids == expected.ids
    assert prefiller._passes


@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS])
def test_an_interrupted_answer_leaves_nothing_behind(small, reduced, questions):
    class Interrupted(Exception):
        pass

    expected = Session(small, reduced, prefiller=Prefiller(small, "eager")).ask(questions, SHORT)
    prefiller = Prefiller(small, "graph")
    for at in range(4):
        calls = itertools.count()

        def interrupt(count, at=at, calls=calls):
            if next(calls) == at:
                raise Interrupted

        session = Session(small, reduced, prefiller=prefiller)
        with pytest.raises(Interrupted):
            session.ask(questions, SHORT, on_token=interrupt)
        found = session.ask(questions, SHORT)
        assert found.ids == expected.ids
        assert_alike(small, found.first_logits, expected.first_logits)


@torch.no_grad()
def test_levels_long_prompts_and_what_follows_others_are_read_as_they_are(small, reduced, prompt, monkeypatch):
    monkeypatch.setattr(prefilling, "LONGEST", ROUND)
    monkeypatch.setattr(prefilling, "PrefillPass", None)
    prefiller = Prefiller(small, "graph")
    for _ in range(2):
        assert torch.equal(read(prefiller, prompt)[0], as_it_is(small, prompt)[0])
    cache, others = DynamicCache(), DynamicCache()
    small.forward(prompt, cache)
    small.forward(prompt, others)
    follow = prompt.part(0, 5)
    expected = small.forward(follow, others, keep=slice(-1, None))
    assert torch.equal(prefiller.read(follow, cache), expected)
    monkeypatch.setattr(prefilling, "LONGEST", LONGEST)
    if small.family.startswith("qwen3_vl"):
        Session(small, reduced, prefiller=prefiller).ask([QUESTION], SHORT)
    monkeypatch.setattr(type(small), "takes_masks", False)
    read(prefiller, prompt)


def test_a_cpu_reads_prompts_as_they_are(small, reduced, monkeypatch):
    if small.device.type != "cpu":
        pytest.skip("a GPU pads")
    monkeypatch.setattr(prefilling, "PrefillPass", None)
    small.decoding = "auto"
    try:
        Session(small, reduced).ask([QUESTION], SHORT)
    finally:
        small.decoding = "eager"
    Session(small, reduced).ask([QUESTION], SHORT)


@torch.no_grad()
def test_a_length_is_kept_from_its_second_prompt_on(small, prompt):
    prefiller = Prefiller(small, "graph")
    read(prefiller, prompt.part(0, ROUND))
    read(prefiller, prompt)
    assert not prefiller._passes
    read(prefiller, prompt.part(0, ROUND - 9))
    assert list(prefiller._passes) == [ROUND]
    kept = prefiller._passes[ROUND]
    read(prefiller, prompt.part(0, ROUND - 2))
    assert prefiller._passes == {ROUND: kept}
    prefiller.forget()
    assert not prefiller._passes


@torch.no_grad()
def test_the_lengths_used_last_are_kept_as_far_as_bytes_are_allowed(small, prompt):
    whole = prompt
    while len(whole) < (KEPT + 1) * ROUND:
        whole = whole.then(prompt)
    lengths = [(number + 1) * ROUND for number in range(KEPT + 1)]

    def kept(prefiller):
        for length in (*lengths[:-1], *lengths[:-1], lengths[0], lengths[-1], lengths[-1]):
            read(prefiller, whole.part(0, length))
        return list(prefiller._passes)

    assert kept(Prefiller(small, "graph")) == [*lengths[2:-1], lengths[0], lengths[-1]]
    room = bytes_to_read(small, lengths[0]) + bytes_to_read(small, lengths[-1])
    assert kept(Prefiller(small, "graph", keep_bytes=room)) == [lengths[0], lengths[-1]]
    assert lengths[-1] not in kept(Prefiller(small, "graph", keep_bytes=bytes_to_read(small, lengths[-1]) - 1))


@torch.no_grad()
def test_a_pass_that_half_of_the_free_memory_does_not_hold_is_not_kept(small, prompt, monkeypatch):
    length = rounded(prompt)
    for spare, is_kept in ((0, True), (-2, False)):
        free = 2 * bytes_to_read(small, length) + spare
        monkeypatch.setattr(prefilling, "free_bytes", lambda device, free=free: free)
        prefiller = Prefiller(small, "graph")
        for _ in range(2):
            assert_alike(small, read(prefiller, prompt), as_it_is(small, prompt))
        assert bool(prefiller._passes) == is_kept


@torch.no_grad()
def test_weights_that_have_moved_are_not_read_where_they_were(small, prompt):
    prefiller = Prefiller(small, "graph")
    for _ in range(2):
        before = read(prefiller, prompt)
    (first,) = prefiller._passes.values()
    for parameter in small.hf_model.parameters():
        parameter.data = parameter.data.clone()
    assert_alike(small, read(prefiller, prompt), before)
    (second,) = prefiller._passes.values()
    assert second is not first


def test_the_answerers_sessions_share_its_prefiller(small, reduced):
    answerer = LocalAnswerer(small)
    assert answerer.session(reduced)._prefiller is answerer.prefiller
    assert answerer.session(reduced, "Be brief.")._prefiller is answerer.prefiller
    answerer.prefiller._passes[ROUND] = None
    answerer.forget()
    assert not answerer.prefiller._passes


@pytest.fixture
def recorder(small, monkeypatch):
    if small.device.type == "cuda":
        pytest.skip("a real graph is captured there")
    stand_in = GraphStandIn(monkeypatch, PrefillPass)
    monkeypatch.setattr(Prefiller, "_stream", stand_in.stream)
    return stand_in


@torch.no_grad()
def test_the_second_prompt_of_a_length_is_captured_and_later_ones_replay_it(small, prompt, recorder):
    prefiller, expected = Prefiller(small, "graph"), as_it_is(small, prompt)
    for captures, replays in ((0, 0), (1, 2), (1, 3), (1, 4)):  # one is compared
        assert_alike(small, read(prefiller, prompt), expected)
        assert (recorder.captures, recorder.replays) == (captures, replays)
    assert prefiller.captured == (rounded(prompt),)


@torch.no_grad()
@pytest.mark.parametrize(
    ("fault", "words"),
    [("breaks", "not permitted when stream is capturing"), ("distorts", "differ"), ("waits", "it waits for the host")],
)
def test_a_graph_that_fails_or_errs_is_not_replayed_nor_tried_again(small, prompt, recorder, fault, words):
    made = PrefillPass(small, prompt, rounded(prompt))
    setattr(recorder, fault, True)
    made.capture(prompt, recorder.stream)
    assert words in made.failure
    assert not made.is_captured
    prefiller, expected = Prefiller(small, "graph"), as_it_is(small, prompt)
    for _ in range(2):
        assert_alike(small, read(prefiller, prompt), expected)
    setattr(recorder, fault, False)
    captures = recorder.captures
    for _ in range(2):
        assert_alike(small, read(prefiller, prompt), expected)
    assert recorder.captures == captures
    assert not prefiller.captured


@ON_GPU
@torch.no_grad()
def test_graphs_of_several_lengths_are_replayed_in_any_order(small, prompt):
    if small.device.type != "cuda":
        pytest.skip("nothing is captured on the CPU")
    prefiller, whole = Prefiller(small), prompt.then(prompt).then(prompt)
    lengths = (ROUND, len(prompt), len(whole), ROUND - 7, len(whole) - 3, ROUND, len(prompt), len(whole))
    found = [read(prefiller, whole.part(0, length)) for length in lengths]
    assert prefiller.captured
    for length, each in zip(lengths, found, strict=True):
        assert_alike(small, each, as_it_is(small, whole.part(0, length)))


@ON_GPU
@torch.no_grad()
def test_a_pass_that_cannot_be_captured_runs_as_it_is(small, prompt, monkeypatch):
    """A pass that waits for the host, as layers of 8 bits do."""
    if small.device.type != "cuda":
        pytest.skip("nothing is captured on the CPU")
    expected, whole = as_it_is(small, prompt), small.forward

    def waiting(inputs, cache, **options):
        logits = whole(inputs, cache, **options)
        return logits * float(bool(logits.isfinite().all()))

    monkeypatch.setattr(small, "forward", waiting)
    prefiller = Prefiller(small)
    for _ in range(3):
        assert_alike(small, read(prefiller, prompt), expected)
        assert not prefiller.captured


@ON_GPU
@torch.no_grad()
def test_a_model_that_went_to_the_cpu_and_back_is_captured_again(small, prompt):
    if small.device.type != "cuda":
        pytest.skip("nothing is captured on the CPU")
    prefiller, expected = Prefiller(small), as_it_is(small, prompt)
    for _ in range(2):
        read(prefiller, prompt)
    small.hf_model.to("cpu")
    in_the_way = torch.full((2**24,), torch.nan, device="cuda")
    small.hf_model.to("cuda")
    for _ in range(2):
        assert_alike(small, read(prefiller, prompt), expected)
    assert prefiller.captured
    assert bool(in_the_way.isnan().all())


@ON_GPU
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_captured_and_says_the_same_each_time(dtype, tmp_path, embedded_folder):
    save(tmp_path / "small", "llava_onevision", embedded_folder)
    model = load(tmp_path / "small", dtype=dtype, device="cuda")
    prefiller, tokens = Prefiller(model), model.encode(random_frames())
    found = [Session(model, tokens, prefiller=prefiller).ask([QUESTION], SHORT) for _ in range(4)]
    assert prefiller.captured
    assert bool(found[0].first_logits.isfinite().all())
    for each in found[1:]:
        torch.testing.assert_close(each.first_logits, found[0].first_logits, atol=2e-2, rtol=2e-2)
