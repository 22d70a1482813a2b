"""Chains of stages at several retentions over one encoding, each measured once and kept on disk.

A sweep is a comparison (:mod:`.comparing`) whose cells, a chain at a retention each, are written as soon as they are
there: stopped, it goes on where it was, and another point costs only itself. A cell is kept under all that decides its
figures: the model and where it runs, the tokens, the question, how answers are generated, and the stages' settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..answering.answer import Answer, Generation
from ..answering.fidelity import Fidelity, Reference
from ..answering.session import ignore_count
from ..errors import InputError
from ..files import make_folder, whole
from ..models.base import VideoLLM
from ..models.fingerprint import digest, fingerprint
from ..pictures.curve import Line, Panel, curves
from ..stages.budget import require_retention
from ..stages.chain import FULL, Chain, parse
from ..tokens.video_tokens import ENCODE, VideoTokens
from .compare import Measured, Row, at_each, compare
from .table import picture as table_picture

VERSION = 1
"""Of the files; those of another are not read."""

ABOUT = "about.json"
"""What the cells of a folder have in common, for whoever looks into it."""


def chains_in(text: str) -> list[str]:
    """The chains in a text, one a line, a name behind a # where one has a name; empty lines are passed over.

    Raises:
        InputError: there is none.
    """
    chains = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not chains:
        raise InputError("No stages are given; write a chain a line, aot or intra+inter:keep_ratio=0.3 for instance.")
    return chains


def retentions_in(text: str) -> tuple[float, ...]:
    """The retentions in a text, separated by commas, spaces or lines.

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


def variants(chains: Sequence[str], retentions: Sequence[float]) -> list[Chain]:
    """Full tokens first, then every chain at every retention, each once.

    Args:
        chains: "chain" or "chain # name", by which it then goes.

    Raises:
        InputError: an unknown stage or setting, or a chain whose last stage has no retention.
    """
    made = {FULL: parse(FULL)}
    for chain in chains:
        spec, name = _named(chain)
        for pipeline in at_each(spec, retentions):
            called = name + pipeline.name.removeprefix(spec)
            made.setdefault(called, dataclasses.replace(pipeline, name=called))
    return list(made.values())


def _named(chain: str) -> tuple[str, str]:
    """A chain without its name, and its name."""
    spec, _, name = (part.strip() for part in chain.partition("#"))
    return spec, name or spec


def sweep(
    model: VideoLLM,
    tokens: VideoTokens,
    question: str,
    pipelines: Sequence[Chain],
    generation: Generation,
    folder: Path,
    *,
    on_row: Callable[[str], None] = lambda name: None,
    on_token: Callable[[int], None] = ignore_count,
    on_refused: Callable[[str], None] | None = None,
) -> Iterator[Row]:
    """Compare with every pipeline, measuring only what ``folder`` does not hold.

    Args:
        tokens: the encoder's own.
        pipelines: full tokens first, as :func:`variants` gives them.
        folder: of all sweeps; each has a folder of its own in it.
        on_row, on_token, on_refused: as :func:`~.comparing.compare` takes them.

    Raises:
        InputError: tokens that are reduced already, a folder that cannot be written or, where nobody listens to
            refusals, a budget that these tokens cannot meet.
    """
    require_encoded(tokens)
    if on_refused is None:
        for stage in (stage for pipeline in pipelines for stage in pipeline.stages):
            stage.steps(tokens.layout, tokens.timestamps)
    kept = cells(model, tokens, question, generation, folder)
    watch = {"on_row": on_row, "on_token": on_token, "on_refused": on_refused}
    yield from compare(model, tokens, question, pipelines, generation, **watch, kept=kept)


def require_encoded(tokens: VideoTokens) -> None:
    """Refuse tokens that a stage has reduced: a sweep starts from all of them."""
    done = [record.name for record in tokens.history if record.name != ENCODE]
    if done:
        raise InputError(f"These tokens are reduced already, by {' and '.join(done)}; give those of Encode Video.")


def picture(rows: Sequence[Row], chains: Sequence[str], refused: Sequence[str] = ()) -> Tensor:
    """(1, H, W, 3) float32: the curves; the table where no chain has two points, so that there is no curve to draw.

    Args:
        rows, chains, refused: as :func:`curve` takes them.
    """
    lines = _lines(rows, chains)
    if any(len({row.answer.tokens_kept for row in line}) > 1 for line in lines.values()):
        return curve(rows, chains, refused)
    return table_picture(rows, refused)


