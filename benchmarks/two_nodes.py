"""A batch on a cluster of two nodes of this machine, beside one node and beside what the simulation foretells.

Each node has a core and a worker with the embedded model. What a video takes is the difference of two runs of
different length on one node, so that nothing of Ray's start is in it. From that :mod:`scale` foretells two nodes.

    .venv/ray/bin/python benchmarks/two_nodes.py
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from scale import Station, simulate

from comfyui_aot.aot.cli.main import main as aot
from comfyui_aot.aot.evaluation.clip_file import write_mp4
from comfyui_aot.aot.evaluation.shapes_set import shapes_set

CLIPS, FEW = 60, 20
PIECE = 4
"""Videos of a piece of work."""
STEPS = ("file_s", "encode_s", "reduce_s", "prefill_s", "decode_s")
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def batch(clips: Path, out: Path, videos: int, actors: int) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of a batch of the first ``videos`` clips on ``actors`` workers, and its rows."""
    names = [f"{i:02}.mp4" for i in range(videos)]
    words = [str(clips), "Which shapes are there?", "--out", str(out), "--frames", "8", "--max-new-tokens", "8"]
    words += ["--stages", "aot:retention=0.25", "--batch", str(PIECE), "--pattern", *names]
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        code = aot(["batch", *words, "--ray-actors", str(actors), "--ray"])
    if code:
        raise SystemExit(f"a batch ended with {code}; see {out}")
    seconds = time.perf_counter() - start
    return seconds, [json.loads(line) for line in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Measure one node and two, foretell the second, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    drawn = shapes_set("test", clips=CLIPS, frames=8)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for i in range(CLIPS):
            write_mp4(drawn.scene(str(drawn.first_seed + i)).frames(), place / "clips" / f"{i:02}.mp4")
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        found, rows = {}, {}
        for nodes in (1, 2):
            if nodes == 2:
                cluster.add_node(**NODE)
            for videos in (FEW, CLIPS):
                seconds, rows[nodes] = batch(place / "clips", place / f"{nodes}-{videos}", videos, nodes)
                found[nodes, videos] = seconds
                print(f"{nodes} nodes, {videos} videos: {seconds:.1f} s", file=sys.stderr, flush=True)
        ray.shutdown()
        cluster.shutdown()
    each = (found[1, CLIPS] - found[1, FEW]) / (CLIPS - FEW)
    started = found[1, CLIPS] - CLIPS * each
    line = [Station("piece", PIECE * each, 2)]
    foretold = {videos: simulate(line, videos // PIECE).seconds for videos in (FEW, CLIPS)}
    answers = [{row["id"]: row["answer"] for row in rows[nodes]} for nodes in (1, 2)]
    print(f"a video on one node: {each:.2f} s; Ray's start and the model's: {started:.0f} s")
    print("of its steps:", ", ".join(f"{n} {sum(r[n] for r in rows[1]) / CLIPS:.2f}" for n in STEPS))
    print(
        f"two nodes, {CLIPS - FEW} videos more: measured {found[2, CLIPS] - found[2, FEW]:.1f} s, "
        f"foretold {foretold[CLIPS] - foretold[FEW]:.1f} s"
    )
    print(f"rows: {len(rows[2])}, equal to those of one node: {answers[0] == answers[1]}")


if __name__ == "__main__":
    main()
