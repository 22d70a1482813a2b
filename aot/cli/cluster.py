"""The options of commands that may run on Ray."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..cluster.pool import Pool

PARTS = "parts"
"""Folder, in that of the results, of what workers have written and is not in the results yet."""


def ray_options(parser: argparse.ArgumentParser) -> None:
    """Add which Ray, how many workers, and what each is given."""
    group = parser.add_argument_group("many machines")
    group.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="work on a Ray cluster: at ADDRESS (host:port), or the one that runs here, or a new one of this machine "
        "alone; put it last, or write --ray=ADDRESS",
    )
    group.add_argument(
        "--ray-actors",
        default="",
        metavar="N",
        help="workers, each with a model: N, or MIN-MAX; Ray makes as many as there is work and room for if left out",
    )
    group.add_argument("--ray-cpus", type=float, default=1.0, metavar="N", help="cores of a worker")
    group.add_argument(
        "--ray-gpus", type=float, metavar="N", help="GPUs of a worker, 0.5 for two on one; 1 where there are any"
    )


def folder_or_url(text: str) -> Path | str:
    """Where results go: the path of a folder, or a URL as it is.

    Args:
        text: as typed.
    """
    return text if "://" in text else Path(text)


def pool_of(options: argparse.Namespace, at_once: int = 1) -> Pool | None:
    """The workers that the options ask for; None where the work stays in this process.

    Args:
        options: of :func:`ray_options`, and where results go.
        at_once: pieces of work that a worker has in hand.

    Raises:
        InputError: numbers that no worker can have, Ray is missing, or results at a URL without it.
    """
    if options.ray is None:
        if isinstance(options.out, str):
            raise InputError(f"--out {options.out} is a URL, which is written by --ray; add it, or give a folder.")
        if options.ray_actors or options.ray_gpus is not None:
            raise InputError("--ray-actors and --ray-gpus are of workers on Ray; give --ray too.")
        return None
    from ..cluster.pool import Pool, require_ray

    least, most = _from_to(options.ray_actors)
    pool = Pool(options.ray, least, most, options.ray_cpus, options.ray_gpus, at_once)
    require_ray()
    return pool


def _from_to(text: str) -> tuple[int, int | None]:
    if not text:
        return 1, None
    first, _, last = text.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError as error:
        raise InputError(f"--ray-actors {text}; give N or MIN-MAX, 2-8 for instance.") from error
