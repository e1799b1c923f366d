"""The command line as a user has it: words in, exit code and text out; plans are made once."""

from __future__ import annotations

import atexit
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from planner.cli import main
from planner.plan import Plan, Replica


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that a terminal shows, with lines joined so that wrapping does not matter."""
        return " ".join((self.out + " " + self.err).split())

    @property
    def error(self) -> dict[str, object]:
        """The error object of a command that was asked for JSON."""
        return json.loads(self.out)["error"]


@dataclass(frozen=True)
class Planned(Ended):
    """A plan that the program made, as file and as value."""

    file: str
    plan: Plan

    def baseline(self, start: str) -> float:
        """Step time of the baseline whose name starts like this; infinite if impossible."""
        (found,) = [b for b in self.plan.baselines if b.name.startswith(start)]
        return found.step_time_s if found.step_time_s is not None else float("inf")


def planner(*arguments: str | Path) -> Ended:
    """Runs one command line in this process."""
    with _captured() as (out, err):
        code = main([str(a) for a in arguments])
    return Ended(code, _text(out), _text(err))


@cache
def planned(*arguments: str) -> Planned:
    """Runs ``planner plan … -o FILE`` once for all tests that look at the result."""
    folder = tempfile.mkdtemp(prefix="planner-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / "plan.json"
    ended = planner("plan", *arguments, "-o", file)
    if ended.code:
        raise AssertionError(f"exit code {ended.code}: {ended.err}")
    plan = Plan.model_validate_json(file.read_text(encoding="utf-8"))
    return Planned(ended.code, ended.out, ended.err, str(file), plan)


def replicas(plan: Plan) -> Iterator[Replica]:
    """Every group of devices that holds a stage."""
    for pipeline in plan.pipelines:
        for stage in pipeline.stages:
            yield from stage.replicas


def host(device: str) -> str:
    """The node of a device: ``node3`` of ``node3/0``."""
    return device.rpartition("/")[0]


def rows_of(plan: Plan) -> int:
    """Rows that one step trains."""
    return sum(
        (p.micro_batches - 1) * p.micro_batch_rows + p.last_micro_batch_rows for p in plan.pipelines
    )


def defects(plan: Plan, chips: int) -> list[str]:
    """What every plan must satisfy, whatever the scenario."""
    found = []
    length = len(plan.layer_order)
    for p, pipeline in enumerate(plan.pipelines):
        edges = [stage.layers for stage in pipeline.stages]
        if [a for a, _ in edges] != [0, *[b for _, b in edges[:-1]]] or edges[-1][1] != length:
            found.append(f"pipeline {p} does not run every layer once: {edges}")
    placed = [d for r in replicas(plan) for d in r.devices]
    idle = [d for u in plan.unused_devices for d in u.devices]
    if len(set(placed)) != len(placed):
        found.append("a device is placed twice")
    if len({*placed, *idle}) != chips or len(placed) + len(idle) != chips:
        found.append(f"{len(placed)} placed and {len(idle)} idle are not {chips} chips")
    found += [f"no reason: {u.devices}" for u in plan.unused_devices if not u.reason]
    found += [
        f"{r.devices[0]} is overfull"
        for r in replicas(plan)
        if r.memory_bytes.peak > r.memory_bytes.usable
    ]
    if rows_of(plan) != plan.inputs.job.resolved["global_batch"]:
        found.append(f"{rows_of(plan)} rows are not the global batch")
    certificate = plan.certificate
    if certificate is None or certificate.lower_bound_s > certificate.objective_s:
        found.append("the bound is above the objective")
    elif plan.estimate.step_time_s > certificate.objective_s:
        found.append("the exact step time is above the formula time")
    simulated = plan.estimate.simulated_step_time_s
    if simulated is None or abs(simulated / plan.estimate.step_time_s - 1) > 0.02:
        found.append(f"replayed in {simulated} s instead of {plan.estimate.step_time_s}")
    step = plan.estimate.step_time_s
    same = [a.step_time_s for a in plan.alternatives if a.global_batch == rows_of(plan)]
    beside = [b.step_time_s for b in plan.baselines if b.step_time_s is not None]
    if min([*same, *beside], default=step) < step * (1 - 1e-9):
        found.append("something that stands beside the plan is faster")
    return found


@contextmanager
def _captured() -> Iterator[tuple[io.TextIOWrapper, io.TextIOWrapper]]:
    """Standard output and error as UTF-8 files, as a pipe would have them."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n") for _ in range(2))
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        yield out, err
    finally:
        sys.stdout, sys.stderr = before


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf-8")
