"""Many tasks on worker processes; a worker that is killed costs its task another try, no more.

The standard executor gives up all its work when one process dies. Here the parent knows which
task every worker holds: the task goes back to the front of the queue and a new worker takes the
place of the dead one. Tasks are handed out one by one, so no worker idles while one is waiting.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

Work = Callable[[Any], Any]

ATTEMPTS = 3
"""A task whose worker was killed this often is given up: it may be what kills them."""

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Lost:
    """A task that was given up, and why."""

    reason: str


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: connection.Connection
    task: int | None = None


def run_in_processes(
    work: Work,
    tasks: Sequence[Any],
    *,
    workers: int,
    on_result: Callable[[int, Any], None],
    interrupted: Callable[[], bool] = lambda: False,
    on_start: Callable[[int], None] = lambda _: None,
) -> None:
    """Run ``work`` on every task; ``on_result(index, result)`` is called as each one ends.

    ``work`` has to be importable (a module's function) and is to return, not raise. A result is
    :class:`Lost` for a task that was given up. ``on_start`` hears the id of every new process.
    Returns early, with workers stopped, when ``interrupted``.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(range(len(tasks)))
    tries = [0] * len(tasks)
    pool: list[_Worker] = []

    def start() -> _Worker:
        parent, child = context.Pipe()
        process = context.Process(target=_serve, args=(child, work), daemon=True)
        process.start()
        child.close()
        if process.pid is not None:
            on_start(process.pid)
        return _Worker(process, parent)

    def ended(worker: _Worker) -> None:
        """The worker is gone; its task is queued again or given up."""
        task = worker.task
        pool.remove(worker)
        worker.pipe.close()
        worker.process.join()
        if task is None:
            return
        if tries[task] >= ATTEMPTS:
            code = worker.process.exitcode
            on_result(task, Lost(f"its worker died {ATTEMPTS} times (last exit code {code})"))
        else:
            waiting.appendleft(task)

    try:
        while waiting or any(w.task is not None for w in pool):
            if interrupted():
                return
            while len(pool) < min(workers, len(waiting) + sum(w.task is not None for w in pool)):
                pool.append(start())
            for worker in [w for w in pool if w.task is None and waiting]:
                if not waiting:
                    break
                worker.task = waiting.popleft()
                tries[worker.task] += 1
                try:
                    worker.pipe.send(tasks[worker.task])
                except OSError:
                    ended(worker)
            for worker in _ready(pool):
                try:
                    result = worker.pipe.recv()
                except (EOFError, OSError):
                    ended(worker)
                    continue
                if worker.task is not None:
                    task, worker.task = worker.task, None
                    on_result(task, result)
    finally:
        _stop(pool)


def _ready(pool: Sequence[_Worker]) -> list[_Worker]:
    """Workers with a result, or without a process; waits a moment for the first of them."""
    by_pipe = {w.pipe: w for w in pool}
    found = connection.wait(list(by_pipe), timeout=POLL_S)
    return [w for pipe, w in by_pipe.items() if pipe in found]


def _stop(pool: Sequence[_Worker]) -> None:
    """End all workers, those at work too."""
    for worker in pool:
        worker.pipe.close()
        if worker.task is not None:
            worker.process.terminate()
    for worker in pool:
        worker.process.join(timeout=5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _serve(pipe: connection.Connection, work: Work) -> None:
    """A worker's life: a task, its result, the next one; the parent's end of the pipe ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        result = work(task)
        try:
            pipe.send(result)
        except OSError:
            return
