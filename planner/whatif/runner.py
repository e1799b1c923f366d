"""Scenarios planned side by side: what is known is read, the rest is shared out to workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from planner.aside import cpus
from planner.errors import InputError, Problem
from planner.scenario.inputs import PlanInputs
from planner.whatif.cache import OutcomeCache, key_of
from planner.whatif.evaluation import Effort, evaluate_json
from planner.whatif.outcome import Outcome, outcome_from_json
from planner.whatif.pool import Lost, Work, run_in_processes
from planner.whatif.ray_pool import run_on_ray

EngineName = Literal["processes", "ray"]


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is: scenarios done (of which ``known`` were read from the cache) of all.

    ``eta_s`` is the time that the rest takes at the pace so far; None before there is a pace.
    """

    done: int
    total: int
    known: int
    failed: int
    elapsed_s: float
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where scenarios are planned and how hard.

    ``cache`` is a folder, or None to keep nothing. ``workers`` counts processes (default: one per
    CPU that this process may use) and is left to Ray with the engine "ray".
    """

    effort: Effort = field(default_factory=Effort)
    engine: EngineName = "processes"
    workers: int | None = None
    address: str | None = None
    cache: Path | None = None


class Runner(Protocol):
    """What runs tasks: processes here, or a Ray cluster."""

    def __call__(
        self,
        work: Work,
        tasks: Sequence[Any],
        *,
        on_result: Callable[[int, Any], None],
        interrupted: Callable[[], bool],
    ) -> None:
        """Call ``on_result(index, result)`` for every task, in any order."""


def run(
    scenarios: Sequence[PlanInputs],
    options: RunOptions | None = None,
    *,
    progress: Callable[[RunProgress], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> tuple[Outcome | None, ...]:
    """The outcome of every scenario, in their order; None for what an interruption left undone.

    Equal scenarios are planned once. With a cache, everything finished is kept at once: the same
    call after an interruption (or a killed parent) goes on where it was.
    """
    options = options or RunOptions()
    _check_cache(options.cache)
    start = time.monotonic()
    cache = OutcomeCache(options.cache) if options.cache is not None else None
    keys = [key_of(s, options.effort) for s in scenarios]
    known: dict[str, Outcome] = {}
    for key in dict.fromkeys(keys):
        found = cache.get(key) if cache is not None else None
        if found is not None:
            known[key] = found
    read = sum(key in known for key in keys)
    open_keys = [key for key in dict.fromkeys(keys) if key not in known]
    first = {key: scenarios[keys.index(key)] for key in open_keys}
    finished = 0

    def report() -> None:
        done = sum(key in known for key in keys)
        failed = sum(known[key].status == "failed" for key in keys if key in known)
        elapsed = time.monotonic() - start
        pace = elapsed / finished if finished else None
        left = None if pace is None else pace * (len(open_keys) - finished)
        progress(RunProgress(done, len(keys), read, failed, elapsed, left))

    def on_result(task: int, result: Any) -> None:  # noqa: ANN401 - JSON of an outcome, or Lost
        nonlocal finished
        key = open_keys[task]
        known[key] = _outcome(result)
        if cache is not None:
            cache.put(key, known[key])
        finished += 1
        report()

    report()
    if open_keys:
        runner = engine_for(options, len(open_keys))
        tasks = [_task(first[key], options.effort) for key in open_keys]
        runner(evaluate_json, tasks, on_result=on_result, interrupted=interrupted)
    return tuple(known.get(key) for key in keys)


def engine_for(options: RunOptions, tasks: int) -> Runner:
    """The engine that the options name."""
    if options.engine == "ray":
        return partial(run_on_ray, address=options.address)
    return partial(run_in_processes, workers=max(1, min(options.workers or cpus(), tasks)))


def _task(inputs: PlanInputs, effort: Effort) -> Mapping[str, Any]:
    return {"inputs": inputs.as_json(), "effort": effort.as_json()}


def _outcome(result: Any) -> Outcome:  # noqa: ANN401 - JSON of an outcome, or Lost
    if isinstance(result, Lost):
        return Outcome(status="failed", reason=result.reason)
    return outcome_from_json(result)


def _check_cache(folder: Path | None) -> None:
    """Find out before an hour of work that nothing can be kept. Raises InputError."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        message = f"results cannot be kept: {error.strerror}"
        remedy = "name another folder, or --no-cache to keep none"
        raise InputError([Problem(f"--cache {folder}", message, remedy)]) from None
