"""The controls: top importance, random, uniform and merging by cosine, on whole and on reduced tokens."""

import dataclasses

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.base import Part
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.controls.uniform import even_cells
from comfyui_aot.aot.streaming import stream
from comfyui_aot.aot.tokens.video_tokens import Layout, Role, VideoTokens
from comfyui_aot.tests.support.fake_tower import FakeTower
from comfyui_aot.tests.support.stages import video


def clip(features, attention, newline="none"):
    """Frames of 2 x 2 cells, of one number or vector each, with the attention they receive."""
    features = torch.tensor(features, dtype=torch.float64).reshape(len(features), 4, -1)
    attention = torch.tensor(attention, dtype=torch.float32)
    times = torch.arange(len(features), dtype=torch.float64)
    layout = Layout(len(features), (2, 2), "none", newline)
    return VideoTokens.encoded(features, layout, attention, attention, times, newline=torch.zeros(1).double())


def cells(reduced):
    """(frame, cell) of every token that is no newline, on a grid two cells wide."""
    return [(t, 2 * y + x) for t, y, x in reduced.place[reduced.role != Role.NEWLINE].tolist()]


ATTENTION = [[1, 9, 3, 8], [2, 4, 7, 5]]
NUMBERS = [[10, 11, 12, 13], [20, 21, 22, 23]]


def test_top_importance_takes_the_best_of_every_frame():
    assert cells(parse("top:keep_tokens=4")(clip(NUMBERS, ATTENTION))) == [(0, 1), (0, 3), (1, 2), (1, 3)]


def test_top_importance_takes_the_best_of_the_video_where_asked_to():
    reduced = parse("top:keep_tokens=3,span=video")(clip(NUMBERS, ATTENTION))
    assert cells(reduced) == [(0, 1), (0, 3), (1, 2)]
    assert reduced.features.flatten().tolist() == [11, 13, 22]


def test_a_newline_stays_where_its_row_keeps_a_token():
    reduced = parse("top:keep_tokens=4")(clip(NUMBERS, ATTENTION, newline="grid"))
    newlines = reduced.place[reduced.role == Role.NEWLINE].tolist()
    assert newlines == [[0, 0, 2], [0, 1, 2], [1, 1, 2]]


def test_merging_by_cosine_takes_means_of_what_is_most_like_each_kept_token():
    features = [[[1, 0], [5, 1], [0, 1], [1, 5]]]
    reduced = parse("cosine:keep_tokens=2")(clip(features, [[9, 1, 8, 2]]))
    assert cells(reduced) == [(0, 0), (0, 2)]
    assert reduced.features.tolist() == [[3, 0.5], [0.5, 3]]
    assert reduced.role.tolist() == [Role.MERGED, Role.MERGED]


@pytest.mark.parametrize("later", ["top", "random", "cosine"])
@pytest.mark.parametrize("wanted", [4, 5, 6, 7])
def test_frames_that_hold_few_tokens_give_what_they_can_and_the_others_more(later, wanted):
    attention = [[9, 0, 0, 0], [8, 7, 6, 5], [8, 7, 6, 0]]
    uneven = parse("top:keep_tokens=8,span=video")(clip([*NUMBERS, NUMBERS[0]], attention))
    assert uneven.frame_counts == (1, 4, 3)
    reduced = parse(f"{later}:keep_tokens={wanted}")(uneven)
    assert reduced.frame_counts == {4: (1, 1, 2), 5: (1, 2, 2), 6: (1, 2, 3), 7: (1, 3, 3)}[wanted]


@pytest.mark.parametrize("later", ["top", "random", "cosine"])
def test_more_tokens_than_an_earlier_stage_left_are_refused_with_the_range(later):
    with pytest.raises(InputError, match="give 8 to 160 tokens"):
        parse(f"vscan:keep_tokens=160+{later}:keep_tokens=161")(video())


@pytest.mark.parametrize("later", ["top", "random", "cosine", "top:span=video"])
def test_behind_a_temporal_stage_tokens_keep_their_order(later):
    given = parse("inter:clip_length=4,keep_ratio=0.3")(video(dtype=torch.float64))
    reduced = parse(later).at_tokens(given.tokens_kept)(given)
    assert torch.equal(reduced.place, given.place)
    assert torch.equal(reduced.role, given.role)
    torch.testing.assert_close(reduced.features, given.features)


def test_a_seed_is_a_choice_and_attention_has_no_part_in_it():
    tokens = video(3)
    other = dataclasses.replace(tokens, shallow=tokens.shallow.flip(1), deep=tokens.deep.flip(1))
    kept = [parse(f"random:random_seed={seed}")(tokens).place for seed in (1, 1, 2)]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])
    assert torch.equal(parse("random:random_seed=1")(other).place, kept[0])


def test_every_cell_is_drawn_about_as_often_as_any_other():
    tokens = video(400, (4, 4), pooling="none", newline="none")
    place = parse("random:retention=0.25")(tokens).place
    drawn = torch.bincount(4 * place[:, 1] + place[:, 2], minlength=16)
    assert int(drawn.min()) > 60 and int(drawn.max()) < 140  # 100 expected, 8.7 the standard deviation


@pytest.mark.parametrize(
    ("count", "grid", "expected"),
    [
        (1, (3, 3), [4]),
        (4, (4, 4), [5, 7, 13, 15]),
        (2, (1, 8), [2, 6]),
        (2, (8, 1), [2, 6]),
        (5, (4, 4), [5, 7, 12, 14, 15]),
        (6, (2, 3), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_cells_stand_in_the_middle_of_equal_parts(count, grid, expected):
    assert even_cells(count, grid).tolist() == expected


def test_any_number_of_cells_of_any_grid_is_that_many_different_ones():
    for height in range(1, 8):
        for width in range(1, 8):
            for count in range(height * width + 1):
                found = even_cells(count, (height, width)).tolist()
                assert len(set(found)) == count and found == sorted(found)
                assert all(0 <= cell < height * width for cell in found)


def test_fewer_tokens_than_frames_are_one_each_at_even_steps():
    counts = parse("uniform:keep_tokens=3")(video(9)).frame_counts
    assert counts == (0, 0, 1, 0, 0, 1, 0, 0, 1)


def test_only_every_nth_frame_is_looked_at_where_asked():
    reduced = parse("uniform:keep_tokens=30,frame_step=3")(video(8))
    assert reduced.frame_counts == (10, 0, 0, 10, 0, 0, 10, 0)
    with pytest.raises(InputError, match="give 1 to 243 tokens"):
        parse("uniform:keep_tokens=244,frame_step=3")(video(8))


@pytest.mark.parametrize("first", ["tome", "visionzip", "vscan", "uniform"])
@pytest.mark.parametrize(
    "second", ["random:retention=0.2,random_seed=4", "top:keep_tokens=231", "cosine:retention=0.3"]
)
@pytest.mark.filterwarnings("ignore:These tokens come without")
def test_two_stages_stream_as_they_run_on_the_whole_video(first, second):
    tower, pipeline = FakeTower(21), parse(f"{first}:retention=0.4+{second}")
    eager, streamed = pipeline(tower.whole), stream(tower, tower, pipeline.stages)
    assert torch.equal(eager.place, streamed.place)
    torch.testing.assert_close(eager.features, streamed.features)


def test_a_streamed_frame_that_cannot_give_its_share_says_so():
    tokens = parse("uniform:keep_tokens=4,frame_step=2")(video(2))
    with pytest.raises(InputError, match=r"frame 4 of the streamed video has 0 tokens left of the 2 .* streaming off"):
        parse("random:keep_tokens=16").stages[0](tokens, Part(2, 8))
