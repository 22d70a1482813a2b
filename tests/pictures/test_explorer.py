"""The transport explorer's data, judged against W itself, and its picture, judged by its pixels."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.pictures.explorer import LARGEST_SIDE, Transport, packed, save_frames
from comfyui_aot.aot.pictures.roles import SHADE
from comfyui_aot.aot.pictures.transport_picture import REACHES, STANDS_FOR, describe, telling, transport_picture
from comfyui_aot.aot.stages.methods.anchor_ot.both_phases import AnchorOT
from comfyui_aot.aot.tokens.factors import Sparse
from comfyui_aot.aot.tokens.video_tokens import Layout, Role, StageRecord, VideoTokens
from comfyui_aot.aot.video.frames import Frames

SKIN = (210, 150, 120)


def plain_frames(count: int, height: int = 90, width: int = 160) -> Frames:
    pixels = torch.tensor(SKIN, dtype=torch.uint8).expand(count, height, width, 3).contiguous()
    return Frames(pixels, torch.arange(count, dtype=torch.float64) / 2, "plain.mp4")


def encoded(layout: Layout) -> VideoTokens:
    random = torch.Generator().manual_seed(layout.frames)
    features = torch.randn(layout.frames, layout.cells, 8, generator=random)
    shallow, deep = torch.rand(2, layout.frames, layout.cells, generator=random)
    times = torch.arange(layout.frames, dtype=torch.float64) / 2
    newline = torch.ones(8) if layout.newlines else None
    return VideoTokens.encoded(features, layout, shallow, deep, times, newline=newline, model="test model")


def from_cells(
    layout: Layout, tokens: list[tuple[tuple[int, int, int], Role, dict[int, float]]], **more
) -> VideoTokens:
    """Tokens of these places and roles, each the weighted mean of these cells."""
    full = encoded(layout).to_language_grid()
    entries = [(row, col, weight) for row, (_, _, cells) in enumerate(tokens) for col, weight in cells.items()]
    row, col, weight = zip(*entries, strict=True)
    factor = Sparse(
        torch.tensor(row), torch.tensor(col), torch.tensor(weight, dtype=torch.float64), len(tokens), full.map.kept
    )
    role = torch.tensor([int(role) for _, role, _ in tokens], dtype=torch.uint8)
    return full.reduced(factor, torch.tensor([place for place, _, _ in tokens]), role, **more)


def unpacked(sent: dict, name: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(sent[name]), kind)


def sent_matrix(sent: dict, sources: int) -> np.ndarray:
    """W as a browser reads it, dense."""
    start = unpacked(sent, "start", "<u4")
    row = np.repeat(np.arange(sent["kept"]), np.diff(start))
    weight = unpacked(sent, "weight", "<u2") / sent["levels"] * unpacked(sent, "largest", "<f4")[row]
    found = np.zeros((sent["kept"], sources))
    found[row, unpacked(sent, "source", f"<u{sent['source_bits'] // 8}")] = weight
    return found


@pytest.fixture(scope="module")
def reduced() -> VideoTokens:
    return AnchorOT(retention=0.3)(encoded(Layout(8, (12, 12))))


@pytest.fixture(scope="module")
def matrix(reduced: VideoTokens) -> np.ndarray:
    return reduced.map.sparse().to_dense().numpy()


def test_what_is_sent_is_w_with_its_smallest_entries_left_out(reduced: VideoTokens, matrix: np.ndarray) -> None:
    sent = packed(reduced, Transport.of(reduced))
    found = sent_matrix(sent, matrix.shape[1])
    there = found > 0
    assert 0 < there.sum() < (matrix > 0).sum()
    np.testing.assert_allclose(found[there], matrix[there], atol=1e-5)
    largest_left_out = np.where(there, 0, matrix).max(1)
    leads = matrix == matrix.max(0)
    smallest_sent = np.where(there & ~leads, matrix, 1).min(1)
    assert (largest_left_out <= smallest_sent).all()


def test_of_every_token_the_share_asked_for_is_sent_and_no_entry_more(reduced: VideoTokens, matrix: np.ndarray) -> None:
    transport = Transport.of(reduced, covered=0.5)
    assert (transport.coverage >= 0.5 - 1e-6).all()
    leads = transport.weight == matrix.max(0)[transport.src]
    before = transport.coverage[transport.row] - transport.weight
    last = np.flatnonzero(np.diff(transport.row, append=-1))
    assert (before[last][~leads[last]] < 0.5).all()


def test_of_every_cell_that_went_anywhere_its_largest_weight_is_sent(reduced: VideoTokens, matrix: np.ndarray) -> None:
    transport = Transport.of(reduced, covered=0.5)
    found = np.zeros(matrix.shape[1])
    np.maximum.at(found, transport.src, transport.weight)
    told = found > 0
    np.testing.assert_allclose(found[told], matrix.max(0)[told])
    assert (matrix.max(0)[~told] < 1e-5).all()


def test_what_is_sent_can_be_bounded_and_every_token_keeps_its_largest_entry(
    reduced: VideoTokens, matrix: np.ndarray
) -> None:
    transport = Transport.of(reduced, most=300)
    assert reduced.map.kept <= len(transport.weight) <= 300
    np.testing.assert_allclose(transport.weight[transport.start[:-1]], matrix.max(1))


@pytest.mark.parametrize(
    "layout", [Layout(3, (6, 6)), Layout(3, (6, 6), "average", "grid"), Layout(2, (5, 4), "none", "none")]
)
def test_every_fresh_token_is_its_own_cell(layout: Layout) -> None:
    transport = Transport.of(encoded(layout))
    cell = transport.role != int(Role.NEWLINE)
    assert transport.token_grid == layout.grid
    assert np.array_equal(transport.src, np.arange(layout.frames * layout.sources))
    assert (transport.weight == 1).all()
    assert (transport.own[cell] == 1).all()
    assert np.array_equal(transport.stands_for, cell.astype(float))


@pytest.mark.parametrize("layout", [Layout(2, (7, 6)), Layout(2, (6, 6), "average", "grid")])
def test_a_pooled_token_lies_wholly_on_its_own_place(layout: Layout) -> None:
    transport = Transport.of(encoded(layout).to_language_grid())
    cell = transport.role != int(Role.NEWLINE)
    np.testing.assert_allclose(transport.own[cell], 1)
    assert (transport.own[~cell] == 0).all()


def test_own_weight_is_that_on_the_cells_the_place_is_pooled_from(reduced: VideoTokens, matrix: np.ndarray) -> None:
    layout = reduced.layout
    pooled_from = layout.pooling_matrix().numpy() > 0
    frame, y, x = reduced.place.numpy().T
    weights = matrix.reshape(-1, layout.frames, layout.cells)[np.arange(len(frame)), frame]
    expected = (weights * pooled_from[y * layout.language_grid[1] + x]).sum(1)
    np.testing.assert_allclose(Transport.of(reduced).own, expected)


def test_tokens_together_stand_for_every_cell_that_went_anywhere(reduced: VideoTokens, matrix: np.ndarray) -> None:
    transport = Transport.of(reduced)
    assert transport.stands_for.sum() == pytest.approx((matrix.sum(0) > 0).sum())
    np.testing.assert_allclose(transport.mass, matrix.sum(0))
    parts = matrix[:, matrix.sum(0) > 0] / matrix.sum(0)[matrix.sum(0) > 0]
    np.testing.assert_allclose(transport.stands_for, parts.sum(1))


def test_a_stated_scale_is_told_and_is_no_part_of_the_weights() -> None:
    layout = Layout(1, (2, 2), "none", "none")
    places = [((0, 0, 0), Role.MERGED, {0: 0.5, 3: 0.5}), ((0, 0, 1), Role.KEPT, {1: 1.0})]
    tokens = from_cells(layout, places, scale=torch.tensor([3.0, 1.0]))
    transport = Transport.of(tokens)
    assert transport.scale.tolist() == [3, 1]
    assert transport.coverage.tolist() == [1, 1]
    assert "multiplied by 3.00" in describe(transport, 0)
    assert "multiplied" not in describe(transport, 1)


def test_more_tokens_than_a_browser_takes_are_refused() -> None:
    with pytest.raises(InputError, match=r"100100 tokens are too many.*reduce them first"):
        Transport.of(encoded(Layout(1001, (10, 10), "none", "none")))


def test_what_is_sent_is_json_and_small(reduced: VideoTokens) -> None:
    sent = packed(reduced, Transport.of(reduced))
    entries = sum(np.diff(unpacked(sent, "start", "<u4")))
    assert len(json.dumps(sent)) < 6 * entries + 60 * reduced.map.kept + 4 * reduced.map.source + 2000
    assert sent["roles"][int(Role.MERGED)] == "updated"


@pytest.mark.parametrize("pooled", [False, True])
def test_a_newline_is_known_by_its_column(pooled: bool) -> None:
    tokens = encoded(Layout(2, (4, 4), "average", "grid"))
    tokens = tokens.to_language_grid() if pooled else tokens
    sent = packed(tokens, Transport.of(tokens))
    column = unpacked(sent, "place", "<u2").reshape(-1, 3)[:, 2]
    newline = unpacked(sent, "role", "<u1") == int(Role.NEWLINE)
    assert newline.any()
    assert ((column >= sent["token_grid"][1]) == newline).all()


def test_a_token_is_described_by_its_place_its_shares_and_its_frames() -> None:
    layout = Layout(3, (2, 2), "none", "none")
    tokens = from_cells(layout, [((1, 0, 1), Role.MERGED, {5: 0.25, 6: 0.25, 8: 0.5})])
    assert describe(Transport.of(tokens), 0) == (
        "Frame 1, row 0, column 1: updated token = 25% its own place, 75% elsewhere; "
        "3 cells in frames 1 to 2 make up 100%; stands for 3.0 source cells."
    )


def test_frames_the_encoder_takes_together_are_numbered_by_their_first() -> None:
    tokens = encoded(Layout(2, (2, 2), "none", "none"))
    record = StageRecord("encode", {"frames": 4}, 8, 8, 0.0)
    tokens = dataclasses.replace(tokens, history=(record,))
    transport = Transport.of(tokens)
    assert packed(tokens, transport)["together"] == 2
    assert describe(transport, 7, 2).startswith("Frame 2+, row 1, column 1")
    assert transport_picture(tokens, plain_frames(4), transport).shape[0] == 1


SPREAD = [
    ((0, 0, 0), Role.KEYFRAME, {0: 1.0}),
    ((0, 0, 0), Role.MERGED, {0: 0.4, 1: 0.2, 2: 0.2, 3: 0.2}),
    ((1, 1, 1), Role.DISTINCT, {7: 0.5, 8: 0.5}),
]
"""Two tokens in one place that share a cell, and one with half of its weight in the next frame."""


def test_the_most_telling_tokens_stand_for_most_cells_or_reach_furthest() -> None:
    transport = Transport.of(from_cells(Layout(3, (2, 2), "none", "none"), SPREAD))
    assert telling(transport, STANDS_FOR).tolist() == [1, 2, 0]
    assert telling(transport, REACHES)[0] == 2


def test_newlines_are_no_telling_tokens() -> None:
    tokens = encoded(Layout(2, (4, 4), "average", "grid")).to_language_grid()
    transport = Transport.of(tokens)
    chosen = telling(transport, STANDS_FOR)
    assert sorted(chosen.tolist()) == np.flatnonzero(transport.role != int(Role.NEWLINE)).tolist()


def test_the_picture_is_an_image_with_a_row_for_every_token(reduced: VideoTokens) -> None:
    transport = Transport.of(reduced)
    one, three = (transport_picture(reduced, plain_frames(8), transport, rows=rows) for rows in (1, 3))
    assert one.dtype == torch.float32
    assert one.shape[0] == 1
    assert one.shape[3] == 3
    assert float(one.min()) >= 0
    assert float(one.max()) <= 1
    assert three.shape[1] - one.shape[1] > 300


def test_cells_are_shaded_where_a_token_has_weight_and_nowhere_else() -> None:
    layout = Layout(2, (2, 2), "none", "none")
    tokens = from_cells(layout, [((0, 0, 0), Role.KEPT, {0: 0.5, 7: 0.5})])
    picture = transport_picture(tokens, plain_frames(2), Transport.of(tokens), rows=1)[0].numpy() * 255
    shaded = np.abs(picture - np.array(SHADE)).max(-1) < 30
    rows, columns = np.flatnonzero(shaded.any(1)), np.flatnonzero(shaded.any(0))
    left, right = shaded[:, : picture.shape[1] // 3], shaded[:, picture.shape[1] // 3 :]
    middle = (rows[0] + rows[-1]) // 2
    assert left[middle + 5 :].sum() == 0 < left[: middle - 5].sum()
    assert right[: middle - 5].sum() == 0 < right[middle + 5 :].sum()
    assert columns[-1] - columns[0] > 300


@pytest.mark.parametrize(
    ("settings", "said"), [({"choice": "best"}, "choose one of stand for most"), ({"rows": 0}, "give 1 to 12")]
)
def test_other_choices_and_numbers_are_refused(reduced: VideoTokens, settings: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        transport_picture(reduced, plain_frames(8), Transport.of(reduced), **settings)


def test_frames_that_were_not_encoded_are_refused(reduced: VideoTokens) -> None:
    with pytest.raises(InputError, match=r"8 frames and 5 frames.*connect the same frames"):
        transport_picture(reduced, plain_frames(5), Transport.of(reduced))


@pytest.mark.parametrize(("height", "width", "size"), [(90, 160, (160, 90)), (1280, 720, (360, LARGEST_SIDE))])
def test_frames_are_saved_in_order_and_no_larger_than_they_are_shown(
    tmp_path: Path, height: int, width: int, size: tuple[int, int]
) -> None:
    pixels = torch.stack([torch.full((height, width, 3), value, dtype=torch.uint8) for value in (30, 200)])
    names = save_frames(Frames(pixels, torch.tensor([0.0, 1.0], dtype=torch.float64), "two"), tmp_path / "new", "x")
    for name, value in zip(names, (30, 200), strict=True):
        with Image.open(tmp_path / "new" / name) as saved:
            assert saved.size == size
            assert abs(np.asarray(saved).mean() - value) < 3
