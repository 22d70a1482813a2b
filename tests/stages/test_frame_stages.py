"""Stages on frames: which they keep, what tokens then know of all frames, and that streams make the same."""

import dataclasses
import json

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.pictures import token_map
from comfyui_aot.aot.pictures.inspector import inspect
from comfyui_aot.aot.pictures.timeline import timeline
from comfyui_aot.aot.stages import FrameStage, every_stage
from comfyui_aot.aot.stages.chain import Chain, is_fixed, parse
from comfyui_aot.aot.stages.methods.frames.aks import LARGEST_SCORES, FramesForQuestion
from comfyui_aot.aot.stages.methods.frames.differ import least_alike
from comfyui_aot.aot.stages.methods.frames.fewer import FewerFrames
from comfyui_aot.aot.streaming import stream
from comfyui_aot.aot.tokens.storage import load, save
from comfyui_aot.aot.video.choice import with_scores
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import open_video
from comfyui_aot.tests.support.searches import examples
from comfyui_aot.tests.support.stages import check_map, check_places
from comfyui_aot.tests.support.tiny import tiny_model

NAMES = [name for name, kind in every_stage().items() if issubclass(kind, FrameStage)]
CHAINS = (
    "fewer:frames=3",
    "fewer:retention=0.5+aot:retention=0.5",
    "differ:frames=4+vidcom2:retention=0.5",
    "smaller:retention=0.4",
    "fewer:frames=4+smaller:retention=0.5+uniform:retention=0.5",
)


