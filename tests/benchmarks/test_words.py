"""The readout of words: which pictures it takes, what it holds out, and that it reads what can be read."""

import random

import pytest
import torch
from PIL import Image, ImageDraw

from comfyui_aot.tests.support.scripts import benchmark


@pytest.fixture(scope="module")
def words():
    return benchmark("words")


def save(path, colour, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGBA", size)
    ImageDraw.Draw(picture).ellipse((4, 4, size[0] - 5, size[1] - 5), fill=colour)
    picture.save(path)


def test_a_picture_is_taken_for_the_one_word_that_its_name_has(words, tmp_path):
    save(tmp_path / "animals" / "gatto_nero_anna_01.png", "black")
    save(tmp_path / "animals" / "cat_and_dog.png", "brown")
    save(tmp_path / "animals" / "caterpillar.png", "green")
    save(tmp_path / "food" / "green_apple_bw_2.png", "lime")
    save(tmp_path / "more" / "green_apple_bw_3.png", "lime")  # the same picture
    found = [(picture.path.name, words.NAMES[picture.word], picture.series) for picture in words.named(tmp_path)]
    assert found == [("gatto_nero_anna_01.png", "cat", "gatto nero"), ("green_apple_bw_2.png", "apple", "green apple")]


def test_a_view_covers_what_its_mask_says(words, tmp_path):
    save(tmp_path / "ball.png", "red")
    views = list(words.views(tmp_path / "ball.png", random.Random(0)))
    assert len(views) == words.VIEWS
    for frame, mask in views:
        assert frame.size == mask.size == (words.SIDE, words.SIDE)
        left, top, right, bottom = mask.getbbox()
        assert words.SIZES[0] - 1 <= max(right - left, bottom - top) <= words.SIZES[1] + 1
        assert frame.getpixel(((left + right) // 2, (top + bottom) // 2)) == (255, 0, 0)


def test_whole_series_are_held_out_and_none_where_there_is_one(words):
    series = ["a"] * 3 + ["b"] * 3 + ["c"] * 2 + ["d"] * 2 + ["alone"] * 4
    of_word = torch.tensor([0] * 10 + [1] * 4)
    for seed in range(10):
        out = words.held_out(series, of_word, seed)
        kept = {name for name, held in zip(series, out.tolist(), strict=True) if held}
        assert len(kept) == 1
        assert "alone" not in kept
        assert out.tolist() == [name in kept for name in series]


def test_the_readout_reads_what_can_be_read_and_nothing_else(words):
    generator = torch.Generator().manual_seed(0)
    of_word = torch.arange(len(words.NAMES)).repeat(20)
    noise = torch.randn(len(of_word), 64, generator=generator)
    told = noise + 8 * torch.randn(len(words.NAMES), 64, generator=generator)[of_word]
    train = torch.arange(len(of_word)) < len(of_word) // 2
    for rows, least, most in ((told, 0.99, 1), (noise, 0, 0.1)):
        word, _, _ = words.shares(words.fit(rows[train], of_word[train]), rows[~train], of_word[~train])
        assert least <= word <= most


def test_shares_are_of_words_of_categories_and_of_words_where_the_category_is_told(words):
    bear, bee, bus, car = map(words.NAMES.index, ("bear", "bee", "bus", "car"))
    readout = torch.zeros(5, len(words.NAMES))
    readout[[0, 1, 2, 3], [bear, bee, bus, car]] = 1.0
    # Right; another animal; a vehicle for a bee, which is the likelier animal; and one for a bear, which is not.
    rows = torch.tensor([[1.0, 0, 0, 0], [1, 0.5, 0, 0], [0, 1, 2, 0], [0, 1, 0, 2]])
    shares = words.shares(readout, rows, torch.tensor([bear, bee, bee, bear]))
    assert shares == (0.25, 0.5, 0.5)


def test_the_most_frequent_word_is_what_chance_gives(words):
    assert words.frequent(torch.tensor([3, 3, 3, 1])) == 0.75
