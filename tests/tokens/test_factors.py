"""Sparse factors, and scales stated beside W: the same as the dense matrices they stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.tokens.factors import WIDENED, Scale, Sparse, Stacked
from comfyui_aot.aot.tokens.token_map import TokenMap
from comfyui_aot.tests.support.searches import examples


def sparse(kept, source, entries, seed=0):
    generator = torch.Generator().manual_seed(seed)
    row = torch.randint(kept, (entries,), generator=generator)
    col = torch.randint(source, (entries,), generator=generator)
    return Sparse(row, col, torch.rand(entries, dtype=torch.float64, generator=generator), kept, source)


def dense(factor):
    row, col, weight = factor.coordinates()
    return torch.zeros(factor.kept, factor.source, dtype=torch.float64).index_put_((row, col), weight, accumulate=True)


@given(kept=st.integers(1, 9), source=st.integers(1, 9), entries=st.integers(0, 40), seed=st.integers(0, 99))
@settings(max_examples=examples(25), deadline=None)
def test_a_sparse_factor_multiplies_as_its_dense_matrix(kept, source, entries, seed):
    factor = sparse(kept, source, entries, seed)
    x, y = torch.rand(source, 3, 2, dtype=torch.float64), torch.rand(kept, dtype=torch.float64)
    torch.testing.assert_close(factor.apply(x), torch.einsum("ks,sab->kab", dense(factor), x))
    torch.testing.assert_close(factor.adjoint(y), dense(factor).T @ y)


def test_more_half_precision_entries_than_are_widened_at_one_time():
    rows = WIDENED // 8 + 1
    factor = sparse(50, rows, 90)
    x = torch.rand(rows, 17).bfloat16()
    expected = (dense(factor) @ x.double()).bfloat16()
    torch.testing.assert_close(factor.apply(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_nothing_adds_up_to_zero(dtype):
    none = Sparse(*torch.zeros(2, 0, dtype=torch.long), torch.zeros(0), 3, 0)
    assert torch.equal(none.apply(torch.zeros(0, 2, 4, dtype=dtype)), torch.zeros(3, 2, 4, dtype=dtype))
    assert none.adjoint(torch.ones(3, 2, dtype=dtype)).shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_only_selected_is_copied_bit_by_bit(dtype):
    picked = torch.tensor([3, 0, 3])
    factor = Sparse(torch.arange(3), picked, torch.ones(3), 3, 5)
    x = (1e4 * torch.randn(5, 8)).to(dtype)
    assert factor.selects
    assert torch.equal(factor.apply(x), x[picked])
    assert not Sparse(torch.arange(3), picked, torch.tensor([1, 1, 0.5]), 3, 5).selects


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    factor = Sparse(torch.zeros(4096, dtype=torch.long), torch.arange(4096), torch.full((4096,), 1 / 4096), 1, 4096)
    assert factor.apply(torch.ones(4096, 1, dtype=dtype)).item() == 1


def test_entries_outside_the_matrix_are_refused():
    with pytest.raises(InputError, match="2 x 3 matrix"):
        Sparse(torch.tensor([0]), torch.tensor([3]), torch.ones(1), 2, 3).require_valid()
    with pytest.raises(InputError, match="a row, a column and a weight each"):
        Sparse(torch.tensor([0, 1]), torch.tensor([2]), torch.ones(1), 2, 3)


def test_a_scale_is_a_diagonal_matrix_and_the_means_are_without_it():
    mean, scale = (
        Sparse(torch.tensor([0, 0, 1]), torch.arange(3), torch.tensor([0.5, 0.5, 1.0]), 2, 3),
        torch.tensor([2.0, 1.0]),
    )
    both = TokenMap(3, (mean, Scale(scale)))
    x = torch.tensor([[1.0], [3.0], [5.0]])
    assert both.apply(x).tolist() == [[4.0], [5.0]]
    assert both.means.apply(x).tolist() == [[2.0], [5.0]]
    assert both.row_mass().tolist() == [2.0, 1.0]
    assert both.adjoint(torch.ones(2)).tolist() == [1.0, 1.0, 1.0]
    assert both.sparse().to_dense().tolist() == [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def test_runs_side_by_side_are_the_block_diagonal_of_both():
    first, second = sparse(2, 3, 5, 1), sparse(3, 2, 4, 2)
    stacked, joined = Stacked((first, second)), Sparse.concatenate((first, second))
    x = torch.rand(5, 2, dtype=torch.float64)
    torch.testing.assert_close(stacked.apply(x), joined.apply(x))
    torch.testing.assert_close(dense(joined), torch.block_diag(dense(first), dense(second)))
    scales = Stacked((Scale(torch.ones(2)), Scale(torch.full((3,), 2.0))))
    map = TokenMap(5, (stacked, scales))
    torch.testing.assert_close(map.row_mass(), dense(joined).sum(1) * torch.tensor([1, 1, 2, 2, 2]))
    assert len(map.means.factors) == 1
