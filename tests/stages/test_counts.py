"""Each stage is held to what it asks of a device: operations and waits, the same for short videos and for long ones."""

import pytest

from comfyui_aot.aot.benchmarks.operations import count_operations
from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.chain import Chain, is_fixed, parse, published

FRAMES = (8, 32, 128)
LIMITS = {"aot": (300, 6), "intra": (150, 4), "holitom": (400, 6), "prunevid": (400, 6)}
SERIAL = {"cdpruner": (500, 3), "semvid": (3000, 3)}
"""Those that take a frame's tokens one after another, as many steps as the fullest frame has tokens, here 73 of 169."""
OTHERS = (250, 3)
"""Operations and waits at most, on an exact budget; as released, where counts follow from the data, a wait more."""
RETENTIONS = {"dtd": 0.45, "dycoke": 0.45, "evs": 0.45}
"""Of stages that keep frames whole; 0.1 of the others. None gives all frames the same number of tokens."""

pytestmark = pytest.mark.filterwarnings("ignore:These tokens come without")


def limits(chain):
    if chain.startswith("flashvid-"):  # it chooses a frame's cells one after another, here up to a quarter of them
        return 310, 4
    name = chain.partition(":")[0].partition("-")[0]
    operations, waits = (LIMITS | SERIAL).get({"paper": "aot"}.get(name, name), OTHERS)
    return operations, waits + is_fixed(chain)


PRESETS = [
    name
    for name in published()
    # Clips of 8 take 8 steps, and what acts on frames has no tokens yet.
    if not (name.startswith("paper-video") or parse(name).before_tokens)
]


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize(
    "chain",
    [
        *(f"{name}:retention={RETENTIONS.get(name, 0.1)}" for name in stages()),
        "top:span=video,retention=0.1",
        *PRESETS,
    ],
)
def test_a_chain_is_held_to_its_count(chain, frames):
    counter = count_operations(Chain(parse(chain).on_tokens), frames, 16)
    operations, waits = limits(chain)
    assert counter.operations.total() <= operations
    assert counter.waits.total() <= waits


@pytest.mark.parametrize("stage", stages())
def test_twice_the_frames_ask_for_nothing_more(stage):
    few, many = (count_operations(parse(f"{stage}:retention=0.5"), frames, 16) for frames in (32, 64))
    if stage not in ("semvid", "dytok"):  # a step for each token of the fullest frame; some frames are left empty
        assert few.operations == many.operations
    assert few.waits == many.waits