def curve(rows: Sequence[Row], chains: Sequence[str], refused: Sequence[str] = ()) -> Tensor:
    """(1, H, W, 3) float32: time, agreement and log-probability of the full answer over retention, a line a chain.

    Args:
        rows: full tokens first.
        chains: as :func:`variants` took them.
        refused: what was left out and why, to be said below.
    """
    full, *others = rows
    lines = _lines(others, chains)

    def panel(label: str, value: Callable[[Row], float], limits: tuple[float, float] | None = None) -> Panel:
        drawn = [
            Line(chain, tuple((100 * row.answer.retention, value(row)) for row in of_chain))
            for chain, of_chain in lines.items()
            if of_chain
        ]
        return Panel(label, tuple(drawn), value(full), limits)

    panels = (
        panel("reduce and prefill (% of full tokens' time)", lambda row: 100 * row.first_token_s / full.first_token_s),
        panel("same likeliest token as full (%)", lambda row: 100 * (row.fidelity.top1 or 0.0), (-4, 104)),
        panel("log-probability of the full answer, a token", lambda row: row.fidelity.per_token or 0.0),
    )
    return curves(panels, title=f"{full.answer.question} (full tokens: {full.answer.text})", level=FULL, notes=refused)


def _lines(rows: Sequence[Row], chains: Sequence[str]) -> dict[str, list[Row]]:
    names = [_named(chain)[1] for chain in chains]
    return {name: [row for row in rows if name in (row.name, row.name.rpartition(" ")[0])] for name in names}


def cells(model: VideoLLM, tokens: VideoTokens, question: str, generation: Generation, folder: Path) -> Cells:
    """Where the cells of one sweep are kept, in ``folder``.

    Raises:
        InputError: the folder cannot be made.
    """
    about = {
        "version": VERSION,
        "model": model.name,
        "weights": fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "attention": str(model.language_model.config._attn_implementation),
        "tokens": digest_of(tokens),
        "question": question,
        "generation": dataclasses.asdict(generation),
    }
    return Cells(folder / digest(about), about)


def digest_of(tokens: VideoTokens) -> str:
    """Sixteen hexadecimal digits that stand for tokens fresh from an encoder: every bit of every tensor."""
    found = hashlib.sha256(json.dumps(dataclasses.asdict(tokens.layout), sort_keys=True).encode())
    extras = [tokens.extras[name] for name in sorted(tokens.extras)]
    for tensor in (tokens.features, tokens.shallow, tokens.deep, tokens.timestamps, *tokens.levels, *extras):
        found.update(str(tuple(tensor.shape)).encode())
        found.update(cast(Any, tensor.detach().cpu().contiguous().view(torch.uint8).numpy()))
    return found.hexdigest()[:16]


class Cells:
    """The cells of one sweep, a JSON file each; beside the one of full tokens lie the distributions of its answer.

    Args:
        folder: of this sweep; made with the first cell.
        about: what the cells have in common, JSON-ready.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self._about = folder, about

    def get(self, pipeline: Chain, against: Chain) -> Measured | None:
        """What was measured of a pipeline held against another; None where it was not, or its file is damaged."""
        path = self.path(pipeline, against)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            said, fidelity = found["answer"], Fidelity(**found["fidelity"])
            ids = tuple(said.pop("ids"))
            tensors = load_file(path.with_suffix(".safetensors")) if pipeline == against else {}
            answer = Answer(
                **{**said, "stages": tuple(said["stages"]), "turns": ()}, ids=ids, first=tensors.get("first")
            )
            reference = Reference(ids, tensors["log_probabilities"]) if tensors else None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None
        return Measured(answer, fidelity, reference)

    def put(self, pipeline: Chain, against: Chain, measured: Measured) -> None:
        """Keep it, whole or not at all.

        Raises:
            InputError: the folder cannot be written.
        """
        make_folder(self.folder)
        path = self.path(pipeline, against)
        if not (self.folder / ABOUT).exists():
            _write_json(self.folder / ABOUT, self._about)
        answer = dataclasses.asdict(dataclasses.replace(measured.answer, first=None))
        answer.pop("first")
        if measured.reference is not None and measured.answer.first is not None:
            tensors = {"log_probabilities": measured.reference.log_probabilities, "first": measured.answer.first}
            with whole(path.with_suffix(".safetensors")) as temporary:
                save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, temporary)
        _write_json(path, {"answer": answer, "fidelity": dataclasses.asdict(measured.fidelity)})

    def path(self, pipeline: Chain, against: Chain) -> Path:
        """The file of a pipeline held against another."""
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", pipeline.name)[:60].strip("-.")
        return self.folder / f"{readable}-{digest([_settings(pipeline), _settings(against)])}.json"


def _settings(pipeline: Chain) -> list[Any]:
    return [[stage.name, stage.settings()] for stage in pipeline.stages]


def _write_json(path: Path, content: Any) -> None:
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
