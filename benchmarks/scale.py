"""What many hours of video cost on many machines: a simulation fed with measured times. The tables of docs/scale.md.

A video goes through stations in a line: it is read from storage, decoded by a core, encoded and answered by GPUs. Each
station has machines with servers in them. What waits before a station is bounded, so a station whose successor is full
waits, as a back-pressured pipeline does. A machine that fails loses what it works on, which begins anew, and comes
back after its repair.

    python benchmarks/scale.py bottleneck
    python benchmarks/scale.py fleet
    python benchmarks/scale.py storage
    python benchmarks/scale.py sensitivity
    python benchmarks/scale.py failures

:mod:`two_nodes` checks it against a batch on a real cluster of two nodes.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

FIGURES = Path(__file__).with_suffix(".json")
"""Measured times, with where each is from."""

HOUR, DAY = 3600.0, 86400.0
RETENTIONS = (100, 25, 10)
SPREAD = 0.5
"""Standard deviation of a video's time at a station, over its mean."""
VIDEOS, SEEDS, STREAMS = 4000, 3, 64


@dataclass(frozen=True)
class Station:
    """A step of the way, and who does it.

    Args:
        name: of the step.
        seconds: that a video takes of a server, in the mean.
        machines: number of machines.
        servers: of each machine: cores, GPUs, streams.
        spread: standard deviation of a video's time over its mean. Times are gamma distributed; 0 takes all alike.
        between_failures: mean hours between two failures of a machine; None for never.
        repair: mean hours until it is back.
    """

    name: str
    seconds: float
    machines: int
    servers: int = 1
    spread: float = 0.0
    between_failures: float | None = None
    repair: float = 0.5

    @property
    def rate(self) -> float:
        """Videos a second, if it always has work and never fails."""
        return self.machines * self.servers / self.seconds


@dataclass(frozen=True)
class Outcome:
    """What a simulation came to.

    Args:
        seconds: from the first video to the last.
        done: how many times each video came out; all are 1 if none is lost or twice.
        busy: for each station the share of its servers' time that was work, lost work included.
        waiting: for each station the mean number of videos before it.
        begun_anew: how often a video began again, because a machine failed.
    """

    seconds: float
    done: tuple[int, ...]
    busy: Mapping[str, float]
    waiting: Mapping[str, float]
    begun_anew: int

    @property
    def rate(self) -> float:
        """Videos a second."""
        return len(self.done) / self.seconds


@dataclass
class _State:
    """A station while the simulation runs.

    ``working`` has each busy server's video, its beginning and its end; ``blocked`` the video of each server that is
    done with it and finds no room for it.
    """

    station: Station
    queue: deque[int] = field(default_factory=deque)
    free: list[tuple[int, int]] = field(default_factory=list)
    working: dict[tuple[int, int], tuple[int, float, float]] = field(default_factory=dict)
    blocked: dict[tuple[int, int], int] = field(default_factory=dict)
    busy: float = 0.0
    waited: float = 0.0
    since: float = 0.0

    def note(self, now: float) -> None:
        """Add the time since the last change to the mean of the queue."""
        self.waited += len(self.queue) * (now - self.since)
        self.since = now


def simulate(
    stations: Sequence[Station],
    videos: int,
    *,
    ahead: int = 4,
    arrivals: Sequence[float] | None = None,
    seed: int = 0,
) -> Outcome:
    """Run videos through stations in a line.

    Args:
        stations: in order.
        videos: number of videos.
        ahead: how many videos may wait before each station but the first, for each of its servers.
        arrivals: when each video arrives, in seconds, in order; None has all there at the start.
        seed: of all that is drawn.
    """
    return _Run(stations, videos, ahead, arrivals, Random(seed)).outcome()


