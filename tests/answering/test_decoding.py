"""Decoding by a step of fixed shape: the answers of eager decoding, for every family, here and as a CUDA graph."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from transformers import DynamicCache

from comfyui_aot.aot.answering.answerer import LocalAnswerer
from comfyui_aot.aot.answering.decoding import COLUMNS, LEAST_TOKENS, WARM_UP, Decoder, DecodingStep
from comfyui_aot.aot.answering.generation import Generation, ignore_count, ignore_text
from comfyui_aot.aot.answering.packing import PackedQuestions, first_step
from comfyui_aot.aot.answering.prefilling import Prefiller
from comfyui_aot.aot.answering.session import Session, prefill
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import load
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.tests.support.graph_stand_in import GraphStandIn
from comfyui_aot.tests.support.on_the_device import OnTheDevice
from comfyui_aot.tests.support.small_models import save
from comfyui_aot.tests.support.stock_inputs import QUESTION, random_frames

QUESTIONS = ("Is it day?", QUESTION, "Describe all that moves in it, from its first moment to its last.")
NEW = 12
LONG = Generation(max_new_tokens=NEW)
PENALISED = Generation(NEW, repetition_penalty=0.3)
"""Below 1, so that words come again."""
LIVELY = Generation(NEW, temperature=2.0, seed=3)
"""Sampled, since the most likely token of these random models is often the same one again."""
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}
"""Of float32 logits: an attention with a mask takes its sums in another order than one without, more so on a GPU."""
TWO_FAMILIES = pytest.mark.parametrize(
    "small",
    [(family, device) for family in ("llava_onevision", "qwen3_vl") for device in ("cpu", "cuda")],
    indirect=True,
    ids=str,
)
"""For what the decoder keeps account of: a family of one position a token, and one of three that adds to its layers."""
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU to capture a graph on")


def session(model, tokens, decoding):
    return Session(model, tokens, decoder=Decoder(model, decoding))


def ask_both(model, tokens, questions, generation=LONG):
    """The same questions by eager decoding and by the step."""
    return [session(model, tokens, decoding).ask(questions, generation) for decoding in ("eager", "graph")]


def test_an_answer_is_that_of_eager_decoding(small, reduced):
    for generation in (LONG, PENALISED, LIVELY):
        eager, steps = ask_both(small, reduced, [QUESTION], generation)
        assert steps.ids == eager.ids
        assert len(steps.ids[0]) == NEW
    assert len(set(steps.ids[0])) > NEW // 2  # sampled


def test_packed_answers_are_those_of_eager_decoding(small, reduced):
    for generation in (LONG, PENALISED, LIVELY):
        eager, steps = ask_both(small, reduced, QUESTIONS, generation)
        assert steps.ids == eager.ids


def test_answers_that_end_sooner_leave_the_others_alone(talkative, encoded, monkeypatch):
    tokens = parse("aot:retention=0.1,clip_length=2")(encoded)
    varied = Generation(NEW, repetition_penalty=1.5)
    ids = session(talkative, tokens, "eager").ask(QUESTIONS, varied).ids
    places = {token: [each.index(token) if token in each else NEW for each in ids] for token in ids[0]}
    ends = next(token for token, found in places.items() if len(set(found)) == len(QUESTIONS))
    monkeypatch.setattr(talkative.hf_model.generation_config, "eos_token_id", [ends])
    eager, steps = ask_both(talkative, tokens, QUESTIONS, varied)
    assert steps.ids == eager.ids
    assert len({len(each) for each in steps.ids}) == len(QUESTIONS)


@torch.no_grad()
def test_packed_logits_are_those_of_a_growing_cache_token_by_token(small, reduced):
    """Tokens of our choice, other ones for each question; one answer ends sooner."""
    prompts = [small.prompt(question, reduced) for question in QUESTIONS]
    prefix, cache, steps = small.prefix(reduced, prompts[0]), DynamicCache(), {}
    prefill(Prefiller(small), prefix.inputs, cache)
    asked = None
    for decoding in ("graph", "eager"):
        questions = [prompt.after for prompt in prompts]
        decoder = Decoder(small, decoding)
        packed = PackedQuestions(
            small,
            cache,
            prefix,
            questions,
            [],
            LONG,
            0,
            ignore_text,
            ignore_count,
            decoder,
            Prefiller(small),
        )
        asked = packed.read() if asked is None else asked
        steps[decoding] = first_step(small, cache, asked, decoder, NEW)
    generator = torch.Generator().manual_seed(0)
    for count in range(NEW):
        rows = torch.tensor([0, 1, 2] if count < 3 else [0, 2])
        ids = torch.randint(5, 1000, (len(rows),), generator=generator)
        found, expected = (each.next(rows.to(small.device), ids.to(small.device)) for each in steps.values())
        torch.testing.assert_close(found, expected, atol=TOLERANCE[small.device.type], rtol=0)
        assert float((expected[0] - expected[-1]).abs().max()) > 0.05
    assert steps["graph"].is_captured == (small.device.type == "cuda")


@torch.no_grad()
def test_logits_are_those_of_a_growing_cache_token_by_token(small, reduced):
    prompt = small.prompt_inputs(reduced, QUESTION)
    prefix = small.prefix(reduced, small.prompt(QUESTION, reduced))
    cache, tokens, device = DynamicCache(), [5, 17, 300, 42, 7, 9, 11], small.device
    small.forward(prompt, cache)
    begin = prefix.answer_position(len(prompt) - len(prefix.inputs))
    step = DecodingStep(small, cache, 2, COLUMNS * 2)
    visible = torch.ones(1, len(prompt), dtype=torch.bool, device=device)
    step.begin(cache, visible, torch.tensor([begin], device=device))
    row = torch.zeros(1, dtype=torch.long, device=device)
    for count, token in enumerate(tokens):
        ids = torch.tensor([token])
        found = step.next(row, ids.to(device))[0]
        expected = small.forward(small.text_inputs(ids, torch.tensor([begin + count])), cache)
        torch.testing.assert_close(found, expected, atol=TOLERANCE[small.device.type], rtol=0)
    assert step.is_captured == (device.type == "cuda")


@torch.no_grad()
def test_a_step_neither_waits_for_the_host_nor_takes_tensors_from_it(small, reduced, monkeypatch):
    """On the meta device, where numbers do not exist: no operation can look at one."""
    if small.family == "qwen3_vl_moe":
        pytest.skip("the product of experts does not apply to float32 on the meta device")
    model, shape = copy.deepcopy(small), small.language
    model.hf_model.to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # knows no meta device
    cache, read = DynamicCache(), torch.zeros(1, shape.kv_heads, 60, shape.head_dim, device="meta")
    for layer in range(shape.layers):
        cache.update(read, read, layer)
    step = DecodingStep(model, cache, 2, COLUMNS)
    with OnTheDevice() as noted:
        step._run()
    assert noted.operations > 100
    assert not noted.unfit


def test_a_session_goes_on_after_the_step_as_after_eager_decoding(small, reduced):
    eager, steps = (session(small, reduced, decoding) for decoding in ("eager", "graph"))
    for question in QUESTIONS:
        first, second = (each.ask([question], LONG) for each in (eager, steps))
        assert first.ids == second.ids
        assert eager.cached_tokens == steps.cached_tokens
    for mine, others in zip(steps._cache.layers, eager._cache.layers, strict=True):
        torch.testing.assert_close(mine.keys, others.keys)


@TWO_FAMILIES
def test_an_interrupted_answer_leaves_nothing_behind(small, reduced):
    class Interrupted(Exception):
        pass

    def interrupt(count):
        if count == WARM_UP + 3:
            raise Interrupted

    steps = session(small, reduced, "graph")
    with pytest.raises(Interrupted):
        steps.ask([QUESTION], LONG, on_token=interrupt)
    assert steps._decoder._step is None
    assert steps.ask([QUESTION], LONG).ids == session(small, reduced, "eager").ask([QUESTION], LONG).ids


@TWO_FAMILIES
def test_texts_are_streamed_as_by_eager_decoding(small, reduced):
    streamed = {"eager": [], "graph": []}
    for decoding, texts in streamed.items():
        session(small, reduced, decoding).ask(
            QUESTIONS, LONG, on_text=lambda number, text, texts=texts: texts.append((number, text))
        )
    assert streamed["graph"] == streamed["eager"]
    assert len(streamed["graph"]) > NEW


@TWO_FAMILIES
def test_weights_that_have_moved_are_not_read_where_they_were(small, reduced):
    decoder = Decoder(small, "graph")
    before = Session(small, reduced, decoder=decoder).ask([QUESTION], LONG)
    first = decoder._step
    with torch.no_grad():
        for parameter in small.hf_model.parameters():
            parameter.data = parameter.data.clone()
    assert Session(small, reduced, decoder=decoder).ask([QUESTION], LONG).ids == before.ids
    assert decoder._step is not first


@TWO_FAMILIES
def test_a_step_of_inference_mode_is_not_used_outside_of_it(small, reduced):
    """PyTorch lets nobody change a tensor of inference mode outside of it."""
    decoder = Decoder(small, "graph")
    with torch.inference_mode():
        inside = Session(small, reduced, decoder=decoder).ask([QUESTION], LONG)
    assert Session(small, reduced, decoder=decoder).ask([QUESTION], LONG).ids == inside.ids


@TWO_FAMILIES
def test_answers_of_about_the_same_length_share_a_step(small, reduced):
    decoder = Decoder(small, "graph")
    for question in QUESTIONS:
        found = Session(small, reduced, decoder=decoder).ask([question], LONG)
        used = decoder._step
        assert found.ids == session(small, reduced, "eager").ask([question], LONG).ids
    assert Session(small, reduced, decoder=decoder).ask([QUESTION], LONG).ids
    assert decoder._step is used
    assert decoder.replays == (small.device.type == "cuda")


@TWO_FAMILIES
def test_a_longer_answer_takes_a_longer_store(small, reduced):
    decoder, columns = Decoder(small, "graph"), []
    for tokens in (NEW, COLUMNS + NEW):
        Session(small, reduced, decoder=decoder).ask([QUESTION], Generation(tokens))
        columns.append(decoder._step.made_for[1])
    assert columns[1] == columns[0] + COLUMNS


def test_a_hidden_nan_does_not_spread(small, reduced):
    decoder = Decoder(small, "graph")
    before = Session(small, reduced, decoder=decoder).ask([QUESTION], LONG)
    for layer in decoder._step._layers:
        layer.keys.fill_(torch.nan)
        layer.values.fill_(torch.nan)
    assert Session(small, reduced, decoder=decoder).ask([QUESTION], LONG).ids == before.ids


@TWO_FAMILIES
def test_auto_uses_a_step_where_there_is_cuda_and_the_answer_may_be_long(small, reduced):
    decoder = Decoder(small, "auto")
    Session(small, reduced, decoder=decoder).ask([QUESTION], Generation(LEAST_TOKENS - 1))
    assert decoder._step is None
    Session(small, reduced, decoder=decoder).ask([QUESTION], LONG)
    assert decoder.replays == (small.device.type == "cuda")


@TWO_FAMILIES
def test_attention_without_masks_is_decoded_eagerly(small, reduced, monkeypatch):
    expected = session(small, reduced, "eager").ask([QUESTION], LONG)
    monkeypatch.setattr(type(small), "takes_masks", False)
    decoder = Decoder(small, "graph")
    assert Session(small, reduced, decoder=decoder).ask([QUESTION], LONG).ids == expected.ids
    assert decoder._step is None


@TWO_FAMILIES
def test_a_store_is_kept_up_to_the_bytes_allowed_and_freed_when_told(small, reduced):
    kept = Decoder(small, "graph")
    Session(small, reduced, decoder=kept).ask([QUESTION], LONG)
    size = kept._step.bytes
    assert size == small.language.kv_cache_bytes(kept._step.made_for[1], 4)
    for allowed, stays in ((size, True), (size - 1, False)):
        decoder = Decoder(small, "graph", keep_bytes=allowed)
        Session(small, reduced, decoder=decoder).ask([QUESTION], LONG)
        assert (decoder._step is not None) == stays
    kept.forget()
    assert kept._step is None


@TWO_FAMILIES
def test_the_answerers_sessions_share_its_decoder(small, reduced):
    answerer = LocalAnswerer(small)
    assert answerer.session(reduced)._decoder is answerer.decoder
    assert answerer.session(reduced, "Be brief.")._decoder is answerer.decoder


@pytest.fixture
def recorder(small, monkeypatch):
    if small.device.type == "cuda":
        pytest.skip("a real graph is captured there")
    stand_in, make = GraphStandIn(monkeypatch, DecodingStep), DecodingStep.__init__

    def with_stream(step, *args):
        make(step, *args)
        step.stream = stand_in.stream

    monkeypatch.setattr(DecodingStep, "__init__", with_stream)
    return stand_in


@TWO_FAMILIES
def test_a_step_is_captured_once_after_the_warm_up_and_then_replayed(small, reduced, recorder):
    decoder = Decoder(small, "graph")
    for generation in (LONG, LIVELY):
        expected = session(small, reduced, "eager").ask(QUESTIONS, generation)
        assert Session(small, reduced, decoder=decoder).ask(QUESTIONS, generation).ids == expected.ids
    first_steps, compared = NEW - 1 - WARM_UP, 1
    assert (recorder.captures, recorder.replays) == (1, first_steps + compared + NEW - 1)


@TWO_FAMILIES
def test_answers_too_short_for_a_graph_are_right_one_after_another(small, reduced, recorder):
    decoder = Decoder(small, "graph")
    for tokens in (WARM_UP + 1, WARM_UP, WARM_UP + 1, NEW):
        generation = Generation(tokens, temperature=2.0, seed=3)
        expected = session(small, reduced, "eager").ask([QUESTION], generation)
        assert Session(small, reduced, decoder=decoder).ask([QUESTION], generation).ids == expected.ids
    assert recorder.captures == 1


@TWO_FAMILIES
@pytest.mark.parametrize(
    ("fault", "words"),
    [("breaks", "not permitted when stream is capturing"), ("distorts", "differ"), ("waits", "it waits for the host")],
)
@torch.no_grad()
def test_a_graph_that_fails_or_errs_is_not_replayed(small, reduced, recorder, fault, words):
    setattr(recorder, fault, True)
    prompt = small.prompt_inputs(reduced, QUESTION)
    cache = DynamicCache()
    small.forward(prompt, cache)
    step, row = DecodingStep(small, cache, 1, COLUMNS), torch.zeros(1, dtype=torch.long)
    step.begin(cache, torch.ones(1, len(prompt), dtype=torch.bool), torch.tensor([len(prompt)]))
    for count in range(NEW):
        ids = torch.tensor([7 + 11 * count])
        expected = small.forward(small.text_inputs(ids, torch.tensor([len(prompt) + count])), cache)
        torch.testing.assert_close(step.next(row, ids)[0], expected, atol=1e-5, rtol=0)
    assert words in step.failure
    assert not step.is_captured
    with pytest.raises(InputError, match=f"{words}.*; choose decoding auto or eager"):
        session(small, reduced, "graph").ask([QUESTION], LONG)


@ON_GPU
def test_a_step_that_cannot_be_captured_is_decoded_as_it_is_or_named(small, reduced, monkeypatch):
    """A step that waits for the host, as layers of 8 bits do."""
    if small.device.type != "cuda":
        pytest.skip("nothing is captured on the CPU")
    expected = session(small, reduced, "eager").ask([QUESTION], LONG)
    whole = small.forward

    def waiting(inputs, cache, **options):
        logits = whole(inputs, cache, **options)
        return logits * float(bool(logits.isfinite().all()))

    monkeypatch.setattr(small, "forward", waiting)
    decoder = Decoder(small, "auto")
    for _ in range(2):
        assert Session(small, reduced, decoder=decoder).ask([QUESTION], LONG).ids == expected.ids
        assert decoder._step is None
    with pytest.raises(InputError, match=r"cannot be captured .* choose decoding auto or eager"):
        session(small, reduced, "graph").ask([QUESTION], LONG)
    monkeypatch.undo()
    torch.cuda.empty_cache()  # which fails where a capture has broken
    assert session(small, reduced, "graph").ask([QUESTION], LONG).ids == expected.ids


@ON_GPU
def test_a_model_that_went_to_the_cpu_and_back_is_asked_again(small, reduced):
    if small.device.type != "cuda":
        pytest.skip("nothing is captured on the CPU")
    decoder = Decoder(small, "graph")
    before = Session(small, reduced, decoder=decoder).ask([QUESTION], LONG)
    small.hf_model.to("cpu")
    in_the_way = torch.full((2**24,), torch.nan, device="cuda")
    small.hf_model.to("cuda")
    assert Session(small, reduced, decoder=decoder).ask([QUESTION], LONG).ids == before.ids
    assert bool(in_the_way.isnan().all())


@ON_GPU
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_captured_and_finite(dtype, tmp_path, embedded_folder):
    save(tmp_path / "small", "llava_onevision", embedded_folder)
    model = load(tmp_path / "small", dtype=dtype, device="cuda", decoding="graph")
    model.hf_model.generation_config.eos_token_id = None
    answerer = LocalAnswerer(model)
    (answer,) = answerer.answer(model.encode(random_frames()), [QUESTION], LONG)
    assert answer.new_tokens == NEW
    assert answerer.decoder.replays


def test_a_graph_without_cuda_is_one_line(embedded_folder):
    with pytest.raises(
        InputError, match="decoding graph needs CUDA and embedded computes on cpu; choose auto or eager"
    ):
        load(decoding="graph")
    with pytest.raises(InputError, match="decoding graph cannot capture the 8-bit layers of embedded; choose auto"):
        load(decoding="graph", compute_device="cuda", quantization="8-bit")
    with pytest.raises(InputError, match="decoding is 'fast'; give one of auto, eager, graph"):
        load(decoding="fast")


def test_auto_attention_is_one_that_takes_masks(tmp_path, embedded_folder):
    save(tmp_path / "small", "qwen2_5_vl", embedded_folder)
    for attention, chosen in (("auto", "sdpa"), ("eager", "eager")):
        model = load(tmp_path / "small", attention=attention)
        assert (model.attention, model.takes_masks) == (chosen, True)


def test_windows_of_attention_take_no_mask_of_ours(tmp_path, embedded_folder, monkeypatch):
    save(tmp_path / "small", "qwen2_5_vl", embedded_folder)
    model = load(tmp_path / "small")
    monkeypatch.setattr(model.language_model.config, "layer_types", ["full_attention", "sliding_attention"])
    assert not model.takes_masks
