"""Methods without transport and clustering: what they ask of a device, whatever the number of frames."""

import pytest

from comfyui_aot.aot.benchmarks.operations import count_operations
from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.chain import parse

FRAMES = (8, 32, 128)
OPERATIONS = 250
WAITS = 3

RETENTION = {
    "cosine": 0.1,
    "dycoke": 0.45,
    "evs": 0.45,
    "random": 0.1,
    "tome": 0.1,
    "top": 0.1,
    "uniform": 0.1,
    "vidcom2": 0.1,
    "visionzip": 0.1,
    "vscan": 0.1,
}
"""An exact budget of each; none gives all frames the same number of tokens."""

PRESETS = [preset for name in RETENTION for preset in stages()[name].presets]

pytestmark = pytest.mark.filterwarnings("ignore:These tokens come without")


def counts(chain):
    """Operations and waits of one reduction at each number of frames."""
    counters = [count_operations(parse(chain), frames, dim=8) for frames in FRAMES]
    return [(counter.operations.total(), counter.waits.total()) for counter in counters]


@pytest.mark.parametrize(
    "chain", [*(f"{name}:retention={share}" for name, share in RETENTION.items()), "top:span=video"]
)
def test_an_exact_budget_takes_few_operations_and_waits_whatever_the_frames(chain):
    at_each = counts(chain)
    assert len(set(at_each)) == 1
    operations, waits = at_each[0]
    assert operations <= OPERATIONS
    assert waits <= WAITS


@pytest.mark.parametrize("preset", PRESETS)
def test_a_released_preset_waits_once_more_at_most(preset):
    at_each = counts(preset)
    assert len(set(at_each)) == 1
    operations, waits = at_each[0]
    assert operations <= OPERATIONS
    assert waits <= WAITS + 1
