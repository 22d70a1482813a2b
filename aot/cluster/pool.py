"""Pieces of work on Ray Data: a pool of workers, each with a model, and Ray's own back-pressure, locality and retries.

Ray moves the descriptions of the work and the number of rows that came of it. Rows go to :class:`.parts.Parts`, which
every worker writes. A piece whose worker dies is given to another. One that has killed several is cut into its items,
and an item that goes on killing gets rows that say so.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import InputError, readable
from ..tables import differing
from .parts import Parts, name_of

TRIES = 2
"""How often a piece of work is begun before it is cut into its items, and an item before it is given up."""

_OURS = "aot"
_ITEMS, _ROWS, _REFUSED, _NOTES = "items", "rows", "refused", "notes"


@dataclass(frozen=True)
class Pool:
    """Where workers run, how many, and what each is given.

    Args:
        address: of a cluster; "" takes one that runs on this machine, or starts one for the time of the work.
        least: workers.
        most: workers; None leaves it to Ray, up to one for each piece of work.
        cpus: cores of each.
        gpus: of each, perhaps a fraction of one; None is one where the cluster has any.
        at_once: pieces that a worker has in hand at the same time.

    Raises:
        InputError: numbers that no worker can have.
    """

    address: str = ""
    least: int = 1
    most: int | None = None
    cpus: float = 1.0
    gpus: float | None = None
    at_once: int = 1

    def __post_init__(self) -> None:
        if self.least < 1 or (self.most is not None and self.most < self.least):
            raise InputError(f"{self.least} to {self.most} workers; give 1 or more, as N or MIN-MAX.")
        if self.cpus < 0 or (self.gpus or 0) < 0:
            raise InputError(f"{self.cpus:g} cores and {self.gpus or 0:g} GPUs of a worker; give 0 or more.")


class Work(Protocol):
    """What a worker does, made once in each."""

    @property
    def about(self) -> Mapping[str, Any]:
        """All that results of different workers must have in common, JSON-ready."""
        ...

    def do(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """The rows of some items. May be called by several threads at once. Raises InputError to end the whole run."""
        ...

    def give_up(self, item: Any, reason: str) -> list[dict[str, Any]]:
        """The rows of an item whose workers died."""
        ...

    def notes(self) -> list[str]:
        """Lines for the user since the last call."""
        ...


Make = Callable[[], AbstractContextManager[Work]]
"""Makes a worker's work; can be pickled."""


