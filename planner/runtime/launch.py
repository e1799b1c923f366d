"""Starts all processes of a plan on this machine, and says which one failed. Knows no PyTorch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from planner.errors import InputError, PlannerError, Problem, RunFailed
from planner.runtime.profile_request import ProfileFound, ProfileRequest
from planner.runtime.request import Failure, RunRecord, RunRequest
from planner.runtime.seats import Seat
from planner.runtime.worker import ANSWER, PROFILE, RUN

STDERR = 2
"""What ranks print goes here: standard output is for the answer alone."""


def run_local(request: RunRequest, seats: Sequence[Seat]) -> RunRecord:
    """One process per seat on this machine, until all are done.

    Raises RunFailed naming the rank that failed first, or the error that a process reported.
    """
    text = _processes(RUN, request.model_dump_json(), [str(seat) for seat in seats])
    return RunRecord.model_validate_json(text)


def profile_local(request: ProfileRequest) -> ProfileFound:
    """The same for measuring: one process per chip that is asked for."""
    names = [f"rank {rank} ({process.chip})" for rank, process in enumerate(request.processes)]
    text = _processes(PROFILE, request.model_dump_json(), names)
    return ProfileFound.model_validate_json(text)


def _processes(kind: str, request: str, names: Sequence[str]) -> str:
    """Start a process per name and wait for them; what rank 0 answered."""
    with tempfile.TemporaryDirectory(prefix="planner-") as place:
        folder = Path(place)
        (folder / kind).write_text(request, encoding="utf-8")
        command = [sys.executable, "-m", "planner.runtime.worker", place]
        command += [str(len(names)), str(free_port())]
        parent = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=STDERR)
        try:
            parent.wait()
        except BaseException:
            parent.terminate()
            parent.wait()
            raise
        codes = _codes(folder)
        if codes is None:
            message = f"the process that starts all ranks ended with code {parent.returncode}"
            raise RunFailed(message, remedies=["is there enough memory for all processes?"])
        if any(codes.values()):
            raise cause(names, codes, {rank: _failure(folder, rank) for rank in codes})
        return (folder / ANSWER).read_text(encoding="utf-8")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cause(
    names: Sequence[str], codes: Mapping[int, int], failures: Mapping[int, Failure | None]
) -> PlannerError:
    """The first cause: a killed process, else one that failed by itself, else one that lost it."""
    failed = [rank for rank, code in codes.items() if code]
    killed = [rank for rank in failed if codes[rank] < 0]
    found = {rank: failures.get(rank) for rank in failed}
    own = [rank for rank, failure in found.items() if failure and not failure.consequence]
    rank = min(killed or own or failed)
    name, failure = names[rank], found[rank]
    if rank in killed:
        return RunFailed(
            f"{name} was ended by signal {-codes[rank]}",
            remedies=["signal 9 is often the system running out of memory"],
        )
    if failure is None:
        return RunFailed(f"{name} ended with code {codes[rank]}")
    if os.environ.get("PLANNER_TRACEBACK"):
        sys.stderr.write(failure.trace)
    if failure.code == InputError.exit_code:
        remedy = failure.remedies[0] if failure.remedies else ""
        return InputError([Problem("", failure.message.split("\n")[0], remedy)])
    remedies = failure.remedies or ("set PLANNER_TRACEBACK=1 to see the trace",)
    return RunFailed(f"{name}: {failure.message}", remedies=remedies)


def _codes(folder: Path) -> dict[int, int] | None:
    path = folder / "codes.json"
    if not path.is_file():
        return None
    return {int(rank): code for rank, code in json.loads(path.read_text()).items()}


def _failure(folder: Path, rank: int) -> Failure | None:
    path = folder / f"failure-{rank}.json"
    if not path.is_file():
        return None
    try:
        return Failure.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
