"""Many tasks on worker processes: nothing is lost, nobody idles, a killer is given up."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from planner.whatif.pool import ATTEMPTS, Lost, run_in_processes
from tests.pool_work import square, square_or_die


class Collected:
    """What came back, by task, and that nothing came twice."""

    def __init__(self) -> None:
        self.results: dict[int, Any] = {}

    def __call__(self, task: int, result: Any) -> None:
        assert task not in self.results
        self.results[task] = result


def test_a_thousand_tasks_keep_every_worker_busy_and_survive_kills() -> None:
    got = Collected()
    started: list[int] = []

    def on_result(task: int, result: Any) -> None:
        got(task, result)
        if len(got.results) in (100, 400, 700):
            os.kill(started[-1], signal.SIGKILL)

    tasks = [{"number": n, "sleep_s": 0.003} for n in range(1000)]
    run_in_processes(square, tasks, workers=3, on_result=on_result, on_start=started.append)
    assert [got.results[n]["value"] for n in range(1000)] == [n * n for n in range(1000)]
    shares: dict[int, int] = {}
    for result in got.results.values():
        shares[result["worker"]] = shares.get(result["worker"], 0) + 1
    assert len(started) == 6
    assert len(shares) >= 3
    assert sum(shares.values()) == 1000


def test_a_worker_killed_from_outside_loses_nothing() -> None:
    started: list[int] = []
    results: dict[int, Any] = {}

    def on_result(task: int, result: Any) -> None:
        assert task not in results
        results[task] = result
        if len(results) in (5, 20):
            os.kill(started[-1], signal.SIGKILL)

    tasks = [{"number": n, "sleep_s": 0.02} for n in range(40)]
    run_in_processes(square, tasks, workers=2, on_result=on_result, on_start=started.append)
    assert {n: r["value"] for n, r in results.items()} == {n: n * n for n in range(40)}
    assert len(started) == 4


def test_a_task_whose_worker_dies_is_tried_again_and_in_the_end_given_up(tmp_path: Path) -> None:
    got = Collected()
    deaths = {3: 1, 5: ATTEMPTS - 1, 7: ATTEMPTS + 5}
    tasks = [{"number": n, "folder": str(tmp_path), "deaths": deaths.get(n, 0)} for n in range(10)]
    run_in_processes(square_or_die, tasks, workers=2, on_result=got)
    assert len(got.results) == 10
    assert {n for n, r in got.results.items() if isinstance(r, Lost)} == {7}
    assert "died 3 times" in got.results[7].reason
    assert all(r["value"] == n * n for n, r in got.results.items() if n != 7)


def test_an_interruption_stops_the_workers_and_keeps_what_is_done() -> None:
    got = Collected()
    started: list[int] = []
    run_in_processes(
        square,
        [{"number": n, "sleep_s": 0.01} for n in range(10_000)],
        workers=2,
        on_result=got,
        on_start=started.append,
        interrupted=lambda: len(got.results) >= 10,
    )
    assert 10 <= len(got.results) < 1000
    for pid in started:
        alive = Path(f"/proc/{pid}").exists()
        assert not alive
