"""Small random video LLMs as ComfyUI's text encoders: their files, and classes of ComfyUI's that are as small.

Run as a script in ComfyUI's own Python, it loads such files as CLIPLoader does, and prints as JSON how far the node's
model is from transformers' on the same weights, or what the node says of other text encoders.

Usage: python text_encoders.py FOLDER (qwen3_vl | qwen2_5_vl | refusals), with ComfyUI and this pack on PYTHONPATH
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FORMATS = {
    "qwen3_vl": ("fp32", "fp8 weight_scale", "fp8 metadata tied"),
    "qwen2_5_vl": ("bf16", "fp8 scale_weight"),
}
"""Of the files: fp8_scaled has three spellings. Tied: without a head of its own, as the 4B model."""

_COMMON = {"vocab_size": 151936, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
LANGUAGE = {
    "qwen3_vl": _COMMON | {"hidden_size": 64, "num_key_value_heads": 2},
    "qwen2_5_vl": _COMMON | {"hidden_size": 512, "num_key_value_heads": 4},
}
"""Sizes of the LLMs; ComfyUI knows a Qwen2.5-VL-7B by its four key-value heads, and heads are 128 wide."""

FILES = {"qwen3_vl": "qwen3vl_8b", "qwen2_5_vl": "qwen_2.5_vl_7b"}
"""Names of the published files, without what tells their format."""

PENALTIES = {"qwen3_vl": 1.0, "qwen2_5_vl": 1.05}
"""The repetition penalties in the generation_config.json of the published models."""

ANSWERING = (0, 26)
"""The first ComfyUI whose text encoders answer about pictures."""

_TOWER_3 = {"hidden_size": 64, "intermediate_size": 96, "depth": 9, "deepstack_visual_indexes": [1, 3, 5]}
_TOWER_2_5 = {"hidden_size": 64, "intermediate_size": 96, "num_layers": 17, "num_heads": 4}
_E4M3_MAX = 448.0


def version(root: Path) -> tuple[int, int]:
    """The first two numbers of a ComfyUI's version.

    Args:
        root: its folder.
    """
    found = re.search(r"(\d+)\.(\d+)", (root / "comfyui_version.py").read_text())
    assert found is not None
    return int(found[1]), int(found[2])


def shrink(tied: bool = False) -> None:
    """Make the classes that ComfyUI builds these text encoders of as small as their files, where it has them.

    Args:
        tied: whether Qwen3-VL has no head of its own.
    """
    from comfy.text_encoders import llama, qwen_vl

    tower = qwen_vl.Qwen2VLVisionTransformer
    qwen_vl.Qwen2VLVisionTransformer = partial(_small, tower)
    llama.Qwen25_7BVLI_Config = partial(llama.Qwen25_7BVLI_Config, **LANGUAGE["qwen2_5_vl"])
    try:
        from comfy.text_encoders import qwen3vl
    except ImportError:
        return
    qwen3vl.QWEN3VL_VISION["qwen3vl_8b"] = _TOWER_3
    sizes = LANGUAGE["qwen3_vl"] | {"lm_head": not tied}
    qwen3vl.QWEN3VL_CONFIGS["qwen3vl_8b"] = partial(llama.Qwen3VL_8BConfig, **sizes)


def _small(tower: Any, **sizes: Any) -> Any:
    return tower(**{**sizes, **_TOWER_2_5})


def stock(family: str, tied: bool = False) -> Any:
    """A small random model of transformers', float32.

    Args:
        family: "qwen3_vl" or "qwen2_5_vl".
        tied: whether its head has the weights of its word embeddings.
    """
    import transformers

    torch.manual_seed(0)
    ids = {"video_token_id": 151656, "image_token_id": 151655, "vision_start_token_id": 151652}
    text = LANGUAGE[family] | {"head_dim": 128, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
    if family == "qwen3_vl":
        rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True, "rope_theta": 5e6}
        vision = _TOWER_3 | {"num_heads": 16, "num_position_embeddings": 2304, "out_hidden_size": 64}
        config: Any = transformers.Qwen3VLConfig(
            text_config=text | {"rope_scaling": rope, "rope_theta": 5e6},
            vision_config=vision,
            tie_word_embeddings=tied,
            **ids,
        )
        model = transformers.Qwen3VLForConditionalGeneration(config)
    else:
        rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
        vision = {
            "hidden_size": 64, "intermediate_size": 96, "depth": 17, "num_heads": 4, "out_hidden_size": 512,
            "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2,
        }  # fmt: skip
        config = transformers.Qwen2_5_VLConfig(
            text_config=text | {"rope_scaling": rope, "rope_theta": 1e6}, vision_config=vision, **ids
        )
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Livelier than the usual start, so that positions and order tell; biases and scales too.
            parameter.mul_(3) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save(folder: Path, family: str, form: str, model: Any, file_name: str = "") -> Path:
    """Save a model's weights under the names that they have in published text encoders.

    Args:
        folder: for the file.
        family: of the model.
        form: one of FORMATS.
        model: its weights become those of the file, dequantized.
        file_name: of the file; "" is the family's and the format's.
    """
    tensors: dict[str, Tensor] = {}
    quantized: dict[str, Any] = {}
    dequantized: dict[str, Tensor] = {}
    linear = {f"{name}.weight" for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    own = {name: tensor for name, tensor in model.state_dict().items() if not ("tied" in form and "lm_head" in name)}
    for name, tensor in own.items():
        theirs, stored = _published(name, family), tensor.to(torch.float32 if form == "fp32" else torch.bfloat16)
        if form.startswith("fp8") and name in linear and (".layers." in name or "lm_head" in name):
            layer = theirs.removesuffix(".weight")
            scale = tensor.abs().max() / _E4M3_MAX
            tensors[theirs] = (tensor / scale).to(torch.float8_e4m3fn)
            tensors[f"{layer}.{'scale_weight' if form == 'fp8 scale_weight' else 'weight_scale'}"] = scale
            dequantized[name] = tensors[theirs].float() * scale
            quantized[layer] = {"format": "float8_e4m3fn"}
        else:
            tensors[theirs], dequantized[name] = stored, stored.float()
    metadata = None
    if form == "fp8 scale_weight":
        tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    elif form == "fp8 weight_scale":
        for layer, told in quantized.items():
            tensors[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
    elif form.startswith("fp8 metadata"):
        metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": quantized})}
    model.load_state_dict(dequantized, strict="tied" not in form)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / (file_name or f"{FILES[family]}_{form.replace(' ', '_')}.safetensors")
    save_file({name: each.contiguous().clone() for name, each in tensors.items()}, file, metadata)
    return file


def _published(name: str, family: str) -> str:
    """The name of a tensor of transformers' in a text encoder's file."""
    if family == "qwen3_vl" or not name.startswith("model."):
        return name
    return name.removeprefix("model.").replace("language_model.", "model.", 1)


@dataclass(frozen=True)
class Pair:
    """The node's model and transformers' on the same weights.

    Args:
        clip: ComfyUI's.
        loaded: what the node gives.
        reference: the library's adapter around transformers' model.
    """

    clip: Any
    loaded: Any
    reference: Any


def pair(file: Path, model: Any) -> Pair:
    """Load a file as CLIPLoader does, and make the node's model of it.

    Args:
        file: of the text encoder.
        model: transformers', with the same weights.
    """
    from comfy import sd

    from comfyui_aot.aot.models.qwen2_5_vl import Qwen2_5VL
    from comfyui_aot.aot.models.qwen3_vl import Qwen3VL
    from comfyui_aot.nodes.clip_models import AOTVideoLLMFromCLIP

    clip = sd.load_clip([str(file)], clip_type=sd.CLIPType.QWEN_IMAGE)
    (loaded,) = AOTVideoLLMFromCLIP.execute(clip).args
    own = loaded.model
    adapter = Qwen3VL if own.family == "qwen3_vl" else Qwen2_5VL
    model.generation_config.eos_token_id = [151645, 151643]
    model.generation_config.repetition_penalty = PENALTIES[own.family]
    return Pair(clip, loaded, adapter(model, own.encoder.tokenizer, "stock", chat_template=own.published.template))


def clip_of_noise() -> Any:
    """Seven frames, an odd count, of smooth noise."""
    from comfyui_aot.aot.video.frames import Frames

    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(7, 3, 9, 12, generator=generator)
    pixels = nn.functional.interpolate(coarse, size=(150, 200), mode="bilinear")
    levels = (255 * pixels).byte().permute(0, 2, 3, 1).contiguous()
    return Frames(levels, torch.arange(7, dtype=torch.float64) / 2, "noise")


def _sixteen_of_1080p() -> Any:
    from comfyui_aot.aot.video.frames import Frames

    return Frames(torch.zeros(16, 1080, 1920, 3, dtype=torch.uint8), torch.arange(16, dtype=torch.float64) / 2, "grey")


def compare(pair: Pair) -> Mapping[str, Any]:
    """Figures of how far the node's model is from transformers', and what both answer.

    Args:
        pair: the two.
    """
    from transformers import DynamicCache

    from comfyui_aot import AnchorOT
    from comfyui_aot.aot.answering.generation import Generation
    from comfyui_aot.aot.answering.session import Session
    from comfyui_aot.aot.models.fingerprint import fingerprint

    frames, six = clip_of_noise(), Generation(max_new_tokens=6)
    questions = ["What is it?", "Which colours are there, and where?"]
    own, reference = pair.loaded.ready(), pair.reference
    tokens, expected = own.encode(frames), reference.encode(frames)
    prompt = own.prompt(questions[0], tokens)
    text = f"<|im_start|>user\n{questions[0]}<|im_end|>\n<|im_start|>assistant\n"
    (theirs,) = next(iter(pair.clip.tokenize(text).values()))
    digest, layout = fingerprint(own), own.layout(_sixteen_of_1080p(), file_pixels=True)
    figures: dict[str, Any] = {
        "name": own.name,
        "ids": [each[0] for each in theirs] == own.encoder.tokenizer(text)["input_ids"],
        "prompt": bool(torch.equal(prompt.after, reference.prompt(questions[0], expected).after)),
        "features": _apart(tokens.features, expected.features),
        "importance": max(_apart(tokens.shallow, expected.shallow), _apart(tokens.deep, expected.deep)),
        "extras": max(_apart(each, expected.extras[name]) for name, each in tokens.extras.items()),
        "penalty": own.repetition_penalty,
        "file_pixels": layout.frames * layout.cells,
        "hooks": sum(len(each._forward_pre_hooks) for each in pair.clip.cond_stage_model.modules()),
    }
    reduce = AnchorOT(retention=0.25)
    for kind, mine, others in (("full", tokens, expected), ("reduced", reduce(tokens), reduce(expected))):
        inputs, wanted = own.prompt_inputs(mine, questions[0]), reference.prompt_inputs(others, questions[0])
        middle, cache = len(inputs) // 2, DynamicCache()
        halves = inputs.part(0, middle), inputs.part(middle, len(inputs))
        logits = own.forward(inputs, DynamicCache(), keep=slice(None))
        figures[kind] = {
            "kept": mine.retention,
            "positions": bool(torch.equal(inputs.position_ids, wanted.position_ids)),
            "logits": _apart(logits, reference.forward(wanted, DynamicCache(), keep=slice(None))),
            "in_halves": _apart(torch.cat([own.forward(each, cache, keep=slice(None)) for each in halves]), logits),
            "ids": Session(own, mine).ask(questions, six).ids,
            "stock_ids": Session(reference, others).ask(questions, six).ids,
            "alone": Session(own, mine).ask(questions[1:], six).ids[0],
            "own_generate": _generated(pair.clip, inputs) if own.family == "qwen3_vl" else None,
        }
    pair.loaded.unload()
    pair.loaded.ready()
    figures["again"] = Session(own, own.encode(frames)).ask(questions, six).ids
    figures["same weights"] = fingerprint(own) == digest
    return figures


def _generated(clip: Any, inputs: Any) -> list[int]:
    """What ComfyUI's own `generate` answers to the same embeddings."""
    return clip.cond_stage_model.qwen3vl_8b.transformer.generate(
        inputs.inputs_embeds.clone(),
        do_sample=False,
        max_length=6,
        position_ids=inputs.position_ids,
        visual_pos_masks=inputs.visual[None],
        deepstack_embeds=list(inputs.levels),
    )


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, over the spread of the other."""
    return float((one.float() - other.float()).abs().max() / other.float().std())


def refusals(folder: Path) -> Mapping[str, str]:
    """What the node says of text encoders that are no video LLM, or not all of one; of each that this ComfyUI has.

    Args:
        folder: for files.
    """
    from comfy import sd, sdxl_clip

    def load(file: Path) -> Any:
        return sd.load_clip([str(file)], clip_type=sd.CLIPType.QWEN_IMAGE)

    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
    options = {f"clip_{each}_model_config": small for each in "lg"}
    sdxl = SimpleNamespace(cond_stage_model=sdxl_clip.SDXLClipModel(model_options=options), patcher=None)
    lines = {"nothing": _said(None), "SDXL": _said(sdxl)}
    shrink()
    qwen = save(folder, "qwen2_5_vl", "bf16", stock("qwen2_5_vl"))
    clip = load(qwen)
    lines["Qwen2.5-VL"] = _said(clip)
    if lines["Qwen2.5-VL"]:
        return lines
    clip.patcher.cached_patcher_init = None
    lines["of no known file"] = _said(clip)
    lines["without a head"] = _said(load(_without(qwen, "lm_head.")))
    three = save(folder, "qwen3_vl", "bf16", stock("qwen3_vl"))
    lines["without a block"] = _said(load(_without(three, "visual.blocks.3.mlp")))
    clip = load(three)
    clip.cond_stage_model.qwen3vl_8b.transformer.model.norm = None
    lines["cut short"] = _said(clip)
    clip = load(three)
    clip.cond_stage_model.qwen3vl_8b.transformer.visual.deepstack_merger_list = None
    lines["of another family"] = _said(clip)
    return lines


def _said(clip: Any) -> str:
    """The node's line about a CLIP; "" where it takes it."""
    from comfyui_aot.aot.errors import InputError
    from comfyui_aot.nodes.clip_models import AOTVideoLLMFromCLIP

    try:
        AOTVideoLLMFromCLIP.execute(clip)
    except InputError as error:
        return str(error)
    return ""


def _without(file: Path, part: str) -> Path:
    """A copy of a file without the tensors in whose name ``part`` is."""
    kept = {name: tensor for name, tensor in load_file(file).items() if part not in name}
    save_file(kept, file.with_stem(f"{file.stem}_less"))
    return file.with_stem(f"{file.stem}_less")


def main(folder: Path, what: str) -> None:
    """Print one JSON line.

    Args:
        folder: for files.
        what: a family, or "refusals".
    """
    import torchvision_import  # noqa: F401 - beside this script
    from comfy.cli_args import args

    args.cpu = True
    torch.set_num_threads(1)
    with torch.inference_mode():
        if what == "refusals":
            print(json.dumps(refusals(folder)))
            return
        figures = {}
        for form in FORMATS[what]:
            shrink("tied" in form)
            model = stock(what, "tied" in form)
            figures[form] = compare(pair(save(folder, what, form, model), model))
        print(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
