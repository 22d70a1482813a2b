"""Text encoders of ComfyUI in single files: bfloat16 and the three spellings of scaled 8-bit floats."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import family_of, load
from comfyui_aot.aot.models.check import check
from comfyui_aot.aot.models.fp8 import Fp8Linear
from comfyui_aot.aot.models.single_file import SingleFile
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories
from comfyui_aot.nodes.models import AOTLoadVLLM, choices
from comfyui_aot.tests.support.small_models import save
from comfyui_aot.tests.support.sparse import save_sparse
from comfyui_aot.tests.support.stock_inputs import QUESTION, random_frames

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
SPELLINGS = ("scale_weight", "weight_scale", "comfy_quant", "metadata")
FORMAT = {"format": "float8_e4m3fn"}
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3"}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory, embedded_folder):
    """A small model whose layers' weights are numbers that 8-bit floats with a scale have; kept in float32."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    save(folder, request.param, embedded_folder)
    tensors = load_file(folder / "model.safetensors")
    for name in quantizable(tensors):
        weight, scale = quantized(tensors[name])
        tensors[name] = weight.float() * scale
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    settings = {"eos_token_id": ends, "repetition_penalty": 1.05 if request.param == "qwen2_5_vl" else 1.0}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def quantizable(tensors):
    return [name for name, each in tensors.items() if each.ndim == 2 and "embed" not in name and "lm_head" not in name]


def quantized(weight):
    scale = weight.abs().max() / 448
    return (weight / scale).to(torch.float8_e4m3fn), scale


def comfys(name):
    """ComfyUI's name of a tensor."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def as_comfyui_saves(folder, path, spelling=None, change=lambda tensors: tensors, dtype=torch.float32):
    """The folder's weights in one file, plain or in a spelling of scaled 8-bit floats."""
    tensors, metadata = load_file(folder / "model.safetensors"), {"format": "pt"}
    saved = {comfys(name): each.to(dtype) for name, each in tensors.items()}
    if spelling:
        layers = {}
        for name in quantizable(tensors):
            layer = comfys(name).removesuffix(".weight")
            saved[f"{layer}.weight"], scale = quantized(tensors[name])
            suffix = "scale_weight" if spelling == "scale_weight" else "weight_scale"
            saved[f"{layer}.{suffix}"] = scale
            layers[layer] = FORMAT
            if spelling == "comfy_quant":
                saved[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(FORMAT).encode()), dtype=torch.uint8)
        if spelling == "scale_weight":
            saved["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
            saved["model.layers.0.mlp.up_proj.scale_input"] = torch.ones(())
        if spelling == "metadata":
            metadata["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": layers})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: each.contiguous() for name, each in change(saved).items()}, path, metadata)
    return path


def answered(model):
    clip = random_frames()
    said = Session(model, model.encode(clip)).ask([QUESTION], Generation(max_new_tokens=6))
    return said.first_logits, list(said.ids[0])


@pytest.fixture(scope="module")
def expected(folder):
    return answered(load(folder))


@pytest.mark.parametrize("spelling", [None, *SPELLINGS])
def test_a_single_file_answers_as_the_folder_of_its_dequantized_weights(folder, expected, tmp_path, spelling):
    model = load(as_comfyui_saves(folder, tmp_path / "encoder.safetensors", spelling), tokenizer=folder)
    logits, ids = answered(model)
    assert model.family == load(folder).family
    torch.testing.assert_close(logits, expected[0], atol=1e-4, rtol=0)
    assert ids == expected[1]
    assert bool(model.notes) == bool(spelling)


def test_bfloat16_is_read_as_it_is(folder, tmp_path):
    path = as_comfyui_saves(folder, tmp_path / "encoder.safetensors", dtype=torch.bfloat16)
    tensors = {name: each.to(torch.bfloat16) for name, each in load_file(folder / "model.safetensors").items()}
    rounded = shutil.copytree(folder, tmp_path / "rounded")
    save_file(tensors, rounded / "model.safetensors", {"format": "pt"})
    for dtype in ("float32", "bfloat16"):
        ours = load(path, tokenizer=folder, dtype=dtype).hf_model.state_dict()
        theirs = load(rounded, dtype=dtype).hf_model.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_stay_in_8_bit_floats_give_what_the_dequantized_ones_give(folder, tmp_path, dtype):
    path = as_comfyui_saves(folder, tmp_path / "encoder.safetensors", "comfy_quant")
    file = SingleFile.open(path, "encoder", folder)
    place = {"dtype": dtype, "device": torch.device("cpu"), "attention": "sdpa"}
    kept, whole = (file.load(**place, keep_fp8=keep) for keep in (True, False))
    layers = [layer for layer in kept.hf_model.modules() if isinstance(layer, Fp8Linear)]
    assert len(layers) == len(quantizable(load_file(folder / "model.safetensors")))
    assert kept.dtype == whole.dtype == dtype
    (ours, ids), (theirs, others) = answered(kept), answered(whole)
    assert torch.equal(ours, theirs)
    assert ids == others
    for model, keep in ((kept, True), (whole, False)):
        held = sum(each.nbytes for each in model.hf_model.parameters())
        assert held == file.weight_bytes(dtype, keep)
    assert "stay in 8-bit floats" in kept.notes[0]
    assert "are dequantized from 8-bit floats" in whole.notes[0]


