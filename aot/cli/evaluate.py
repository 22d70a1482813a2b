"""``aot eval SET``: the evaluation from the command line."""

from __future__ import annotations

import argparse
import datetime
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..errors import InputError
from .cluster import PARTS, folder_or_url, pool_of, ray_options
from .command import Result, goes_on_from
from .options import control_options, load, model_options, relevance_model, relevance_option, variant_options

if TYPE_CHECKING:
    from ..cluster.pool import Pool
    from ..comparison.variants import Variant
    from ..evaluation.encodings import Encodings
    from ..evaluation.on_ray import EvaluationWork
    from ..evaluation.questions import QuestionSet
    from ..evaluation.records import Records
    from ..models.base import VideoLLM
    from ..models.relevance_model import RelevanceModel

_TOLD = (
    "data",
    "split",
    "seed",
    "limit",
    "each",
    "frames",
    "model",
    "dtype",
    "device",
    "stages",
    "retention",
    "against",
    "controls",
    "reinvest",
    "about",
    "relevance_model",
)
"""The options that decide a result, as a report's command line tells them."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the set, the variants, and where the results and the encodings go."""
    parser.add_argument(
        "set", metavar="SET", help="shapes, hard-shapes, mvbench, videomme, egoschema or longvideobench"
    )
    set_options(parser)
    parser.add_argument("--against", metavar="NAME", help="variant to compare with; the first paper preset if left out")
    parser.add_argument(
        "--out",
        type=folder_or_url,
        help="folder of the results, added to by later runs, with --ray a URL too; eval-SET if left out",
    )
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument(
        "--cache", type=Path, help="folder that keeps the encodings; OUT/encodings if left out, none with --ray"
    )
    keep.add_argument("--no-cache", action="store_true", help="keep no encodings: stages added later encode again")
    model_options(parser)
    variant_options(parser)
    control_options(parser)
    relevance_option(parser)
    ray_options(parser)
    parser.add_argument(
        "--about",
        nargs="+",
        choices=("own", "wrong", "none"),
        default=["own"],
        help="controls beside every chain that asks: wrong gives it the next clip's questions, none no relevance",
    )
    parser.epilog = "Full tokens are always included; the stage 'blind' leaves the video out."


def set_options(parser: argparse.ArgumentParser) -> None:
    """Add which of a set's clips and questions are taken, and how many frames of a clip."""
    parser.add_argument("--data", type=Path, help="folder of a published set, in its published layout")
    parser.add_argument("--split", help="of the set, its usual one if left out; of drawn sets train, dev, test or any")
    parser.add_argument("--seed", type=int, help="of drawn sets: where in the split its clips begin")
    parser.add_argument(
        "--limit", type=int, help="clips of a drawn set; questions of a published set, over all families"
    )
    parser.add_argument("--each", type=int, help="questions of each family about each drawn clip; 1 if left out")
    parser.add_argument("--frames", type=int, default=16, help="of each clip, evenly spread")


def run(options: argparse.Namespace) -> Result:
    """Answer the questions that have no answer yet, print the table, and write it with figures."""
    from ..evaluation.records import RECORDS
    from ..files import alone

    variants = chosen_variants(options)
    questions = questions_of(options)
    if (pool := pool_of(options)) is not None:
        return _run_on_ray(options, variants, questions, pool)
    out = options.out or Path(f"eval-{options.set}")
    relevance = relevance_model(options, [variant.chain for variant in variants if variant.chain])
    model = load(options)
    with alone(out / RECORDS):
        return _run(options, variants, questions, model, out, relevance)


def _run(
    options: argparse.Namespace,
    variants: Sequence[Variant],
    questions: QuestionSet,
    model: VideoLLM,
    out: Path,
    relevance: RelevanceModel | None,
) -> Result:
    from ..evaluation.encodings import Encodings
    from ..evaluation.records import Records
    from ..evaluation.runner import by_clip, settings
    from ..models.fingerprint import fingerprint

    weights = fingerprint(model)
    about = settings(model, questions, options.frames, weights)
    records = Records(out, about)
    _require_against(options, variants, records)
    cache = None if options.no_cache else options.cache or out / "encodings"
    encodings = Encodings(model, questions, options.frames, cache, weights=weights, relevance_model=relevance)
    _evaluate(model, questions, variants, records, encodings)
    size = encodings.size(tuple(by_clip(questions.questions)))
    result = _told(options, variants, questions, records, about, out, size)
    if cache:
        print(f"{size / 2**20:.0f} MiB of encodings are kept in {cache} for stages added later; delete them at will.")
    return result, 0


