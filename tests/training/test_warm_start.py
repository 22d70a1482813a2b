"""Where training begins: a token that already means what its words mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comfyui_aot.aot.evaluation.drawing import COLOURS, KINDS
from comfyui_aot.aot.evaluation.scenes import make_scene
from comfyui_aot.aot.training.learner import Learner
from comfyui_aot.aot.training.warm_start import WarmStart, cell_contents

HELD_OUT = range(3_000_000, 3_000_008)


@pytest.fixture(scope="module")
def learner() -> Learner:
    learner = Learner()
    learner.warm_start(WarmStart())
    return learner


def test_tokens_of_unseen_pictures_lie_nearest_to_the_words_for_what_is_there(learner, beginning):
    words, tokenizer = learner.model.get_input_embeddings().weight.detach(), beginning[1]
    right = {"colour": [], "kind": []}
    for seed in HELD_OUT:
        scene = make_scene(seed)
        with torch.no_grad():
            prefix, side, before = learner._prefix(scene.still(0))
        tokens = prefix[before:-1]
        covered, contents = cell_contents(scene.shapes(0), 378, side)
        for position, names in enumerate((COLOURS, KINDS)):
            vectors = torch.stack([words[tokenizer(f" {name}").input_ids[0]] for name in names])
            similarity = torch.cosine_similarity(tokens[:, None], vectors[None], dim=-1)
            nearest = [list(names)[i] for i in similarity.argmax(1).tolist()]
            right[("colour", "kind")[position]] += [
                nearest[cell] == contents[cell][position] for cell in torch.where(covered > 0.5)[0].tolist()
            ]
    assert np.mean(right["colour"]) > 0.65
    assert np.mean(right["kind"]) > 0.75
