"""Independent parts of one computation in a second process, where there is a second core.

    with Aside(shared, processes=2) as aside:
        answer = aside.ask(function, 3)      # begun at once in the other process
        ...
        answer.get()                         # function(shared, interrupted, 3)

``function`` is defined at the top of a module, and its arguments and result can be pickled. With
one process, or where the second cannot be started or ends, ``get`` computes the same in this one:
the result never depends on it. The other process is a plain child that runs this module: no fork
of a process with threads, and no demand on the program that calls.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

POLL_S = 0.1
"""How often a waiting caller asks whether it was interrupted."""


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Answer(Generic[T]):
    """A result that may still be on its way."""

    def __init__(
        self, aside: Aside, function: Callable[..., T], arguments: tuple[Any, ...]
    ) -> None:
        self._aside = aside
        self._function = function
        self._arguments = arguments
        self._known: list[T] = []

    def get(self) -> T:
        """The result; computed here unless the other process has it."""
        if not self._known:
            self._aside.wait_for(self)
        if not self._known:
            self.take([self._function(*self._aside.common, *self._arguments)])
        return self._known[0]

    def take(self, arrived: list[T]) -> None:
        """The result has come."""
        self._known = arrived


class Aside:
    """A second process that holds ``shared`` and works through what it is asked, in order."""

    def __init__(
        self, shared: object, *, processes: int, interrupted: Callable[[], bool] = lambda: False
    ) -> None:
        self.common = (shared, interrupted)
        """What every function gets first."""
        self._waiting: list[Answer[Any]] = []
        self._results: Queue[list[Any] | None] = Queue()
        self._outgoing: Queue[bytes] = Queue()
        self._process = _start() if processes > 1 else None
        if self._process is not None and self._send(shared):
            for end in (self._listen, self._speak):
                threading.Thread(target=end, args=(self._process,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def ask(self, function: Callable[..., T], *arguments: object, now: bool = True) -> Answer[T]:
        """Begin ``function(shared, interrupted, *arguments)``; not ``now``: only when it is got."""
        answer = Answer(self, function, arguments)
        if now and self._process is not None and self._send((function, arguments)):
            self._waiting.append(answer)
        return answer

    def wait_for(self, answer: Answer[T]) -> None:
        """Take results as they come until the answer has its own, or there will be none."""
        while answer in self._waiting:
            try:
                arrived = self._results.get(timeout=POLL_S)
            except Empty:
                if self.common[1]():
                    self._end()
                continue
            if arrived is None:
                self._end()
            else:
                self._waiting.pop(0).take(arrived)

    def _send(self, message: object) -> bool:
        """Whether the other process will get it."""
        try:
            self._outgoing.put(pickle.dumps(message))
        except (TypeError, AttributeError, pickle.PicklingError):
            self._end()
            return False
        return True

    def _speak(self, process: subprocess.Popen[bytes]) -> None:
        """Messages as they are asked, on a thread of their own: the child takes time to listen."""
        with contextlib.suppress(OSError, ValueError):  # the pipe was closed: nobody waits
            while process.stdin is not None:
                process.stdin.write(self._outgoing.get())
                process.stdin.flush()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Results as they come, on a thread of their own; None when there will be no more."""
        try:
            while process.stdout is not None:
                self._results.put(pickle.load(process.stdout))
        except Exception:
            self._results.put(None)

    def _end(self) -> None:
        process, self._process = self._process, None
        self._waiting = []
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # a pipe whose other end is gone
                    stream.close()
        self._outgoing.put(b"")  # wakes the thread that speaks: its pipe is closed, and it ends


def _start() -> subprocess.Popen[bytes] | None:
    """A child that runs this module with this program's import path; None where there is none."""
    if not sys.executable:
        return None
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    try:
        return subprocess.Popen(
            # -P: what lies in the current directory is not the program's
            [sys.executable, "-P", "-c", "from planner.aside import work; work()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the program, which then ends its child
        )
    except OSError:
        return None


def _never() -> bool:
    return False


def work() -> None:
    """What the second process does, until its input ends or a computation fails.

    Its input ends when the program does, however it does: nobody wants the results any more.
    """
    messages: Queue[Any] = Queue()
    threading.Thread(target=_read, args=(messages,), daemon=True).start()
    shared = messages.get()
    while True:
        function, arguments = messages.get()
        pickle.dump([function(shared, _never, *arguments)], sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _read(messages: Queue[Any]) -> None:
    """Messages as they come; the process ends with the last of them."""
    try:
        while True:
            messages.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(0)
