"""Stages at work inside every family's LLM, and inside a session."""

from __future__ import annotations

import pytest
import torch

from comfyui_aot.aot.answering.answerer import LocalAnswerer
from comfyui_aot.aot.answering.fidelity import forced
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.inside import last_row, without_last
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.answering.vllm_server import Connection, VllmServer
from comfyui_aot.aot.comparison.compare import compare
from comfyui_aot.aot.comparison.table import as_csv, as_markdown
from comfyui_aot.aot.comparison.variants import expand
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.prompt import Turn
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.inner import Choice
from comfyui_aot.aot.tokens.factors import Sparse
from comfyui_aot.tests.support.small_models import BUILDERS, save, saved_or_skipped
from comfyui_aot.tests.support.stock_inputs import random_frames

QUESTIONS = ["What happens?", "Who is there, and where do they go?"]
GENERATION = Generation(4)
REFUSED = {"qwen3_5", "qwen3_5_moe", "minicpmv4_6", "gemma4"}
"""Families whose LLM has linear attention or sliding windows."""
ALL = (
    "fastv:layer=3,keep=1",
    "holitom-inner:layer=3,keep=1,causal=true",
    "flashvid-inner:layer=3,keep=1",
    "pyramiddrop:layers=3,ratios=1",
    "dycoke-inner:layer=3,unread=0,similarity=-1",
)
"""Every method set to leave nothing out."""
LESS = (
    "fastv:layer=3",
    "holitom-inner:layer=3,causal=true",
    "flashvid-inner:layer=3",
    "pyramiddrop:layers=3,ratios=0.4",
    "dycoke-inner:layer=3,similarity=1.01",
)


@pytest.fixture(scope="module", params=list(BUILDERS))
def small(request, tmp_path_factory, embedded_folder):
    model = load(saved_or_skipped(request.param, tmp_path_factory.mktemp("models"), embedded_folder))
    model.hf_model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def encoded(small):
    return parse("intra:retention=0.6")(small.encode(random_frames()))


@pytest.fixture(scope="module")
def onevision(tmp_path_factory, embedded_folder):
    folder = tmp_path_factory.mktemp("models") / "onevision"
    save(folder, "llava_onevision", embedded_folder)
    model = load(folder)
    model.hf_model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def video(onevision):
    return parse("intra:retention=0.6")(onevision.encode(random_frames()))


def logits(model, tokens, ids=(5, 9, 11, 3), turns=()):
    """Log-probabilities of an answer of ours, token by token."""
    with torch.no_grad():
        return torch.cat(list(forced(Session(model, tokens), QUESTIONS[0], ids, turns)))


def test_a_method_that_leaves_nothing_out_changes_nothing(small, encoded):
    if small.family in REFUSED:
        for chain in ALL:
            with pytest.raises(InputError, match="linear attention or sliding windows"):
                Session(small, parse(chain)(encoded))
        return
    expected = logits(small, encoded)
    for chain in ALL:
        torch.testing.assert_close(logits(small, parse(chain)(encoded)), expected, atol=2e-5, rtol=0, msg=chain)
    assert small.attention == "sdpa"
    assert not any(layer._forward_pre_hooks for layer in small.language_model.layers)


def test_less_is_read_and_every_question_chooses_for_itself(small, encoded):
    if small.family in REFUSED:
        pytest.skip("refused")
    for chain in LESS:
        tokens = parse(chain)(encoded)
        together = Session(small, tokens).answer(QUESTIONS, GENERATION)
        alone = [Session(small, tokens).answer([each], GENERATION)[0] for each in QUESTIONS]
        assert [each.ids for each in together] == [each.ids for each in alone], chain
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one.first, other.first, atol=1e-5, rtol=0)
        if chain.startswith("dycoke"):
            assert together[0].layer_tokens == () and together[0].readings == 1
        else:
            kept = together[0].layer_tokens
            assert len(kept) == small.language.layers and kept[2] == encoded.tokens_kept > kept[3]
            assert together[0].retention == pytest.approx(sum(kept) / len(kept) / encoded.tokens_full)
            assert together[0].readings == 2 and alone[0].readings == 1


