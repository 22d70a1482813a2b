"""The roles of tokens as all pictures show them: one table of names, colours and outlines, read by the browser too.

The colours are Okabe and Ito's, which colour-blind readers tell apart. An outline, a texture or a word always says
the same as the colour.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, NamedTuple

from ..tokens.video_tokens import Role
from .canvas import BACKGROUND, GREEN, ORANGE, QUIET_TEXT, SKY_BLUE, YELLOW

SHADE = (225, 130, 185)
"""Colour that weights are shaded with: Okabe and Ito's reddish purple, lightened. No outline has it."""

FAINTEST, STRONGEST, BEND = 0.1, 0.92, 0.4
"""Opacity of the smallest and of the largest weight's shade, and the power of a weight that its opacity grows with."""


class RoleStyle(NamedTuple):
    """How the tokens of a role are named and drawn.

    Args:
        name: of the role in pictures.
        colour: red, green and blue, 0 to 255.
        meaning: in the legend of a token map.
        brief: in the legend of a timeline.
        outline: "thick", "dashed" or "thin", and "corner" for a thin line with a marked corner; "none" for tokens that
            have no cell.
    """

    name: str
    colour: tuple[int, int, int]
    meaning: str
    brief: str
    outline: str


ROLE_STYLES = MappingProxyType(
    {
        Role.KEYFRAME: RoleStyle("keyframe", ORANGE, "the clip's anchor, as it was", "as it was", "thick"),
        Role.DISTINCT: RoleStyle("distinct", SKY_BLUE, "new in its frame", "new in its frame", "dashed"),
        Role.KEPT: RoleStyle("kept", GREEN, "stays a token", "stays a token", "thin"),
        Role.MERGED: RoleStyle("updated", YELLOW, "a mean of several cells", "merged", "corner"),
        Role.NEWLINE: RoleStyle("newline", QUIET_TEXT, "", "", "none"),
    }
)
"""The table. A cell with tokens of several roles gets the outline of the first of these."""


def browser_styles() -> dict[str, Any]:
    """The table and the shading of weights, in JSON's types: the explorer in the browser draws with nothing else.

    ``roles`` and ``colours`` are lists by role number, ``outlines`` too; ``order`` lists the role numbers, the one
    whose outline a cell gets first.
    """
    by_number = [ROLE_STYLES[role] for role in Role]
    return {
        "roles": [style.name for style in by_number],
        "colours": [list(style.colour) for style in by_number],
        "outlines": [style.outline for style in by_number],
        "order": [int(role) for role in ROLE_STYLES],
        "background": list(BACKGROUND),
        "shade": {"colour": list(SHADE), "faintest": FAINTEST, "strongest": STRONGEST, "bend": BEND},
    }
