"""A LLaVA-OneVision of the published architecture (SigLIP, Qwen2), small and random, loaded as a user's would be."""

import json

import pytest
import torch
from transformers import (
    AutoTokenizer,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from comfyui_aot.aot.answering.answerer import ask
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import families_in, load
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories
from comfyui_aot.nodes.models import AOTLoadVLLM

QUESTION = "What is it?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, embedded_folder):
    """ComfyUI's base folder with the model in models/VLLM/maker/small."""
    base = tmp_path_factory.mktemp("base")
    path = base / "models" / "VLLM" / "maker" / "small"
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder)
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=252,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=image,
        video_token_index=video,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    LlavaOnevisionForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    settings = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return base


@pytest.fixture(scope="module")
def small(folder):
    return load(folder / "models" / "VLLM" / "maker" / "small")


@torch.no_grad()
def test_unreduced_logits_are_the_stock_models_own(small, frames):
    tokens = small.encode(frames)
    prompt = small.prompt(QUESTION)
    placeholders = torch.full((tokens.tokens_full + 1,), small.hf_model.config.video_token_id)
    ids = torch.cat((prompt.before[0], placeholders, prompt.after))[None]
    stock = small.hf_model(input_ids=ids, pixel_values_videos=small.preprocess(frames)[None]).logits
    ours = small.hf_model(inputs_embeds=small.prompt_inputs(tokens, QUESTION).inputs_embeds[None]).logits
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=0)


@torch.no_grad()
def test_importance_is_read_at_the_fraction_of_the_tower_that_reaches_the_llm(small, frames):
    tokens = small.encode(frames)
    tower = small.hf_model.model.vision_tower
    tower.set_attn_implementation("eager")
    attentions = tower(small.preprocess(frames), output_attentions=True).attentions
    tower.set_attn_implementation("aot_received")
    torch.testing.assert_close(tokens.shallow, attentions[1].sum(2).mean(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.deep, attentions[4].sum(2).mean(1), atol=1e-5, rtol=0)


def test_it_is_reduced_and_answers(small, frames):
    reduced = parse("aot:retention=0.25,clip_length=2")(small.encode(frames))
    said = ask(small, reduced, QUESTION, Generation(max_new_tokens=4))
    assert (said.tokens_full, said.tokens_kept) == (324, 81)


@pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")
def test_the_node_offers_it_by_its_name_under_models_vllm(folder):
    with directories(folder):
        assert "maker/small" in AOTLoadVLLM.define_schema().inputs[0].options
        (loaded,) = AOTLoadVLLM.execute(model="maker/small", dtype="auto", device="cpu", attention="sdpa").args
    assert loaded.model.name == "maker/small"


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "llava_onevision"}')
    assert list(families_in(tmp_path)) == ["empty"]
    with pytest.raises(InputError, match=r"no \.safetensors file"):
        load(tmp_path / "empty")


def test_another_family_is_refused_with_those_that_load(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="'bert'; load one of llava_onevision"):
        load(tmp_path)