@contextmanager
def connected(pool: Pool) -> Iterator[None]:
    """A block that is connected to Ray, unless the process is already.

    Args:
        pool: with the address.

    Raises:
        InputError: Ray is missing, or there is no cluster at the address.
    """
    ray = require_ray()
    if ray.is_initialized():
        yield
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of Ray's own settings, which nobody here has made
            ray.init(address=pool.address or None, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"No Ray cluster at {pool.address}" if pool.address else "Ray cannot be started here"
        raise InputError(
            f"{where} ({readable(str(error), 200)}); give the address that ray start said, or none for this machine."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def require_ray() -> Any:
    """Ray, with Ray Data.

    Raises:
        InputError: it is missing.
    """
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise InputError("--ray needs Ray Data, which is missing; pip install comfyui-aot[ray].") from error
    return ray


def about(pool: Pool, make: Make) -> dict[str, Any]:
    """What a worker says of itself, before there is anything to do.

    Args:
        pool: of workers, in a block of :func:`connected`.
        make: a worker's work.

    Raises:
        InputError: no worker can be made.
    """
    ray = require_ray()
    task = ray.remote(_about).options(name=f"{_OURS}-about", **_needs(pool))
    with _telling(ray):
        found = ray.get(task.remote(make, os.getcwd()))
    if isinstance(found, str):
        raise InputError(found)
    return found


def spread(
    pool: Pool, make: Make, pieces: Sequence[Sequence[Any]], parts: Parts, expected: Mapping[str, Any]
) -> Iterator[tuple[int, list[str]]]:
    """Do pieces of work, each once, in any order.

    Args:
        pool: of workers, in a block of :func:`connected`.
        make: a worker's work.
        pieces: each some items, JSON-ready.
        parts: where their rows go.
        expected: what every worker says of itself.

    Yields:
        For each piece the number of its rows, and lines for the user.

    Raises:
        InputError: a worker refuses, or Ray cannot go on.
    """
    ray = require_ray()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    with _telling(ray):
        work = ray.data.from_items([{_ITEMS: json.dumps(each)} for each in pieces], override_num_blocks=len(pieces))
        done = work.map_batches(
            _Worker,
            fn_constructor_args=(make, os.getcwd(), parts.place, dict(expected)),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=pool.least, max_size=max(pool.least, pool.most or len(pieces))),
            max_concurrency=pool.at_once,
            **_needs(pool),
        )
        for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
            for rows, refused, notes in zip(batch[_ROWS], batch[_REFUSED], batch[_NOTES], strict=True):
                if refused:
                    raise InputError(str(refused))
                yield int(rows), str(notes).splitlines()


class _Worker:
    """An actor of Ray Data: the work, made once, and the parts that it writes.

    No InputError leaves it, as Ray would bring it back as another class: a refusal is a line in its results.
    """

    def __init__(self, make: Make, folder: str, place: str, expected: Mapping[str, Any]) -> None:
        self._held, self._refused = ExitStack(), ""
        _go_to(folder)
        try:
            self._parts = Parts(place)
            self._work = self._held.enter_context(make())
            self._refused = _difference(self._work.about, expected)
        except InputError as error:
            self._refused = str(error)

    async def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Do a piece of work. Ray Data runs several at once only where they can be awaited.

        Args:
            batch: one piece.
        """
        return await asyncio.to_thread(self._result, batch)

    def _result(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        refused, rows, notes = self._refused, 0, ""
        if not refused:
            try:
                rows = self._do(json.loads(batch[_ITEMS][0]))
                notes = "\n".join(self._work.notes())
            except InputError as error:
                refused = str(error)
        return {_ROWS: [rows], _REFUSED: [refused], _NOTES: [notes]}

    def _do(self, items: list[Any]) -> int:
        name = name_of(items)
        if (rows := self._parts.count(name)) is not None:
            return rows
        begun = self._parts.begin(name)
        if begun > TRIES and len(items) > 1:
            return sum(self._do([item]) for item in items)
        if begun > TRIES:
            reason = f"The process that worked on it died {TRIES} times; see that its memory suffices, and --retry."
            found = self._work.give_up(items[0], reason)
        else:
            found = self._work.do(items)
        self._parts.write(name, found)
        return len(found)


def _about(make: Make, folder: str) -> dict[str, Any] | str:
    """What a worker says of itself, or why there is none."""
    _go_to(folder)
    try:
        with make() as work:
            return dict(work.about)
    except InputError as error:
        return str(error)


def _go_to(folder: str) -> None:
    """Names of files mean what they mean where the command was given, if that folder is here too."""
    if os.path.isdir(folder):
        os.chdir(folder)


def _difference(here: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Why this worker's results would not be those of the others; "" if they are."""
    if not (found := differing(expected, here)):
        return ""
    changes = ", ".join(f"{name} {theirs} elsewhere, {ours} here" for name, (theirs, ours) in found.items())
    return f"A worker on {platform.node()} would answer otherwise: {changes}; give all nodes the same."


def _needs(pool: Pool) -> dict[str, float]:
    """What Ray gives each worker."""
    ray = require_ray()
    gpus = pool.gpus
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    return {"num_cpus": pool.cpus, **({"num_gpus": gpus} if gpus else {})}


@contextmanager
def _telling(ray: Any) -> Iterator[None]:
    """Turn what Ray cannot go on after into one line."""
    try:
        yield
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"Ray cannot go on ({readable(reason[-1] if reason else type(error).__name__, 300)}); the same command "
            "goes on from there."
        ) from error
