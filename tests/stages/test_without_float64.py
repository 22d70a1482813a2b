"""Devices without float64, as Apple's: every stage takes float32 there in its place."""

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from comfyui_aot.aot import devices
from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens.quality import figures
from comfyui_aot.tests.support.stages import LAYOUTS, video

SETTINGS = (
    "intra",
    "intra:choice=random",
    "intra:marginals=importance",
    "intra:metric=sqeuclidean",
    "intra:solver=early",
    "intra:solver=log",
    "intra:solver=nearest",
    "intra:solver=sinkhorn,eps=0.001",
    "intra:solver=unbalanced",
    "inter",
    "inter:clips=dynamic,retention=0.3",
    "inter:solver=sinkhorn,retention=0.3",
    "paper",
)
CHAINS = (*(name for name in stages()), *(f"{name}:retention=0.5" for name in stages()), *SETTINGS)


class NoFloat64(TorchDispatchMode):
    """Refuses float64 made of what a device holds: of these tensors, and of all that is computed from them."""

    def __init__(self, *tensors):
        super().__init__()
        self._made = list(tensors)
        self._storages = {tensor.untyped_storage().data_ptr() for tensor in tensors}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if any(self._is_on_device(each) for each in tree_iter((args, kwargs))):
            for tensor in tree_iter(result):
                if isinstance(tensor, torch.Tensor):
                    assert tensor.dtype != torch.float64, "".join(traceback.format_stack(limit=6))
                    self._made.append(tensor)
                    self._storages.add(tensor.untyped_storage().data_ptr())
        return result

    def _is_on_device(self, value):
        return isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in self._storages


def on_device(tokens):
    return NoFloat64(tokens.features, tokens.shallow, tokens.deep, *tokens.extras.values())


@pytest.fixture
def without_float64(monkeypatch):
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", ("cpu",))


def test_the_mode_refuses_what_such_a_device_would():
    tokens = video()
    with on_device(tokens), pytest.raises(AssertionError):
        (tokens.features + 1)[:3].double()
    with on_device(tokens):
        torch.arange(3, dtype=torch.float64) * 2  # of the host


def test_with_float64_there_are_decisions_that_it_would_refuse():
    tokens = video()
    with on_device(tokens), pytest.raises(AssertionError):
        parse("intra:retention=0.3")(tokens)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("layout", LAYOUTS[:2], ids="-".join)
def test_every_stage_runs(without_float64, chain, layout):
    pooling, newline = layout
    tokens = video(4, pooling=pooling, newline=newline, extras=True)
    with on_device(tokens):
        reduced = parse(chain)(tokens)
    assert reduced.tokens_kept
    assert torch.isfinite(reduced.features).all()
    row_sums = reduced.map.means.apply(torch.ones(reduced.map.source, 1))
    torch.testing.assert_close(row_sums, torch.ones_like(row_sums), atol=1e-5, rtol=0)


@pytest.mark.parametrize("chain", ["aot:retention=0.3", "intra", "paper", "holitom", "vidcom2:retention=0.3"])
def test_the_tokens_are_those_of_float64_but_for_ties(monkeypatch, chain):
    tokens = video()
    wide = parse(chain)(tokens)
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", ("cpu",))
    narrow = parse(chain)(tokens)
    assert abs(narrow.tokens_kept - wide.tokens_kept) <= 0.01 * wide.tokens_kept
    places = [set(map(tuple, each.place.tolist())) for each in (wide, narrow)]
    assert len(places[0] & places[1]) > 0.97 * len(places[0])


def test_what_a_reduction_keeps_is_measured(without_float64):
    tokens = video()
    with on_device(tokens):
        reduced = parse("aot:retention=0.3")(tokens)
    assert 0 < figures(reduced, tokens).cells <= 1