def _run_on_ray(options: argparse.Namespace, variants: Sequence[Variant], questions: QuestionSet, pool: Pool) -> Result:
    """As :func:`_run`, by workers of a cluster: records come out of the parts that they write."""
    from ..cluster.folder import kept
    from ..cluster.parts import Parts
    from ..cluster.pool import about, connected, spread
    from ..evaluation.on_ray import take_in
    from ..evaluation.records import RECORDS, SETTINGS, UNREADABLE, Records
    from ..evaluation.runner import by_clip
    from ..files import alone

    place = str(options.out or f"eval-{options.set}")
    make = partial(_worker, options)
    with (
        connected(pool),
        kept(place, (RECORDS, SETTINGS, UNREADABLE)) as (folder, save),
        alone(folder / RECORDS),
    ):
        expected = about(pool, make)
        parts = Parts(f"{place.rstrip('/')}/{PARTS}")
        records = Records(folder, expected["settings"])
        _require_against(options, variants, records)

        def join() -> None:
            names = take_in(records, parts)
            save()
            parts.remove(names)

        join()
        names = [variant.name for variant in variants]
        pieces = []
        for clip in by_clip(questions.questions):
            left = [name for name in names if (clip, name, expected["inputs"][name]) not in records]
            if left and clip not in records.unreadable:
                pieces.append([[clip, left]])
        bar = tqdm(total=len(pieces), desc="eval", unit="clip", file=sys.stderr, leave=False, disable=None)
        with bar, goes_on_from(place):
            try:
                for _ in spread(pool, make, pieces, parts, expected) if pieces else ():
                    bar.update()
            finally:
                join()
        result = _told(options, variants, questions, records, expected["settings"], folder, 0, place)
        save()
        return result, 0


@contextmanager
def _worker(options: argparse.Namespace) -> Iterator[EvaluationWork]:
    """What a worker does, from the options alone: it loads the model and opens the set itself."""
    from ..evaluation.encodings import Encodings
    from ..evaluation.on_ray import EvaluationWork
    from ..evaluation.runner import settings
    from ..models.fingerprint import fingerprint

    variants, questions = chosen_variants(options), questions_of(options)
    relevance = relevance_model(options, [variant.chain for variant in variants if variant.chain])
    model = load(options)
    weights = fingerprint(model)
    cache = None if options.no_cache else options.cache
    encodings = Encodings(model, questions, options.frames, cache, weights=weights, relevance_model=relevance)
    yield EvaluationWork(model, questions, variants, encodings, settings(model, questions, options.frames, weights))


def _require_against(options: argparse.Namespace, variants: Sequence[Variant], records: Records) -> None:
    names = [variant.name for variant in variants]
    if options.against and options.against not in {*names, *(record.variant for record in records)}:
        raise InputError(f"--against {options.against!r} is no variant of this run; there are {', '.join(names)}.")


def _told(
    options: argparse.Namespace,
    variants: Sequence[Variant],
    questions: QuestionSet,
    records: Records,
    about: Mapping[str, Any],
    out: Path,
    size: int,
    place: str = "",
) -> dict[str, Any]:
    """Write the report into a folder, print what it says, and give it."""
    from ..evaluation.report import difficulty, left_out, no_better, overview, write_report, written
    from ..evaluation.summary import summarise
    from ..tables import markdown

    names = [variant.name for variant in variants]
    summary = summarise(
        questions.questions, records, first=names, against=options.against, unreadable=records.unreadable
    )
    origin = {"set": questions.name, "command": _command(options), "date": datetime.date.today().isoformat()}
    result = write_report(summary, {**about, "identity": about["set"], **origin, "encodings_bytes": size}, out)
    print(markdown(*overview(summary), padded=True))
    if summary.groups:
        print(markdown(*difficulty(summary), padded=True))
    for line in no_better(summary):
        print(line)
    answered = {row.name for row in summary.rows}
    if absent := [variant.name for variant in variants if variant.is_control and variant.name not in answered]:
        print(f"Not in the table: {', '.join(absent)}. So few tokens are less than a frame, or than one of each frame.")
    if summary.unreadable:
        print(left_out(summary))
    files = (*written(summary), *_submissions(questions, records, out))
    print(f"Results in {place or out}: {', '.join(files)}")
    return result


