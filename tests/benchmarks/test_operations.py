"""Counting what a reduction asks of its device."""

import pytest
import torch

from comfyui_aot.aot.benchmarks.operations import OperationCounter, count_operations
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.stages.chain import parse


def test_views_are_no_operations_and_reading_a_number_waits():
    x = torch.ones(4, 3)
    with OperationCounter() as counter:
        total = (x.T[1] * 2).sum().item()
    assert total == 8
    assert counter.operations == {"mul": 1, "sum": 1, "_local_scalar_dense": 1}
    assert counter.waits == {"_local_scalar_dense": 1}


@pytest.mark.parametrize(
    ("work", "waits"),
    [
        (lambda x: x[x > 1], 1),
        (lambda x: x[torch.tensor([0, 2])], 0),
        (lambda x: x.nonzero(), 1),
        (lambda x: x.repeat_interleave(torch.tensor([1, 0, 2])), 1),
        (lambda x: x.repeat_interleave(torch.tensor([1, 0, 2]), output_size=3), 0),
        (lambda x: x.masked_fill(x > 1, 0.0), 0),
        (lambda x: x.sort(), 0),
    ],
)
def test_a_result_of_unknown_shape_waits(work, waits):
    with OperationCounter() as counter:
        work(torch.arange(3.0))
    assert counter.waits.total() == waits


def test_a_chain_is_counted_without_its_set_up_and_whatever_the_width():
    narrow, wide = (count_operations(parse("random:retention=0.1"), 2, dim) for dim in (16, 32))
    assert narrow.operations == wide.operations
    assert 0 < narrow.waits.total() < narrow.operations.total()


def test_the_command_prints_both(capsys):
    assert main(["bench", "reduce", "--frames", "2", "--dim", "16", "--repeats", "1", "--operations"]) == 0
    assert capsys.readouterr().out.count("waits for the device") == 2
