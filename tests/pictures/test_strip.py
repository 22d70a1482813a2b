"""The strip of sampled frames: which are shown, in which order, and with what under them."""

import pytest
import torch

from comfyui_aot.aot.pictures.canvas import BACKGROUND
from comfyui_aot.aot.pictures.strip import strip
from comfyui_aot.aot.video.frames import Frames


def coloured(count, height=90, width=160):
    """Frame i is the colour (200, 40 + i, 90), which nothing else in the picture is."""
    pixels = torch.empty(count, height, width, 3, dtype=torch.uint8)
    for i in range(count):
        pixels[i] = torch.tensor([200, 40 + i, 90])
    return Frames(pixels, torch.arange(count, dtype=torch.float64) / 2, "coloured")


def boxes(picture, count):
    """Each frame that is seen: its number, and (top, bottom, left, right) of it, in pixels."""
    pixels = (picture[0] * 255).round().int()
    found = {}
    for number in range(count):
        at = ((pixels - torch.tensor([200, 40 + number, 90])).abs().amax(-1) == 0).nonzero()
        if len(at):
            found[number] = (*at.aminmax(dim=0)[0].tolist(), *at.aminmax(dim=0)[1].tolist())
    return {number: (top, bottom, left, right) for number, (top, left, bottom, right) in found.items()}


def test_all_of_sixteen_frames_are_shown_in_reading_order():
    shown = boxes(strip(coloured(16)), 16)
    assert list(shown) == list(range(16))
    places = [(top, left) for top, _, left, _ in shown.values()]
    assert places == sorted(places)
    assert len({top for top, _ in places}) == 4


def test_of_many_frames_sixteen_are_spread_evenly_with_the_first_and_the_last():
    assert list(boxes(strip(coloured(61)), 61)) == [4 * i for i in range(16)]


def test_a_last_line_is_there_only_where_frames_are_left_out():
    def written(count):
        foot = (strip(coloured(count))[0, -20:, 200:300] * 255).round()
        return bool(((foot - torch.tensor(BACKGROUND, dtype=torch.float32)).abs().amax() > 60).item())

    assert written(61)
    assert not written(3)


def test_each_frame_has_a_time_under_it():
    picture = strip(coloured(3))
    for _, bottom, left, right in boxes(picture, 3).values():
        under = (picture[0, bottom + 1 : bottom + 27, left : right + 1] * 255).round()
        assert (under - torch.tensor(BACKGROUND, dtype=torch.float32)).abs().amax() > 150


@pytest.mark.parametrize("count", [1, 2, 5, 16, 100])
@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90), (50, 50), (1, 2000), (2000, 1)])
def test_any_number_of_frames_of_any_proportions_fits(height, width, count):
    picture = strip(coloured(count, height, width))
    assert picture.shape == (1, 340, 500, 3)
    shown = boxes(picture, count)
    assert len(shown) == min(16, count)
    if 50 <= height <= 160:
        top, bottom, left, right = shown[0]
        assert (right - left + 1) / (bottom - top + 1) == pytest.approx(width / height, rel=0.1)
        assert (bottom - top + 1) * (right - left + 1) * len(shown) > 0.3 * 340 * 500 * 0.5
