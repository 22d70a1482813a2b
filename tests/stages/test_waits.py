"""On a device that is not there: every stage keeps its tensors where they are, and seldom waits for them."""

import warnings

import pytest
import torch

from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.tests.support.simulated_device import DEVICE, OnDevice, moved, simulated, waits_of
from comfyui_aot.tests.support.stages import LAYOUTS, video

CHAINS = (*stages(), *(f"{name}:retention=0.5" for name in stages()), "paper")

WAITS = 3
MORE_WAITS = {"holitom": 6, "prunevid": 6}
"""How often a stage with an exact budget may wait; once more where it looks up which newlines stay."""


def test_the_device_refuses_what_a_gpu_would():
    with simulated() as waits:
        x = torch.ones(3, device=DEVICE)
        assert isinstance(x + 1, OnDevice)
        with pytest.raises(RuntimeError, match="host together"):
            x + torch.ones(3)
        assert waits.total() == 0
        assert (x.sum().item(), x.tolist()) == (3, [1, 1, 1])
        assert x.cpu().tolist() == [1, 1, 1]
        assert len((x > 0).nonzero()) == 3
    assert waits == {"_local_scalar_dense": 1, "_to_copy": 2, "nonzero": 1}


@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
@pytest.mark.parametrize("chain", CHAINS)
def test_a_stage_leaves_its_tensors_on_the_device(chain, layout):
    pooling, newline = layout
    tokens = video(4, pooling=pooling, newline=newline, extras=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = parse(chain)(tokens)
        with simulated():
            reduced = parse(chain)(moved(tokens))
            assert all(isinstance(each, OnDevice) for each in (reduced.features, reduced.place, reduced.role))
            features, place, role = (each.cpu() for each in (reduced.features, reduced.place, reduced.role))
    assert torch.equal(place, expected.place)
    assert torch.equal(role, expected.role)
    torch.testing.assert_close(features, expected.features)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
@pytest.mark.parametrize("name", stages())
def test_an_exact_budget_seldom_waits(name, layout):
    pooling, newline = layout
    stage = parse(f"{name}:retention=0.5")
    waits = waits_of(stage, video(9, pooling=pooling, newline=newline, extras=True))
    assert waits.total() <= MORE_WAITS.get(name, WAITS) + (newline == "grid"), waits
