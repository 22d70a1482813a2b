"""Texts in pictures: every letter is drawn, and lines are no wider than they may be."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw, ImageFont

from comfyui_aot.aot.pictures import canvas

TEXTS = {
    "English": "a fox",
    "German": "Stra\u00dfe f\u00fcr \u00c4pfel",
    "Russian": "\u043b\u0438\u0441\u0430",
    "Greek": "\u03b1\u03bb\u03b5\u03c0\u03bf\u03cd",
}
FOX = "\u72d0\u72f8"


def drawn(character: str, font: canvas.Font) -> bytes:
    picture = Image.new("L", (64, 64))
    ImageDraw.Draw(picture).text((8, 8), character, fill=255, font=font)
    return picture.tobytes()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_letter_is_drawn(text: str) -> None:
    font = canvas.font_for(text, 20)
    letters = {letter: drawn(letter, font) for letter in text.replace(" ", "")}
    assert drawn(canvas.NO_CHARACTER, font) not in letters.values()
    assert len(set(letters.values())) == len(letters)


def test_a_text_without_spaces_is_broken_between_its_characters() -> None:
    font = ImageFont.load_default(size=20)
    lines = canvas.wrap(f"a {FOX * 40} b", font, 200)
    assert len(lines) > 3
    assert "".join(lines).replace(" ", "") == f"a{FOX * 40}b"
    assert all(font.getlength(line) <= 200 for line in lines)
    assert lines[0].startswith(f"a {FOX}")


def test_a_text_of_too_many_lines_ends_in_three_dots() -> None:
    texts = [("word " * 100, 20, canvas.TEXT)]
    two, three = (canvas.text_lines(texts, 300, most).height for most in (2, 3))
    assert three - two == 28
    font = ImageFont.load_default(size=20)
    lines = canvas.at_most(canvas.wrap("word " * 100, font, 200), 2, font, 200)
    assert len(lines) == 2
    assert lines[-1].endswith("...")
    assert canvas.at_most(["one", "two"], 2, font, 200) == ["one", "two"]
