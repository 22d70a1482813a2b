"""Frames merged inside a tower that takes them as a batch, with what comes after it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from comfyui_aot.aot.comparison.cache import digest_of
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import load
from comfyui_aot.aot.pictures.inspector import ATTRIBUTION, inspect
from comfyui_aot.aot.pictures.token_map import stages_of, token_map
from comfyui_aot.aot.stages import TowerStage, stages
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.earlytom import EarlyTom, EarlyTomCells
from comfyui_aot.aot.stages.methods.frames.fewer import FewerFrames
from comfyui_aot.aot.stages.methods.frames.smaller import SmallerFrames
from comfyui_aot.aot.streaming import stream
from comfyui_aot.aot.tokens import storage
from comfyui_aot.aot.tokens.frame_merge import FrameMerge
from comfyui_aot.aot.tokens.quality import figures, language_weights, mass_kept
from comfyui_aot.aot.tokens.video_tokens import ENCODE, STEPS, Extra
from comfyui_aot.tests.support.small_models import saved_or_skipped
from comfyui_aot.tests.support.stages import attempted
from comfyui_aot.tests.support.stock_inputs import QUESTION, random_frames

FAMILIES = ("llava_onevision", "llava_onevision (lmms-lab)", "llava_video (lmms-lab)", "internvl", "smolvlm")
FRAMES = 5


@dataclass(frozen=True)
class Merging(TowerStage):
    """Frames 0, 2 and 4 as they are, or all five as two means; after the first block."""

    name = "merging"
    title = "Merging"
    source = "this test"
    mixes: bool = False

    def __post_init__(self) -> None:
        pass

    def settings(self):
        return {"mixes": self.mixes}

    def blocks(self, used):
        return (0,)

    def merge(self, states):
        if self.mixes:
            return FrameMerge.of([{0: 0.25, 1: 0.75}, {2: 0.5, 3: 0.25, 4: 0.25}], FRAMES)
        return FrameMerge.of([{0: 1.0}, {2: 1.0}, {4: 1.0}], FRAMES)


@pytest.fixture(scope="module", params=FAMILIES)
def small(request, tmp_path_factory, embedded_folder):
    return load(saved_or_skipped(request.param, tmp_path_factory.mktemp("models"), embedded_folder))


@pytest.fixture(scope="module")
def clip():
    frames = random_frames(FRAMES)
    assert frames.count == FRAMES
    return frames


@pytest.fixture(scope="module")
def full(small, clip):
    return small.encode(clip)


@pytest.fixture(scope="module")
def chosen(small, clip):
    return small.encode(Merging()(clip))


@pytest.fixture(scope="module")
def mixed(small, clip):
    return small.encode(Merging(mixes=True)(clip))


def test_frames_left_are_what_they_are_in_the_whole_video(full, chosen):
    sources = full.layout.sources
    assert chosen.frames_left == (0, 2, 4)
    assert chosen.layout == full.layout
    expected = full.features.reshape(FRAMES, sources, -1)[[0, 2, 4]].flatten(0, 1)
    torch.testing.assert_close(chosen.features, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chosen.map.apply(full.features), chosen.features, atol=1e-5, rtol=1e-5)
    assert chosen.map.exact
    for name in (Extra.LAST, Extra.KEYS):
        torch.testing.assert_close(chosen.extras[name][[0, 2, 4]], full.extras[name][[0, 2, 4]], atol=1e-4, rtol=1e-4)
        assert not chosen.extras[name][[1, 3]].any()
    torch.testing.assert_close(chosen.deep[[0, 2, 4]], full.deep[[0, 2, 4]], atol=1e-4, rtol=1e-4)


def test_mixed_frames_are_attributed_and_not_exact(full, mixed):
    assert mixed.frames_left == (1, 2)
    assert not mixed.map.exact
    torch.testing.assert_close(mixed.map.row_mass(), torch.ones(len(mixed.features), dtype=torch.float64))
    assert not torch.allclose(mixed.map.apply(full.features), mixed.features, atol=1e-4)
    assert not EarlyTomCells(retention=0.2)(mixed).map.exact


def test_the_history_says_what_happened(chosen, clip):
    encoder, step = chosen.history
    assert (encoder.name, step.name) == (ENCODE, "merging")
    assert encoder.settings[STEPS] == [["merging", {"mixes": False}]]
    cells = chosen.layout.language_cells
    assert (step.tokens_in, step.tokens_out, chosen.tokens_kept) == (FRAMES * cells, 3 * cells, 3 * cells)
    assert chosen.retention == pytest.approx(0.6)


def test_other_steps_are_other_tokens(full, chosen, mixed):
    assert len({digest_of(each) for each in (full, chosen, mixed)}) == 3
    assert STEPS not in full.history[0].settings


@pytest.mark.parametrize("name", stages())
@pytest.mark.filterwarnings("ignore:These tokens come without")
def test_any_stage_after_it_meets_its_budget_over_the_frames_that_came_in(name, small, chosen, mixed):
    for tokens in (chosen, mixed):
        if stages()[name].asks:
            tokens = small.about(tokens, QUESTION, assistant=small)
        reduced, refused = attempted(parse(name).at_retention(0.38), tokens)
        if reduced is None:
            assert name == "dycoke" and "give " in refused  # it cannot keep so few
            continue
        assert reduced.tokens_kept == round(0.38 * tokens.tokens_full)
        assert set(reduced.frame.tolist()) <= set(tokens.frames_left)
        torch.testing.assert_close(reduced.map.means.row_mass().float(), torch.ones(len(reduced.features)))
        assert reduced.counts is None or len(reduced.counts) == FRAMES
        assert reduced.history[:2] == tokens.history


def test_a_share_above_what_is_left_keeps_all_that_is(chosen):
    assert parse("uniform:retention=0.9")(chosen).tokens_kept == chosen.tokens_kept


@torch.no_grad()
def test_frames_left_and_reduced_can_be_asked_about(small, chosen):
    for tokens in (chosen, parse("aot:retention=0.3")(chosen)):
        logits = small.forward(small.prompt_inputs(tokens, QUESTION), small.new_cache())
        assert bool(torch.isfinite(logits).all())


def test_a_stream_is_the_same(small, clip, chosen):
    stage = EarlyTomCells(retention=0.3)
    streamed = stream(small, Merging()(clip), [stage])
    assert torch.equal(streamed.features, stage(chosen).features)


def test_saved_tokens_come_back(chosen, mixed, tmp_path):
    file, later = tmp_path / "tokens.safetensors", parse("cosine:retention=0.3")
    for tokens in (chosen, mixed):
        for each in (parse("evs:retention=0.3")(tokens), tokens):
            storage.save(each, file)
            again = storage.load(file)
            assert again.map.exact is each.map.exact
            assert again.frames_left == each.frames_left
            assert torch.equal(again.map.row_mass(), each.map.row_mass())
        assert torch.equal(later(storage.load(file)).features, later(tokens).features)


@dataclass(frozen=True)
class Ends(TowerStage):
    """The first and the last frame, or the mean of all; after the first block."""

    name = "ends"
    title = "Ends"
    source = "this test"
    mixes: bool = False

    def __post_init__(self) -> None:
        pass

    def settings(self):
        return {"mixes": self.mixes}

    def blocks(self, used):
        return (0,)

    def merge(self, states):
        frames = len(states)
        if self.mixes:
            return FrameMerge.of([dict.fromkeys(range(frames), 1 / frames)], frames)
        return FrameMerge.of([{0: 1.0}, {frames - 1: 1.0}], frames)


def test_frames_chosen_before_are_merged_inside_and_lead_back_to_all(small, full, clip, tmp_path):
    tokens = small.encode(Ends()(FewerFrames(frames=3)(clip)))
    picked = clip.pick(torch.tensor([0, 2, 4])).timestamps.tolist()
    assert tokens.timestamps.tolist() == picked and tokens.frames_left == (0, 2)
    assert [record.name for record in tokens.history] == ["fewer", ENCODE, "ends"]
    assert tokens.tokens_full == full.tokens_full and tokens.tokens_encoded == 3 * full.layout.language_cells
    for each in (tokens, parse("aot:retention=0.5")(tokens)):
        over = each.over_given()
        torch.testing.assert_close(over.map.apply(full.features), over.features, atol=1e-5, rtol=1e-5)
        assert over.map.exact and set(over.frame.tolist()) == {0, 4}
        storage.save(each, tmp_path / "tokens.safetensors")
        again = storage.load(tmp_path / "tokens.safetensors")
        assert again.frames_left == each.frames_left and again.tokens_full == full.tokens_full
        assert abs(language_weights(again.over_given()) - language_weights(over)).max() == 0


def test_what_is_mixed_inside_is_attributed_over_all_frames_too(small, clip):
    tokens = small.encode(Ends(mixes=True)(FewerFrames(frames=3)(clip)))
    assert tokens.given.exact and not tokens.is_exact
    over = tokens.over_given()
    assert not over.map.exact and "attribution" in stages_of(over)
    frames = mass_kept(over).flatten(1).sum(1)
    assert (frames > 0.1).tolist() == [True, False, True, False, True]


def test_smaller_frames_are_merged_inside_by_their_own_tokens(small, clip):
    tokens = small.encode(Merging()(SmallerFrames(retention=0.5)(clip)))
    cells = tokens.layout.language_cells
    assert tokens.history[-1].tokens_out == tokens.tokens_kept == 3 * cells
    assert parse("uniform:retention=0.4")(tokens).tokens_kept == round(0.4 * FRAMES * cells)


def test_a_question_stays_with_the_frames_and_a_stream_asks_it(small, clip, chosen):
    about = small.about(chosen, QUESTION, assistant=small)
    reduced = parse("dytok:retention=0.3")(about)
    assert reduced.question is about.question
    streamed = stream(small, Merging()(clip), parse("dart:retention=0.3").on_tokens, question=QUESTION)
    assert torch.equal(streamed.features, parse("dart:retention=0.3")(small.about(chosen, QUESTION)).features)


def test_a_stage_inside_the_llm_comes_after_it(small, chosen):
    tokens = parse("fastv:layer=1")(chosen)
    assert [each.name for each in tokens.inner] == ["fastv"]
    assert tokens.tokens_kept == chosen.tokens_kept


def test_pictures_and_figures_work_and_say_what_is_attribution(full, chosen, mixed, clip):
    reduced = parse("evs:retention=0.3")(mixed)
    assert figures(reduced, mixed).error == pytest.approx(0, abs=1) and figures(mixed, mixed).error < 1e-5
    assert figures(chosen, chosen).error < 1e-5
    assert ATTRIBUTION in inspect(reduced, mixed).notes
    assert ATTRIBUTION not in inspect(parse("evs:retention=0.3")(chosen), chosen).notes
    assert "attribution" in stages_of(reduced)
    assert token_map(reduced, clip).shape[-1] == 3


def test_full_tokens_of_another_tower_are_refused_in_a_line(full, chosen):
    with pytest.raises(InputError, match="same stages inside the tower"):
        inspect(parse("evs:retention=0.3")(chosen), full)


def test_hooks_are_gone_after_it_even_when_it_stops_inside(small, clip):
    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    def hooks():
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in small.blocks.modules]

    before = hooks()
    with pytest.raises(KeyboardInterrupt):
        small.encode(Merging()(clip), on_progress=stop)
    assert hooks() == before
    assert small.encode(clip).frames_left is None


def test_earlytom_runs_on_its_blocks(small, clip):
    tokens = small.encode(EarlyTom(similarity=0, layers="0")(clip))
    assert len(tokens.frames_left) == 4  # one run of five: its three middle frames become two as released
    assert tokens.extras[Extra.RUNS].tolist().count(0) >= 1
    assert EarlyTomCells(target=0.2)(tokens).tokens_kept <= tokens.tokens_kept


def test_a_clip_that_does_not_fit_at_once_is_refused_with_what_does(small, clip, monkeypatch):
    from comfyui_aot.aot.models import encoder

    monkeypatch.setattr(encoder, "frame_bytes", lambda *args: 2**60)
    with pytest.raises(InputError, match=r"take at most 1 frames, or leave the stage out"):
        small.encode(Merging()(clip))
