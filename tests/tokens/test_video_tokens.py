"""TokenMap and VideoTokens: what holds for every reduction, whoever wrote it."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.tokens.video_tokens import Blocks, Layout, Role, TokenMap, VideoTokens


def random_blocks(rows, cols, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(len(rows), max(rows), max(cols), dtype=dtype)
    for b, (r, c) in enumerate(zip(rows, cols, strict=True)):
        part = torch.rand(r, c, generator=generator, dtype=dtype)
        weights[b, :r, :c] = part / part.sum(1, keepdim=True)
    return Blocks(weights, tuple(rows), tuple(cols))


def dense(blocks):
    weights = blocks.weights.expand(len(blocks.rows), -1, -1)
    parts = [w[:r, :c] for w, r, c in zip(weights, blocks.rows, blocks.cols, strict=True)]
    return torch.block_diag(*parts)


@pytest.fixture
def chain():
    return TokenMap(10).then(random_blocks([2, 3], [4, 6])).then(random_blocks([1, 2], [2, 3], seed=1))


def test_blocks_apply_is_the_dense_product():
    blocks = random_blocks([2, 3, 1], [4, 6, 2])
    x = torch.randn(12, 5, dtype=torch.float64)
    torch.testing.assert_close(blocks.apply(x), dense(blocks) @ x)


def test_blocks_adjoint_is_the_transposed_product():
    blocks = random_blocks([2, 3, 1], [4, 6, 2])
    y = torch.randn(6, dtype=torch.float64)
    torch.testing.assert_close(blocks.adjoint(y), dense(blocks).T @ y)


def test_a_block_shared_by_all_frames_is_held_once_and_applied_to_each():
    weights = torch.tensor([[[0.5, 0.5]]], dtype=torch.float64)
    shared = Blocks(weights, (1, 1, 1), (2, 2, 2))
    assert shared.apply(torch.arange(6.0, dtype=torch.float64)).tolist() == [0.5, 2.5, 4.5]


def test_a_block_may_keep_nothing():
    blocks = random_blocks([2, 1], [3, 3])
    empty = Blocks(blocks.weights, (2, 0), (3, 3))
    assert empty.apply(torch.ones(6, 1)).shape == (2, 1)


def test_composition_is_the_product_of_the_matrices(chain):
    product = dense(chain.factors[1]) @ dense(chain.factors[0])
    x = torch.randn(10, 4, dtype=torch.float64)
    torch.testing.assert_close(chain.apply(x), product @ x)
    torch.testing.assert_close(chain.sparse().to_dense(), product)


def test_composing_maps_is_associative(chain):
    first, second = TokenMap(10, chain.factors[:1]), TokenMap(5, chain.factors[1:])
    assert first.then(second) == chain


def test_column_mass_is_the_column_sums(chain):
    torch.testing.assert_close(chain.column_mass(), chain.sparse().to_dense().sum(0))


def test_rows_of_a_product_of_means_sum_to_one(chain):
    torch.testing.assert_close(chain.row_mass(), torch.ones(3, dtype=torch.float64))


def test_a_map_without_factors_is_the_identity():
    x = torch.randn(7, 2)
    assert torch.equal(TokenMap(7).apply(x), x)
    assert torch.equal(TokenMap(7).sparse().to_dense(), torch.eye(7, dtype=torch.float64))


def test_apply_reduces_any_aligned_tensor(chain):
    assert chain.apply(torch.randn(10, 2, 3, dtype=torch.float64)).shape == (3, 2, 3)
    assert chain.apply(torch.arange(10)).dtype == torch.float32


def test_a_map_that_does_not_fit_names_both_sizes(chain):
    with pytest.raises(InputError, match="10 source tokens and was given 9"):
        chain.apply(torch.randn(9, 4))


def test_composing_maps_that_do_not_fit_is_refused(chain):
    with pytest.raises(InputError, match="cannot follow"):
        chain.then(random_blocks([1], [4]))
    with pytest.raises(InputError, match="cannot follow"):
        chain.then(TokenMap(4))


def test_counts_that_do_not_fit_the_weights_are_refused():
    with pytest.raises(InputError, match="do not fit weights"):
        Blocks(torch.ones(1, 2, 2), (3,), (2,))


@pytest.mark.parametrize("grid", [(27, 27), (14, 14), (24, 13), (5, 8)])
def test_bilinear_pooling_is_what_the_stock_model_interpolates(grid):
    x = torch.randn(2, 3, *grid, dtype=torch.float64)
    layout = Layout(2, grid)
    pooled = layout.pooling_matrix() @ x.flatten(2).mT
    expected = functional.interpolate(x, size=layout.language_grid, mode="bilinear").flatten(2).mT
    torch.testing.assert_close(pooled, expected)


def test_average_pooling_drops_the_remainder():
    x = torch.randn(2, 3, 27, 27, dtype=torch.float64)
    layout = Layout(2, (27, 27), "average")
    assert layout.language_grid == (13, 13)
    expected = functional.avg_pool2d(x, 2).flatten(2).mT
    torch.testing.assert_close(layout.pooling_matrix() @ x.flatten(2).mT, expected)


def encoded(layout, dim=4, newline=None):
    n = layout.frames
    return VideoTokens.encoded(
        torch.randn(n, layout.cells, dim, dtype=torch.float64),
        layout,
        torch.rand(n, layout.cells),
        torch.rand(n, layout.cells),
        torch.arange(n, dtype=torch.float64),
        newline=newline,
    )


def test_fresh_tokens_count_the_language_grid_while_pooling_is_pending():
    tokens = encoded(Layout(3, (27, 27)))
    assert (tokens.tokens_full, tokens.tokens_kept, tokens.retention) == (588, 588, 1.0)
    assert len(tokens.features) == 3 * 729


def test_pooling_keeps_the_map_true_to_the_features():
    tokens = encoded(Layout(2, (9, 7)))
    pooled = tokens.to_language_grid()
    torch.testing.assert_close(pooled.map.apply(tokens.features), pooled.features)
    assert pooled.to_language_grid() is pooled


def test_grid_newlines_end_every_row_and_are_not_counted():
    newline = torch.full((4,), 7.0, dtype=torch.float64)
    pooled = encoded(Layout(2, (6, 6), "average", "grid"), newline=newline).to_language_grid()
    ends = pooled.role == Role.NEWLINE
    assert ends.nonzero().flatten().tolist() == [3, 7, 11, 15, 19, 23]
    assert torch.equal(pooled.features[ends], newline.expand(6, 4))
    assert pooled.tokens_kept == pooled.tokens_full == 18


def test_tokens_are_told_in_a_line():
    tokens = encoded(Layout(2, (4, 4)))
    assert repr(tokens) == "VideoTokens(8 of 8 tokens of 2 frames, 4 wide, float64, cpu; no history)"


def test_tokens_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoded(Layout(1, (4, 4))).features = torch.zeros(1)


def test_tensors_that_describe_other_tokens_are_refused():
    tokens = encoded(Layout(2, (4, 4)))
    with pytest.raises(InputError, match="role has shape"):
        dataclasses.replace(tokens, role=tokens.role[1:])
    with pytest.raises(InputError, match="does not fit 2 frames"):
        dataclasses.replace(
            tokens, map=TokenMap(16), features=tokens.features[:16], place=tokens.place[:16], role=tokens.role[:16]
        )


def test_nan_features_are_refused_with_their_number():
    tokens = encoded(Layout(2, (4, 4)))
    features = tokens.features.clone()
    features[3, 1] = torch.nan
    features[5] = torch.inf
    with pytest.raises(InputError, match="2 of 32 tokens hold NaN"):
        dataclasses.replace(tokens, features=features).require_finite()


@pytest.mark.parametrize("change", [{"frames": 0}, {"grid": (0, 4)}, {"pooling": "max"}, {"newline": "some"}])
def test_impossible_layouts_are_refused(change):
    with pytest.raises(InputError, match="Impossible token layout"):
        Layout(**{"frames": 1, "grid": (4, 4), **change})


def test_places_and_numbers_of_cells_lead_to_each_other():
    layout = Layout(3, (7, 10), "average", "grid")
    index = torch.arange(3 * layout.language_cells)
    place = layout.place(index)
    assert place[[0, 1, 5, 15]].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert torch.equal(layout.index(place), index)
