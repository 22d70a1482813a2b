"""The stage inspector: its figures are those of the stages, its table says all that ran."""

from __future__ import annotations

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.pictures.inspector import HEAD, changed_settings, inspect
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.replay import replay
from comfyui_aot.aot.tokens.quality import kept_rank, reconstruction_error
from comfyui_aot.aot.tokens.video_tokens import ENCODE, Layout, StageRecord, VideoTokens

CHAIN = "intra:budget=60,eps=0.05+inter:keep_ratio=0.2"


@pytest.fixture(scope="module")
def full() -> VideoTokens:
    layout = Layout(4, (18, 18))
    random = torch.Generator().manual_seed(0)
    scene = torch.randn(1, layout.cells, 16, generator=random)
    noise = torch.randn(4, layout.cells, 16, generator=random)
    shallow, deep = torch.rand(2, 4, layout.cells, generator=random)
    record = StageRecord(ENCODE, {"model": "drawn", "frames": 4}, 324, 324, 12.0)
    times = torch.arange(4, dtype=torch.float64)
    return VideoTokens.encoded(scene + 0.4 * noise, layout, shallow, deep, times, model="drawn", history=(record,))


def test_every_stage_gets_its_own_figures_where_the_full_tokens_are_given(full: VideoTokens) -> None:
    halfway = parse("intra:budget=60,eps=0.05")(full)
    reduced = parse(CHAIN)(full)
    found = inspect(reduced, full)
    assert [line.record.name for line in found.lines] == ["encode", "intra", "inter"]
    for line, tokens in zip(found.lines, (full, halfway, reduced), strict=True):
        assert line.rank == pytest.approx(kept_rank(tokens), rel=1e-6)
        assert line.error == pytest.approx(reconstruction_error(full, tokens), abs=1e-6)
    assert found.lines[0].error == pytest.approx(0, abs=1e-6)
    assert found.lines[1].frames == pytest.approx(1)
    assert found.lines[2].frames > 1


def test_times_are_those_of_when_the_stages_first_ran(full: VideoTokens) -> None:
    reduced = parse(CHAIN)(full)
    assert [line.record for line in inspect(reduced, full).lines] == list(reduced.history)


def test_without_the_full_tokens_only_what_is_left_is_measured_and_the_table_says_so(full: VideoTokens) -> None:
    reduced = parse(CHAIN)(full)
    found = inspect(reduced)
    assert [line.rank is None for line in found.lines] == [True, True, False]
    assert all(line.error is None for line in found.lines)
    assert "The full tokens are not given" in found.markdown()
    assert "The full tokens are not given" not in inspect(reduced, full).markdown()
    assert all(row[HEAD.index("error")] == "-" for row in found.rows)


def test_the_markdown_has_a_row_a_stage_with_its_tokens_and_settings(full: VideoTokens) -> None:
    reduced = parse(CHAIN)(full)
    lines = inspect(reduced).markdown().splitlines()
    (intra,) = [line for line in lines if line.startswith("| intra")]
    record = reduced.history[1]
    assert f"| {record.tokens_in} | {record.tokens_out} |" in intra
    assert "budget=60, eps=0.05" in intra
    assert "max_iterations" not in intra
    assert lines[0].startswith(f"**{reduced.tokens_kept} of {reduced.tokens_full} tokens")


def test_settings_that_are_the_default_are_not_told_and_those_of_unknown_stages_all_are() -> None:
    known = parse("inter:keep_ratio=0.3").stages[0]
    assert changed_settings(StageRecord("inter", known.settings(), 2, 1, 0.0)) == "as by default"
    assert changed_settings(StageRecord("gone", {"size": 3, "share": 0.5}, 2, 1, 0.0)) == "size=3, share=0.5"


def test_the_table_is_a_picture(full: VideoTokens) -> None:
    image = inspect(parse(CHAIN)(full), full).picture()
    assert image.dtype == torch.float32
    assert image.shape[0] == 1
    assert image.shape[2] <= 1600


def test_running_stages_again_makes_the_same_tokens(full: VideoTokens) -> None:
    reduced = parse("aot:retention=0.2,clips=dynamic,cut_lowest=1")(full)
    *_, last = replay(full, reduced)
    assert torch.equal(last.reduced.features, reduced.features)
    assert [step.record.name for step in replay(full, reduced)] == ["intra", "inter"]


def test_a_stage_that_is_not_here_cannot_run_again(full: VideoTokens) -> None:
    strange = VideoTokens(
        **{name: getattr(full, name) for name in VideoTokens.__dataclass_fields__ if name != "history"},
        history=(*full.history, StageRecord("gone", {}, 1, 1, 0.0)),
    )
    with pytest.raises(InputError, match=r"'gone' cannot be run again"):
        inspect(strange, full)
