"""Figures of what tokens kept, against what is worked out by hand or by another road."""

from __future__ import annotations

import math

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens.quality import (
    absorption,
    effective_rank,
    figures,
    frames_spoken_for,
    kept_rank,
    language_weights,
    mass_kept,
    reconstruction_error,
)
from comfyui_aot.aot.tokens.video_tokens import Blocks, Layout, Role, VideoTokens

CHAINS = ("intra:budget=12", "inter:keep_ratio=0.3", "intra:retention=0.5+inter:retention=0.3", "aot:retention=0.3")
LAYOUTS = (Layout(4, (9, 9)), Layout(4, (8, 8), "average", "grid"), Layout(4, (5, 5), "none", "none"))


def encoded(layout: Layout, dim: int = 6, seed: int = 0) -> VideoTokens:
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(layout.frames, layout.cells, dim, generator=random, dtype=torch.float64)
    shallow, deep = torch.rand(2, layout.frames, layout.cells, generator=random)
    newline = torch.ones(dim, dtype=torch.float64) if layout.newlines else None
    times = torch.arange(layout.frames, dtype=torch.float64)
    return VideoTokens.encoded(features, layout, shallow, deep, times, newline=newline)


def merged(full: VideoTokens, weights: list[list[float]]) -> VideoTokens:
    """One-cell-a-frame tokens reduced by these rows, each standing at frame 0, 1, ..."""
    matrix = torch.tensor(weights, dtype=torch.float64)
    place = torch.tensor([[index, 0, 0] for index in range(len(weights))])
    role = torch.zeros(len(weights), dtype=torch.uint8)
    factor = Blocks(matrix[None], (len(weights),), (matrix.shape[1],))
    return full.to_language_grid().reduced(factor, place, role)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.pooling}-{layout.newline}")
@pytest.mark.parametrize("chain", ["full", "inter:keep_ratio=0.3", "inter:retention=0.6,clip_length=2"])
def test_w_over_the_language_grid_makes_the_tokens_of_stages_that_pool_first(chain: str, layout: Layout) -> None:
    full = encoded(layout)
    reduced = parse(chain)(full).to_language_grid()
    grid = full.to_language_grid()
    cells = grid.features[grid.role != int(Role.NEWLINE)].numpy()
    weights = language_weights(reduced)
    whole = torch.from_numpy(weights.sum(1)) > 1 - 1e-12
    assert weights.shape == (reduced.map.kept, reduced.tokens_full)
    assert bool(whole[reduced.role != int(Role.NEWLINE)].any())
    rebuilt = torch.from_numpy(weights @ cells)
    torch.testing.assert_close(rebuilt[whole], reduced.features[whole], rtol=0, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.pooling}-{layout.newline}")
@pytest.mark.parametrize("chain", CHAINS)
def test_the_mass_of_a_cell_is_what_all_tokens_hold_of_it(chain: str, layout: Layout) -> None:
    reduced = parse(chain)(encoded(layout))
    weights = language_weights(reduced)
    mass = mass_kept(reduced)
    torch.testing.assert_close(mass.flatten(), torch.from_numpy(weights.sum(0)), rtol=0, atol=1e-6)
    torch.testing.assert_close(mass, absorption(reduced).mass, rtol=0, atol=1e-6)
    by_source = reduced.map.column_mass().reshape(layout.frames, layout.sources)[:, : layout.cells]
    assert float(mass.sum()) == pytest.approx(float(by_source.sum()), abs=1e-4)


@pytest.mark.parametrize("pooling", ["bilinear", "average", "none"])
def test_of_a_stage_on_the_encoders_grid_each_cell_counts_to_the_language_cell_that_reads_it(pooling: str) -> None:
    full = encoded(Layout(2, (5, 5), pooling, "none"))
    cells, kept = full.map.source, [0, 12, 24, 49]
    factor = Blocks(torch.eye(cells)[kept][None], (len(kept),), (cells,))
    reduced = full.reduced(factor, torch.zeros(4, 3, dtype=torch.long), torch.zeros(4, dtype=torch.uint8))
    weights = language_weights(reduced)
    assert weights.shape == (4, full.tokens_full)
    assert weights.sum(1).tolist() == [1, 1, 1, 1]
    last = full.layout.language_cells - 1
    assert weights.tocoo().coords[1].tolist()[0] == 0
    assert weights.tocoo().coords[1].tolist()[2:] == [last, full.tokens_full - 1]


def test_absorption_says_who_has_a_cell_and_how_much_of_it() -> None:
    full = encoded(Layout(4, (1, 1), "none", "none"))
    reduced = merged(full, [[0.5, 0.125, 0.375, 0], [0, 0.75, 0.25, 0]])
    went = absorption(reduced)
    assert went.owner.flatten().tolist() == [0, 1, -1, -1]
    assert went.mass.flatten().tolist() == [0.5, 0.875, 0.625, 0]
    assert went.here.flatten().tolist() == pytest.approx([1, 0.75 / 0.875, 0, 0])
    assert went.largest.flatten().tolist() == pytest.approx([1, 0.75 / 0.875, 0.6, 0])


