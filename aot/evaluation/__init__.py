"""Video questions whose answers are known, and what a reduction of tokens does to those answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from .questions import QuestionSet

SHAPES = "shapes"


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
        folder: of a published set, in its published layout; shapes needs none.
        split: of the set; its usual one where left out.
        seed: of shapes: where in the split its clips begin.
        limit: of shapes, so many clips; of a published set, so many questions, evenly over its families.
        frames: a clip is shown in.
        each: of shapes: at most so many questions of a family are asked of a clip, 1 where left out.

    Raises:
        InputError: an unknown set, what that set does not take, or videos that are not in the folder.
    """
    if limit is not None and limit < 1:
        raise InputError(f"A limit of {limit}; it starts at 1.")
    if name == SHAPES:
        if folder is not None:
            raise InputError("Shapes is drawn, not read; leave out --data.")
        return _shapes(frames, split=split, seed=seed, clips=limit, each=each)
    from . import published

    if name not in published.SETS:
        raise InputError(f"No question set is called {name!r}; there are {', '.join((SHAPES, *published.SETS))}.")
    for option, value in (("--seed", seed), ("--each", each)):
        if value is not None:
            raise InputError(f"{name} is not drawn; leave out {option}.")
    if folder is None:
        raise InputError(f"{name} is read from its folder in the published layout; give it with --data FOLDER.")
    return _published(name, folder, split, limit)


def _shapes(frames: int, **chosen: Any) -> QuestionSet:
    from .shapes_set import shapes_set

    return shapes_set(frames=frames, **{name: value for name, value in chosen.items() if value is not None})


def _published(name: str, folder: Path, split: str | None, limit: int | None) -> QuestionSet:
    from .published import open_set
    from .selection import Selection

    whole = open_set(name, folder, split=split)
    chosen = whole if limit is None else Selection(whole, limit)
    whole.require(dict.fromkeys(question.clip for question in chosen.questions))
    return chosen
