"""Where memory runs out, the line says what would fit, in numbers of the model at hand."""

import re

import pytest
import torch

from comfyui_aot.aot.answering.answerer import ask
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.memory_advice import bytes_to_read, is_out_of_memory, tokens_that_fit, what_fits
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.llm_cost import QWEN2_7B


class Qwen2:
    """LLaVA-OneVision-7B's sizes in bfloat16."""

    language, dtype, device, name = QWEN2_7B, torch.bfloat16, torch.device("cuda"), "big"
    decoding, sees_ahead = "auto", False


def test_a_video_that_is_read_in_one_pass_needs_its_activations_at_once():
    whole = Qwen2()
    whole.sees_ahead = True
    assert bytes_to_read(whole, 6272) - bytes_to_read(Qwen2(), 6272) == (6272 - 2048) * (3 * 18944 + 6 * 3584) * 2


def test_a_7b_models_keys_and_values_are_counted_in():
    assert bytes_to_read(Qwen2(), 6272) > 2 * 28 * 4 * 128 * 6272 * 2
    assert bytes_to_read(Qwen2(), 6272) < 2**30


def test_a_graph_decodes_from_a_copy_that_counts():
    by_graph = Qwen2()
    by_graph.decoding = "graph"
    assert bytes_to_read(by_graph, 6272) - bytes_to_read(Qwen2(), 6272) == QWEN2_7B.kv_cache_bytes(6272, 2)


@pytest.mark.parametrize("gib", [0.05, 0.3, 0.5])
def test_the_most_tokens_that_fit_are_found(gib):
    free = int(gib * 2**30)
    fits = tokens_that_fit(Qwen2(), free, 6272)
    assert bytes_to_read(Qwen2(), fits) <= free
    assert fits == 6272 or bytes_to_read(Qwen2(), fits + 1) > free


def test_running_out_while_the_video_is_read_is_one_line_with_what_fits(model, encoded, monkeypatch):
    def forward(*args, **kwargs):
        torch.empty(2**50)

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(InputError, match=r"cpu has run out of memory: 784 tokens take about .* keep at most") as raised:
        ask(model, encoded, "What is it?", Generation(max_new_tokens=2))
    said = str(raised.value)
    fits, frames = (
        int(re.search(f"{pattern}", said)[1]) for pattern in (r"at most (\d+) tokens", r"or (\d+) of the 4")
    )
    assert 0 < fits < 784
    assert frames == fits * 4 // 784
    assert said.endswith("or load the model in bfloat16.")


def test_the_next_question_is_answered(model, encoded):
    assert ask(model, encoded, "What is it?", Generation(max_new_tokens=2)).new_tokens


def test_a_full_device_asks_for_a_smaller_model(model, encoded):
    assert "too little for any video; load it in a smaller dtype than float32" in what_fits(model, encoded, 10)


def test_other_errors_are_not_taken_for_it():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 18.0 GB, max allowed: 18.1 GB)"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