class _Run:
    """One simulation: a heap of what happens next, and the state of every station."""

    def __init__(
        self, stations: Sequence[Station], videos: int, ahead: int, arrivals: Sequence[float] | None, rng: Random
    ) -> None:
        self._states = [_State(station) for station in stations]
        self._ahead, self._rng, self._now = ahead, rng, 0.0
        self._done, self._left, self._begun_anew = [0] * videos, videos, 0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for index, state in enumerate(self._states):
            for machine in range(state.station.machines):
                self._return(index, machine)
        first = self._states[0]
        if arrivals is None:
            first.queue.extend(range(videos))
        for video, when in enumerate(arrivals or ()):
            self._at(when, partial(first.queue.append, video))

    def outcome(self) -> Outcome:
        """Run until every video came out."""
        self._begin()
        while self._left:
            when, _, happens = heapq.heappop(self._events)
            for state in self._states:
                state.note(when)
            self._now = when
            happens()
            self._begin()
        names = [state.station.name for state in self._states]
        servers = [state.station.machines * state.station.servers for state in self._states]
        return Outcome(
            self._now,
            tuple(self._done),
            {n: s.busy / (count * self._now) for n, s, count in zip(names, self._states, servers, strict=True)},
            {n: s.waited / self._now for n, s in zip(names, self._states, strict=True)},
            self._begun_anew,
        )

    def _at(self, when: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happens))

    def _begin(self) -> None:
        """Begin all that can begin, and move on all that finds room, until neither is left."""
        moving = True
        while moving:
            moving = False
            for index in reversed(range(len(self._states))):
                moving |= self._moves(index)

    def _moves(self, index: int) -> bool:
        """Move a station's videos as far as they can go; whether any did."""
        state = self._states[index]
        moved = False
        while state.blocked and self._has_room(index + 1):
            server = next(iter(state.blocked))
            self._states[index + 1].queue.append(state.blocked.pop(server))
            state.free.append(server)
            moved = True
        while state.queue and state.free:
            server = state.free.pop()
            end = self._now + self._seconds(state.station)
            state.working[server] = state.queue.popleft(), self._now, end
            self._at(end, partial(self._end, index, server, end))
            moved = True
        return moved

    def _has_room(self, index: int) -> bool:
        state = self._states[index]
        return len(state.queue) < self._ahead * state.station.machines * state.station.servers

    def _seconds(self, station: Station) -> float:
        shape = station.spread**-2 if station.spread else 0.0
        return self._rng.gammavariate(shape, station.seconds / shape) if shape else station.seconds

    def _end(self, index: int, server: tuple[int, int], end: float) -> None:
        state = self._states[index]
        if state.working.get(server, (0, 0.0, -1.0))[2] != end:
            return  # its machine has failed since
        video = self._taken(state, server)
        if index + 1 < len(self._states):
            state.blocked[server] = video
        else:
            state.free.append(server)
            self._done[video] += 1
            self._left -= 1

    def _taken(self, state: _State, server: tuple[int, int]) -> int:
        """The video that a server works on, which it works on no more."""
        video, begun, _ = state.working.pop(server)
        state.busy += self._now - begun
        return video

    def _return(self, index: int, machine: int) -> None:
        state = self._states[index]
        state.free += _servers(state.station, machine)
        hours = state.station.between_failures
        if hours is not None:
            self._at(self._now + self._rng.expovariate(1 / (hours * HOUR)), partial(self._fail, index, machine))

    def _fail(self, index: int, machine: int) -> None:
        state = self._states[index]
        for server in _servers(state.station, machine):
            if server in state.free:
                state.free.remove(server)
                continue
            lost = self._taken(state, server) if server in state.working else state.blocked.pop(server)
            self._states[0].queue.appendleft(lost)
            self._begun_anew += 1
        back = self._now + self._rng.expovariate(1 / (state.station.repair * HOUR))
        self._at(back, partial(self._return, index, machine))


def _servers(station: Station, machine: int) -> list[tuple[int, int]]:
    return [(machine, server) for server in range(station.servers)]


