"""Folders that are damaged, mixed up or meant for something else: each ends in one line that says what to do."""

import contextlib
import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_aot.aot.answering.generation import Generation, end_ids
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import families_in, load
from comfyui_aot.aot.models.check import check
from comfyui_aot.tests.support.small_models import save

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SETTINGS, CONFIG, TOKENIZER = "video_preprocessor_config.json", "config.json", "tokenizer.json"
COLOURS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SIZES = {"size": {"shortest_edge": 4096, "longest_edge": 16384}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, embedded_folder):
    """A small Qwen3-VL that loads."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    save(folder, "qwen3_vl", embedded_folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of it, to be broken."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def tensors(change):
    """Changes the tensors; the change gets them all and returns those that are left."""

    def go(folder):
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return go


def without(part):
    return tensors(lambda all_: {name: each for name, each in all_.items() if name != named(all_, part)})


def with_tensor(name, shape=(2,)):
    return tensors(lambda all_: all_ | {name: torch.ones(shape)})


def other_shape(part, shape):
    return tensors(lambda all_: all_ | {named(all_, part): torch.ones(shape)})


def named(all_, part):
    return next(name for name in sorted(all_) if part in name)


def scaled_fp8(spelling):
    """Weights as ComfyUI's tools quantize them, with a scale beside each."""

    def change(all_):
        products = [name for name in all_ if name.endswith("proj.weight") and all_[name].ndim == 2]
        scales = {f"{name.removesuffix('weight')}{spelling}": torch.ones(()) for name in products}
        return all_ | {name: all_[name].to(torch.float8_e4m3fn) for name in products} | scales

    return tensors(change)


def written(name, content):
    return lambda folder: (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def gone(*names):
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names]


def config(**values):
    def go(folder):
        known = json.loads((folder / CONFIG).read_text())
        written(CONFIG, {key: each for key, each in (known | values).items() if each is not None})(folder)

    return go


def text_config(**values):
    def go(folder):
        known = json.loads((folder / CONFIG).read_text())
        written(CONFIG, known | {"text_config": known["text_config"] | values})(folder)

    return go


def sharded(*after):
    """Two files and their index, then what happens to them."""

    def go(folder):
        all_ = load_file(folder / WEIGHTS)
        names, half = sorted(all_), len(all_) // 2
        (folder / WEIGHTS).unlink()
        place = {}
        for number, part in enumerate((names[:half], names[half:]), 1):
            file = f"model-0000{number}-of-00002.safetensors"
            save_file({name: all_[name] for name in part}, folder / file, metadata={"format": "pt"})
            place |= dict.fromkeys(part, file)
        written(INDEX, {"metadata": {}, "weight_map": place})(folder)
        for change in after:
            change(folder)

    return go


def index(name):
    """Has the index name another file for its first tensor."""

    def go(folder):
        known = json.loads((folder / INDEX).read_text())
        known["weight_map"][min(known["weight_map"])] = name
        written(INDEX, known)(folder)

    return go


def renamed(before, after):
    return lambda folder: (folder / before).rename(folder / after)


def cut(name, size=100):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-size])


def copied(before, after):
    return lambda folder: shutil.copy(folder / before, folder / after)


def framed(text):
    """A file of weights with this text for its header, and eight bytes of a tensor."""
    content = struct.pack("<Q", len(text)) + text.encode() + bytes(8)
    return lambda folder: (folder / WEIGHTS).write_bytes(content)


def header(offsets, shape=(1,)):
    """A file of one tensor."""
    return framed(json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}))


SECOND = "model-00002-of-00002.safetensors"

