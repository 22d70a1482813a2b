"""Token map videos, judged by the pictures that a player gets of the written file."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.pictures.roles import ROLE_STYLES
from comfyui_aot.aot.pictures.token_video import Overlay, paced, token_video
from comfyui_aot.aot.stages.methods.anchor_ot.intra import IntraFrame
from comfyui_aot.aot.tokens.video_tokens import ENCODE, Blocks, Layout, Role, StageRecord, VideoTokens
from comfyui_aot.aot.video.frames import Frames

SKIN = (210, 150, 120)
"""A colour far from grey and from every outline."""
GRID = (4, 4)
NEAR = 30
"""Levels that a colour may change by in the file: 4:2:0, and PyAV 15 reads BT.709 as BT.601."""


def clip(count: int, height: int = 180, width: int = 320, gap: float = 0.5) -> Frames:
    pixels = torch.tensor(SKIN, dtype=torch.uint8).expand(count, height, width, 3).contiguous()
    return Frames(pixels, torch.arange(count, dtype=torch.float64) * gap, "plain.mp4")


def encoded(frames: int, grid: tuple[int, int] = GRID, shown: int | None = None) -> VideoTokens:
    layout = Layout(frames, grid, "none", "none")
    random = torch.Generator().manual_seed(frames)
    features = torch.randn(frames, layout.cells, 8, generator=random)
    shallow, deep = torch.rand(2, frames, layout.cells, generator=random)
    times = torch.arange(frames, dtype=torch.float64) / 2
    settings = {"frames": shown} if shown else {}
    record = StageRecord(ENCODE, settings, layout.sources * frames, layout.sources * frames, 1.0)
    return VideoTokens.encoded(features, layout, shallow, deep, times, model="test model", history=(record,))


def one_a_frame(frames: int, shown: int | None = None) -> VideoTokens:
    """In frame t only the cell of row 0 and column t % 4 is left, distinct; all others are dropped."""
    full = encoded(frames, shown=shown).to_language_grid()
    weights = torch.zeros(frames, frames, *GRID)
    for t in range(frames):
        weights[t, t, 0, t % 4] = 1
    factor = Blocks(weights.flatten(1)[None], (frames,), (full.map.kept,))
    place = torch.tensor([(t, 0, t % 4) for t in range(frames)])
    return full.reduced(factor, place, torch.full((frames,), int(Role.DISTINCT), dtype=torch.uint8))


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(video=0)]


def cell_centre(picture: np.ndarray, y: int, x: int, left: int = 0, width: int = 640, height: int = 360) -> np.ndarray:
    return picture[round((y + 0.5) * height / 4) + 12, left + round((x + 0.3) * width / 4)]


def is_shown(colour: np.ndarray) -> bool:
    return bool(np.abs(colour - np.array(SKIN)).max() < NEAR)


def is_dark(colour: np.ndarray) -> bool:
    return bool(colour.max() < 60)


def test_every_frame_shows_its_own_tokens_for_its_own_time(tmp_path: Path) -> None:
    token_video([Overlay(one_a_frame(16), "What?", "a fox")], clip(16), tmp_path / "map.mp4", width=640)
    pictures = decoded(tmp_path / "map.mp4")
    assert len(pictures) == 80  # 8 seconds, 10 a second
    for time, picture in enumerate(pictures):
        index = time // 5
        for y, x in itertools.product(range(4), range(4)):
            kept = (y, x) == (0, index % 4)
            colour = cell_centre(picture, y, x)
            assert is_shown(colour) if kept else is_dark(colour), (time, y, x, colour)


def test_it_is_h264_that_plays_everywhere_and_begins_with_its_index(tmp_path: Path) -> None:
    token_video([Overlay(one_a_frame(2))], clip(2), tmp_path / "map.mp4", width=321, metadata={"workflow": '{"a": 1}'})
    with av.open(str(tmp_path / "map.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.width % 2 == stream.height % 2 == 0
        assert stream.width == 322
        assert stream.pix_fmt == "yuv420p"
        assert stream.codec_context.name in ("h264", "mpeg4")
        assert stream.codec_context.colorspace == 1
        assert file.metadata["workflow"] == '{"a": 1}'
    content = (tmp_path / "map.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert [path.name for path in tmp_path.iterdir()] == ["map.mp4"]


def test_outlines_have_the_colours_of_the_token_map(tmp_path: Path) -> None:
    full = encoded(1)
    token_video([Overlay(full)], clip(1), tmp_path / "map.mp4", width=640)
    picture = decoded(tmp_path / "map.mp4")[0]
    edge = picture[180, 0:4].mean(0)
    assert np.abs(edge - np.array(ROLE_STYLES[Role.KEPT].colour)).max() < NEAR


def test_two_variants_play_side_by_side(tmp_path: Path) -> None:
    overlays = [Overlay(encoded(4), "What?", "a fox"), Overlay(one_a_frame(4), "What?", "a fox")]
    token_video(overlays, clip(4), tmp_path / "map.mp4", width=1288)
    picture = decoded(tmp_path / "map.mp4")[0]
    assert picture.shape[1] == 1288
    assert is_shown(cell_centre(picture, 3, 3))
    assert is_dark(cell_centre(picture, 3, 3, left=648))
    assert is_shown(cell_centre(picture, 0, 0, left=648))


def test_an_encoders_tubelets_show_both_their_frames(tmp_path: Path) -> None:
    frames = clip(8, gap=0.625)
    token_video([Overlay(one_a_frame(4, shown=8))], frames, tmp_path / "map.mp4", width=640)
    pictures = decoded(tmp_path / "map.mp4")
    for index in range(8):
        picture = pictures[round((index + 0.5) * len(pictures) / 8)]
        assert is_shown(cell_centre(picture, 0, index // 2))
        assert is_dark(cell_centre(picture, 0, (index // 2 + 1) % 4))


def test_the_budget_the_question_and_the_answer_are_below(tmp_path: Path) -> None:
    tokens = one_a_frame(1)
    heights, words = [], []
    for number, overlay in enumerate((Overlay(tokens), Overlay(tokens, "What?"), Overlay(tokens, "What?", "a fox"))):
        token_video([overlay], clip(1), tmp_path / f"{number}.mp4", width=640)
        picture = decoded(tmp_path / f"{number}.mp4")[0]
        heights.append(picture.shape[0])
        words.append((picture[400:].min(-1) > 140).sum())
    assert heights == sorted(set(heights))
    assert words == sorted(set(words))
    assert words[0] > 500


def test_a_long_answer_of_many_lines_takes_three(tmp_path: Path) -> None:
    tokens = one_a_frame(1)
    for name, answer in (("long", "word\n\n" * 3000), ("three", "word " * 100), ("empty", " \n")):
        token_video([Overlay(tokens, "What?", answer)], clip(1), tmp_path / f"{name}.mp4", width=640)
    heights = {name: decoded(tmp_path / f"{name}.mp4")[0].shape[0] for name in ("long", "three", "empty")}
    assert heights["long"] == heights["three"] > heights["empty"]


@pytest.mark.parametrize(("height", "width"), [(37, 53), (640, 361), (64, 64), (101, 401)])
def test_any_shape_of_clip_has_room(tmp_path: Path, height: int, width: int) -> None:
    token_video([Overlay(one_a_frame(2), "What?", "a fox")] * 2, clip(2, height, width), tmp_path / "a.mp4", width=600)
    picture = decoded(tmp_path / "a.mp4")[0]
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert picture.shape[1] <= 600
    shown = np.abs(picture - np.array(SKIN)).max(-1) < NEAR
    assert shown[:, :300].sum() > 50
    assert shown[:, 300:].sum() > 50


@pytest.mark.parametrize(
    ("count", "gap", "seconds", "rate", "length"),
    [
        (16, 0.5, None, 10, 8.0),  # its own speed
        (16, 600 / 16, None, 10, 30.0),  # ten minutes
        (4, 0.04, None, 10, 5.0),
        (1, 1.0, None, 10, 5.0),
        (132, 0.04, None, 25, 5.28),
        (4096, 0.04, None, 30, 4096 / 30),  # longer than 30 s, so that every frame is there
        (16, 0.5, 20.0, 10, 20.0),
        (30, 0.5, 1.0, 30, 1.0),
    ],
)
def test_the_length_is_the_clips_own_or_one_that_is_good_to_watch(
    count: int, gap: float, seconds: float | None, rate: int, length: float
) -> None:
    frames = Frames(torch.zeros(count, 1, 1, 3, dtype=torch.uint8), torch.arange(count).double() * gap, "x")
    pace = paced(frames, seconds)
    assert pace.rate == rate
    assert sum(pace.lasts) / pace.rate == pytest.approx(length, abs=0.05)
    assert max(pace.lasts) - min(pace.lasts) <= 1
    assert min(pace.lasts) >= 1


def test_a_frame_stays_until_the_time_of_the_next_and_none_is_skipped() -> None:
    times = torch.tensor([0.0, 4.0, 4.001, 4.002, 4.003, 9.9, 9.9001], dtype=torch.float64)
    pace = paced(Frames(torch.zeros(7, 1, 1, 3, dtype=torch.uint8), times, "x"))
    assert min(pace.lasts) == 1
    assert sum(pace.lasts) / pace.rate == pytest.approx(9.9, abs=0.1)
    assert pace.lasts[0] / pace.rate == pytest.approx(4.0, abs=0.1)
    assert pace.lasts[4] / pace.rate == pytest.approx(5.9, abs=0.2)


@pytest.mark.parametrize("seconds", [0.5, float("nan"), float("inf")])
def test_seconds_that_are_too_few_are_refused_in_a_line(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(InputError, match=r"16 frames in .* seconds; give 0\.53 seconds or more"):
        token_video([Overlay(one_a_frame(16))], clip(16), tmp_path / "a.mp4", seconds=seconds)
    assert list(tmp_path.iterdir()) == []


def test_frames_and_tokens_that_do_not_go_together_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="left describe 4 frames and those on the right 8; connect tokens of the same"):
        token_video([Overlay(encoded(4)), Overlay(encoded(8))], clip(4), tmp_path / "a.mp4")
    with pytest.raises(InputError, match="describe 4 frames and 5 frames were given"):
        token_video([Overlay(encoded(4))], clip(5), tmp_path / "a.mp4")
    with pytest.raises(InputError, match="token map video 319 pixels wide; give 320 to 2400"):
        token_video([Overlay(encoded(4))], clip(4), tmp_path / "a.mp4", width=319)
    with pytest.raises(InputError, match="no pixel in a token map video 320 pixels wide; give a larger width"):
        token_video([Overlay(encoded(1, (4, 400)))], clip(1), tmp_path / "a.mp4", width=320)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        token_video([Overlay(one_a_frame(1))], clip(1), tmp_path / "none" / "a.mp4")


def test_a_video_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 4
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        token_video([Overlay(one_a_frame(4))], clip(4), tmp_path / "a.mp4", width=640, on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_reduced_tokens_of_a_real_stage_can_be_drawn(tmp_path: Path) -> None:
    tokens = IntraFrame(budget=10, window=4)(encoded(3, (8, 8)))
    token_video([Overlay(tokens, "\u043b\u0438\u0441\u0430?", "Stra\u00dfe")], clip(3), tmp_path / "a.mp4", width=640)
    assert len(decoded(tmp_path / "a.mp4")) == 50