def test_a_check_of_a_file_says_what_loading_does(folder, tmp_path):
    path = as_comfyui_saves(folder, tmp_path / "encoder.safetensors", "weight_scale")
    found, model = check(path, folder), load(path, tokenizer=folder)
    assert found.family == model.family
    assert found.parameters == sum(each.numel() for each in model.hf_model.parameters())
    assert found.memory["float32"] == 4 * found.parameters
    assert found.memory["8-bit floats on CUDA"] < found.memory["bfloat16"]
    assert found.sources["config"] == str(folder / "config.json")
    assert found.colours == (model._mean, model._std)


def test_the_tokenizer_is_found_in_the_comfyui_that_the_file_is_in(folder, tmp_path):
    path = as_comfyui_saves(folder, tmp_path / "models" / "text_encoders" / "sub" / "encoder.safetensors")
    with pytest.raises(InputError, match=r"needs a tokenizer, .* comfy/text_encoders/qwen25_tokenizer of ComfyUI"):
        load(path)
    shutil.copytree(folder, tmp_path / "comfy" / "text_encoders" / "qwen25_tokenizer")
    assert load(path).family == family_of(path).family


@pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")
def test_the_node_lists_and_loads_files_among_the_text_encoders(folder, tmp_path):
    home = tmp_path / "models" / "text_encoders"
    as_comfyui_saves(folder, home / "encoder_fp8_scaled.safetensors", "scale_weight")
    save_file({"text_model.encoder.layers.0.weight": torch.ones(2)}, home / "clip_l.safetensors")
    (home / "broken.safetensors").write_bytes(b"x")
    shutil.copytree(folder, tmp_path / "comfy" / "text_encoders" / "qwen25_tokenizer")
    with directories(tmp_path):
        listed = choices()
        assert [each for each in listed if each.endswith(".safetensors")] == ["encoder_fp8_scaled.safetensors"]
        settings = {"dtype": "auto", "device": "cpu", "attention": "auto"}
        output = AOTLoadVLLM.execute(model="encoder_fp8_scaled.safetensors", **settings)
    (loaded,) = output.args
    assert loaded.model.family == load(folder).family
    assert "dequantized from 8-bit floats to float32" in output.ui["text"][0]


def test_the_command_answers_with_a_single_file(capsys, folder, tmp_path, bunny):
    path = as_comfyui_saves(folder, tmp_path / "encoder.safetensors", "metadata")
    arguments = ["answer", bunny, QUESTION, "--model", path, "--tokenizer", folder, "--frames", 4]
    assert main([str(each) for each in [*arguments, "--retention", 0.3, "--max-new-tokens", 2, "--json"]]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])["answer"]
    assert "encoder: weights are dequantized from 8-bit floats to float32:" in output.err
    assert main(["models", "--check", str(path), "--tokenizer", str(folder)]) == 0
    assert f"{path} would be loaded, as " in capsys.readouterr().out