@dataclass(frozen=True)
class Work:
    """What one video takes.

    Args:
        tokens: that the LLM reads of it.
        megabytes: of its file.
        decode: seconds of a core.
        tower: seconds of a GPU for the tower.
        reduce: the same for importance and the reduction.
        answer: seconds of a GPU for the prompt and the answer, as one of a batch.
    """

    tokens: int
    megabytes: float
    decode: float
    tower: float
    reduce: float
    answer: float

    @property
    def encode(self) -> float:
        """Seconds of a GPU for the tower and the reduction."""
        return self.tower + self.reduce

    @property
    def gpu(self) -> float:
        """Seconds of a GPU that does all of it."""
        return self.encode + self.answer


def work(figures: Mapping[str, Any], retention: int) -> Work:
    """What a video takes at a share of the tokens.

    Args:
        figures: of the file beside this script.
        retention: in per cent, one that ``figures`` have.
    """
    video, gpu = figures["video"], figures["gpu"]
    tokens = gpu["tokens"][str(retention)]
    reduced = 0.0 if retention == 100 else gpu["importance"] + gpu["reduce"]
    step = gpu["step"] + figures["batch"] * tokens * gpu["step_per_token"]
    answer = gpu["prefill"][str(retention)] + figures["new_tokens"] * step / figures["batch"]
    return Work(tokens, video["megabytes"], video["decode"], gpu["tower"], reduced, answer)


def sized(figures: Mapping[str, Any], each: Work, hours: float, load: float) -> tuple[float, Station, Station]:
    """Videos a second of ``hours`` of video a day, and the cores and GPUs that they keep busy for ``load``."""
    rate = hours * HOUR / figures["video"]["seconds"] / DAY
    return (
        rate,
        Station("decode", each.decode, math.ceil(rate * each.decode / load), 1, SPREAD),
        Station("GPU", each.gpu, math.ceil(rate * each.gpu / load), 1, SPREAD),
    )


def line_of(each: Work, gpus: int, cores: int, *, spread: float = 0.0, **failing: float) -> list[Station]:
    """The stations of ``gpus`` machines with a GPU and ``cores`` cores each."""
    return [
        Station("decode", each.decode, gpus, cores, spread, **failing),
        Station("GPU", each.gpu, gpus, 1, spread, **failing),
    ]


