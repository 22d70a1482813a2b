"""Training: every clip new, a plan that is kept, and nothing lost when it is stopped."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from comfyui_aot.aot.training.trainer import Phase, Settings, Training, accuracy, balance
from comfyui_aot.tests.support.training import TINY


def learnt(training: Training) -> dict[str, torch.Tensor]:
    weights = training.learner.weights({})
    return {name: torch.cat([pair[0].flatten(), pair[1].flatten()]) for name, pair in weights.lora.items()}


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path):
    whole = Training(TINY, tmp_path / "whole")
    steps = list(whole.steps())
    for _ in itertools.islice(Training(TINY, tmp_path / "stopped").steps(), 2):
        pass
    resumed = Training(TINY, tmp_path / "stopped")
    assert resumed.done == 2
    assert len(list(resumed.steps())) == 1
    expected, found = learnt(whole), learnt(resumed)
    assert all(torch.equal(expected[name], values) for name, values in found.items())
    assert not list(Training(TINY, tmp_path / "stopped").steps())
    logged = [json.loads(line) for line in (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 3]
    assert [(line["loss"] > 0, line["early"] > 0) for line in logged] == [(False, False), (False, True), (True, True)]
    assert resumed.seconds == pytest.approx(sum(line["seconds"] for line in logged))
    assert not steps[0].answers
    assert {family for family, _ in steps[2].answers} >= {"shape", "exist"}


def test_the_rate_goes_in_a_straight_line_from_phase_to_phase_and_no_clip_comes_twice():
    first = Phase(4, 1e-3, size=196, frames=(4,), radius=(13.0, 18.0), clips=3, each=1)
    second = Phase(2, 2e-4, size=378, frames=(16,), radius=(15.0, 28.0), each=1)
    settings = Settings(phases=(first, second), first_seed=100)
    steps = [settings.at(step) for step in range(settings.steps)]
    assert [rate for _, rate, _ in steps] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 6e-4, 2e-4])
    assert [phase for phase, _, _ in steps] == [first] * 4 + [second] * 2
    assert [seed for _, _, seed in steps] == [100, 103, 106, 109, 112, 113]


def test_balanced_families_count_the_same_however_many_of_each_are_asked():
    families = ["place", "place", "count", "place"]
    weights = balance(families)
    assert float(weights[2]) == pytest.approx(float(weights[[0, 1, 3]].sum()))


def test_accuracy_is_the_share_of_right_answers_of_each_family():
    assert accuracy([("a", True), ("b", False), ("a", False)]) == {"a": 0.5, "b": 0.0}
