"""What the benchmark of answers reports follows from what it ran; how fast that was is nobody's test."""

import json

import pytest
import torch

from comfyui_aot.aot.answering.answerer import ask
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.benchmarks import answer, random_models
from comfyui_aot.aot.benchmarks.clip import write_clip
from comfyui_aot.aot.cli import every_benchmark
from comfyui_aot.aot.cli.bench import _parser
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.comparison.variants import expand
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.llm_cost import LanguageShape
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video

TINY = random_models.Shape(
    LanguageShape(layers=2, hidden=64, mlp=128, kv_heads=2, head_dim=16, context=4096),
    words=500,
    side=56,
    hidden=32,
    mlp=64,
    layers=4,
    heads=2,
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "drawn.mp4"
    write_clip(path, 9, 48, 64)
    return path


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(random_models, "SHAPES", {"tiny": TINY})
    return random_models.random_model("tiny")


def test_the_drawn_clip_is_a_file_that_moves(clip):
    frames = load_video(clip, Sampling(frames=9))
    assert tuple(frames.pixels.shape) == (9, 48, 64, 3)
    assert frames.timestamps.diff().allclose(torch.tensor(0.04).double())
    assert (frames.pixels[0].float() - frames.pixels[8].float()).abs().mean() > 5


def test_a_random_model_is_the_same_each_time_and_leaves_the_random_state_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again = random_models.random_model("tiny")
    assert torch.equal(torch.rand(1), expected)
    pairs = zip(tiny.hf_model.state_dict().values(), again.hf_model.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert random_models.random_model("tiny", dtype=torch.bfloat16).dtype == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(InputError, match="shape is 'large'; give one of tiny"):
        random_models.random_model("large")


def test_the_7b_shape_is_the_published_one():
    shape = random_models.SHAPES["7b"]
    assert (shape.side // 14) ** 2 == 729
    assert (shape.language.layers, shape.language.hidden, shape.words) == (28, 3584, 152_000)


def test_every_row_goes_the_whole_road(tiny, clip):
    found = answer.bench_answer(tiny, clip, expand(["aot"], (0.5,)), frames=4, new_tokens=5, repeats=1)
    assert (found["frames"], found["height"], found["width"], found["dtype"]) == (4, 48, 64, "float32")
    full, reduced, stock = found["rows"]
    assert [row["row"] for row in found["rows"]] == ["full", "aot 0.5", "stock"]
    assert [row["tokens"] for row in found["rows"]] == [16, 8, 16]
    for row in found["rows"]:
        assert 0 < row["first_token_s"] < row["answer_s"]
        assert row["rest_s"] == pytest.approx(row["answer_s"] - row["first_token_s"])
        assert row["first_token_ratio"] == stock["first_token_s"] / row["first_token_s"]
        assert row["answer_ratio"] == stock["answer_s"] / row["answer_s"]
        assert row["file_s"] > 0 and row["peak_bytes"] > 0
    for row in (full, reduced):
        assert min(row[name] for name in ("pixels_s", "tower_s", "reduce_s", "prefill_s")) > 0
        assert row["prefill_s"] < row["first_token_s"]
    assert stock["tower_s"] is stock["reduce_s"] is stock["prefill_s"] is None


def test_the_stock_road_gives_the_answer_that_all_tokens_give(tiny, clip, monkeypatch):
    frames = load_video(clip, Sampling(frames=3))
    tiny.hf_model.generation_config.eos_token_id = None
    said = ask(tiny, tiny.encode(frames), answer.QUESTION, Generation(6))
    ids = []
    generate = tiny.hf_model.generate
    monkeypatch.setattr(tiny.hf_model, "generate", lambda **given: ids.append(generate(**given)))
    road = answer._stock(tiny, lambda: frames, lambda frames: tiny.preprocess(frames)[None], 6)
    assert tuple(ids[0][0, -6:].tolist()) == said.ids
    assert len(said.ids) == 6
    assert road.tokens == said.tokens_full


def test_the_tower_is_run_again_without_importance(tiny, clip):
    frames = load_video(clip, Sampling(frames=2))
    pixels, layout = tiny.preprocess(frames), tiny.layout(frames)
    outputs = []
    calls = answer._recorded(tiny, lambda: outputs.append(tiny.run_tower(pixels, layout)))
    tower, projector = calls
    assert tower[0] is tiny.tower
    again = projector[0](*projector[1], **projector[2])
    assert torch.equal(again, outputs[0].image_features)
    assert not tiny.tower._forward_pre_hooks


def test_the_command_says_what_it_measured(capsys, monkeypatch, clip):
    monkeypatch.setattr(random_models, "SHAPES", {"small": TINY})
    words = ["bench", "answer", "--video", str(clip), "--frames", "3", "--new-tokens", "2", "--repeats", "1", "--json"]
    assert main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("small, random in float32 on cpu")
    assert out[1].split()[:5] == ["row", "tokens", "file", "pixels", "tower"]
    assert [line.split()[0] for line in out[3:7]] == ["full", "aot", "aot", "stock"]
    assert len(json.loads(out[-1])["rows"]) == 4
    assert main(["bench", "answer", "--shape", "huge"]) == 2
    assert "shape is 'huge'; give one of small" in capsys.readouterr().err
    assert main(["bench", "answer", "--tokenizer", "folder"]) == 2
    assert "--tokenizer is that of a single file; give the file as --model" in capsys.readouterr().err


def test_every_command_of_the_whole_run_is_one_that_bench_takes():
    parser = _parser()
    for device in ("cpu", "cuda", "cuda:1"):
        for line in every_benchmark.commands(device):
            options = parser.parse_args(line.split())
            assert options.device == device


def test_a_benchmark_that_fails_is_written_down_and_the_rest_goes_on(tmp_path, capsys):
    size = "--frames 2 --dim 16 --repeats 1 --stages"
    only = (f"reduce {size} nonesuch", f"reduce {size} top:retention=0.1 --operations")
    file = tmp_path / "figures.json"
    report, code = every_benchmark.run_all(_parser, "cpu", file, only)
    assert code == 1
    assert json.loads(file.read_text()) == report
    failed, ran = report["benchmarks"]
    assert failed["command"] == f"aot bench {only[0]}"
    assert failed["error"].startswith("No stage is called 'nonesuch'")
    assert ran["result"]["rows"][0]["operations"] > 0
    assert report["machine"]["packages"]["transformers"]
    assert "1 of 2 benchmarks ran" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path, capsys):
    assert main(["bench", "all", "--json", str(tmp_path / "none" / "figures.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_all_benchmarks_run_here(tmp_path, capsys, miniature_embedded):
    file = tmp_path / "figures.json"
    assert main(["bench", "all", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == report
    commands = [entry["command"].removeprefix("aot bench ") for entry in report["benchmarks"]]
    assert commands == list(every_benchmark.commands("cpu"))
    assert all(entry["result"] and entry["seconds"] > 0 for entry in report["benchmarks"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_goes_the_same_roads(tiny, clip):
    on_gpu = random_models.random_model("tiny", device="cuda", dtype=torch.bfloat16)
    found = answer.bench_answer(on_gpu, clip, expand(["aot"], (0.5,)), frames=4, new_tokens=5, repeats=1)
    assert [row["tokens"] for row in found["rows"]] == [16, 8, 16]
    assert all(row["peak_bytes"] >= torch.cuda.memory_allocated() for row in found["rows"])