def bottleneck(figures: Mapping[str, Any]) -> Iterator[str]:
    """Where the time goes, and what a GPU needs beside it, at each share of the tokens."""
    yield (
        "| tokens | decode, core s | tower and reduction, GPU s | LLM, GPU s | cores for a GPU | busy GPU with 4 cores "
        "| with 8 | with 16 |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for share in RETENTIONS:
        each = work(figures, share)
        busy = [simulate(line_of(each, 1, cores, spread=SPREAD), VIDEOS).busy["GPU"] for cores in (4, 8, 16)]
        yield (
            f"| {share} % | {each.decode:.2f} | {each.encode:.3f} | {each.answer:.3f} | {each.decode / each.gpu:.1f} | "
            + " | ".join(f"{100 * share_busy:.0f} %" for share_busy in busy)
            + " |"
        )


def fleet(figures: Mapping[str, Any], hours: float, load: float) -> Iterator[str]:
    """What ``hours`` of video a day need, and what a million hours take."""
    million = 1e6 * HOUR / figures["video"]["seconds"]
    yield (
        "| tokens | GPUs | cores | read, Gbit/s | simulated: GPU busy | videos waiting for a GPU | "
        "a million hours: GPU hours | core hours | TB read |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for share in RETENTIONS:
        each = work(figures, share)
        rate, cores, gpus = sized(figures, each, hours, load)
        rng = Random(0)
        gaps = itertools.accumulate(rng.expovariate(rate) for _ in range(int(rate * 600)))
        found = simulate([cores, gpus], int(rate * 600), arrivals=list(gaps))
        yield (
            f"| {share} % | {gpus.machines:,} | {cores.machines:,} | {rate * each.megabytes * 8e-3:.1f} | "
            f"{100 * found.busy['GPU']:.0f} % | {found.waiting['GPU']:.1f} | {million * each.gpu / HOUR:,.0f} | "
            f"{million * each.decode / HOUR:,.0f} | {million * each.megabytes / 1e6:,.0f} |"
        )


def sensitivity(figures: Mapping[str, Any], cores: int) -> Iterator[str]:
    """How much more a machine does if one step takes half the time."""
    yield "| tokens | videos an hour | decode halved | tower halved | reduction halved | LLM halved |"
    yield "|---|---|---|---|---|---|"
    for share in RETENTIONS:
        each = work(figures, share)
        variants = (
            each,
            replace(each, decode=each.decode / 2),
            replace(each, tower=each.tower / 2),
            replace(each, reduce=each.reduce / 2),
            replace(each, answer=each.answer / 2),
        )
        rates = [simulate(line_of(one, 1, cores, spread=SPREAD), VIDEOS).rate for one in variants]
        gains = " | ".join(f"{rate / rates[0]:.2f} x" for rate in rates[1:])
        yield f"| {share} % | {rates[0] * HOUR:,.0f} | {gains} |"


def storage(figures: Mapping[str, Any], hours: float, load: float) -> Iterator[str]:
    """What storage of so many Gbit/s lets through, with the cores and GPUs of :func:`fleet` at 10 % of the tokens.

    Frames are decoded beside the GPU, or on other machines and sent over the same network.
    """
    each, video = work(figures, 10), figures["video"]
    rate, cores, gpus = sized(figures, each, hours, load)
    yield "| Gbit/s | hours of video a day, decoded beside the GPU | GPU busy | decoded elsewhere | GPU busy |"
    yield "|---|---|---|---|---|"
    for gbits in (2.0, 5.0, 10.0, 20.0):
        cells = []
        for sent in (0.0, video["frames_megabytes"]):
            seconds = STREAMS * (each.megabytes + sent) * 8e-3 / gbits
            found = simulate([Station("network", seconds, STREAMS, 1, SPREAD), cores, gpus], int(rate * 300))
            cells += [f"{found.rate * DAY * video['seconds'] / HOUR:,.0f}", f"{100 * found.busy['GPU']:.0f} %"]
        yield f"| {gbits:g} | " + " | ".join(cells) + " |"


def failures(figures: Mapping[str, Any], machines: int) -> Iterator[str]:
    """What failing machines cost at 10 % of the tokens, in an hour's work."""
    each = work(figures, 10)
    cores = math.ceil(each.decode / each.gpu)
    videos = int(machines * HOUR / each.gpu)
    yield "| hours between failures of a machine | videos an hour | begun anew | lost or done twice |"
    yield "|---|---|---|---|"
    for hours in (None, 10.0, 3.0, 1.0):
        failing = {} if hours is None else {"between_failures": hours}
        stations = line_of(each, machines, cores, spread=SPREAD, **failing)
        found = [simulate(stations, videos, seed=seed) for seed in range(SEEDS)]
        rate = sum(one.rate for one in found) / SEEDS
        anew = sum(one.begun_anew for one in found) / SEEDS
        wrong = sum(count != 1 for one in found for count in one.done)
        yield f"| {'never' if hours is None else f'{hours:g}'} | {rate * HOUR:,.0f} | {anew:.0f} | {wrong} |"


def main() -> None:
    """Print the table that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("bottleneck", "fleet", "storage", "sensitivity", "failures"))
    parser.add_argument("--hours", type=float, default=100_000, help="of video a day")
    parser.add_argument("--load", type=float, default=0.8, help="share of their time that machines should work")
    parser.add_argument("--cores", type=int, default=16, help="of a machine with a GPU")
    parser.add_argument("--machines", type=int, default=8)
    parser.add_argument("--figures", type=Path, default=FIGURES, help="measured times")
    options = parser.parse_args()
    figures = json.loads(options.figures.read_text(encoding="utf-8"))
    tables = {
        "bottleneck": lambda: bottleneck(figures),
        "fleet": lambda: fleet(figures, options.hours, options.load),
        "storage": lambda: storage(figures, options.hours, options.load),
        "sensitivity": lambda: sensitivity(figures, options.cores),
        "failures": lambda: failures(figures, options.machines),
    }
    for row in tables[options.table]():
        print(row, flush=True)


if __name__ == "__main__":
    main()