BROKEN = {
    "a tensor of the LLM is missing": (without("layers.1.mlp"), "lacks 1 tensor: model.language_model.layers.1.mlp"),
    "a tensor of the tower is missing": (without("visual"), "lacks 1 tensor: model.visual."),
    "the head is missing": (without("lm_head"), "lacks 1 tensor: lm_head.weight; copy or download"),
    "a tensor too many": (with_tensor("model.surprise.weight"), "no place for 1 tensor: model.surprise.weight;"),
    "a LoRA among them": (with_tensor("base_model.q.lora_A.weight", (2, 2)), "no place for 1 tensor: base_model.q"),
    "another shape": (other_shape("layers.0.mlp.down", (3, 3)), r"down_proj.weight( is \(3, 3\), not \(48, 96\))?\)"),
    "another vocabulary": (
        other_shape("embed_tokens", (7, 48)),
        r"of another shape \(.*embed_tokens.weight",
    ),
    "other names": (tensors(lambda all_: {f"x.{k}": v for k, v in all_.items()}), "lacks 170 tensors: .* no place for"),
    "a part of a model": (tensors(lambda all_: {"x": torch.ones(1)}), "describes a model of .* and its files hold 1;"),
    "fp8 with scale_weight": (scaled_fp8("scale_weight"), "quantized weights with scales of their own .* bfloat16"),
    "fp8 with weight_scale": (scaled_fp8("weight_scale"), "quantized weights with scales of their own .* bfloat16"),
    "fp8 with comfy_quant": (scaled_fp8("comfy_quant"), "quantized weights with scales of their own .* bfloat16"),
    "empty": (written(WEIGHTS, ""), "model.safetensors is damaged or no safetensors file"),
    "a page of a site": (written(WEIGHTS, "<html>not found</html>"), "damaged or no safetensors file"),
    "a pointer of Git LFS": (written(WEIGHTS, "version https://git-lfs.github.com/spec/v1\nsize 1\n"), "damaged"),
    "cut short": (cut(WEIGHTS), "model.safetensors is cut short"),
    "pickled weights": (renamed(WEIGHTS, "pytorch_model.bin"), "has no .safetensors file"),
    "GGUF": (renamed(WEIGHTS, "model.gguf"), "has no .safetensors file"),
    "a file of two is missing": (sharded(gone(SECOND)), f"lacks 1 of its files, {SECOND} among them"),
    "the index is missing": (sharded(gone(INDEX)), "cannot be loaded .*; copy or download all its files again"),
    "the index is damaged": (sharded(written(INDEX, "{")), "model.safetensors.index.json cannot be read"),
    "an index of nothing": (sharded(written(INDEX, {"weight_map": {}})), f"{INDEX} of model names no files; copy or"),
    "an index that is a list": (sharded(written(INDEX, {"weight_map": [1]})), f"{INDEX} of model names no files;"),
    "a file of another folder": (
        sharded(written(INDEX, {"weight_map": {"x": "../model/model-00001-of-00002.safetensors"}})),
        "names a file '../model/model-00001-of-00002.safetensors', which is not inside its folder",
    ),
    "a file of two is cut short": (sharded(cut(SECOND)), f"{SECOND} is cut short"),
    "one file twice": (sharded(copied("model-00001-of-00002.safetensors", SECOND)), "lacks 85 tensors"),
    "an index that leads out": (
        sharded(index("../x.safetensors")),
        r"names a file '\.\./x\.safetensors', which is not",
    ),
    "an index of absolute names": (
        sharded(index("/x.safetensors")),
        "names a file '/x.safetensors', which is not inside",
    ),
    "an index of Windows' names": (sharded(index("C:\\x.safetensors")), "which is not inside its folder"),
    "an adapter": (written("adapter_config.json", {"base_model_name_or_path": "/x"}), "stands for another model and"),
    "weights elsewhere": (
        config(transformers_weights="../x.safetensors"),
        "says transformers_weights '../x.safetensors'",
    ),
    "a kernel": (text_config(attn_implementation="x/kernel"), "says attn_implementation 'x/kernel', which would be"),
    "a backbone": (
        config(vision_config={"backbone": "hf_hub:x"}),
        "says backbone 'hf_hub:x', which would be looked for",
    ),
    "no config": (gone(CONFIG), "a readable config.json with a model_type is missing"),
    "a damaged config": (
        written(CONFIG, '{"model_type": "qwen'),
        "a readable config.json with a model_type is missing",
    ),
    "a config that is a list": (written(CONFIG, []), "a readable config.json with a model_type is missing"),
    "a config without a type": (written(CONFIG, {}), "a readable config.json with a model_type is missing"),
    "a folder in its place": (lambda f: [gone(CONFIG)(f), (f / CONFIG).mkdir()], "a readable config.json"),
    "another family": (config(model_type="bert"), "is of family 'bert'; load one of llava_onevision"),
    "a family that is a number": (config(model_type=3), "is of family 3; load one of"),
    "architectures that are none": (config(mm_vision_tower="x", architectures=[None], model_type="x"), "of family 'x'"),
    "the LLM's part is missing": (config(text_config=None), "config.json of model describes (no model|a model of)"),
    "the tower's part is missing": (config(vision_config=None), "describes a model of .* numbers, and its files hold"),
    "heads of another size": (text_config(head_dim=8), "of another shape"),
    "layers in words": (text_config(num_hidden_layers="four"), "config.json of model describes no model"),
    "a thousand million layers": (
        text_config(num_hidden_layers=10**9),
        "num_hidden_layers 1,000,000,000, and its files",
    ),
    "layers of no end": (text_config(num_hidden_layers=float("inf")), "a readable config.json"),
    "answers' settings that are a list": (written("generation_config.json", []), "it holds a list, not a dict"),
    "a header of another make": (header([0, 4, 8]), "model.safetensors is damaged"),
    "a header with a shape in words": (header([0, 4], "many"), "model.safetensors is damaged"),
    "a header nested deep": (framed('{"a":' * 5000), "model.safetensors is damaged"),
    "no tokenizer": (
        gone(TOKENIZER, "tokenizer_config.json"),
        "has no vocabulary; copy|tokenizer of model cannot be read",
    ),
    "a tokenizer's settings alone": (gone(TOKENIZER), "The tokenizer of model cannot be read"),
    "a damaged tokenizer": (written(TOKENIZER, '{"version"'), "The tokenizer of model cannot be read"),
    "a tokenizer's damaged settings": (
        written("tokenizer_config.json", '{"a'),
        "The tokenizer of model cannot be read",
    ),
    "no chat template": (gone("chat_template.json"), "no place for a question about a video .*; copy or download"),
    "half a chat template": (written("chat_template.json", {"chat_template": "{% for"}), "no place for a question"),
    "a template without videos": (written("chat_template.json", {"chat_template": "hm"}), "no place for a question"),
    "a damaged template": (written("chat_template.json", "{"), "chat_template.json cannot be read"),
    "no settings": (gone(SETTINGS), "has no settings of its processor"),
    "damaged settings": (written(SETTINGS, "{"), "video_preprocessor_config.json cannot be read"),
    "settings that are a list": (written(SETTINGS, []), "cannot be read .it holds a list, not a dict"),
    "a mean in words": (written(SETTINGS, COLOURS | {"image_mean": "grey"}), "say image_mean 'grey'"),
    "a deviation of nothing": (written(SETTINGS, COLOURS | {"image_std": [0, 0, 0]}), r"say image_std \[0, 0, 0\]"),
    "two colours": (written(SETTINGS, COLOURS | {"image_mean": [0.5, 0.5]}), r"say image_mean \[0.5, 0.5\]"),
    "a size in words": (written(SETTINGS, {"size": "large"}), "say size 'large'"),
    "fewer pixels than none": (written(SETTINGS, {"min_pixels": -4}), "say min_pixels -4"),
    "a penalty below nothing": (
        written("generation_config.json", {"repetition_penalty": -1.5}),
        "The generation_config.json of model says repetition_penalty -1.5",
    ),
    "the newer layout without its parts": (
        lambda f: [gone(SETTINGS)(f), written("processor_config.json", {"processor_class": "X"})(f)],
        "has no settings of its processor",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_one_clear_line(folder, case):
    change, said = BROKEN[case]
    change(folder)
    with pytest.raises(InputError, match=said) as refused:
        load(folder)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 420
    with pytest.raises(InputError) as checked:
        check(folder)
    assert str(checked.value) == str(refused.value)


HARMLESS = {
    "two files": sharded(),
    "frequencies of rotary positions": with_tensor("model.language_model.layers.0.self_attn.rotary_emb.inv_freq"),
    "another file beside it": lambda f: save_file({"a.weight": torch.ones(2)}, f / "other.safetensors"),
    "8-bit floats without scales": tensors(lambda all_: {k: v.to(torch.float8_e4m3fn) for k, v in all_.items()}),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_does_no_harm_is_loaded(folder, case):
    HARMLESS[case](folder)
    assert load(folder).family == "qwen3_vl"
    assert check(folder).family == "qwen3_vl"


def test_a_missing_tensor_is_named_in_lmms_labs_layout_too(tmp_path, embedded_folder):
    save(tmp_path / "model", "llava_video (lmms-lab)", embedded_folder)
    without("mm_projector.0.weight")(tmp_path / "model")
    for read in (load, check):
        with pytest.raises(InputError, match=r"lacks 1 tensor: .*multi_modal_projector\.linear_1"):
            read(tmp_path / "model")


@pytest.mark.parametrize("family", ["qwen3_vl", "llava_onevision (lmms-lab)"])
def test_the_ends_and_the_penalty_of_a_checkpoint_are_its_answers_own(tmp_path, embedded_folder, family):
    save(tmp_path / "model", family, embedded_folder)
    settings = {"eos_token_id": [3, 5], "repetition_penalty": 1.05, "do_sample": True, "temperature": 0.7, "top_k": 20}
    written("generation_config.json", json.dumps(settings))(tmp_path / "model")
    model = load(tmp_path / "model")
    assert end_ids(model) == [3, 5]
    assert Generation().penalty(model) == 1.05
    assert Generation(repetition_penalty=1.0).penalty(model) == 1.0
    assert not model.hf_model.generation_config.do_sample


def test_settings_in_the_layout_of_transformers_5_are_those_that_are_used(folder):
    gone(SETTINGS)(folder)
    image = {"size": {"shortest_edge": 64, "longest_edge": 128}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    both = {"image_processor": image, "video_processor": SIZES | COLOURS}
    written("processor_config.json", both)(folder)
    newer = load(folder)
    gone("processor_config.json")(folder)
    written(SETTINGS, SIZES | COLOURS)(folder)
    older = load(folder)
    assert (newer._least, newer._most, newer._mean, newer._std) == (older._least, older._most, older._mean, older._std)
    assert (newer._least, newer._most, newer._mean) == (4096, 16384, (0.5, 0.5, 0.5))


def test_code_that_comes_with_a_model_is_never_run(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass X: pass\n")
    config(auto_map={"AutoConfig": "evil.X", "AutoModel": "evil.X", "AutoTokenizer": ["evil.X", None]})(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.X", None]}, "tokenizer_class": "XTokenizer"}
    written("tokenizer_config.json", settings)(folder)
    with contextlib.suppress(InputError):
        load(folder)
    assert not ran.exists()


def test_a_tokenizers_files_are_the_folders_own(folder, tmp_path):
    known = json.loads((folder / TOKENIZER).read_text())
    known["added_tokens"][0]["content"] = "<|stolen|>"
    written("other.json", known)(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    written("tokenizer_config.json", settings | {"tokenizer_file": str(tmp_path / "other.json")})(folder)
    assert "<|stolen|>" not in load(folder)._tokenizer.get_vocab()
    gone(TOKENIZER)(folder)
    with pytest.raises(InputError, match="names a tokenizer_file and there is none in the folder"):
        load(folder)


def test_a_tower_is_looked_for_in_the_models_folder_only(tmp_path, embedded_folder):
    save(tmp_path / "model", "llava_onevision (lmms-lab)", embedded_folder)
    own = json.loads((tmp_path / "model" / CONFIG).read_text())
    (tmp_path / "model" / own["mm_vision_tower"]).rename(tmp_path / "tower")
    for outside in ("../tower", str(tmp_path / "tower")):
        written(CONFIG, own | {"mm_vision_tower": outside})(tmp_path / "model")
        with pytest.raises(InputError, match=r"is built on the tower .*tower; only siglip"):
            load(tmp_path / "model")


def test_a_folder_that_cannot_be_read_is_skipped_and_named(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "good")
    shutil.copytree(whole, tmp_path / "bad")
    written(CONFIG, "{")(tmp_path / "bad")
    shutil.copytree(whole, tmp_path / "odd")
    written(CONFIG, {"model_type": ["x"], "architectures": 7})(tmp_path / "odd")
    skipped = []
    assert list(families_in(tmp_path, skipped.append)) == ["good"]
    assert len(skipped) == 1
    assert str(tmp_path / "bad") in skipped[0]