@pytest.mark.parametrize(
    "chain", [*LESS, "fastv:layer=1+flashvid-inner:layer=3", "fastv:layer=2+holitom-inner:layer=2"]
)
def test_a_prompt_in_chunks_is_read_as_in_one(onevision, video, chain, monkeypatch):
    tokens = parse(chain)(video)
    expected = logits(onevision, tokens)
    monkeypatch.setattr("comfyui_aot.aot.answering.inside.CHUNK", 7)
    monkeypatch.setattr("comfyui_aot.aot.answering.session.CHUNK", 7)
    torch.testing.assert_close(logits(onevision, tokens), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chain", [*LESS, "holitom-inner:layer=1", "pyramiddrop:layers=1/2/3,ratios=0.8/0.5/0.2"])
def test_the_answer_is_read_as_it_was_written(onevision, video, chain):
    """Decoding token by token, and the same tokens in one pass after the prompt."""
    tokens = parse(chain)(video)
    (answer,) = Session(onevision, tokens).answer([QUESTIONS[0]], Generation(6))
    rows = logits(onevision, tokens, answer.ids)
    assert rows.argmax(-1).tolist() == list(answer.ids)
    torch.testing.assert_close(rows[0], answer.first, atol=1e-5, rtol=0)


def test_the_cache_is_shorter_from_the_layer_on(onevision, video):
    session = Session(onevision, parse("fastv:layer=2,keep=0.25")(video))
    with session.opened(QUESTIONS[0]) as opened, torch.no_grad():
        opened.read_question()
        rows = len(opened.prefix.inputs) + len(opened.question)
        left = rows - video.tokens_kept + round(video.tokens_kept * 0.25)
        assert [opened.cache.get_seq_length(layer) for layer in range(4)] == [rows, rows, left, left]
    (answer,) = session.answer([QUESTIONS[0]], GENERATION)
    mean = (2 * rows + 2 * left) / 4 + answer.new_tokens
    assert answer.kv_cache_bytes == onevision.language.kv_cache_bytes(1, 4) * mean
    full, less = (
        onevision.language.prefill_flops(each) for each in (video.tokens_kept, round(video.tokens_kept * 0.25))
    )
    assert answer.prefill_flops == pytest.approx((full + less) / 2)


def test_a_follow_up_reads_all_turns(onevision, video):
    tokens, answerer = parse("fastv:layer=2")(video), LocalAnswerer(onevision)
    (first,) = answerer.answer(tokens, [QUESTIONS[0]], GENERATION)
    turns = (Turn(QUESTIONS[0], first.text),)
    (follow,) = answerer.answer(tokens, [QUESTIONS[1]], GENERATION, turns=turns)
    (alone,) = Session(onevision, tokens).answer([QUESTIONS[1]], GENERATION, turns=turns)
    assert follow.ids == alone.ids and not follow.was_read


def test_stopping_leaves_the_llm_as_it_was(onevision, video, monkeypatch):
    monkeypatch.setattr("comfyui_aot.aot.answering.inside.CHUNK", 7)
    session = Session(onevision, parse("fastv:layer=2")(video))
    calls = []

    def stop(count):
        calls.append(count)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.ask([QUESTIONS[0]], GENERATION, on_token=stop)
    assert onevision.attention == "sdpa" and not onevision.language_model.layers[2]._forward_pre_hooks
    assert session.cached_tokens == 0
    assert (
        session.ask([QUESTIONS[0]], GENERATION).ids
        == Session(onevision, session.tokens).ask([QUESTIONS[0]], GENERATION).ids
    )


@pytest.mark.parametrize("chain", ["fastv:layer=2", "holitom-inner:layer=2", "pyramiddrop:layers=1/3,ratios=0.5/0.2"])
def test_what_a_layer_sees_leads_back_to_the_video(onevision, video, chain):
    tokens = parse(chain)(video)
    (answer,) = Session(onevision, tokens).answer([QUESTIONS[0]], GENERATION)
    for layer, count in enumerate(answer.layer_tokens):
        seen = answer.tokens_at(tokens, layer)
        assert seen.tokens_kept == len(seen.place) == count and seen.inner == ()
        torch.testing.assert_close(seen.map.apply(torch.ones(seen.map.source)), torch.ones(count))
    last = answer.tokens_at(tokens, onevision.language.layers - 1)
    places = {tuple(each) for each in video.place.tolist()}
    assert {tuple(each) for each in last.place.tolist()} < places
    with pytest.raises(InputError, match="layers 0 to 3"):
        answer.tokens_at(tokens, 4)


def test_layers_that_add_to_the_video_are_left_alone(tmp_path, embedded_folder):
    save(tmp_path / "small", "qwen3_vl", embedded_folder)
    model = load(tmp_path / "small")
    with pytest.raises(InputError, match="after its first 3 layers; choose layer 3 or a later one"):
        Session(model, parse("fastv:layer=2")(model.encode(random_frames())))


def test_other_attention_is_one_line(tmp_path, embedded_folder):
    save(tmp_path / "small", "llava_onevision", embedded_folder)
    model = load(tmp_path / "small", attention="eager")
    with pytest.raises(InputError, match="that of small is eager; load the model from its folder, with attention sdpa"):
        Session(model, parse("fastv:layer=2")(model.encode(random_frames())))


def test_a_server_is_one_line(onevision, video):
    server = VllmServer(Connection("http://127.0.0.1:9"), onevision)
    with pytest.raises(InputError, match="fastv acts inside the LLM, which a server does not let it"):
        server.answer(parse("fastv:layer=2")(video), QUESTIONS)


def test_two_that_choose_what_decoding_reads_are_one_line(onevision, video):
    with pytest.raises(InputError, match="both choose what decoding reads"):
        Session(onevision, parse("dycoke-inner:layer=1+dycoke-inner:layer=2")(video))


def test_the_last_row_is_that_of_the_attention_matrix():
    torch.manual_seed(0)
    query, key = torch.randn(1, 6, 5, 8), torch.randn(1, 2, 9, 8)
    mask = torch.zeros(1, 1, 5, 9).masked_fill(torch.rand(1, 1, 5, 9) > 0.7, -torch.inf)
    matrix = (query @ key.repeat_interleave(3, 1).mT * 0.3 + mask).softmax(-1)
    torch.testing.assert_close(last_row(query, key, 0.3, mask), matrix[0, :, -1].mean(0))
    torch.testing.assert_close(last_row(query, key, 0.3, mask == 0), matrix[0, :, -1].mean(0))


def test_a_newlines_share_goes_to_the_others():
    factor = Sparse(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 2]), torch.tensor([0.25, 0.75, 1.0]), 2, 3)
    left = without_last(Choice(torch.tensor([0, 2]), factor))
    assert left.kept.tolist() == [0] and left.factor.source == 2
    assert [each.tolist() for each in left.factor.coordinates()] == [[0], [0], [1.0]]


def test_a_comparison_says_that_figures_are_means(onevision):
    encoded, refused = onevision.encode(random_frames()), []
    variants = expand(["fastv:layer=2", "fastv:layer=40"], [0.5])
    answerer = LocalAnswerer(onevision)
    rows = list(compare(answerer, encoded, QUESTIONS[0], variants, GENERATION, on_refused=refused.append))
    assert [row.name for row in rows] == ["full", "fastv:layer=2"] and len(refused) == 1
    assert "layers 0 to 3; set it to 3 or less" in refused[0]
    assert rows[1].is_reduced and rows[1].answer.retention == 0.75 and rows[1].fidelity.kl is not None
    assert rows[1].to_dict()["layer_tokens"] == [150, 150, 75, 75] and rows[0].to_dict()["layer_tokens"] == []
    assert "| 150/150, 75" in as_markdown(rows) and "on average over the LLM's layers" in as_markdown(rows)
    assert "layer_tokens" not in as_csv(rows)
