"""A pass without numbers: what good models make of it, and which settings it refuses."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import base, lmms_lab, load
from comfyui_aot.aot.models.check import check
from comfyui_aot.aot.models.dry_run import ShapesOnly, require_runs
from comfyui_aot.aot.models.folder import load_tokenizer
from comfyui_aot.tests.support.small_models import BUILDERS, VARIANTS, save, saved_or_skipped
from comfyui_aot.tests.support.stock_inputs import random_frames

KEYS = re.compile(
    r"num(_attention|_key_value)?_heads|head_dim|mrope_section|rope_parameters|partial_rotary_factor|patch_size|"
    r"image_size|spatial_merge_size|temporal_patch_size|num_experts_per_tok|top_k_experts|image_patch_id|"
    r"vision_feature_layer|deepstack_visual_indexes|fullatt_block_indexes|pooling_kernel_size|downsample_ratio"
)
"""Settings of which the shapes of tensors say little or nothing."""


@pytest.fixture(scope="module", params=[*BUILDERS, *VARIANTS])
def folder(request, tmp_path_factory, embedded_folder):
    """A small model of every family."""
    return saved_or_skipped(request.param, tmp_path_factory.mktemp("family"), embedded_folder)


def places(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where in a config its settings are."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def part(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def test_shapes_are_those_of_a_pass_with_numbers(folder):
    model = load(folder)
    size = model.tile or (112, 112)
    frames = random_frames(2, *size)
    with torch.no_grad():
        real = model.encode(frames)
        logits = model.forward(model.prompt_inputs(real, "What?"), model.new_cache())
        with ShapesOnly():
            layout = model.layout(frames)
            output = model.run_tower(torch.zeros(2, 3, *model.frame_size(frames)), layout)
            shapes = model.video_tokens(output, layout, model.timestamps(frames))
            shape_logits = model.forward(model.prompt_inputs(shapes, "What?"), model.new_cache())
            assert shapes.features.shape == real.features.shape
    assert shape_logits.shape == logits.shape
    assert shape_logits.dtype == logits.dtype
    with pytest.raises(NotImplementedError, match="of a shape alone"):
        shape_logits.sum()


def refusal(read, folder) -> str:
    """Why a folder is not read; "" where it is."""
    try:
        read(folder)
    except InputError as error:
        return str(error)
    return ""


@pytest.fixture
def tokenizer_read_once(monkeypatch):
    """A folder's tokenizer stays as it is: to read it takes as long as all the rest of a small model."""
    read = functools.cache(load_tokenizer)
    for module in (base, lmms_lab):
        monkeypatch.setattr(module, "load_tokenizer", read)


@pytest.mark.usefixtures("tokenizer_read_once")
def test_a_key_by_another_name_is_one_line_or_does_no_harm(folder):
    file = folder / "config.json"
    whole = file.read_text()
    refused = 0
    for path in (each for each in places(json.loads(whole)) if KEYS.fullmatch(each[-1])):
        config = json.loads(whole)
        around = part(config, path[:-1])
        around[f"{path[-1]}_"] = around.pop(path[-1])
        file.write_text(json.dumps(config))
        try:
            model = load(folder)
        except InputError as error:
            said = str(error)
            assert len(said.splitlines()) == 1 and len(said) < 420
            assert refusal(check, folder) == said
            refused += 1
        else:
            model.encode(random_frames(2, 56, 84)).require_finite()
    file.write_text(whole)
    assert refused or "mm_vision_tower" in whole


@pytest.fixture(scope="module")
def qwen(tmp_path_factory, embedded_folder):
    """A small Qwen2.5-VL."""
    folder = tmp_path_factory.mktemp("qwen") / "model"
    save(folder, "qwen2_5_vl", embedded_folder)
    return folder


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_heads", 16, r"do not fit its weights: no video can be read with them \(RuntimeError: "),
        ("mrope_section", [16, 24, 24], r"\(RuntimeError: split_with_sizes expects split_sizes to sum exactly to"),
        ("rope_theta", 0.0, r"rotary\S+inv_freq is not finite\); copy or download its config\.json"),
        ("rms_norm_eps", -1.0, r"\(the epsilon of model\.language_model\.layers\.0\.\S+ is -1\); copy or"),
        ("max_position_embeddings", 0, r"\(ValueError: its LLM reads 0 tokens\)"),
    ],
)
def test_settings_that_no_video_can_be_read_with(qwen, key, value, said):
    file = qwen / "config.json"
    whole = file.read_text()
    config = json.loads(whole)
    for path in [each for each in places(config) if each[-1] == key]:
        part(config, path[:-1])[key] = value
    file.write_text(json.dumps(config))
    reasons = refusal(load, qwen), refusal(check, qwen)
    file.write_text(whole)
    assert re.search(said, reasons[0])
    assert reasons[0] == reasons[1]


def test_a_model_that_reads_its_own_numbers_is_not_refused(qwen, monkeypatch):
    model = load(qwen)
    run_tower = model.run_tower

    def reading(pixel_values, layout):
        output = run_tower(pixel_values, layout)
        assert float(output.image_features.sum()) != 7
        return output

    monkeypatch.setattr(model, "run_tower", reading)
    require_runs(model)
    require_runs(model, weights=False)


def test_a_model_that_runs_with_numbers_is_not_refused(qwen, monkeypatch):
    model = load(qwen)
    run_tower = model.run_tower

    def listing(pixel_values, layout):
        output = run_tower(pixel_values, layout)
        assert output.image_features.tolist()
        return output

    monkeypatch.setattr(model, "run_tower", listing)
    require_runs(model)
    with pytest.raises(InputError, match="no video can be read"):
        require_runs(model, weights=False)