def test_of_equal_shares_the_token_read_first_owns_a_cell() -> None:
    layout = Layout(1, (1, 3), "none", "none")
    full = encoded(layout).to_language_grid()
    factor = Blocks(torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]]), (2,), (3,))
    reduced = full.reduced(factor, torch.tensor([[0, 0, 0], [0, 0, 2]]), torch.zeros(2, dtype=torch.uint8))
    assert absorption(reduced).owner.flatten().tolist() == [0, 0, 1]


def test_nothing_reduced_keeps_every_cell_whole() -> None:
    full = encoded(LAYOUTS[0])
    assert torch.equal(mass_kept(full), torch.ones(4, 5, 5, dtype=torch.float64))
    assert torch.equal(absorption(full).owner.flatten(), torch.arange(100))


def test_a_token_speaks_for_as_many_frames_as_it_is_an_equal_mean_of() -> None:
    full = encoded(Layout(4, (1, 1), "none", "none"))
    spoken = frames_spoken_for(merged(full, [[1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0, 0, 0.5]]))
    assert spoken.tolist() == pytest.approx([1, 4, 2])


def test_the_effective_rank_counts_equally_strong_directions() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(7, 3)) == pytest.approx(1)
    assert effective_rank(torch.zeros(4, 4)) == 0
    assert effective_rank(torch.eye(9)[:, :4]) == pytest.approx(4)


def test_the_effective_rank_is_the_entropy_of_the_singular_values_on_either_side() -> None:
    features = torch.randn(40, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    values = torch.linalg.svdvals(features)
    share = values / values.sum()
    expected = math.exp(-float((share * share.log()).sum()))
    assert effective_rank(features) == pytest.approx(expected, rel=1e-9)
    assert effective_rank(features.mT) == pytest.approx(expected, rel=1e-9)


def test_newlines_count_in_no_rank() -> None:
    layout = LAYOUTS[1]
    full = encoded(layout)
    grid = full.to_language_grid()
    assert kept_rank(full) == pytest.approx(effective_rank(grid.features[grid.role != int(Role.NEWLINE)]))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.pooling)
def test_nothing_reduced_is_rebuilt_without_error(layout: Layout) -> None:
    full = encoded(layout)
    assert reconstruction_error(full, full) == pytest.approx(0, abs=1e-7)
    assert reconstruction_error(full, full.to_language_grid()) == pytest.approx(0, abs=1e-7)


def test_the_error_is_that_of_each_cell_rebuilt_from_the_tokens_it_went_to() -> None:
    full = encoded(Layout(4, (1, 1), "none", "none"))
    x = full.features
    rows = [[0.5, 0.5, 0, 0], [0, 0.25, 0.75, 0]]
    kept = torch.tensor(rows, dtype=torch.float64) @ x
    nearest = int(torch.nn.functional.cosine_similarity(x[3:], kept).argmax())
    rebuilt = torch.stack((kept[0], (0.5 * kept[0] + 0.25 * kept[1]) / 0.75, kept[1], kept[nearest]))
    expected = float((x - rebuilt).norm() / x.norm())
    assert reconstruction_error(full, merged(full, rows)) == pytest.approx(expected, rel=1e-6)


def test_keeping_more_leaves_less_error() -> None:
    full = encoded(LAYOUTS[0])
    errors = [reconstruction_error(full, parse(f"intra:retention={share}")(full)) for share in (0.1, 0.4, 0.9)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_reduced_tokens_are_refused_as_full_ones() -> None:
    full = encoded(LAYOUTS[0])
    reduced = parse("intra:retention=0.5")(full)
    with pytest.raises(InputError, match=r"50 of 100; give those of Encode Video"):
        reconstruction_error(reduced, reduced)


def test_full_tokens_of_another_video_are_refused() -> None:
    full, other = encoded(LAYOUTS[0]), encoded(LAYOUTS[0], seed=1)
    with pytest.raises(InputError, match=r"another video"):
        reconstruction_error(other, parse("intra:retention=0.5")(full))


def test_the_figures_of_two_cells_of_four_kept_one_of_them_merged() -> None:
    full = encoded(Layout(4, (1, 1), "none", "none"))
    reduced = merged(full, [[1, 0, 0, 0], [0, 0.5, 0.5, 0]])
    found = figures(reduced, full)
    assert (found.tokens, found.cells) == (2, 0.75)
    assert found.spread == pytest.approx(math.exp(0.5 * math.log(2) + 2 * 0.25 * math.log(4)) / 4)
    assert found.frames == pytest.approx(1.5)
    assert found.rank == kept_rank(reduced)
    assert found.error == reconstruction_error(full, reduced)
    assert figures(reduced).error is None
