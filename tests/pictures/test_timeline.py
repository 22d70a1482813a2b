"""Clip timelines: what is read off the tokens, and where it stands in the picture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.pictures import timeline
from comfyui_aot.aot.pictures.canvas import GREEN, ORANGE, SKY_BLUE
from comfyui_aot.aot.pictures.timeline import explanation, keyframes, role_counts
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.anchor_ot.inter import InterFrame
from comfyui_aot.aot.tokens.video_tokens import Layout, Role, VideoTokens
from comfyui_aot.aot.video.frames import Frames

BUDGET = "intra:retention=0.6+inter:retention=0.3,clip_length=4"
RELEASED = "inter:clip_length=4,keep_ratio=0.3"


def frames_of(count: int) -> Frames:
    pixels = torch.full((count, 24, 32, 3), 90, dtype=torch.uint8)
    return Frames(pixels, torch.arange(count, dtype=torch.float64), "grey.mp4")


def encoded(frames: int = 8, seed: int = 0) -> VideoTokens:
    layout = Layout(frames, (9, 9))
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(1, layout.cells, 8, generator=random) + 0.4 * torch.randn(
        frames, layout.cells, 8, generator=random
    )
    shallow, deep = torch.rand(2, frames, layout.cells, generator=random)
    return VideoTokens.encoded(features, layout, shallow, deep, torch.arange(frames, dtype=torch.float64))


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (RELEASED, (0, 4)),
        (BUDGET, (0, 4)),
        ("aot:retention=0.3,clips=times,cut_times=3 5", (0, 3, 5)),
        ("aot:retention=0.3,clip_length=4,repeat=false", (0, 4)),
        ("intra:retention=0.3", ()),
        ("full", ()),
    ],
)
def test_clips_begin_where_keyframes_are(chain: str, expected: tuple[int, ...]) -> None:
    assert keyframes(parse(chain)(encoded())) == expected


@pytest.mark.parametrize("chain", [RELEASED, BUDGET, "intra:retention=0.3", "full"])
def test_roles_are_counted_frame_by_frame(chain: str) -> None:
    tokens = parse(chain)(encoded())
    counts = role_counts(tokens)
    assert counts.shape == (len(Role), 8)
    assert int(counts.sum()) == tokens.tokens_kept
    assert counts.sum(0).tolist() == list(tokens.to_language_grid().frame_counts)


def test_the_tokens_that_stay_are_those_of_lowest_q_in_each_frame() -> None:
    full = encoded()
    tokens = parse(RELEASED)(full)
    found = explanation(tokens, full, keyframes(tokens))
    assert found.name == "q"
    assert sorted(set(found.frame.tolist())) == [1, 2, 3, 5, 6, 7]
    assert int(found.stayed.sum()) == int(role_counts(tokens)[Role.DISTINCT].sum())
    for frame in (1, 5, 7):
        here = found.frame == frame
        assert found.value[here & found.stayed].max() < found.value[here & ~found.stayed].min()


def test_q_is_the_largest_share_a_keyframes_token_takes() -> None:
    full = encoded(4).to_language_grid()
    stage = InterFrame(clip_length=4, keep_ratio=0.0, solver="nearest")
    q = stage.explained(full)
    assert bool(torch.isinf(q[:25]).all())
    assert torch.equal(q[25:], torch.ones(75, dtype=torch.float64))


def test_without_the_full_tokens_shares_are_read_off_w() -> None:
    tokens = parse(BUDGET)(encoded())
    found = explanation(tokens, None, keyframes(tokens))
    assert found.name == "largest share"
    assert not set(found.frame.tolist()) & {0, 4}
    assert 0 < float(found.value.min()) <= float(found.value.max()) <= 1 + 1e-12
    assert int(found.stayed.sum()) == int(role_counts(tokens)[Role.DISTINCT].sum())


def test_phase_one_alone_has_no_q_even_with_the_full_tokens() -> None:
    full = encoded()
    assert explanation(parse("intra:retention=0.3")(full), full, ()).name == "largest share"


def test_full_tokens_that_the_stages_make_others_of_are_refused() -> None:
    full = encoded()
    tokens = parse(BUDGET)(full)
    other = parse("intra:retention=0.6+inter:retention=0.3,clip_length=2")(full)
    mixed = VideoTokens(**{**vars_of(tokens), "history": other.history})
    with pytest.raises(InputError, match=r"make other tokens of the full ones"):
        timeline(mixed, frames_of(8), full)


def vars_of(tokens: VideoTokens) -> dict:
    return {name: getattr(tokens, name) for name in VideoTokens.__dataclass_fields__}


@pytest.mark.parametrize("width", [320, 1600])
@pytest.mark.parametrize("chain", [BUDGET, "intra:retention=0.3", "full"])
def test_any_tokens_make_a_picture_of_the_width_asked_for(chain: str, width: int) -> None:
    image = timeline(parse(chain)(encoded()), frames_of(8), width=width)
    assert image.dtype == torch.float32
    assert image.shape[0] == 1
    assert image.shape[2:] == (width, 3)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1


def test_bars_stand_where_their_frames_do_and_are_as_high_as_their_tokens() -> None:
    full = encoded()
    tokens = parse(BUDGET)(full)
    picture = (timeline(tokens, frames_of(8), full)[0] * 255).round().byte().numpy()
    edges = np.linspace(24 + 66, 1600 - 24, 9).round().astype(int)
    counts = role_counts(tokens)
    solid = (picture == np.array(ORANGE)).all(-1)
    heights = [int(solid[:, (a + b) // 2 + 20].sum()) for a, b in pairwise(edges)]
    keyed = counts[Role.KEYFRAME].tolist()
    assert all((height > 20) is (amount > 0) for height, amount in zip(heights, keyed, strict=True))
    most = int(counts[[int(role) for role in Role][:4]].sum(0).max())
    assert heights[0] == pytest.approx(190 * keyed[0] / most, abs=12)


def test_colours_of_roles_that_are_not_there_are_not_drawn() -> None:
    picture = (timeline(parse("intra:retention=0.3")(encoded()), frames_of(8))[0] * 255).round().byte().numpy()
    assert (picture == np.array(GREEN)).all(-1).any()
    assert not any((picture == np.array(colour)).all(-1).any() for colour in (ORANGE, SKY_BLUE))


def test_many_frames_are_drawn_too() -> None:
    image = timeline(parse("aot:retention=0.3,clip_length=2")(encoded(300)), frames_of(300), width=400)
    assert image.shape[2] == 400


def test_frames_that_were_not_encoded_are_refused() -> None:
    with pytest.raises(InputError, match=r"8 frames and 5 frames"):
        timeline(encoded(), frames_of(5))
