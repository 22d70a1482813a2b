"""Text encoders as video LLMs: the node in the Python of a real ComfyUI, and in its server."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from comfyui_aot.tests.support.text_encoders import ANSWERING, FORMATS, PENALTIES, version

CHECKOUT = Path(__file__).parents[2]
SCRIPT = CHECKOUT / "tests" / "support" / "text_encoders.py"
FP32, BF16 = 5e-5, 2e-3
"""Of a spread, the largest difference that is rounding. ComfyUI blends Qwen3-VL's position embeddings in the dtype of
the file, transformers in its own; measured are 3e-6 (logits) and 4e-5 (importance), and 1e-3 in bfloat16."""


@pytest.fixture(scope="module")
def told(installation, tmp_path_factory):
    """What the script tells, run once for each of its subjects."""
    root, python = installation
    folder = tmp_path_factory.mktemp("text_encoders")
    (folder / "packs").mkdir()
    (folder / "packs" / "comfyui_aot").symlink_to(CHECKOUT, target_is_directory=True)
    known = {}

    def tell(subject):
        if subject not in known:
            paths = os.pathsep.join(map(str, (root, folder / "packs")))
            command = [python, SCRIPT, folder / subject, subject]
            done = subprocess.run(
                command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=550
            )
            assert not done.returncode, done.stderr[-3000:]
            known[subject] = json.loads(done.stdout.splitlines()[-1])
        return known[subject]

    return tell


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize(("family", "form"), [(family, form) for family, forms in FORMATS.items() for form in forms])
def test_it_computes_what_transformers_computes_on_the_same_weights(told, family, form):
    figures = told(family)[form]
    exact = family == "qwen2_5_vl" or form == "fp32"
    assert figures["ids"], "the prompt's ids are not those of ComfyUI's tokenizer"
    assert figures["prompt"]
    for name in ("features", "importance", "extras"):
        assert figures[name] < (FP32 if exact else BF16), name
    for kind, kept in (("full", 1.0), ("reduced", 0.25)):
        assert figures[kind]["kept"] == kept
        assert figures[kind]["positions"]
        assert figures[kind]["logits"] < (FP32 if exact else BF16)
        assert figures[kind]["in_halves"] < FP32
        assert figures[kind]["ids"] == figures[kind]["stock_ids"]


FILE_PIXELS = {"qwen3_vl": 12064, "qwen2_5_vl": 21528}
"""Tokens of 16 frames of 1080p in their file's pixels, with the limits of the published processors."""


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("family", FORMATS)
def test_processor_and_answers_have_the_published_settings(told, family):
    for figures in told(family).values():
        assert figures["penalty"] == PENALTIES[family]
        assert figures["file_pixels"] == FILE_PIXELS[family]


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize(("family", "form"), [(family, form) for family, forms in FORMATS.items() for form in forms])
def test_questions_that_share_a_pass_are_answered_as_alone(told, family, form):
    figures = told(family)[form]
    for kind in ("full", "reduced"):
        assert figures[kind]["ids"][1] == figures[kind]["alone"]


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("form", FORMATS["qwen3_vl"])
def test_it_answers_as_comfyuis_own_generate_does(told, form):
    for kind in ("full", "reduced"):
        figures = told("qwen3_vl")[form][kind]
        assert figures["own_generate"] == figures["ids"][0]


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("family", FORMATS)
def test_it_is_named_after_its_file_and_leaves_the_clip_as_it_was(told, family):
    for form, figures in told(family).items():
        assert figures["name"].endswith(form.replace(" ", "_"))
        assert figures["hooks"] == 0


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("family", FORMATS)
def test_it_answers_the_same_once_unloaded_and_loaded_again(told, family):
    for figures in told(family).values():
        assert figures["again"] == figures["full"]["ids"]
        assert figures["same weights"]


