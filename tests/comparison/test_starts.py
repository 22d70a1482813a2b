"""Variants that choose frames beside those that do not: what they start from, what it costs, and what is no better."""

import dataclasses

import pytest
import torch

from comfyui_aot.aot.answering.answerer import LocalAnswerer
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.comparison.cache import open_cache
from comfyui_aot.aot.comparison.compare import compare, no_closer, side_by_side
from comfyui_aot.aot.comparison.starts import Starts
from comfyui_aot.aot.comparison.sweep import sweep
from comfyui_aot.aot.comparison.table import terminal
from comfyui_aot.aot.comparison.variants import expand
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.tests.support.tiny import TinySet, tiny_model

QUESTION = "What colour is it?"
SHORT = Generation(2)


def clip(count):
    return dataclasses.replace(TinySet().frames("r", count), more=clip)


@pytest.fixture(scope="module")
def tiny(embedded_folder):
    return tiny_model(embedded_folder)


@pytest.fixture(scope="module")
def tokens(tiny):
    return tiny.encode(clip(8))


def rows_of(tiny, tokens, variants, **more):
    return {row.name: row for row in compare(LocalAnswerer(tiny), tokens, QUESTION, variants, SHORT, **more)}


def counted(monkeypatch, tiny):
    """The numbers of frames that the model encodes from now on."""
    encoded, encode = [], tiny.encode

    def count(frames, **settings):
        encoded.append(frames.count)
        return encode(frames, **settings)

    monkeypatch.setattr(tiny, "encode", count)
    return encoded


def test_each_variant_takes_its_own_frames_and_its_own_time(tiny, tokens):
    rows = rows_of(tiny, tokens, expand(["aot"], (0.5,), controls=True, reinvest=2), frames=clip(8))
    assert list(rows) == ["full", "aot 0.5", "aot x2 0.5", "fewer 0.5", "smaller 0.5", "smaller x2 0.5"]
    full = rows["full"].answer
    assert {row.answer.tokens_full for row in rows.values()} == {full.tokens_full}
    assert rows["aot x2 0.5"].answer.tokens_kept == rows["aot 0.5"].answer.tokens_kept == full.tokens_full // 2
    assert rows["fewer 0.5"].answer.tokens_kept == full.tokens_full // 2
    assert rows["aot 0.5"].answer.encode_s == full.encode_s
    own = {rows[name].answer.encode_s for name in ("full", "aot x2 0.5", "fewer 0.5", "smaller 0.5")}
    assert len(own) == 4
    assert rows["fewer 0.5"].answer.stages == ("fewer",)


def test_variants_that_see_the_same_frames_share_an_encoding(tiny, tokens, monkeypatch):
    encoded = counted(monkeypatch, tiny)
    chains = ["fewer:frames=4+aot", "fewer:frames=4+vidcom2", "fewer:retention=0.5+uniform"]
    rows = rows_of(tiny, tokens, expand(chains, (0.5,)), frames=clip(8))
    assert encoded == [4]
    assert len({rows[name].answer.encode_s for name in rows if name != "full"}) == 1
    assert [rows[name].answer.stages[0] for name in rows if name != "full"] == ["fewer"] * 3


def test_what_happens_inside_the_tower_is_an_encoding_of_its_own(tiny, tokens, monkeypatch):
    encoded = counted(monkeypatch, tiny)
    loose, strict = (f"earlytom:layers=0,similarity={each}" for each in (0.1, 1))
    chains = [f"{loose}+aot", f"{loose}+uniform", f"{strict}+uniform", f"fewer:frames=4+{loose}+uniform", "uniform"]
    rows = rows_of(tiny, tokens, expand(chains, (0.25,)), frames=clip(8))
    assert encoded == [8, 8, 4]
    full = rows["full"].answer.tokens_full
    kept = [round(share * full) for share in (0.25, 0.25, 0.25, 0.125, 0.25)]
    assert [row.answer.tokens_kept for name, row in rows.items() if name != "full"] == kept
    assert {row.answer.tokens_full for row in rows.values()} == {full}


