"""Saved tokens come back as they were, and what cannot be such tokens is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from comfyui_aot.aot.errors import LONGEST, InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens import storage
from comfyui_aot.aot.tokens.factors import Blocks
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: {"features": t.features.long()}, "features is int64 and must be float32 or bfloat16"),
        (lambda t: {"role": t.role.float()}, "role is float32 and must be uint8"),
        (lambda t: {"place": t.place.int()}, "place is int32 and must be int64"),
        (lambda t: {"timestamps": t.timestamps.float()}, "timestamps is float32 and must be float64"),
        (lambda t: {"features": t.features.index_fill(0, torch.tensor([0]), torch.nan)}, "features holds NaN"),
        (lambda t: {"deep": t.deep * torch.inf}, "deep holds NaN or infinity"),
        (lambda t: {"timestamps": t.timestamps.flip(0)}, "its times do not increase"),
        (lambda t: {"map.0.weights": -t.map.factors[0].weights}, "map.0.weights holds a weight below 0"),
        (lambda t: {"map.1.index": torch.zeros(1, 2, dtype=torch.int64)}, "must be a list of numbers"),
    ],
)
def test_numbers_that_no_stage_could_have_made_are_refused(tokens, file, change, said):
    rewrite(file, tensors=change(tokens))
    with pytest.raises(InputError, match=f"does not describe a video's tokens .*{said}"):
        storage.load(file)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"layout": '{"frames": 8.0, "grid": [9, 9]}'}, "sides that are no whole numbers"),
        ({"layout": "[" * 100_000}, "nested deeper than 100"),
        ({"layout": "3"}, "it holds a int, not a dict"),
        ({"layout": '{"grid": [9, 9]}'}, "'frames' is missing"),
        ({"history": '[{"name": 3}]'}, "a line that no stage wrote"),
        ({"history": "[7]"}, "a line that no stage wrote"),
        ({"pooled": "false"}, "pooling is pending, and tokens are missing"),
        ({"version": "\x1b[31m" + "9" * 9000}, "aot-tokens version 2 is read"),
    ],
)
def test_settings_that_no_stage_wrote_are_refused(file, metadata, said):
    rewrite(file, metadata=metadata)
    with pytest.raises(InputError, match=said) as refused:
        storage.load(file)
    assert len(str(refused.value)) <= LONGEST and str(refused.value).isprintable()


def test_a_weight_beyond_a_blocks_rows_is_refused():
    blocks = Blocks(torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]]), (1, 1), (2, 1))
    with pytest.raises(InputError, match="zero beyond their rows and columns"):
        blocks.require_valid()
