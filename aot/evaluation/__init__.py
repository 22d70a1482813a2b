"""Video questions with known answers, and the effect of token reduction on a model's answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from .questions import QuestionSet
    from .shapes_set import ShapesSet

SHAPES, HARD_SHAPES = "shapes", "hard-shapes"
DRAWN = (SHAPES, HARD_SHAPES)
"""The sets that are drawn."""


def open_set(
    name: str,
    *,
    folder: Path | None = None,
    split: str | None = None,
    seed: int | None = None,
    limit: int | None = None,
    frames: int = 16,
    each: int | None = None,
) -> QuestionSet:
    """A question set by its name.

    Args:
        name: "shapes", "hard-shapes", or that of a published set.
        folder: of a published set, in its published layout; drawn ones need none.
        split: of the set; None takes its usual one.
        seed: of drawn sets only: the first clip's place in the split.
        limit: the most clips of a drawn set, or the most questions of a published set, evenly over its families.
        frames: of a clip.
        each: of drawn sets only: the most questions of a family about one clip; None means 1.

    Raises:
        InputError: an unknown set, an option that the set does not take, or videos that are missing in the folder.
    """
    if limit is not None and limit < 1:
        raise InputError(f"A limit of {limit}; it starts at 1.")
    if name in DRAWN:
        if folder is not None:
            raise InputError(f"{name} is drawn, not read; leave out --data.")
        return drawn_set(name, frames, split=split, seed=seed, clips=limit, each=each)
    from . import published

    if name not in published.SETS:
        raise InputError(f"No question set is called {name!r}; there are {', '.join((*DRAWN, *published.SETS))}.")
    for option, value in (("--seed", seed), ("--each", each)):
        if value is not None:
            raise InputError(f"{name} is not drawn; leave out {option}.")
    if folder is None:
        raise InputError(f"{name} is read from its folder in the published layout; give it with --data FOLDER.")
    return _published(name, folder, split, limit)


def drawn_set(name: str, frames: int = 16, **chosen: Any) -> ShapesSet:
    """A drawn set by its name.

    Args:
        name: one of :data:`DRAWN`.
        frames: of a clip.
        **chosen: see :func:`.shapes_set.shapes_set`; None takes its default.

    Raises:
        InputError: as :func:`.shapes_set.shapes_set` does.
    """
    from .hard_set import HardShapesSet
    from .shapes_set import ShapesSet, shapes_set

    kind = {SHAPES: ShapesSet, HARD_SHAPES: HardShapesSet}[name]
    chosen = {option: value for option, value in chosen.items() if value is not None}
    return shapes_set(frames=frames, kind=kind, **chosen)


def _published(name: str, folder: Path, split: str | None, limit: int | None) -> QuestionSet:
    from .published import open_set
    from .selection import Selection

    full = open_set(name, folder, split=split)
    selection = full if limit is None else Selection(full, limit)
    full.require(dict.fromkeys(question.clip for question in selection.questions))
    return selection
