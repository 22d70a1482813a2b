"""What SmolVLM2's prompt and pixels are made of."""

import pytest
import torch

from comfyui_aot.aot.models.smolvlm import in_words, longest_side, resize_sharply, with_longest_side

WORDS = {
    1: "one",
    8: "eight",
    13: "thirteen",
    20: "twenty",
    64: "sixty-four",
    100: "one hundred",
    101: "one hundred and one",
    999: "nine hundred and ninety-nine",
    1000: "one thousand",
    1005: "one thousand and five",
    1234: "one thousand, two hundred and thirty-four",
    12345: "twelve thousand, three hundred and forty-five",
}
"""By num2words 0.5.14, which the stock processor writes its prompt with."""


@pytest.mark.parametrize("count", WORDS)
def test_numbers_are_written_as_the_stock_processor_writes_them(count):
    assert in_words(count) == WORDS[count]


@pytest.mark.parametrize(
    ("frame", "longest", "expected"),
    [
        ((720, 1280), 1536, (864, 1536)),
        ((1280, 720), 1536, (1536, 864)),
        ((272, 640), 512, (218, 512)),
        ((144, 176), 384, (314, 384)),
        ((101, 100), 333, (333, 330)),
        ((100, 100), 384, (384, 384)),
        ((1, 4000), 384, (1, 384)),
    ],
)
def test_the_longest_side_is_the_published_one_and_the_other_is_even(frame, longest, expected):
    """Expected: transformers 5.23, get_resize_output_image_size."""
    assert with_longest_side(*frame, longest) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": {"longest_edge": 1536}, "video_sampling": {"video_size": {"longest_edge": 384}}}, 1536),
        ({"video_sampling": {"video_size": {"longest_edge": 384}}}, 384),
        ({}, 1456),
    ],
)
def test_the_longest_side_is_where_the_stock_processor_finds_it(settings, expected):
    assert longest_side(settings) == expected


def test_frames_of_the_right_size_are_not_touched_and_others_stay_whole_levels():
    pixels = torch.randint(0, 256, (2, 3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert resize_sharply(pixels, (40, 60)) is pixels
    assert resize_sharply(pixels, (33, 50)).dtype == torch.uint8
    assert resize_sharply(pixels, (33, 50)).shape == (2, 3, 33, 50)
