"""A batch from what is asked to rows and captions on disk: what is there already is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..answering.reduced_for import read_beside
from ..models.fingerprint import digest, fingerprint
from ..names import spelled
from ..stages.chain import Chain
from .captions import Captions
from .questions import Asking
from .remote import is_url, without_keys
from .rows import Rows
from .runner import DECODERS, Result, run
from .videos import Recipe


@dataclass(frozen=True)
class Plan:
    """What is left to do of a batch.

    Args:
        asked: for each video that is not done, the questions without a row.
        captioned: keys of the questions whose answers are captions: the first of every video.
        lost: captions that a killed run has not written, of rows that are there.
        kept: captions that are there and stay, so that their questions are not asked.
    """

    asked: tuple[tuple[Asking, ...], ...]
    captioned: frozenset[tuple[str, str, str]]
    lost: tuple[tuple[Asking, str], ...]
    kept: int

    @property
    def questions(self) -> int:
        """How many are to be asked."""
        return sum(map(len, self.asked))


def settings_of(recipe: Recipe, options: Mapping[str, Any]) -> dict[str, Any]:
    """All that the rows of a folder have in common, JSON-ready.

    Args:
        recipe: how videos are looked at and questions answered.
        options: what the recipe was made of besides model and stages.
    """
    model = recipe.model
    return {
        "model": model.name,
        "model_digest": fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "stages": stages_of(recipe),
        "read": read_beside(recipe.chain, recipe.relevance_model),
        **({"served": True} if recipe.servers is not None else {}),
        **options,
    }


def stages_of(recipe: Recipe) -> str:
    """The chain with all its settings, as the command line takes it.

    Args:
        recipe: with the chain.
    """
    return Chain(recipe.chain.stages).name


def plan(asked: Sequence[Sequence[Asking]], rows: Rows, captions: Captions | None = None) -> Plan:
    """What is left to do.

    Args:
        asked: for each video its questions.
        rows: that are there.
        captions: where captions go; None writes none.
    """
    answers = {(row["id"], row["preset"], row["question"]): row["answer"] for row in rows}
    left, lost, captioned, kept = [], [], set(), 0
    for askings in asked:
        first = askings[0]
        missing = [each for each in askings if each.key not in rows]
        if captions is not None:
            captioned.add(first.key)
            if first not in missing:
                lost += [(first, answer)] if (answer := answers[first.key]) is not None else []
            elif captions.exists(first.clip):
                missing.remove(first)
                kept += 1
        left += [tuple(missing)] if missing else []
    return Plan(tuple(left), frozenset(captioned), tuple(lost), kept)


def work_off(
    todo: Plan,
    recipe: Recipe,
    rows: Rows,
    settings: Mapping[str, Any],
    captions: Captions | None = None,
    *,
    batch: int = 8,
    decoders: int = DECODERS,
    on_row: Callable[[], object] = lambda: None,
) -> int:
    """Do what is left: write a row for every question, and then its caption. May be killed at any moment.

    Args:
        todo: what is left.
        recipe: how.
        rows: where rows go.
        settings: of the rows.
        captions: where captions go; None writes none.
        batch: videos that are answered together, at most.
        decoders: threads that decode ahead.
        on_row: called after every row.

    Returns:
        How many captions were written.

    Raises:
        InputError: rows or captions cannot be written. An error of a video is a row.
    """
    written = 0
    if captions is not None:
        written += sum(captions.write(asking.clip, answer) for asking, answer in todo.lost)
    common = common_of(recipe, settings)
    with run(recipe, todo.asked, batch=batch, decoders=decoders) as results:
        for found in results:
            rows.add({**common, **row_of(found)})
            if captions is not None and found.answer is not None and found.asking.key in todo.captioned:
                written += captions.write(found.asking.clip, found.answer.text)
            on_row()
    return written


def common_of(recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What all rows of a run have in common.

    Args:
        recipe: how.
        settings: of :func:`settings_of`.
    """
    return {"model": recipe.model.name, "stages": stages_of(recipe), "settings": digest(settings)}


def row_of(found: Result) -> dict[str, Any]:
    """The other columns of a row.

    Args:
        found: what became of its question.
    """
    asking, answer = found.asking, found.answer
    place = asking.clip.place
    row: dict[str, Any] = {
        "id": asking.clip.id,
        "video": without_keys(place) if is_url(place) else spelled(place),
        "preset": asking.preset,
        "question": asking.question,
        "error": found.error,
        "sha256": found.sha256 or None,
    }
    if answer is None:
        return row
    names = (
        "tokens_full",
        "tokens_kept",
        "retention",
        "prompt_tokens",
        "new_tokens",
        "file_s",
        "encode_s",
        "reduce_s",
        "prefill_s",
        "decode_s",
        "thoughts",
    )
    return {**row, "answer": answer.text, **{name: getattr(answer, name) for name in names}}
