"""The layers of an LLM as the explorer gets them, judged by what was cut."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch

from comfyui_aot.aot.answering.inside import Seen
from comfyui_aot.aot.answering.layer_steps import layer_steps
from comfyui_aot.aot.pictures.explorer import MOST_ENTRIES
from comfyui_aot.aot.pictures.explorer_layers import packed_layers, transports
from comfyui_aot.aot.stages.inner import Choice, selected
from comfyui_aot.aot.tokens.factors import Sparse
from comfyui_aot.aot.tokens.video_tokens import Layout, VideoTokens

LAYOUT = Layout(frames=2, grid=(4, 4), pooling="none", newline="none")
GIVEN = 32


def tokens():
    features = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    importance = torch.ones(2, 16)
    return VideoTokens.encoded(features, LAYOUT, importance, importance, torch.arange(2.0), model="test model")


def merged(kept, others, share, count):
    """Kept tokens, the first of which takes the mean with some others in."""
    rows = torch.tensor([*range(len(kept)), *[0] * len(others)])
    weights = torch.ones(len(rows), dtype=torch.float64)
    weights[0] = 1 - share * len(others)
    weights[len(kept) :] = share
    return Choice(torch.tensor(kept), Sparse(rows, torch.tensor([*kept, *others]), weights, len(kept), count))


@pytest.fixture(scope="module")
def seen():
    half = selected(torch.arange(0, GIVEN, 2), GIVEN)
    return [Seen(1, half, 16, 20, "First"), Seen(3, merged([2, 5, 9], [4, 15], 0.25, 16), 3, 7, "Second")]


@pytest.fixture(scope="module")
def sent(seen):
    given = tokens()
    steps = layer_steps(given, seen)
    return packed_layers(given, steps, [32, 16, 16, 3], transports(given, steps)[1:])


def array(step, name, kind="<u4"):
    return np.frombuffer(base64.b64decode(step[name]), kind).tolist()


def test_every_cut_is_a_step_that_leads_back_to_the_given_tokens(sent):
    first, second = sent["steps"]
    assert [(step["layer"], step["stages"], step["map"]["kept"]) for step in sent["steps"]] == [
        (1, ["First"], 16),
        (3, ["Second"], 3),
    ]
    assert array(first, "of") == list(range(0, 32, 2)) and array(first, "row") == []
    assert array(second, "of") == [4, 10, 18]
    assert array(second, "row") == [0, 0] and sorted(array(second, "from")) == [8, 30]
    assert array(second, "share", "<f4") == [0.25, 0.25]
    assert (sent["tokens"], sent["given"], sent["full"]) == ([32, 16, 16, 3], 32, 32)


def test_w_of_a_step_is_that_of_its_tokens(seen):
    given = tokens()
    _, last = steps = layer_steps(given, seen)
    transport = transports(given, steps)[2]
    assert transport.maps(0).reshape(-1)[[4, 8, 30]].tolist() == [0.5, 0.25, 0.25]
    assert last.tokens.place.tolist() == given.to_language_grid().place[[4, 10, 18]].tolist()


def test_cuts_before_one_layer_are_one_step():
    given = tokens()
    half, quarter = selected(torch.arange(0, GIVEN, 2), GIVEN), selected(torch.arange(0, 16, 2), 16)
    (step,) = layer_steps(given, [Seen(2, half, 16, 20, "First"), Seen(2, quarter, 8, 12, "Second")])
    assert step.stages == ("First", "Second")
    assert step.kept.tolist() == list(range(0, 32, 4)) and step.tokens.tokens_kept == 8


def test_all_maps_together_are_no_larger_than_one(seen):
    layout = Layout(frames=8, grid=(16, 16), pooling="none", newline="none")
    importance = torch.ones(8, 256)
    wide = VideoTokens.encoded(
        torch.randn(8, 256, 4), layout, importance, importance, torch.arange(8.0), model="test model"
    ).to_language_grid()
    spread = Sparse(*torch.full((512, 2048), 1 / 2048, dtype=torch.float64).to_sparse().coalesce().indices(),
                    torch.full((512 * 2048,), 1 / 2048, dtype=torch.float64), 512, 2048)  # fmt: skip
    mixed = wide.reduced(spread, wide.place[:512], wide.role[:512])
    steps = layer_steps(mixed, [Seen(1, selected(torch.arange(256), 512), 256, 300, "First")])
    every = [len(transport.src) for transport in transports(mixed, steps)]
    assert sum(every) <= MOST_ENTRIES and every[0] > every[1] > MOST_ENTRIES // 4
