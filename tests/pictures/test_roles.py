"""The one table of roles: what the browser receives is it, and nothing in the browser's code repeats it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comfyui_aot.aot.pictures.canvas import BACKGROUND
from comfyui_aot.aot.pictures.roles import ROLE_STYLES, SHADE, browser_styles
from comfyui_aot.aot.tokens.video_tokens import Role

SCRIPTS = sorted((Path(__file__).parents[2] / "web" / "js").rglob("*.js"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_script_holds_a_colour_or_a_name_of_the_table(script: Path) -> None:
    text = script.read_text(encoding="utf-8").lower()
    for red, green, blue in (BACKGROUND, SHADE, *(style.colour for style in ROLE_STYLES.values())):
        assert f"#{red:02x}{green:02x}{blue:02x}" not in text
        assert not re.search(rf"\b{red}\s*,\s*{green}\s*,\s*{blue}\b", text)
    assert not [style.name for style in ROLE_STYLES.values() if re.search(rf"[\"'`]{style.name}[\"'`]", text)]


def test_the_browser_receives_every_role_under_its_number() -> None:
    sent = browser_styles()
    assert set(ROLE_STYLES) == set(Role)
    for role, style in ROLE_STYLES.items():
        row = [sent[name][int(role)] for name in ("roles", "colours", "outlines")]
        assert row == [style.name, list(style.colour), style.outline]
    assert sorted(sent["order"]) == sorted(map(int, Role))


def test_roles_with_a_cell_differ_in_colour_and_outline() -> None:
    drawn = [style for role, style in ROLE_STYLES.items() if role is not Role.NEWLINE]
    assert len({style.colour for style in drawn}) == len({style.outline for style in drawn}) == len(drawn)
