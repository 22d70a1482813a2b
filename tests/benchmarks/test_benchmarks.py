"""What the benchmarks report follows from what they ran; how fast that was is nobody's test."""

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from comfyui_aot.aot.benchmarks import prefill
from comfyui_aot.aot.benchmarks.growth import bench_growth, exponent, plot_growth
from comfyui_aot.aot.benchmarks.measuring import extra_bytes, medians
from comfyui_aot.aot.benchmarks.reduction import bench_reduce, random_tokens
from comfyui_aot.aot.benchmarks.streams import bench_stream
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.llm_cost import LanguageShape
from comfyui_aot.aot.stages.chain import parse


def test_all_pieces_of_work_are_run_equally_often():
    ran = {"a": 0, "b": 0}

    def count(name):
        ran[name] += 1

    seconds = medians({name: lambda name=name: count(name) for name in ran}, torch.zeros(1), 3)
    assert ran == {"a": 4, "b": 4}
    assert all(value >= 0 for value in seconds.values())


def test_memory_on_top_is_that_of_the_largest_moment():
    def work():
        torch.ones(30_000_000)
        torch.ones(10_000_000)

    assert 110e6 < extra_bytes(work, "cpu") < 200e6


def test_random_tokens_are_the_same_each_time():
    assert torch.equal(random_tokens(2, 8).features, random_tokens(2, 8).features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reduction_is_set_beside_its_limit(dtype):
    row = bench_reduce(parse("intra:budget=20"), 2, 16, dtype=dtype, repeats=1)
    assert row["ratio"] == pytest.approx(row["reduce_s"] / row["limit_s"])
    assert row["memory_ratio"] == row["extra_bytes"] / row["feature_bytes"]
    assert row["feature_bytes"] == 2 * 729 * 16 * dtype.itemsize


def test_a_stage_that_keeps_a_whole_frame_is_measured_at_a_share_the_video_has_room_for():
    row = bench_reduce(parse("evs:retention=0.1"), 12, 16, repeats=1)
    assert (row["tokens_kept"], row["tokens_full"]) == (round(0.1 * 12 * 196), 12 * 196)


def test_the_exponent_of_a_power_law_is_found():
    assert exponent((1, 2, 4), (3, 12, 48)) == pytest.approx(2)


def test_growth_is_measured_and_drawn(tmp_path):
    curves = [bench_growth(parse("intra:budget=20"), axis, (8, 12), repeats=1) for axis in ("frames", "grid", "dim")]
    assert [curve["x"] for curve in curves] == [[8, 12], [64, 144], [8, 12]]
    plot_growth(curves, tmp_path / "growth.png")
    assert Image.open(tmp_path / "growth.png").size[0] > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["growth.png"]


def test_streams_are_measured_shortest_first(model):
    result = bench_stream(parse("aot:retention=0.1"), (3, 2), model)
    assert [row["frames"] for row in result["rows"]] == [2, 3]
    assert [row["tokens_kept"] for row in result["rows"]] == [39, 59]
    assert result["rows"][0]["peak_ratio"] == 1


def test_prefill_is_set_beside_its_operations(monkeypatch):
    tiny = LanguageShape(layers=2, hidden=64, mlp=128, kv_heads=2, head_dim=16, context=32768)
    monkeypatch.setattr(prefill, "SHAPES", {"tiny": tiny})
    full, quarter = prefill.bench_prefill("tiny", 400, (1.0, 0.25), repeats=1)
    assert (full["tokens"], quarter["tokens"]) == (400, 100)
    assert full["speedup"] == full["ideal"] == full["paper"] == 1
    assert 4 < quarter["ideal"] < 16
    assert quarter["reached"] == pytest.approx(quarter["speedup"] / quarter["ideal"])
    with pytest.raises(InputError, match="shape is '7b'; give one of tiny"):
        prefill.bench_prefill("7b")


def test_operations_are_those_that_pytorch_counts():
    model = prefill.random_llm("small")
    model.hf_model.set_attn_implementation("eager")  # whose products are counted, all n x n of them
    inputs_embeds = torch.randn(1, 300, model.language.hidden)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.language_model(inputs_embeds=inputs_embeds)
    above_the_diagonal = 2 * 300**2 * 14 * model.language.head_dim * model.language.layers
    expected = prefill.operations(model.language, 300) + above_the_diagonal
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.001)
