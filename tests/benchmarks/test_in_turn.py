"""What the benchmarks by processor time report follows from what they ran; how fast that was is nobody's test."""

import pytest
import torch

from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.benchmarks.in_turn import bench_inside, bench_reductions
from comfyui_aot.aot.benchmarks.measuring import medians
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.evaluation.drawn_clip import load_drawn_clip
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.video.sampling import Sampling


def test_each_piece_of_work_is_timed_in_every_round_but_the_first_by_the_clock_given():
    now, takes = 0.0, iter([9.0, 1.0, 3.0, 2.0])

    def work():
        nonlocal now
        now += next(takes)

    assert medians({"work": work}, torch.zeros(1), 3, clock=lambda: now) == {"work": 2.0}


def test_reductions_are_set_beside_the_first_of_the_same_rounds():
    rows = bench_reductions([parse(f"{name}:retention=0.1") for name in ("aot", "semvid", "cosine")], 2, 16, repeats=1)
    assert [row["stages"] for row in rows] == ["aot:retention=0.1", "semvid:retention=0.1", "cosine:retention=0.1"]
    assert rows[0]["ratio"] == 1
    assert all(row["ratio"] == row["processor_s"] / rows[0]["processor_s"] for row in rows)
    assert {(row["tokens_kept"], row["tokens_full"]) for row in rows} == {(39, 392)}


@pytest.mark.parametrize("more", [["--operations"], ["--graph"], ["--device", "meta"]])
def test_the_processors_time_is_of_plain_stages_on_the_cpu(more, capsys):
    assert main(["bench", "reduce", "--in-turn", *more]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_stages_inside_the_llm_are_set_beside_all_tokens(talkative):
    tokens = talkative.encode(load_drawn_clip(Sampling(frames=4)))
    stage = "fastv:layer=2,keep=0.25"
    full, within = bench_inside(talkative, tokens, [parse(stage)], new_tokens=3, repeats=1)
    assert (full["stages"], full["retention"], full["prefill_ratio"], full["token_ratio"]) == ("full", 1, 1, 1)
    assert within["tokens"] == full["tokens"] == tokens.tokens_kept
    (answer,) = Session(talkative, parse(stage)(tokens)).answer(["What?"], Generation(max_new_tokens=1))
    assert within["retention"] == pytest.approx(answer.retention)
    assert within["prefill_ratio"] == within["prefill_s"] / full["prefill_s"]
    assert within["token_ratio"] == within["token_s"] / full["token_s"]
