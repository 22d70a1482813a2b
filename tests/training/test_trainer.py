"""Training: every clip new, a plan that is kept, and nothing lost when it is stopped."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from comfyui_aot.aot.training.trainer import Phase, Settings, accuracy, train
from comfyui_aot.aot.training.warm_start import WarmStart

TINY = Settings(
    phases=(Phase(3, size=196, frames=(4,), radius=(13.0, 18.0), each=1, rate=1e-3),),
    warm_start=WarmStart(frames=2),
    checkpoint_every=1,
)


def learnt(steps) -> dict[str, torch.Tensor]:
    *_, (learner, _) = steps
    weights = learner.weights({})
    return {name: torch.cat([pair[0].flatten(), pair[1].flatten()]) for name, pair in weights.lora.items()}


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path):
    whole = learnt(train(TINY, tmp_path / "whole"))
    for _ in itertools.islice(train(TINY, tmp_path / "stopped"), 2):
        pass
    resumed = learnt(train(TINY, tmp_path / "stopped"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logged = [json.loads(line)["clip"] for line in (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()]
    assert logged == [1, 2, 3]


def test_the_rate_goes_in_a_straight_line_from_phase_to_phase():
    first = Phase(4, size=196, frames=(4,), radius=(13.0, 18.0), each=1, rate=1e-3)
    second = Phase(2, size=378, frames=(16,), radius=(15.0, 28.0), each=1, rate=2e-4)
    settings = Settings(phases=(first, second))
    rates = [settings.at(index)[1] for index in range(settings.clips)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 6e-4, 2e-4])
    assert [settings.at(index)[0] for index in (3, 4)] == [first, second]


def test_accuracy_is_the_share_of_right_answers_of_each_family():
    assert accuracy([("a", True), ("b", False), ("a", False)]) == {"a": 0.5, "b": 0.0}
