"""make embedded-model: from nothing to a scored file, and on from where it was stopped."""

from __future__ import annotations

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.files import sha256_of
from comfyui_aot.aot.models.embedded.weights import TRAINED, read
from comfyui_aot.aot.training import trainer
from comfyui_aot.aot.training.__main__ import SEEDS, main, seeded
from comfyui_aot.aot.training.plan import PLAN
from comfyui_aot.tests.support.training import TINY


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run of the command, and what it put in place."""
    folder = tmp_path_factory.mktemp("training")
    main([str(folder), "--clips", "1", "--out", str(folder / "out.safetensors"), "--device", "cpu"], TINY, frames=(4,))
    return folder, read(folder / "out.safetensors")


def test_what_it_puts_in_place_has_learnt_and_tells_how(made):
    _, trained = made
    assert len(trained.lora) == 7 * 30
    assert any(bool(up.any()) for _, up in trained.lora.values())
    assert trained.info["settings"]["phases"][0]["steps"] == TINY.phases[0].steps
    assert trained.info["seconds"] > 0
    assert trained.info["device"] == "cpu"


def test_its_scores_are_those_of_unseen_clips_beside_what_can_be_guessed(made):
    _, trained = made
    assert list(trained.info["scores"]) == ["4 frames", "4 frames, blind", "4 frames, majority"]
    assert trained.info["clips"] == 1
    for families in trained.info["scores"].values():
        assert {"shape", "exist", "count", "all"} <= set(families)
        assert all(0 <= share <= 1 for share in families.values())


def test_the_same_command_again_trains_no_more(made, monkeypatch, tmp_path):
    folder, trained = made
    monkeypatch.setattr(trainer.Training, "steps", lambda self: pytest.fail("trained again"))
    again = tmp_path / "again.safetensors"
    main([str(folder), "--clips", "1", "--out", str(again), "--device", "cpu"], TINY, frames=(4,))
    assert read(again).info["scores"] == trained.info["scores"]


def test_another_seed_is_another_model_and_leaves_the_package_alone(made, tmp_path):
    _, trained = made
    package = sha256_of(TRAINED)
    main([str(tmp_path), "--clips", "1", "--device", "cpu", "--seed", "1"], TINY, frames=(4,))
    other = read(tmp_path / "embedded.safetensors")
    assert sha256_of(TRAINED) == package
    assert other.info["scores"]
    assert other.info["settings"]["seed"] == 1
    assert not torch.equal(other.projector["linear_1.weight"], trained.projector["linear_1.weight"])


def test_a_folder_of_another_seed_is_refused_and_the_package_left_alone(made):
    folder, _ = made
    package = sha256_of(TRAINED)
    with pytest.raises(InputError, match="holds a model of seed 0; give --seed 0, or another folder"):
        main([str(folder), "--clips", "1", "--device", "cpu", "--seed", "1"], TINY, frames=(4,))
    (folder / "embedded.safetensors").rename(folder / "aside")
    try:
        with pytest.raises(InputError, match="holds a model of seed 0"):
            main([str(folder), "--clips", "1", "--device", "cpu", "--seed", "1"], TINY, frames=(4,))
    finally:
        (folder / "aside").rename(folder / "embedded.safetensors")
    assert sha256_of(TRAINED) == package


def test_no_two_seeds_share_a_clip():
    plans = [seeded(PLAN, seed) for seed in SEEDS]
    first = [plan.at(0)[2] for plan in plans]
    last = [plan.at(plan.steps - 1)[2] + plan.phases[-1].clips - 1 for plan in plans]
    assert all(end < start for end, start in zip(last, [*first[1:], PLAN.naming.first_seed], strict=True))
