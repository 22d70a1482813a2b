"""Every benchmark of the project in one run, written down as it goes: anyone with a GPU can send the figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_json
from .command import Parser, Result
from .examination import machine

AOT = ("intra", "intra+inter", "aot:retention=0.1")
OTHERS = (
    "visionzip:retention=0.1",
    "vidcom2:retention=0.1",
    "fastvid:retention=0.1",
    "flashvid:retention=0.1",
    "holitom:retention=0.1",
    "prunevid:retention=0.1",
    "evs:retention=0.1",
    "dycoke:retention=0.3",
    "vscan:retention=0.1",
    "tome:retention=0.1",
    "cosine:retention=0.1",
    "top:retention=0.1",
)


def commands(device: str) -> tuple[str, ...]:
    """The benchmarks, as they are typed after ``aot bench``.

    On a GPU they have the sizes of LLaVA-OneVision-7B and take a few minutes. On the CPU they are so small that seconds
    show whether they run; their figures say little.

    Args:
        device: as PyTorch names it.
    """
    if device == "cpu":
        return (
            "reduce --frames 4 --dim 64 --repeats 1 --operations --stages " + " ".join(AOT),
            "growth --repeats 1 --points 2",
            "importance --frames 1 --repeats 1",
            "tower --frames 2 --repeats 1",
            "stream --frames 2 4",
            "prefill --tokens 64 --repeats 1",
            "answer --frames 2 --size 320x180 --new-tokens 2 --repeats 1 --retention 0.25",
        )
    here = f" --device {device}"
    half = f"{here} --dtype bfloat16"
    return (
        f"reduce{half} --operations --stages " + " ".join(AOT),
        f"reduce{half} --operations --stages " + " ".join(OTHERS),
        f"growth{here}",
        f"importance --tower siglip --frames 32{half}",
        f"tower{here}",
        f"stream --frames 64 256{here}",
        f"prefill --shape 7b{half}",
        f"answer --shape 7b{half}",
    )


def run_all(bench: Callable[[], Parser], device: str, file: Path | None, only: Sequence[str] | None = None) -> Result:
    """Run the benchmarks one after another. One that fails is written down with its reason, and the rest goes on.

    Args:
        bench: gives the parser of ``aot bench``.
        device: where they run.
        file: to write the results to, anew after each of them; None writes none.
        only: the commands to run; None runs those of :func:`commands`.
    """
    report: dict[str, Any] = {"device": device, "machine": machine(), "benchmarks": []}
    if file is not None:
        write_json(file, report)  # before the work, so that a folder that cannot be written is told at once
    for entry in _entries(bench(), only or commands(device)):
        report["benchmarks"].append(entry)
        if file is not None:
            write_json(file, report)
    failed = sum("error" in entry for entry in report["benchmarks"])
    print(f"{len(report['benchmarks']) - failed} of {len(report['benchmarks'])} benchmarks ran.")
    if file is not None:
        print(f"Figures in {file}: send it, or paste what is printed above.")
    return report, 1 if failed else 0


def _entries(parser: Parser, lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        print(f"aot bench {line}", flush=True)
        options = parser.parse_args(line.split())
        start = time.perf_counter()
        try:
            found: dict[str, Any] = {"result": options.measure(options)[0]}
        except Exception as error:
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            found = {"error": " ".join(reason.split())}
            print(f"failed: {found['error']}")
        seconds = time.perf_counter() - start
        _free()
        print(f"({seconds:.0f} s)\n", flush=True)
        yield {"command": f"aot bench {line}", "seconds": seconds, **found}


def _free() -> None:
    """Give the device's memory back, so that the next benchmark finds it empty."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