def test_the_command_measures_with_a_single_file(capsys, folder, tmp_path, bunny):
    path = as_comfyui_saves(folder, tmp_path / "encoder.safetensors", "scale_weight")
    sizes = ["--frames", 4, "--new-tokens", 2, "--repeats", 1, "--retention", 0.3]
    arguments = ["bench", "answer", "--model", path, "--tokenizer", folder, "--video", bunny, *sizes, "--json"]
    assert main([str(each) for each in arguments]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["model"] == "encoder"


def test_the_command_measures_streams_with_a_single_file(capsys, folder, tmp_path):
    path = as_comfyui_saves(folder, tmp_path / "encoder.safetensors")
    arguments = ["bench", "stream", "--model", path, "--frames", 4, 8, "--json", "--tokenizer"]
    assert main([str(each) for each in [*arguments, folder]]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["model"] == "encoder"
    assert [row["frames"] for row in measured["rows"]] == [4, 8]
    assert main([str(each) for each in [*arguments, tmp_path]]) == 2
    assert f"No tokenizer in {tmp_path}; give a folder with" in capsys.readouterr().err
    assert main(["bench", "stream", "--tokenizer", str(folder)]) == 2
    assert "A tokenizer is given for" in capsys.readouterr().err


def test_the_llm_of_a_file_is_not_written_for_a_server_that_could_not_ask_it(capsys, folder, tmp_path):
    path = as_comfyui_saves(folder, tmp_path / "encoder.safetensors", "comfy_quant")
    arguments = ["export", "--model", path, "--tokenizer", folder, tmp_path / "llm"]
    assert main([str(each) for each in arguments]) == 2
    (line,) = (each for each in capsys.readouterr().err.splitlines() if each.startswith("aot export"))
    assert "positions of time, height and width, which prompt embeddings cannot carry to a server; answer" in line
    assert not (tmp_path / "llm").exists()


PUBLISHED = {
    # As their config.json files say, by the makers.
    "Qwen2.5-VL-3B": ("qwen2_5_vl", (2048, 11008, 36, 16, 2, 151936, True), (1280, 32, 3420)),
    "Qwen2.5-VL-7B": ("qwen2_5_vl", (3584, 18944, 28, 28, 4, 152064, False), (1280, 32, 3420)),
    "Qwen3-VL-2B": ("qwen3_vl", (2048, 6144, 28, 16, 8, 151936, True), (1024, 24, 4096)),
    "Qwen3-VL-4B": ("qwen3_vl", (2560, 9728, 36, 32, 8, 151936, True), (1024, 24, 4096)),
    "Qwen3-VL-8B": ("qwen3_vl", (4096, 12288, 36, 32, 8, 151936, False), (1152, 27, 4304)),
}


def published_tensors(family, text, tower):
    """Names and shapes of a published model's file, written down from its widths."""
    hidden, mlp, layers, heads, kv, vocabulary, tied = text
    width, depth, inner = tower
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    shapes |= {} if tied else {"lm_head.weight": (vocabulary, hidden)}
    for layer in (f"model.layers.{i}." for i in range(layers)):
        for name, rows in (("q", heads), ("k", kv), ("v", kv)):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (128 * rows, hidden)
            if family == "qwen2_5_vl":
                shapes[f"{layer}self_attn.{name}_proj.bias"] = (128 * rows,)
            elif name != "v":
                shapes[f"{layer}self_attn.{name}_norm.weight"] = (128,)
        shapes[f"{layer}self_attn.o_proj.weight"] = (hidden, 128 * heads)
        shapes |= {f"{layer}mlp.{each}_proj.weight": (mlp, hidden) for each in ("gate", "up")}
        shapes[f"{layer}mlp.down_proj.weight"] = (hidden, mlp)
        shapes |= {f"{layer}{each}_layernorm.weight": (hidden,) for each in ("input", "post_attention")}

    def linear(name, rows, columns):
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    def norm(name, width):
        return {f"{name}.weight": (width,)} | ({} if family == "qwen2_5_vl" else {f"{name}.bias": (width,)})

    for block in (f"visual.blocks.{i}." for i in range(depth)):
        shapes |= linear(f"{block}attn.qkv", 3 * width, width) | linear(f"{block}attn.proj", width, width)
        shapes |= norm(f"{block}norm1", width) | norm(f"{block}norm2", width)
        if family == "qwen2_5_vl":
            shapes |= linear(f"{block}mlp.gate_proj", inner, width) | linear(f"{block}mlp.up_proj", inner, width)
            shapes |= linear(f"{block}mlp.down_proj", width, inner)
        else:
            shapes |= linear(f"{block}mlp.linear_fc1", inner, width) | linear(f"{block}mlp.linear_fc2", width, inner)
    if family == "qwen2_5_vl":
        shapes["visual.patch_embed.proj.weight"] = (width, 3, 2, 14, 14)
        shapes |= norm("visual.merger.ln_q", width) | linear("visual.merger.mlp.0", 4 * width, 4 * width)
        return shapes | linear("visual.merger.mlp.2", hidden, 4 * width)
    shapes |= {"visual.patch_embed.proj.weight": (width, 3, 2, 16, 16), "visual.patch_embed.proj.bias": (width,)}
    shapes["visual.pos_embed.weight"] = (2304, width)
    for merger, normed in [("merger", width), *((f"deepstack_merger_list.{i}", 4 * width) for i in range(3))]:
        shapes |= norm(f"visual.{merger}.norm", normed) | linear(f"visual.{merger}.linear_fc1", 4 * width, 4 * width)
        shapes |= linear(f"visual.{merger}.linear_fc2", hidden, 4 * width)
    return shapes


@pytest.fixture(scope="module")
def qwens_tokenizer(tmp_path_factory, embedded_folder):
    """A tokenizer with Qwen's vision tokens, and nothing beside it."""
    whole = tmp_path_factory.mktemp("whole") / "model"
    save(whole, "qwen3_vl", embedded_folder)
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(whole / name, folder / name)
    return folder


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_sizes_are_told_by_their_shapes(model, tmp_path, qwens_tokenizer):
    family, text, tower = PUBLISHED[model]
    path = tmp_path / "encoder.safetensors"
    save_sparse(path, {name: ("BF16", shape) for name, shape in published_tensors(family, text, tower).items()})
    found = check(path, qwens_tokenizer)
    assert found.family == family
    assert "as published, by the shapes" in found.sources["config"]
    file = SingleFile.open(path, model, qwens_tokenizer)
    config = file._config(AutoTokenizer.from_pretrained(qwens_tokenizer))
    language, vision = config.text_config, config.vision_config
    assert text == (
        *(language.hidden_size, language.intermediate_size, language.num_hidden_layers),
        *(language.num_attention_heads, language.num_key_value_heads, language.vocab_size),
        config.tie_word_embeddings,
    )
    assert tower == (vision.hidden_size, vision.depth, vision.intermediate_size)
    assert vision.num_heads == 16
    assert vision.spatial_merge_size == vision.temporal_patch_size == 2
    assert vision.out_hidden_size == language.hidden_size
    rope = getattr(language, "rope_parameters", None) or {"rope_theta": language.rope_theta, **language.rope_scaling}
    if family == "qwen2_5_vl":
        assert (vision.fullatt_block_indexes, vision.window_size) == ([7, 15, 23, 31], 112)
        assert (rope["rope_theta"], rope["mrope_section"]) == (1e6, [16, 24, 24])
    else:
        assert vision.deepstack_visual_indexes == ([5, 11, 17] if vision.depth == 24 else [8, 16, 24])
        assert (rope["rope_theta"], rope["mrope_section"]) == (5e6, [24, 20, 20])
        assert language.head_dim == 128
    assert any("word embeddings are its head" in note for note in found.notes) == text[-1]


def without(*parts):
    return lambda all_: {name: each for name, each in all_.items() if not any(part in name for part in parts)}


def extra(name, tensor):
    return lambda all_: all_ | {name: tensor}


def quantized_otherwise(weight, said=None):
    """Another format's weights in a layer, and what ComfyUI's tools write beside them."""

    def change(all_):
        layer = "model.layers.0.mlp.up_proj"
        settings = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
        return all_ | {f"{layer}.weight": weight} | ({f"{layer}.comfy_quant": settings} if said else {})

    return change


def only(*names):
    return lambda all_: {name: torch.ones(2, 2) for name in names}


LAYER = "model.layers.0.self_attn.q_proj.weight"
NODE = "which is not read here; load it with ComfyUI's Load CLIP and link that to the node Video LLM from CLIP"
CONVROT = {"format": "int8_tensorwise", "convrot": True}
BROKEN = {
    "a tensor is missing": (
        without("layers.1.mlp.down_proj.weight"),
        "lacks 1 tensor: model.language_model.layers.1",
    ),
    "a tensor of the tower is missing": (
        without("visual.blocks.3.attn.proj.bias"),
        "lacks 1 tensor: model.visual.blocks.3",
    ),
    "layers at the end are missing": (without("layers.3.", "model.norm"), "lacks 1. tensors: model.language_model"),
    "a tensor too many": (
        extra("model.surprise.weight", torch.ones(2)),
        "no place for 1 tensor: model.*surprise",
    ),
    "another shape": (extra("model.layers.0.mlp.up_proj.weight", torch.ones(3, 3)), "has 1 of another shape"),
    "a scale is missing": (
        without("layers.1.mlp.down_proj.weight_scale"),
        "lacks 1 tensor: .*down_proj.weight_scale",
    ),
    "a scale without a weight": (extra("x.weight_scale", torch.ones(())), "lacks 1 tensor: x.weight"),
    "the head is missing": (without("lm_head"), "has no lm_head, without which .* take a file that has lm_head.weight"),
    "int8 convrot": (quantized_otherwise(torch.ones(2, 2).char(), CONVROT), f"int8_tensorwise with convrot, {NODE}"),
    "nvfp4": (quantized_otherwise(torch.ones(2, 2).byte(), {"format": "nvfp4"}), f"quantized as nvfp4, {NODE}"),
    "w4a8": (quantized_otherwise(torch.ones(2, 2).char(), {"format": "asym_w4a8_int8"}), f"asym_w4a8_int8, {NODE}"),
    "gptq": (extra("model.layers.0.mlp.up_proj.qweight", torch.ones(2, 2).int()), f"quantized as I32, {NODE}"),
    "scales of blocks": (extra("model.layers.0.mlp.up_proj.weight_scale", torch.ones(96, 3)), f"as blocks, .*{NODE}"),
    "Qwen3.5": (
        only("model.language_model.layers.0.linear_attn.A_log", "model.visual.x"),
        "a family that is not read",
    ),
    "an LLM": (
        only("model.embed_tokens.weight", LAYER),
        "an LLM without a vision tower and no video LLM",
    ),
    "a checkpoint of SDXL": (only("model.diffusion_model.x", "conditioner.text_model.encoder.y"), "is an image model"),
    "Flux": (
        only("double_blocks.0.img_attn.qkv.weight"),
        "is an image model and no video LLM; choose a Qwen2.5-VL",
    ),
    "a CLIP of SDXL": (only("text_model.encoder.layers.0.self_attn.q_proj.weight"), "is a CLIP and no video LLM"),
    "a CLIP of OpenAI": (only("transformer.resblocks.0.ln_1.weight"), "is a CLIP and no video LLM"),
    "a T5": (only("encoder.block.0.layer.0.SelfAttention.q.weight"), "is a T5 and no video LLM"),
    "a VAE": (only("decoder.conv_in.weight"), "is a VAE and no video LLM"),
    "a LoRA": (only("lora_unet_double_blocks_0.lora_down.weight"), "is a LoRA and no video LLM"),
    "nothing known": (only("weight"), "is no video LLM that is known; choose"),
}


def refused(path, said, tokenizer=None):
    """Loading and checking refuse the file with the same line."""
    with pytest.raises(InputError, match=said) as loading:
        load(path, tokenizer=tokenizer)
    with pytest.raises(InputError) as checking:
        check(path, tokenizer)
    assert str(checking.value) == str(loading.value)
    assert len(str(loading.value)) < 420


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_loaded_is_one_clear_line(folder, tmp_path, case):
    change, said = BROKEN[case]
    path = as_comfyui_saves(folder, tmp_path / "encoder.safetensors", "weight_scale", change)
    refused(path, said, folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.safetensors", b"", "a.safetensors is damaged or no safetensors file"),
        ("a.safetensors", b"\x40\x1f\0\0\0\0\0\0{", "a.safetensors is damaged or no safetensors file"),
        ("a.safetensors", b"<html>not found</html>", "a.safetensors is damaged or no safetensors file"),
        ("a.gguf", b"GGUF", f"a is a GGUF file, {NODE}"),
        ("a.ckpt", b"PK", "a.ckpt is no safetensors file, the only kind that is loaded"),
        ("model-00001-of-00004.safetensors", b"", "is one of several files of a model; give their folder"),
        ("gone.safetensors", None, "No file .*gone.safetensors; give"),
    ],
)
def test_what_is_no_such_file_is_one_clear_line(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, said)


def test_a_file_cut_short_is_refused(folder, tmp_path):
    path = as_comfyui_saves(folder, tmp_path / "encoder.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "encoder.safetensors is cut short", folder)


def test_tokenizers_that_do_not_fit_are_one_clear_line(folder, tmp_path, embedded_folder, qwens_tokenizer):
    path = as_comfyui_saves(folder, tmp_path / "encoder.safetensors")
    (tmp_path / "empty").mkdir()
    refused(path, r"No tokenizer in .*empty; give a folder with", tmp_path / "empty")
    refused(path, "wide, which is none of the published ones; give a folder with its config.json", qwens_tokenizer)
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded_folder / name, plain / name)
    refused(path, r"has no <\|vision_start\|>; give that of a Qwen", plain)
    small = as_comfyui_saves(folder, tmp_path / "small.safetensors", change=extra(EMBEDDINGS, torch.ones(7, 48)))
    refused(small, r"has \d+ tokens and small 7; give that of", qwens_tokenizer)
    with pytest.raises(InputError, match=r"A tokenizer is given for .*, which has its own"):
        load(folder, tokenizer=qwens_tokenizer)


EMBEDDINGS = "model.embed_tokens.weight"


def test_a_quantization_is_refused(folder, tmp_path):
    path = as_comfyui_saves(folder, tmp_path / "encoder.safetensors")
    with pytest.raises(InputError, match="not quantized when it is loaded; choose quantization none"):
        load(path, tokenizer=folder, quantization="4-bit")
