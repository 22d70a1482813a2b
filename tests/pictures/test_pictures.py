"""Token maps, judged by their pixels and by the counts in their legend."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.pictures import LegendEntry, Outcome, canvas, cell_outcomes, legend, save_png, token_map
from comfyui_aot.aot.pictures.outcomes import SURVIVES
from comfyui_aot.aot.pictures.overlay import AREA, LUMA
from comfyui_aot.aot.pictures.roles import ROLE_STYLES
from comfyui_aot.aot.stages.methods.anchor_ot.inter import InterFrame
from comfyui_aot.aot.stages.methods.anchor_ot.intra import IntraFrame
from comfyui_aot.aot.tokens.video_tokens import Blocks, Layout, Role, TokenMap, VideoTokens
from comfyui_aot.aot.video.frames import Frames

SKIN = (210, 150, 120)
COLOURS = {Outcome(1 << int(role)): style.colour for role, style in ROLE_STYLES.items() if role is not Role.NEWLINE}
"""A colour that no outline has, bright and far from grey."""


def legend_of(tokens: VideoTokens) -> tuple[LegendEntry, ...]:
    return legend(tokens, cell_outcomes(tokens).outcome)


def plain_frames(count: int, height: int = 120, width: int = 160, colour: tuple[int, int, int] = SKIN) -> Frames:
    pixels = torch.tensor(colour, dtype=torch.uint8).expand(count, height, width, 3).contiguous()
    return Frames(pixels, torch.arange(count, dtype=torch.float64) / 2, "plain.mp4")


def encoded(frames: int, layout: Layout | None = None) -> VideoTokens:
    layout = layout or Layout(frames, (12, 12))
    random = torch.Generator().manual_seed(frames)
    features = torch.randn(frames, layout.cells, 8, generator=random)
    shallow, deep = torch.rand(2, frames, layout.cells, generator=random)
    newline = torch.ones(8) if layout.newlines else None
    times = torch.arange(frames, dtype=torch.float64) / 2
    return VideoTokens.encoded(features, layout, shallow, deep, times, newline=newline, model="test model")


def reduced(frames: int, layout: Layout | None = None) -> VideoTokens:
    intra = IntraFrame(budget=40, window=6)
    return InterFrame(clip_length=4, keep_ratio=0.3)(intra(encoded(frames, layout)))


def placed(
    layout: Layout, tokens: list[tuple[tuple[int, int, int], Role]], joins: dict[tuple[int, int, int], int] | int = 0
) -> VideoTokens:
    """Tokens with these places and roles.

    Each is the mean of its own cell and of those that join it, by place; one number: all other cells join that token.
    """
    full = encoded(layout.frames, layout).to_language_grid()
    shape = layout.frames, *layout.language_grid
    weights = torch.zeros(len(tokens), *shape)
    for index, (place, _) in enumerate(tokens):
        weights[(index, *place)] = 1
    if isinstance(joins, int):
        weights[joins][weights.sum(0) == 0] = 1
    else:
        for place, index in joins.items():
            weights[(index, *place)] = 1
    weights = weights.flatten(1) / weights.flatten(1).sum(1, keepdim=True)
    factor = Blocks(weights[None], (len(tokens),), (full.map.kept,))
    place = torch.tensor([place for place, _ in tokens])
    return full.reduced(factor, place, torch.tensor([int(role) for _, role in tokens], dtype=torch.uint8))


def cell_pixels(image: Tensor, like: tuple[int, int, int] = canvas.BACKGROUND) -> np.ndarray:
    """The panel of a one-frame picture: rows and columns between the caption and the legend, uint8."""
    pixels = (image[0] * 255).round().byte().numpy()
    inside = (pixels != np.array(like)).any(-1)
    wide = inside.sum(1) > 0.4 * pixels.shape[1]
    rows = np.flatnonzero(wide)
    longest = max(np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1), key=len)
    columns = np.flatnonzero(inside[longest].mean(0) > 0.9)
    return pixels[longest[0] : longest[-1] + 1, columns[0] : columns[-1] + 1]


def cell(panel: np.ndarray, grid: tuple[int, int], y: int, x: int) -> np.ndarray:
    height, width = panel.shape[:2]
    top, bottom = y * height // grid[0], (y + 1) * height // grid[0]
    left, right = x * width // grid[1], (x + 1) * width // grid[1]
    return panel[top:bottom, left:right]


def centre(pixels: np.ndarray) -> np.ndarray:
    return pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].astype(int)


def share_of(pixels: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((pixels == np.array(colour)).all(-1).mean())


GRID = (4, 4)
ONE_OF_EACH = [
    ((0, 0, 0), Role.KEYFRAME),
    ((0, 0, 2), Role.DISTINCT),
    ((0, 2, 0), Role.KEYFRAME),
    ((0, 2, 2), Role.KEPT),
    ((0, 2, 0), Role.MERGED),
]


@pytest.fixture(scope="module")
def panel() -> np.ndarray:
    tokens = placed(Layout(1, GRID, "none", "none"), ONE_OF_EACH)
    return cell_pixels(token_map(tokens, plain_frames(1)))


def test_a_picture_is_an_image_as_comfyui_passes_them() -> None:
    image = token_map(reduced(8), plain_frames(8))
    assert image.dtype == torch.float32
    assert image.ndim == 4
    assert image.shape[0] == 1
    assert image.shape[3] == 3
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1


def test_an_absorbed_cell_is_grey_and_dim(panel: np.ndarray) -> None:
    shown = centre(cell(panel, GRID, 3, 3))
    assert shown.max() - shown.min() <= 1
    assert shown.max() < 0.5 * np.mean(SKIN)


@pytest.mark.parametrize(("y", "x"), [(0, 0), (0, 2), (2, 0), (2, 2)])
def test_a_surviving_cell_shows_the_picture_as_it_is(panel: np.ndarray, y: int, x: int) -> None:
    assert np.abs(centre(cell(panel, GRID, y, x)) - np.array(SKIN)).max() <= 1


@pytest.mark.parametrize(
    ("y", "x", "outcome"),
    [(0, 0, Outcome.KEYFRAME), (0, 2, Outcome.DISTINCT), (2, 0, Outcome.KEYFRAME), (2, 2, Outcome.KEPT)],
)
def test_a_surviving_cell_has_its_outcomes_outline_on_every_side(
    panel: np.ndarray, y: int, x: int, outcome: Outcome
) -> None:
    pixels = cell(panel, GRID, y, x)
    colour = COLOURS[outcome]
    for side in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert share_of(side, colour) > 0.4
    others = set(COLOURS) - {outcome, Outcome.UPDATED}
    assert all(share_of(pixels, COLOURS[other]) == 0 for other in others)


def test_a_distinct_outline_is_dashed_and_a_keyframe_outline_is_not(panel: np.ndarray) -> None:
    distinct, keyframe = cell(panel, GRID, 0, 2), cell(panel, GRID, 0, 0)
    assert 0.4 < share_of(distinct[-1], COLOURS[Outcome.DISTINCT]) < 0.9
    assert share_of(keyframe[-1], COLOURS[Outcome.KEYFRAME]) == 1


def test_only_a_keyframe_cell_that_lives_on_updated_has_the_corner_mark(panel: np.ndarray) -> None:
    updated, plain = cell(panel, GRID, 2, 0), cell(panel, GRID, 0, 0)
    mark = COLOURS[Outcome.UPDATED]
    assert tuple(updated[2, 2]) == mark
    assert share_of(updated, mark) > 0.05
    assert share_of(plain, mark) == 0


def test_outcomes_differ_in_brightness_or_pattern_without_their_colours(panel: np.ndarray) -> None:
    grey = panel.astype(float) @ np.array(LUMA)
    cells = [cell(grey, GRID, *at) for at in ((0, 0), (0, 2), (2, 0), (2, 2), (3, 3))]
    for index, one in enumerate(cells):
        for other in cells[index + 1 :]:
            height, width = min(one.shape[0], other.shape[0]), min(one.shape[1], other.shape[1])
            assert np.abs(one[:height, :width] - other[:height, :width]).mean() > 1.5


def test_neighbours_of_one_outcome_share_one_outline() -> None:
    tokens = placed(Layout(1, GRID, "none", "none"), [((0, 1, 1), Role.KEYFRAME), ((0, 1, 2), Role.KEYFRAME)])
    drawn = cell_pixels(token_map(tokens, plain_frames(1)))
    left = cell(drawn, GRID, 1, 1)
    middle = left.shape[0] // 2
    assert share_of(left[middle : middle + 1, -4:], COLOURS[Outcome.KEYFRAME]) == 0
    assert share_of(left[middle : middle + 1, :1], COLOURS[Outcome.KEYFRAME]) == 1


@pytest.mark.parametrize("pooled", [False, True])
def test_unreduced_tokens_leave_the_picture_bright(pooled: bool) -> None:
    tokens = encoded(1).to_language_grid() if pooled else encoded(1)
    drawn = cell_pixels(token_map(tokens, plain_frames(1)))
    assert (np.abs(drawn.astype(int) - np.array(SKIN)).max(-1) <= 1).mean() > 0.9


def test_cells_are_drawn_where_the_picture_has_them() -> None:
    pixels = torch.zeros(1, 90, 160, 3, dtype=torch.uint8)
    pixels[:, :45, 80:] = torch.tensor(SKIN, dtype=torch.uint8)
    frames = Frames(pixels, torch.zeros(1, dtype=torch.float64), "quarter.mp4")
    tokens = placed(Layout(1, (2, 2), "none", "none"), [((0, 0, 1), Role.KEPT), ((0, 1, 0), Role.KEPT)])
    drawn = cell_pixels(token_map(tokens, frames))
    assert np.abs(centre(cell(drawn, (2, 2), 0, 1)) - np.array(SKIN)).max() <= 1
    assert centre(cell(drawn, (2, 2), 1, 0)).max() == 0


@pytest.mark.parametrize("pooled", [False, True])
def test_every_cell_of_unreduced_tokens_is_kept(pooled: bool) -> None:
    tokens = encoded(3).to_language_grid() if pooled else encoded(3)
    outcome = cell_outcomes(tokens).outcome
    assert outcome.dtype == torch.uint8
    assert outcome.shape == (3, 6, 6)
    assert (outcome == int(Outcome.KEPT)).all()
    assert [(entry.name, entry.count) for entry in legend_of(tokens)] == [
        ("kept", 108),
        ("absorbed", 0),
    ]


def test_outcomes_are_the_roles_at_each_place() -> None:
    outcome = cell_outcomes(placed(Layout(1, GRID, "none", "none"), ONE_OF_EACH)).outcome[0]
    expected = torch.zeros(4, 4, dtype=torch.uint8)
    expected[0, 0], expected[0, 2], expected[2, 2] = int(Outcome.KEYFRAME), int(Outcome.DISTINCT), int(Outcome.KEPT)
    expected[2, 0] = int(Outcome.KEYFRAME | Outcome.UPDATED)
    assert torch.equal(outcome, expected)


def test_the_legend_counts_the_tokens_of_every_role_and_the_cells_absorbed() -> None:
    tokens = reduced(8)
    outcome = cell_outcomes(tokens).outcome
    counts = {entry.name: entry.count for entry in legend_of(tokens)}
    assert counts == {
        "keyframe": int((outcome & int(Outcome.KEYFRAME) > 0).sum()),
        "updated": int((outcome & int(Outcome.UPDATED) > 0).sum()),
        "distinct": int((outcome & int(Outcome.DISTINCT) > 0).sum()),
        "absorbed": int((outcome == int(Outcome.ABSORBED)).sum()),
        "to another frame": int((outcome == int(Outcome.ELSEWHERE)).sum()),
    }
    gone = counts["absorbed"] + counts["to another frame"]
    assert sum(counts.values()) - gone == tokens.tokens_kept
    assert sum(counts.values()) - counts["updated"] == tokens.tokens_full


def test_a_cell_is_absorbed_here_or_by_another_frame_or_dropped_as_w_says() -> None:
    kept = [((0, 0, 0), Role.KEPT), ((1, 0, 0), Role.KEPT)]
    joins = {(0, 0, 1): 0, (0, 1, 0): 1, (1, 1, 1): 1}
    tokens = placed(Layout(2, (2, 2), "none", "none"), kept, joins)
    keeps, here, there, lost = (
        int(outcome) for outcome in (Outcome.KEPT, Outcome.ABSORBED, Outcome.ELSEWHERE, Outcome.DROPPED)
    )
    assert cell_outcomes(tokens).outcome.tolist() == [[[keeps, here], [there, lost]], [[keeps, lost], [lost, here]]]
    counts = {entry.name: entry.count for entry in legend_of(tokens)}
    assert counts == {"kept": 2, "absorbed": 2, "to another frame": 1, "dropped": 3}


def test_a_cell_that_is_mostly_in_another_frame_went_there_though_one_token_here_holds_most_of_it() -> None:
    layout = Layout(2, (1, 3), "none", "none")
    tokens = placed(layout, [((0, 0, 0), Role.KEPT), *(((1, 0, x), Role.KEPT) for x in range(3))], {})
    weights = torch.eye(6)[[0, 3, 4, 5]]
    weights[:, 1] = torch.tensor([0.4, 0.2, 0.2, 0.2])
    weights = weights / weights.sum(1, keepdim=True)
    tokens = dataclasses.replace(tokens, map=TokenMap(6, (*tokens.map.factors[:1], Blocks(weights[None], (4,), (6,)))))
    assert cell_outcomes(tokens).outcome[0, 0].tolist() == [
        int(Outcome.KEPT),
        int(Outcome.ELSEWHERE),
        int(Outcome.DROPPED),
    ]


def test_an_area_is_a_token_and_the_cells_of_its_frame_it_absorbed() -> None:
    kept = [((0, 0, 0), Role.KEPT), ((0, 2, 2), Role.KEPT), ((1, 0, 0), Role.MERGED)]
    joins = {(0, 0, 1): 0, (0, 3, 3): 2, (1, 0, 1): 2, (1, 1, 0): 2}
    area = cell_outcomes(placed(Layout(2, GRID, "none", "none"), kept, joins)).area
    assert area[0, 0, :3].tolist() == [0, 0, -1]
    assert int((area[0] >= 0).sum()) == 2
    assert sorted(map(tuple, (area[1] == 16).nonzero().tolist())) == [(0, 0), (0, 1), (1, 0)]
    assert int((area[1] >= 0).sum()) == 3


def test_every_absorbed_cell_of_a_real_reduction_lies_in_the_area_of_a_token_of_its_frame() -> None:
    tokens = reduced(8)
    outcome, area = (each.flatten() for each in cell_outcomes(tokens))
    heads = area[outcome == int(Outcome.ABSORBED)]
    assert len(heads) > 0
    assert bool((heads >= 0).all())
    assert bool((outcome[heads] & int(SURVIVES) > 0).all())
    per_frame = tokens.layout.language_cells
    assert torch.equal(heads // per_frame, (outcome == int(Outcome.ABSORBED)).nonzero()[:, 0] // per_frame)
    assert bool((area[outcome == int(Outcome.ELSEWHERE)] == -1).all())


def test_selecting_alone_drops_what_it_does_not_keep() -> None:
    tokens = placed(Layout(1, GRID, "none", "none"), [((0, 0, 0), Role.KEPT)], {})
    assert int((cell_outcomes(tokens).outcome == int(Outcome.DROPPED)).sum()) == 15
    assert bool((cell_outcomes(tokens).area == -1).all())


def test_the_area_line_runs_around_the_area_and_not_through_it() -> None:
    kept = [((0, 1, 1), Role.KEPT)]
    tokens = placed(Layout(1, GRID, "none", "none"), kept, {(0, 1, 2): 0, (0, 2, 2): 0})
    panel = cell_pixels(token_map(tokens, plain_frames(1)))
    right, below = cell(panel, GRID, 1, 2), cell(panel, GRID, 2, 2)
    assert share_of(right[0], AREA) > 0.9
    assert share_of(right[:, -1], AREA) > 0.9
    assert share_of(below[-1], AREA) > 0.9
    assert share_of(right[-1, 8:-8], AREA) == 0
    assert share_of(below[0, 8:-8], AREA) == 0
    assert share_of(cell(panel, GRID, 3, 0), AREA) == 0


def test_what_is_gone_is_told_apart_by_brightness_and_texture() -> None:
    kept = [((0, 0, 0), Role.KEPT), ((1, 0, 0), Role.KEPT)]
    tokens = placed(Layout(2, (2, 2), "none", "none"), kept, {(0, 0, 1): 0, (0, 1, 0): 1})
    panel = cell_pixels(token_map(tokens, plain_frames(2), columns=2))
    grey = panel[:, : panel.shape[1] // 2, :].astype(float) @ np.array(LUMA)
    inner = [cell(grey, (2, 2), *at)[30:-30, 30:-30] for at in ((0, 1), (1, 0), (1, 1))]
    absorbed, elsewhere, dropped = inner
    assert absorbed.std() < 1
    assert elsewhere.std() > 8
    assert elsewhere.mean() > 1.1 * absorbed.mean()
    assert np.median(dropped) < 0.5 * absorbed.mean()
    assert dropped.max() > 2 * np.median(dropped)


def test_a_strip_has_all_frames_in_one_row_and_room_for_their_cells() -> None:
    grid = token_map(reduced(16), plain_frames(16))
    strip = token_map(reduced(16), plain_frames(16), layout="strip")
    assert strip.shape[2] > 16 * 10 * 6
    assert strip.shape[1] < grid.shape[1]
    narrow = token_map(reduced(2), plain_frames(2), layout="strip", width=800)
    assert narrow.shape[2] == 800


def test_a_strip_that_would_be_too_wide_is_refused() -> None:
    layout = Layout(300, (12, 12))
    with pytest.raises(InputError, match=r"300 frames have no room in a strip.*as a grid"):
        token_map(encoded(300, layout), plain_frames(300, 8, 12), layout="strip")


def test_a_layout_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"'circle'; give one of grid, strip"):
        token_map(reduced(4), plain_frames(4), layout="circle")


def test_newlines_are_not_drawn_and_not_counted() -> None:
    layout = Layout(4, (12, 12), "average", "grid")
    tokens = reduced(4, layout)
    assert int((tokens.role == int(Role.NEWLINE)).sum()) > 0
    assert cell_outcomes(tokens).outcome.shape == (4, 6, 6)
    survivors = sum(entry.count for entry in legend_of(tokens) if entry.outcome & SURVIVES)
    assert survivors == tokens.tokens_kept
    assert token_map(tokens, plain_frames(4)).shape[0] == 1


def test_frames_that_were_not_encoded_are_refused_with_both_counts() -> None:
    with pytest.raises(InputError, match=r"8 frames and 5 frames.*connect the same frames"):
        token_map(reduced(8), plain_frames(5))


@pytest.mark.parametrize("width", [100, 5000])
def test_a_width_out_of_bounds_is_refused(width: int) -> None:
    with pytest.raises(InputError, match=r"give 320 to 2400"):
        token_map(reduced(4), plain_frames(4), width=width)


def test_no_columns_are_refused() -> None:
    with pytest.raises(InputError, match=r"0 columns; give 1 or more"):
        token_map(reduced(4), plain_frames(4), columns=0)


def test_columns_that_leave_no_room_are_refused() -> None:
    with pytest.raises(InputError, match=r"40 frames in 1 columns.*more columns"):
        token_map(encoded(40), plain_frames(40), columns=1)


def test_what_is_given_stays_as_it_was() -> None:
    tokens, frames = reduced(4), plain_frames(4)
    before = [value.clone() for value in (tokens.features, tokens.place, tokens.role, frames.pixels)]
    token_map(tokens, frames)
    after = (tokens.features, tokens.place, tokens.role, frames.pixels)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_same_tokens_make_the_same_picture() -> None:
    tokens, frames = reduced(4), plain_frames(4)
    assert torch.equal(token_map(tokens, frames), token_map(tokens, frames))


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 120, 160), (40, 120, 160), (16, 90, 160), (7, 160, 90), (64, 100, 100)]
)
def test_pictures_stay_within_bounds_for_any_number_and_shape_of_frames(frames: int, height: int, width: int) -> None:
    image = token_map(reduced(frames), plain_frames(frames, height, width))
    assert image.shape[2] <= 1600
    assert image.shape[1] <= 2000


def test_a_frame_keeps_its_own_shape() -> None:
    drawn = cell_pixels(token_map(encoded(1), plain_frames(1, 90, 160)))
    assert drawn.shape[1] / drawn.shape[0] == pytest.approx(160 / 90, rel=0.01)


def test_rows_start_where_clips_start() -> None:
    image = token_map(reduced(16), plain_frames(16, 90, 160))
    marks = (image[0] * 255).round().byte().numpy() == np.array(COLOURS[Outcome.KEYFRAME])
    columns = np.flatnonzero(marks.all(-1)[:-90].any(0))
    assert columns.max() < image.shape[2] / 4 + canvas.MARGIN


def test_the_columns_asked_for_are_the_columns_drawn() -> None:
    frames = plain_frames(6)
    image = token_map(encoded(6), frames, columns=3)
    green = (image[0] * 255).round().byte().numpy() == np.array(COLOURS[Outcome.KEPT])
    left_edges = green.all(-1)[:-90].sum(0) > 200
    starts = np.flatnonzero(np.diff(left_edges.astype(int)) == 1)
    assert len(starts) == 6


@pytest.mark.parametrize("width", [320, 640, 1600])
def test_no_text_touches_the_edge(width: int) -> None:
    tokens = dataclasses.replace(reduced(4), model="a model of a name that does not fit on any line " * 4)
    image = token_map(tokens, plain_frames(4), width=width)
    pixels = (image[0] * 255).round().byte()
    background = torch.tensor(canvas.BACKGROUND, dtype=torch.uint8)
    for edge in (pixels[:, :8], pixels[:, -8:], pixels[:8], pixels[-8:]):
        assert (edge == background).all()


def test_a_saved_picture_is_the_picture(tmp_path: Path) -> None:
    image = token_map(reduced(4), plain_frames(4))
    save_png(image, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as saved:
        assert saved.format == "PNG"
        assert np.array_equal(np.asarray(saved), (image[0] * 255).round().byte().numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


def test_saving_replaces_an_older_picture(tmp_path: Path) -> None:
    save_png(torch.zeros(1, 4, 4, 3), tmp_path / "map.png")
    save_png(torch.ones(1, 4, 4, 3), tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as saved:
        assert np.asarray(saved).min() == 255


def test_a_picture_that_cannot_be_saved_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "map.png").mkdir()
    with pytest.raises(InputError, match=r"map\.png cannot be written"):
        save_png(torch.zeros(1, 4, 4, 3), tmp_path / "map.png")
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]
