"""InternVL3.5, whose LLM is a Qwen3: read as an InternVL, and the stock model's own."""

from __future__ import annotations

import json

import torch

from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.models import family_of, load
from comfyui_aot.aot.models.internvl import InternVL
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.tests.support.small_models import save_internvl3_5
from comfyui_aot.tests.support.stock_inputs import QUESTION, random_frames, stock_inputs


@torch.no_grad()
def test_a_qwen3_inside_internvl_is_read_and_answers_as_the_stock_model(tmp_path, embedded_folder):
    save_internvl3_5(tmp_path / "model", embedded_folder)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["model_type"], config["text_config"]["model_type"]) == ("internvl", "qwen3")
    assert family_of(tmp_path / "model") is InternVL
    model, clip = load(tmp_path / "model"), random_frames()
    assert (model.language.kv_heads, model.language.head_dim) == (2, 20)
    tokens = model.encode(clip)
    given = stock_inputs(model, tokens, clip)
    replies = Session(model, tokens).ask([QUESTION], Generation(max_new_tokens=6))
    torch.testing.assert_close(replies.first_logits, model.hf_model(**given).logits[:, -1], atol=1e-4, rtol=0)
    stock = model.hf_model.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
    assert list(replies.ids[0]) == stock.tolist()
    reduced = parse("aot:retention=0.3,clip_length=2")(tokens)
    answer = Session(model, reduced).ask([QUESTION], Generation(max_new_tokens=3))
    assert len(answer.ids[0]) == 3 and reduced.tokens_kept == round(0.3 * tokens.tokens_full)
