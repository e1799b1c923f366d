"""Many tasks on worker processes; a worker that is killed costs its task another try, no more.

The standard executor gives up all its work when one process dies. Here the parent knows which
task every worker holds: the task goes back to the front of the queue and a new worker takes the
place of the dead one. Tasks are handed out one by one, so no worker idles while one is waiting.

Workers are fresh interpreters that import the work by its name. Unlike those of multiprocessing
they do not run the caller's script again, so a plain script or a notebook may call this.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import Pipe, connection
from typing import Any

Work = Callable[[Any], Any]

ATTEMPTS = 3
"""A task whose worker was killed this often is given up: it may be what kills them."""

POLL_S = 0.2
GRACE_S = 5.0
"""Seconds that a worker has to end when asked to, before it is killed."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A task that was given up, and why."""

    reason: str


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
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

    ``work`` has to be a function of a module that can be imported, and is to return, not raise. A
    result is :class:`Lost` for a task that was given up. ``on_start`` hears the id of every new
    process. Returns early, with workers stopped, when ``interrupted``.
    """
    pool = _Pool(work, tasks, workers, on_result, on_start)
    try:
        while pool.open():
            if interrupted():
                return
            pool.fill()
            pool.hand_out()
            pool.collect()
    finally:
        pool.stop()


class _Pool:
    """The workers and what each of them holds."""

    def __init__(
        self,
        work: Work,
        tasks: Sequence[Any],
        workers: int,
        on_result: Callable[[int, Any], None],
        on_start: Callable[[int], None],
    ) -> None:
        self.work, self.tasks, self.workers = work, tasks, workers
        self.on_result, self.on_start = on_result, on_start
        self.waiting = deque(range(len(tasks)))
        self.tries = [0] * len(tasks)
        self.pool: list[_Worker] = []

    def open(self) -> bool:
        """Whether anything is left to do or being done."""
        return bool(self.waiting) or any(w.task is not None for w in self.pool)

    def fill(self) -> None:
        """As many workers as there is work for."""
        busy = sum(w.task is not None for w in self.pool)
        while len(self.pool) < min(self.workers, len(self.waiting) + busy):
            worker = _start(self.work)
            self.pool.append(worker)
            self.on_start(worker.process.pid)

    def hand_out(self) -> None:
        """A task to every worker that has none."""
        for worker in [w for w in self.pool if w.task is None]:
            if not self.waiting:
                return
            worker.task = self.waiting.popleft()
            self.tries[worker.task] += 1
            try:
                worker.pipe.send(self.tasks[worker.task])
            except OSError:
                self._died(worker)

    def collect(self) -> None:
        """Results that are there, or workers that are gone; waits a moment for the first."""
        by_pipe = {w.pipe: w for w in self.pool}
        ready = connection.wait(list(by_pipe), timeout=POLL_S)
        for worker in [w for pipe, w in by_pipe.items() if pipe in ready]:
            try:
                result = worker.pipe.recv()
            except (EOFError, OSError):
                self._died(worker)
                continue
            if worker.task is not None:
                task, worker.task = worker.task, None
                self.on_result(task, result)

    def _died(self, worker: _Worker) -> None:
        """The task of a worker that is gone is queued again, or given up."""
        self.pool.remove(worker)
        worker.pipe.close()
        code = worker.process.wait()
        task = worker.task
        if task is None:
            return
        if self.tries[task] >= ATTEMPTS:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.on_result(task, Lost(f"its worker died {ATTEMPTS} times (last by {how})"))
        else:
            self.waiting.appendleft(task)

    def stop(self) -> None:
        """End all workers, those at work too."""
        for worker in self.pool:
            worker.pipe.close()
            if worker.task is not None:
                worker.process.terminate()
        for worker in self.pool:
            try:
                worker.process.wait(timeout=GRACE_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


def _start(work: Work) -> _Worker:
    """A new interpreter that waits for tasks on its end of a pipe."""
    parent, child = Pipe()
    number = child.fileno()
    code = f"from {__name__} import serve; serve({number}, {work.__module__!r}, {work.__name__!r})"
    path = os.pathsep.join(dict.fromkeys(p for p in sys.path if p))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=[number],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    child.close()
    return _Worker(process, parent)


def serve(number: int, module: str, function: str) -> None:
    """A worker's life: a task, its result, the next one; the parent's end of the pipe ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    pipe: connection.Connection = connection.Connection(number)
    work = getattr(import_module(module), function)
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
