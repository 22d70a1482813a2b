"""The simulation of many machines: as queueing theory says, and no video lost or twice."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from random import Random

import pytest

from comfyui_aot.tests.support.scripts import benchmark

scale = benchmark("scale")
Station, simulate = scale.Station, scale.simulate


def poisson(rate: float, count: int) -> list[float]:
    rng = Random(3)
    return list(itertools.accumulate(rng.expovariate(rate) for _ in range(count)))


@pytest.mark.parametrize(("spread", "waiting"), [(1.0, 0.7**2 / 0.3), (0.0, 0.7**2 / 0.6)])
def test_a_single_server_has_the_queue_that_theory_gives_it(spread, waiting):
    found = simulate([Station("one", 1.0, 1, 1, spread)], 60_000, arrivals=poisson(0.7, 60_000))
    assert found.waiting["one"] == pytest.approx(waiting, rel=0.1)
    assert found.busy["one"] == pytest.approx(0.7, rel=0.02)


def test_many_servers_share_a_queue_as_erlang_says():
    # Erlang's C for 3 servers that are offered 2: 4/9 of arrivals wait, 8/9 wait on average.
    found = simulate([Station("three", 1.0, 3, 1, 1.0)], 60_000, arrivals=poisson(2.0, 60_000))
    assert found.waiting["three"] == pytest.approx(8 / 9, rel=0.1)


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_the_slowest_station_sets_the_rate_wherever_it_is(slow):
    seconds = [1.0, 1.0, 1.0]
    seconds[slow] = 2.0
    stations = [Station(str(i), each, 2, 2) for i, each in enumerate(seconds)]
    found = simulate(stations, 2000)
    assert found.rate == pytest.approx(stations[slow].rate, rel=0.01)
    assert found.busy[str(slow)] == pytest.approx(1.0, rel=0.01)
    assert set(found.done) == {1}


def test_no_more_wait_before_a_station_than_may():
    stations = [Station("fast", 0.1, 1, 4), Station("slow", 1.0, 1, 1)]
    found = simulate(stations, 500, ahead=3)
    assert 2.5 < found.waiting["slow"] <= 3
    assert found.busy["fast"] < 0.05


def test_two_stations_of_uneven_videos_wait_for_each_other_unless_some_may_wait_between():
    stations = [Station("first", 1.0, 1, 1, 1.0), Station("second", 1.0, 1, 1, 1.0)]
    tight, loose = (simulate(stations, 20_000, ahead=ahead).rate for ahead in (1, 64))
    # Exponential times with room for one between, and one in each: the rate is (n + 1) / (n + 2), n = 2.
    assert tight == pytest.approx(3 / 4, rel=0.03)
    assert loose > 0.96


@pytest.mark.parametrize("hours", [0.5, 0.02])
def test_failing_machines_cost_their_time_and_no_video(hours):
    stations = [
        Station("decode", 2.0, 4, 4, 0.5, between_failures=hours, repair=hours / 4),
        Station("GPU", 0.5, 4, 1, 0.5, between_failures=hours, repair=hours / 4),
    ]
    videos = int(40 * hours * scale.HOUR)
    steady = [dataclasses.replace(station, between_failures=None) for station in stations]
    found, whole = (simulate(each, videos) for each in (stations, steady))
    assert set(found.done) == {1}
    assert found.begun_anew > 10
    assert 0.5 * whole.rate < found.rate < 0.85 * whole.rate


def test_the_same_seed_tells_the_same_story_and_another_one_another():
    stations = [Station("one", 1.0, 2, 2, 0.5, between_failures=0.1)]
    first, again, other = (simulate(stations, 500, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_the_work_of_a_video_is_the_sum_of_what_was_measured():
    figures = json.loads(scale.FIGURES.read_text(encoding="utf-8"))
    whole, tenth = scale.work(figures, 100), scale.work(figures, 10)
    assert (whole.tokens, tenth.tokens) == (6272, 627)
    assert tenth.encode - whole.encode == pytest.approx(figures["gpu"]["importance"] + figures["gpu"]["reduce"])
    assert whole.answer > 4 * tenth.answer
    assert whole.decode == tenth.decode


@pytest.mark.parametrize("table", ["bottleneck", "sensitivity"])
def test_a_table_has_a_row_for_every_share_of_the_tokens(table, monkeypatch, capsys):
    monkeypatch.setattr(scale, "VIDEOS", 50)
    monkeypatch.setattr(sys, "argv", ["scale.py", table])
    scale.main()
    head, ruler, *rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows] == ["100 %", "25 %", "10 %"]
    assert len({line.count("|") for line in (head, ruler, *rows)}) == 1
