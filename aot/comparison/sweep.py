"""Chains of stages at several retentions over one encoding, each measured once and kept on disk.

A sweep is a comparison (:mod:`.compare`) with a cache (:mod:`.cache`): a run that was stopped goes on, and another
point costs only itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from ..answering.answerer import LocalAnswerer
from ..answering.generation import CountCallback, Generation, ignore_count
from ..errors import InputError
from ..models.encoder import FILE_PIXELS
from ..models.file_time import encoder_settings
from ..models.progress import Progress, ignore_progress
from ..pictures.curve import Line, Panel, curves
from ..stages.budget import require_retention
from ..stages.chain import FULL
from ..tokens.video_tokens import ENCODE, VideoTokens
from ..video.frame_source import FrameSource
from .cache import open_cache
from .compare import Row, compare
from .table import picture as table_picture
from .variants import Variant


def chains_in(text: str) -> list[str]:
    """The chains in a text, one a line, each perhaps with "# label"; empty lines are skipped.

    Args:
        text: as a user writes it.

    Raises:
        InputError: there is none.
    """
    chains = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not chains:
        raise InputError("No stages are given; write a chain a line, aot or intra+inter:keep_ratio=0.3 for instance.")
    return chains


def retentions_in(text: str) -> tuple[float, ...]:
    """The retentions in a text, separated by commas, spaces or lines.

    Args:
        text: as a user writes it.

    Raises:
        InputError: there is none, one is no number, or not above 0 and at most 1.
    """
    try:
        retentions = tuple(dict.fromkeys(float(part) for part in re.split(r"[,;\s]+", text) if part))
    except ValueError as error:
        raise InputError(f"Retentions {text!r} are not all numbers; write 0.5, 0.25, 0.1 for instance.") from error
    if not retentions:
        raise InputError("No retention is given; write one or more, 0.5, 0.25, 0.1 for instance.")
    for retention in retentions:
        require_retention(retention)
    return retentions


def sweep(
    answerer: LocalAnswerer,
    tokens: VideoTokens,
    question: str,
    variants: Sequence[Variant],
    generation: Generation,
    folder: Path,
    *,
    on_row: Callable[[str], None] = lambda name: None,
    on_token: CountCallback = ignore_count,
    on_refused: Callable[[str], None] | None = None,
    frames: FrameSource | None = None,
    on_progress: Progress = ignore_progress,
) -> Iterator[Row]:
    """Compare every variant, measuring only what ``folder`` does not hold.

    Args:
        answerer: the LLM of the model itself.
        tokens: fresh from the encoder.
        question: about the video.
        variants: full tokens first, as :func:`~.variants.expand` gives them.
        generation: how answers are generated.
        folder: of all sweeps; each has a folder of its own in it.
        on_row: see :func:`~.compare.compare`.
        on_token: likewise.
        on_refused: likewise.
        frames: likewise.
        on_progress: likewise.

    Raises:
        InputError: tokens that are reduced already, a folder that cannot be written or, without ``on_refused``, a
            budget that these tokens cannot meet.
    """
    require_encoded(tokens)
    if on_refused is None:
        chains = [each.chain for each in variants if each.chain and not each.chain.before_tokens and each.reinvest == 1]
        for stage in (stage for chain in chains for stage in chain.on_tokens):
            stage.steps(tokens.layout, tokens.timestamps)
    cache = open_cache(answerer.model, tokens, question, generation, folder)
    watch = {"on_row": on_row, "on_token": on_token, "on_refused": on_refused}
    more = {"frames": frames, "file_pixels": file_pixels(tokens), "on_progress": on_progress}
    with cache.alone(lambda: on_token(0)):
        yield from compare(answerer, tokens, question, variants, generation, **watch, **more, cache=cache)


def require_encoded(tokens: VideoTokens) -> None:
    """Refuse tokens that a stage has reduced: a sweep starts from all of them."""
    done = [record.name for record in tokens.history if record.name != ENCODE]
    if done and tokens.given is not None:
        raise InputError(
            f"These tokens are of frames that {' and '.join(done)} chose; give those of all frames, connect frames, "
            f"and begin the chain with {done[0]}."
        )
    if done:
        raise InputError(f"These tokens are reduced already, by {' and '.join(done)}; give those of Encode Video.")


def file_pixels(tokens: VideoTokens) -> bool:
    """Whether the encoder was told to keep the file's own pixels.

    Args:
        tokens: fresh from the encoder.
    """
    return bool(encoder_settings(tokens).get(FILE_PIXELS, False))


def picture(rows: Sequence[Row], refused: Sequence[str] = ()) -> Tensor:
    """The curves; the table if no chain has two points to draw a line between.

    Args:
        rows: full tokens first.
        refused: what was left out and why, written below.

    Returns:
        (1, H, W, 3) float32, 0 to 1.
    """
    if any(len({row.answer.tokens_kept for row in line}) > 1 for line in _lines(rows).values()):
        return curve(rows, refused)
    return table_picture(rows, refused)


def curve(rows: Sequence[Row], refused: Sequence[str] = ()) -> Tensor:
    """Time, agreement and log-probability of the full answer over retention, a line a chain.

    Args:
        rows: full tokens first.
        refused: what was left out and why, written below.

    Returns:
        (1, H, W, 3) float32, 0 to 1.
    """
    full, *others = rows
    lines = _lines(others)

    def panel(label: str, value: Callable[[Row], float], limits: tuple[float, float] | None = None) -> Panel:
        drawn = [
            Line(label, tuple((100 * row.answer.retention, value(row)) for row in line))
            for label, line in lines.items()
        ]
        return Panel(label, tuple(drawn), value(full), limits)

    panels = (
        panel("time to the first token (% of full tokens')", lambda row: 100 / row.first_token_speedup),
        panel("same likeliest token as full (%)", lambda row: 100 * (row.fidelity.top1 or 0.0), (-4, 104)),
        panel("log-probability of the full answer, a token", lambda row: row.fidelity.per_token or 0.0),
    )
    return curves(panels, title=f"{full.answer.question} (full tokens: {full.answer.text})", level=FULL, notes=refused)


def _lines(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each label, in their order."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(row.label or row.name, []).append(row)
    return lines
