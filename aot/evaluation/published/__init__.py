"""MVBench, VideoMME, EgoSchema and LongVideoBench from a folder in their published layout.

Prompts and scoring are those of lmms-eval 0.7.3, with two differences. An empty answer to MVBench is wrong here; there
it is not counted, which rewards empty answers. If a set's evaluation guesses for an answer without a letter, the guess
is the same for every model and reduction here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ...errors import InputError
from ...names import require_name
from .base import PublishedSet
from .egoschema import open_egoschema, write_submission
from .longvideobench import open_longvideobench
from .mvbench import open_mvbench
from .videomme import open_videomme

__all__ = ["SETS", "PublishedSet", "open_set", "write_submission"]


@dataclass(frozen=True)
class Opener:
    """The function that reads a set, and the set's splits, the usual one first."""

    read: Callable[[Path, str], PublishedSet]
    splits: tuple[str, ...]


SETS: Mapping[str, Opener] = MappingProxyType(
    {
        "mvbench": Opener(open_mvbench, ("test",)),
        "videomme": Opener(open_videomme, ("test",)),
        "egoschema": Opener(open_egoschema, ("subset", "full")),
        "longvideobench": Opener(open_longvideobench, ("validation",)),
    }
)


def open_set(name: str, folder: str | Path, *, split: str | None = None, families: Sequence[str] = ()) -> PublishedSet:
    """A published set from its folder. Its videos are opened later, when their frames are needed.

    Args:
        name: one of `SETS`.
        folder: as downloaded, archives extracted.
        split: of the set; None takes the usual one.
        families: names of the families whose questions to take; empty takes all.

    Raises:
        InputError: no such set, split, family or folder, or annotations that are missing, empty or not readable.
    """
    if name not in SETS:
        raise InputError(f"No published set is called {name!r}; there are {', '.join(SETS)}.")
    opener, folder = SETS[name], Path(require_name(folder, "The set's folder"))
    split = opener.splits[0] if split is None else split
    if split not in opener.splits:
        raise InputError(f"{name} has no split {split!r}; it has {', '.join(opener.splits)}.")
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give the one {name} was downloaded to.")
    full = opener.read(folder, split)
    if not full.items:
        raise InputError(f"There is no question of {name} in {folder}; download its annotations again.")
    known = tuple(dict.fromkeys(item.question.family for item in full.items))
    if unknown := [family for family in families if family not in known]:
        raise InputError(f"{name} has no family {unknown[0]!r}; it has {', '.join(known)}.")
    chosen = tuple(item for item in full.items if item.question.family in (families or known))
    return dataclasses.replace(full, items=chosen)
