"""Phase I with random anchors: as if the attention received were those random numbers, frame by frame."""

import dataclasses

import numpy as np
import pytest
import torch

from comfyui_aot.aot.stages.base import Part
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.tests.support.scenes import video

SETTINGS = "intra:{},solver=early,choice=random,random_seed={}"


def drawn(seed, frames, cells, first=0):
    numbers = [np.random.default_rng((seed, first + frame)).random((2, cells)) for frame in range(frames)]
    return torch.from_numpy(np.stack(numbers, 1)).float()


@pytest.mark.parametrize("budget", ["budget=20", "retention=0.3", "keep_tokens=31"])
def test_random_anchors_are_those_that_random_attention_would_choose(budget):
    tokens = video(3, (12, 12))
    shallow, deep = drawn(5, 3, 144)
    random = parse(SETTINGS.format(budget, 5))(tokens)
    by_attention = parse(f"intra:{budget},solver=early")(dataclasses.replace(tokens, shallow=shallow, deep=deep))
    assert torch.equal(random.features, by_attention.features)
    assert torch.equal(random.place, by_attention.place)


def test_a_seed_is_a_choice_and_attention_has_no_part_in_it():
    tokens = video(3, (12, 12))
    other = dataclasses.replace(tokens, shallow=tokens.shallow.flip(1), deep=tokens.deep.flip(1))
    kept = [parse(SETTINGS.format("retention=0.3", seed))(tokens).place for seed in (1, 1, 2)]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])
    assert torch.equal(parse(SETTINGS.format("retention=0.3", 1))(other).place, kept[0])


def test_a_frame_has_the_same_anchors_alone_as_in_its_video():
    whole = video(4, (12, 12))
    (stage,) = parse(SETTINGS.format("retention=0.25", 3)).stages
    layout = dataclasses.replace(whole.layout, frames=1)
    by_frame = whole.features.reshape(4, layout.sources, -1)
    alone = dataclasses.replace(
        video(1, (12, 12)),
        features=by_frame[2],
        shallow=whole.shallow[2:3],
        deep=whole.deep[2:3],
    )
    reduced = stage(whole)
    here = reduced.place[:, 0] == 2
    assert torch.equal(stage(alone, Part(2, 4)).place[:, 1:], reduced.place[here][:, 1:])
