"""Saved tokens come back as they were, and what cannot be such tokens is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens import storage
from comfyui_aot.aot.tokens.video_tokens import Layout, VideoTokens


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    fresh = VideoTokens.encoded(
        torch.randn(8, 81, 5),
        Layout(8, (9, 9)),
        torch.rand(8, 81),
        torch.rand(8, 81),
        torch.arange(8, dtype=torch.float64),
        model="tiny",
    )
    return parse("intra:budget=20,window=3+inter:keep_ratio=0.3")(fresh)


@pytest.fixture
def file(tokens, tmp_path):
    storage.save(tokens, tmp_path / "tokens.safetensors")
    return tmp_path / "tokens.safetensors"


def rewrite(file, tensors=(), metadata=()):
    with safe_open(file, "pt") as stored:
        names = list(stored.keys())
        content = {name: stored.get_tensor(name) for name in names} | dict(tensors)
        save_file(content, file, stored.metadata() | dict(metadata))


def test_tokens_come_back_as_they_were(tokens, file):
    back = storage.load(file)
    for name in storage.TENSORS:
        assert torch.equal(getattr(back, name), getattr(tokens, name))
    assert (back.layout, back.pooled, back.model, back.history) == (
        tokens.layout,
        tokens.pooled,
        tokens.model,
        tokens.history,
    )
    assert torch.equal(back.map.sparse().to_dense(), tokens.map.sparse().to_dense())


def test_settings_and_history_are_in_the_metadata(file):
    with safe_open(file, "pt") as stored:
        history = json.loads(stored.metadata()["history"])
    assert [record["name"] for record in history] == ["intra", "inter"]
    assert history[0]["settings"]["budget"] == 20


def test_nothing_but_the_file_is_left_behind(file):
    assert [path.name for path in file.parent.iterdir()] == ["tokens.safetensors"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"No file gone\.safetensors"):
        storage.load(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file_is_refused(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match="truncated"):
        storage.load(file)


def test_another_version_is_refused(file):
    rewrite(file, metadata={"version": "99"})
    with pytest.raises(InputError, match="version 99 where aot-tokens version 2"):
        storage.load(file)


def test_another_kind_of_safetensors_file_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="holds no format"):
        storage.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"features": torch.zeros(3, 5)},
        {"place": torch.full((1, 3), 99)},
        {"map.0.rows": torch.tensor([1, 2])},
        {"map.0.weights": torch.zeros(8, 25, 81)},
        {"map.1.cols": torch.tensor([-1, 3])},
    ],
)
def test_impossible_tensors_are_refused(file, change):
    rewrite(file, tensors=change)
    with pytest.raises(InputError):
        storage.load(file)


def test_a_place_off_the_grid_is_refused(tokens, file):
    rewrite(file, tensors={"place": tokens.place + 90})
    with pytest.raises(InputError, match="outside the grid"):
        storage.load(file)


def test_a_folder_that_is_not_there_is_named(tokens, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        storage.save(tokens, tmp_path / "no" / "tokens.safetensors")