def moving(count, seed=0):
    """Frames of noise in which a square moves, some of them twice."""
    made = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 40, (1, 56, 56, 3), generator=made, dtype=torch.uint8).repeat(count, 1, 1, 1)
    for i in range(count):
        pixels[i, 8:32, 3 * (i // 2) : 3 * (i // 2) + 20] = 200
    return with_scores(Frames(pixels, torch.arange(count).double() / 2, "moving"), torch.rand(count, generator=made))


@pytest.fixture(scope="module")
def tiny(embedded_folder):
    return tiny_model(embedded_folder, cells=6)


@pytest.mark.parametrize("name", NAMES)
@given(count=st.integers(1, 40), share=st.floats(0.01, 1), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=examples(10))
def test_a_budget_is_met_by_as_many_whole_frames_as_fit(name, count, share, seed):
    frames = moving(count, seed)
    stage = every_stage()[name]().at_retention(share)
    if name == "smaller":
        assert stage(frames).count == count
        return
    fit = int(share * count + 1e-6)
    if not fit:
        with pytest.raises(InputError, match="less than one of them"):
            stage(frames)
        return
    chosen = stage(frames)
    assert chosen.count == fit
    assert bool((chosen.choice.index.diff() > 0).all())
    assert torch.equal(chosen.pixels, frames.pixels[chosen.choice.index])
    assert torch.equal(chosen.timestamps, frames.timestamps[chosen.choice.index])
    assert [(line.name, line.frames) for line in chosen.choice.history] == [(name, fit)]


@pytest.mark.parametrize("chain", CHAINS)
def test_tokens_speak_of_all_frames_that_were_given(chain, tiny):
    frames, made = moving(8), parse(chain)
    full = tiny.encode(frames)
    tokens = made.after_encoding(tiny.encode(made.on_frames(frames, tiny.layout)))
    everything = tokens.over_given()
    assert tokens.tokens_full == full.tokens_full == everything.tokens_full
    before = [stage.name for stage in made.before_tokens]
    assert [record.name for record in tokens.history][: len(before) + 1] == [*before, "encode"]
    assert tokens.history[0].tokens_in == full.tokens_full
    assert tokens.given.exact
    check_map(full, everything)
    check_places(everything)
    assert torch.equal(
        everything.frame, made.on_frames(frames, tiny.layout).choice.index[tokens.to_language_grid().frame]
    )


@pytest.mark.parametrize("chain", CHAINS)
def test_a_stream_of_chosen_frames_is_their_tokens(chain, tiny):
    frames, made = moving(8), parse(chain)
    chosen = made.on_frames(frames, tiny.layout)
    whole, streamed = made.after_encoding(tiny.encode(chosen)), stream(tiny, chosen, made.on_tokens)
    assert torch.equal(whole.features, streamed.features)
    assert torch.equal(whole.over_given().place, streamed.over_given().place)
    assert [each.name for each in whole.history] == [each.name for each in streamed.history]


@pytest.mark.parametrize("chain", CHAINS)
def test_saved_tokens_still_know_what_was_given(chain, tiny, tmp_path):
    made = parse(chain)
    tokens = made.after_encoding(tiny.encode(made.on_frames(moving(8), tiny.layout)))
    save(tokens, tmp_path / "tokens.safetensors")
    again = load(tmp_path / "tokens.safetensors")
    assert again.layout == tokens.layout
    assert again.retention == tokens.retention
    assert torch.equal(again.over_given().place, tokens.over_given().place)


def test_only_chosen_frames_of_a_file_are_decoded(bunny):
    video = open_video(bunny, Sampling(frames=12), 48)
    chosen = parse("differ:frames=4").on_frames(video)
    (decoded,) = chosen.parts(8)
    assert decoded.count == chosen.count == 4
    (every,) = video.parts(12)
    assert torch.equal(decoded.pixels, every.pixels[chosen.choice.index])
    assert torch.equal(parse("differ:frames=4").on_frames(every).choice.index, chosen.choice.index)


def test_a_number_of_tokens_needs_a_model(tiny):
    frames = moving(8)
    with pytest.raises(InputError, match="connect vllm"):
        FewerFrames(keep_tokens=40)(frames)
    assert FewerFrames(keep_tokens=40)(frames, tiny.layout).count == 4  # of 9 tokens, and 4 tokens are left over


def test_fewer_takes_both_ends_and_one_from_the_middle():
    assert FewerFrames(frames=3)(moving(9)).choice.index.tolist() == [0, 4, 8]
    assert FewerFrames(frames=1)(moving(9)).choice.index.tolist() == [4]
    with pytest.raises(InputError, match="10 frames of 9"):
        FewerFrames(frames=10)(moving(9))


@given(count=st.integers(1, 24), keep=st.integers(1, 24), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=examples(20))
def test_frames_that_differ_are_those_of_dropping_one_by_one(count, keep, seed):
    values = np.random.default_rng(seed).random((count, 3)).round(1)
    left = list(range(count))
    while len(left) > keep:
        apart = [np.abs(values[left[i]] - values[left[i - 1]]).mean() for i in range(1, len(left))]
        left.pop(1 + int(np.argmin(apart)))
    assert least_alike(values, min(keep, count)).tolist() == left


def test_equal_frames_go_first():
    assert parse("differ:frames=4").on_frames(moving(8)).choice.index.tolist() == [0, 2, 4, 6]


@given(count=st.integers(1, 60), number=st.integers(1, 60), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=examples(20))
def test_scores_fill_the_number_of_frames(count, number, seed):
    scores = np.random.default_rng(seed).random(count).round(1)
    chosen, _ = FramesForQuestion().chosen(scores, min(number, count))
    assert len(chosen) == min(number, count)
    assert (np.diff(chosen) > 0).all()


def test_scores_come_from_a_file_or_from_the_frames(tmp_path):
    frames = dataclasses.replace(moving(8), choice=None)
    with pytest.raises(InputError, match="needs a score of every frame"):
        FramesForQuestion(frames=2)(frames)
    for text in (json.dumps([0, 1, 0, 0, 0, 0, 9, 0]), "0\n1\n0\n0\n0\n0\n9\n0\n"):
        (tmp_path / "scores.txt").write_text(text)
        chosen = FramesForQuestion(frames=2, scores=str(tmp_path / "scores.txt"))(frames)
        assert chosen.choice.index.tolist() == [1, 6]
    with pytest.raises(InputError, match="16 frames shared by 32 parts leave none"):
        FramesForQuestion(frames=16, fill=False)(moving(40))
    for text, says in (("1 2", "2 scores of 8 frames"), ("1 x", "no number"), ("nan", "not finite"), ("", "no scores")):
        (tmp_path / "scores.txt").write_text(text)
        with pytest.raises(InputError, match=says):
            FramesForQuestion(frames=2, scores=str(tmp_path / "scores.txt"))(frames)
    with (tmp_path / "scores.txt").open("wb") as file:
        file.truncate(LARGEST_SCORES + 1)
    with pytest.raises(InputError, match="is larger than 64 MiB"):
        FramesForQuestion(frames=2, scores=str(tmp_path / "scores.txt"))(frames)


def test_chains_hold_stages_on_frames_first_and_take_a_retention_at_their_end():
    with pytest.raises(InputError, match="put it first"):
        parse("aot+fewer")
    assert not is_fixed("fewer:frames=8+aot")
    assert is_fixed("fewer:frames=8")
    assert not is_fixed("fewer")
    chain = parse("fewer:frames=8+aot").at_retention(0.1)
    assert chain.stages[1].retention == 0.1
    assert parse("fewer").at_retention(0.5).stages[0].retention == 0.5
    with pytest.raises(InputError, match="before the video is encoded"):
        Chain([FewerFrames()])(None)
    with pytest.raises(InputError, match="smaller already"):
        parse("smaller+smaller").on_frames(moving(4))


def test_a_smaller_grid_is_the_largest_that_fits(tiny):
    frames = moving(4)
    for retention, grid in ((1, (3, 3)), (0.5, (2, 2)), (0.2, (1, 1))):
        layout = tiny.layout(parse(f"smaller:retention={retention}").on_frames(frames))
        assert layout.language_grid == grid
    with pytest.raises(InputError, match="give 4 to 36 tokens"):
        parse("smaller:keep_tokens=3").on_frames(frames, tiny.layout)


def test_the_inspector_runs_only_what_came_after_the_encoder(tiny):
    made = parse("fewer:frames=4+aot:retention=0.5")
    encoded = tiny.encode(made.on_frames(moving(8), tiny.layout))
    shown = inspect(made.after_encoding(encoded), encoded)
    assert [line.record.name for line in shown.lines] == ["fewer", "encode", "intra", "inter"]
    assert shown.tokens_full == 8 * 9
    assert shown.rows[0][-1] == "frames=4"


@pytest.mark.parametrize("count", [4, 8])
def test_a_token_map_is_drawn_on_the_frames_chosen_or_on_all(count, tiny):
    made, frames = parse("fewer:frames=4+aot:retention=0.5"), moving(8)
    chosen = made.on_frames(frames, tiny.layout)
    tokens = made.after_encoding(tiny.encode(chosen))
    drawn = frames if count == 8 else chosen
    assert tokens.on(count).layout.frames == count
    assert token_map(tokens, drawn).shape[0] == timeline(tokens, drawn).shape[0] == 1