def test_an_encoding_is_kept_only_for_as_long_as_a_variant_needs_it(tiny, tokens):
    starts = Starts(tiny, tokens, clip(8))
    first, second, third = starts.plan(expand(["fewer:frames=4+aot", "fewer:frames=4+uniform"], (0.5,)))
    for start in (first, second):
        starts.reduced(start)
        starts.done(start)
    assert len(starts._encoded) == 1
    starts.done(third)
    assert starts._encoded == {}


def test_figures_are_kept_by_the_frames_that_were_chosen(tiny, tokens, tmp_path, monkeypatch):
    (tmp_path / "scores.txt").write_text("0 9 0 0 0 0 9 0")
    variants = expand([f"aks:frames=2,scores={tmp_path / 'scores.txt'}"], ())
    cache = open_cache(tiny, tokens, QUESTION, SHORT, tmp_path / "cells")
    before = rows_of(tiny, tokens, variants, frames=clip(8), cache=cache)
    encoded = counted(monkeypatch, tiny)
    assert [row.answer for row in rows_of(tiny, tokens, variants, frames=clip(8), cache=cache).values()] == [
        row.answer for row in before.values()
    ]
    assert encoded == []
    (tmp_path / "scores.txt").write_text("9 0 0 0 0 0 0 9")
    rows_of(tiny, tokens, variants, frames=clip(8), cache=cache)
    assert encoded == [2]


def test_what_cannot_be_is_said_in_a_line(tiny, tokens, tmp_path):
    with pytest.raises(InputError, match="Fewer Frames acts before the video is encoded, and only its tokens are here"):
        rows_of(tiny, tokens, expand(["fewer"], (0.5,)))
    without = dataclasses.replace(clip(8), more=None)
    refused = []
    rows_of(tiny, tokens, expand(["aot"], (0.5,), reinvest=4), frames=without, on_refused=refused.append)
    assert len(refused) == 1
    assert "4 times the 8 frames" in refused[0]
    with pytest.raises(InputError, match="Nothing can be reinvested"):
        expand(["paper", "fewer"], (0.5,), reinvest=2)
    with pytest.raises(InputError, match="Reinvest 0"):
        expand(["aot"], (0.5,), reinvest=0)
    chosen = tiny.as_chosen(tiny.encode(clip(4)), expand(["fewer"], (0.5,))[1].chain.on_frames(clip(8)))
    with pytest.raises(InputError, match="begin the chain with fewer"):
        list(sweep(LocalAnswerer(tiny), chosen, QUESTION, expand(["aot"], (0.5,)), SHORT, tmp_path))


def test_what_is_no_better_than_a_control_is_named(tiny, tokens):
    rows = list(rows_of(tiny, tokens, expand(["aot"], (0.5,), controls=True), frames=clip(8)).values())

    def with_kl(row, kl):
        return dataclasses.replace(row, fidelity=dataclasses.replace(row.fidelity, kl=kl))

    for kl, named in ((0.5, ["aot 0.5"]), (0.2, ["aot 0.5"]), (0.1, [])):
        made = [rows[0], with_kl(rows[1], kl), with_kl(rows[2], 0.2), with_kl(rows[3], 0.3)]
        assert [row.name for row in no_closer(made)] == named
        line = "No better than fewer or smaller frames at the same retention: aot 0.5."
        assert (line in terminal(made)) is bool(named)


def test_answers_about_more_frames_are_measured_by_the_fewest(tiny, tokens):
    answerer = LocalAnswerer(tiny)
    reduced = [expand(["aot"], (share,))[1].chain for share in (0.5, 0.25)]
    few, many = tokens, tiny.encode(clip(16))
    answers = [answerer.answer(each, [QUESTION], SHORT)[0] for each in (few, reduced[0](few), reduced[1](many))]
    assert [round(row.answer.retention, 2) for row in side_by_side(answers)] == [1, 0.5, 0.25]
    assert [round(row.answer.retention, 2) for row in side_by_side(answers, reinvest=True)] == [1, 0.5, 0.5]


def test_images_know_of_no_more_frames():
    images = Frames.from_images(torch.rand(3, 8, 8, 3), 2.0)
    assert images.more is None