def chosen_variants(options: argparse.Namespace) -> list[Variant]:
    """The variants that the options name, full tokens first."""
    from ..comparison.variants import with_controls

    variants = with_blind(options, controls=options.controls, reinvest=options.reinvest)
    return with_controls(variants, wrong="wrong" in options.about, none="none" in options.about)


def with_blind(options: argparse.Namespace, **beside: Any) -> list[Variant]:
    """The variants of the chains that the options name, full tokens first; a chain may leave the video out.

    Args:
        options: of :func:`~.options.variant_options`.
        **beside: see :func:`~..comparison.variants.expand`.
    """
    from ..comparison.variants import expand
    from ..stages.budget import require_retention

    for retention in options.retention:
        require_retention(retention)
    return expand(options.stages, options.retention, blind=True, **beside)


def questions_of(options: argparse.Namespace) -> QuestionSet:
    """The questions that the options of :func:`set_options` name.

    Raises:
        InputError: no such set, or options it does not know.
    """
    from ..evaluation import open_set

    if options.frames < 1:
        raise InputError(f"{options.frames} frames; give 1 or more.")
    return open_set(
        options.set,
        folder=options.data,
        split=options.split,
        seed=options.seed,
        limit=options.limit,
        frames=options.frames,
        each=options.each,
    )


def _evaluate(
    model: VideoLLM, questions: QuestionSet, variants: Sequence[Variant], records: Records, encodings: Encodings
) -> None:
    """Evaluate with a bar on standard error. A user who stops it reads how to go on."""
    from ..evaluation.runner import by_clip, evaluate

    clips = [clip for clip in by_clip(questions.questions) if clip not in records.unreadable]
    inputs = {variant.name: encodings.inputs_of(variant) for variant in variants}
    cells = [(clip, name, read) for clip in clips for name, read in inputs.items()]
    done = sum(each in records for each in cells)
    with tqdm(total=len(cells), initial=done, desc="eval", file=sys.stderr, leave=False, disable=None) as bar:

        def on_record(variant: str) -> None:
            bar.set_postfix_str(variant, refresh=False)
            bar.update()

        def on_unreadable(clip: str, reason: str, variants: int) -> None:
            bar.write(f"Clip {clip} is left out: {reason}", file=sys.stderr)
            bar.update(variants)

        with goes_on_from(records.folder):
            evaluate(model, questions, variants, records, encodings, on_record=on_record, on_unreadable=on_unreadable)


def _submissions(questions: QuestionSet, records: Records, out: Path) -> list[str]:
    """Names of the files for EgoSchema's server, one a variant, written if all questions of that set were answered."""
    from ..evaluation.published import PublishedSet, write_submission

    if not isinstance(questions, PublishedSet) or questions.name != "egoschema":
        return []
    answers: dict[str, dict[str, str]] = {}
    for record in records:
        answers.setdefault(record.variant, {}).update(record.said)
    complete = {name: each for name, each in answers.items() if len(each) == len(questions.questions)}
    names = {name: f"submission-{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.json" for name in complete}
    for name, file in names.items():
        write_submission(questions, complete[name], out / file)
    return list(names.values())


def _command(options: argparse.Namespace) -> str:
    """The command line that gives these results again, without the folders it wrote to."""
    words = ["aot", "eval", options.set]
    for name in _TOLD:
        value = getattr(options, name)
        if value in (None, ["own"]) or (name in ("dtype", "model") and value in ("auto", "embedded")):
            continue
        if value is False or (name == "reinvest" and value == 1):
            continue
        name = name.replace("_", "-")
        parts = [",".join(f"{each:g}" for each in value)] if name == "retention" else _words(value)
        words += [f"--{name}", *(() if value is True else parts)]
    return shlex.join(words)


def _words(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]