def test_a_clip_that_is_no_video_llm_is_refused_with_what_would_do(told):
    lines = told("refusals")
    for kind in ("nothing", "SDXL"):
        assert "Qwen3-VL (qwen3vl_4b, qwen3vl_8b) or Qwen2.5-VL (qwen_2.5_vl_7b) with CLIPLoader" in lines[kind]
    assert "(clip_l, clip_g)" in lines["SDXL"]


def test_a_comfyui_without_such_text_encoders_says_so(told, installation):
    line = told("refusals")["Qwen2.5-VL"]
    if version(installation[0]) >= ANSWERING:
        assert line == ""
    else:
        assert line.startswith(f"ComfyUI {'.'.join(map(str, version(installation[0])))}")
        assert "it needs ComfyUI 0.26 or newer" in line


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("of no known file", "The head of qwen25_7b, which writes its words, is not in this CLIP"),
        ("without a head", "qwen_2.5_vl_7b_bf16_less.safetensors has no lm_head.weight"),
        ("without a block", "lacks 4 tensors of its model (visual.blocks.3.mlp.linear_fc1.bias, "),
        ("cut short", "cut short, for conditioning only"),
        ("of another family", "is of another family; load Qwen3-VL"),
    ],
)
def test_a_text_encoder_that_is_not_all_there_is_refused(told, what, words):
    assert words in told("refusals")[what]


def from_clip(prompt, file):
    """The prompt with CLIPLoader and this node in place of the model's loader."""
    changed = {key: {**node, "inputs": dict(node["inputs"])} for key, node in prompt.items()}
    (loader,) = [key for key, node in changed.items() if node["class_type"] == "AOTLoadVLLM"]
    changed["clip"] = {"class_type": "CLIPLoader", "inputs": {"clip_name": file, "type": "qwen_image"}}
    changed[loader] = {"class_type": "AOTVideoLLMFromCLIP", "inputs": {"clip": ["clip", 0]}}
    for node in changed.values():
        if node["class_type"] == "AOTLoadVideo":
            node["inputs"] |= {"frames": 4, "size": 128}
        if node["class_type"] in ("AOTIntraFrame", "AOTInterFrame"):
            node["inputs"]["retention"] = 0.25
        if node["class_type"] == "AOTAnswer":
            node["inputs"]["max_new_tokens"] = 4
    return changed, loader


@pytest.mark.usefixtures("answering")
def test_a_graph_with_cliploader_answers_reduced_and_after_it_was_unloaded(server, prompt, text_encoder):
    graph, loader = from_clip(prompt, text_encoder.name)
    (answer,) = [key for key, node in graph.items() if node["class_type"] == "AOTAnswer"]
    graph[answer]["inputs"]["unload"] = True
    first = server.client.run(graph)
    assert first.ended == "execution_success", first.messages[-1]
    assert first.text(loader)[0].startswith(f"{text_encoder.stem}: ")
    text, figures = first.text(answer)
    kept, full = map(int, re.search(r"(\d+) of (\d+)", figures).groups())
    assert kept < full
    assert first.streamed(answer)[-1].strip() == text
    graph[answer]["inputs"] |= {"unload": False, "seed": 1}
    assert server.client.run(graph).text(answer)[0] == text


@pytest.mark.usefixtures("answering")
def test_a_file_that_lacks_tensors_ends_in_our_line(server, prompt, text_encoder):
    graph, _ = from_clip(prompt, text_encoder.name)
    graph["clip"]["inputs"]["clip_name"] = _without_a_layer(text_encoder)
    run = server.client.run(graph)
    (error,) = [each.data for each in run.messages if each.kind == "execution_error"]
    assert error["node_type"] == "AOTVideoLLMFromCLIP"
    assert "lacks" in error["exception_message"]


def _without_a_layer(path):
    """The name of a copy of a file that lacks some tensors."""
    save_file(
        {name: each for name, each in load_file(path).items() if "layers.2.mlp" not in name},
        path.with_stem("qwen3vl_8b_less"),
    )
    return "qwen3vl_8b_less.safetensors"
