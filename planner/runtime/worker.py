"""The processes that run and profile start on this machine: a parent that forks a child per rank.

python -m planner.runtime.worker FOLDER COUNT PORT

PyTorch is loaded once, by the parent; the children share what it has read. FOLDER holds
``run.json`` or ``profile.json``, what is asked for; rank 0 leaves ``answer.json`` there, a rank
that fails ``failure-RANK.json``, and the parent ``codes.json`` with the exit codes, negative for
signals.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from planner.errors import PlannerError, RunFailed
from planner.runtime.profile_request import ProfileFound, ProfileRequest
from planner.runtime.request import Failure, RunRecord, RunRequest, StepRecord

RUN, PROFILE, ANSWER = "run.json", "profile.json", "answer.json"
Request = RunRequest | ProfileRequest

LOST = ("Connection closed", "Connection reset", "timed out", "Broken pipe", "Timed out")
"""Words of a backend that has lost another process."""

POLL_S = 0.02
SETTLE_S = 2.0
"""How long the others are waited for once one has failed, so that the cause can be told."""

GRACE_S = 5.0
"""Between asking a process to end and ending it."""


def main(folder: Path, count: int, port: int) -> int:
    """Fork all ranks, wait for them, write their exit codes. The first failure ends the others."""
    request = read_request(folder)
    preload(request)
    running: dict[int, int] = {}
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            _child(folder, request, local_environment(rank, count, port))
        running[pid] = rank
    signal.signal(signal.SIGTERM, lambda *_: _end(running))
    codes = _watch(running)
    _end(running)
    (folder / "codes.json").write_text(json.dumps(codes), encoding="utf-8")
    return int(any(codes.values()))


def read_request(folder: Path) -> Request:
    """What the command asked for."""
    run = folder / RUN
    if run.is_file():
        return RunRequest.model_validate_json(run.read_text(encoding="utf-8"))
    return ProfileRequest.model_validate_json((folder / PROFILE).read_text(encoding="utf-8"))


def preload(request: Request) -> None:
    """Load what all ranks need, before they are forked."""
    import torch

    import planner.runtime.profile_session
    import planner.runtime.session

    torch.optim.SGD([torch.zeros(1)], lr=0.0)  # the first optimizer loads half of the compiler
    if request.config is not None:
        import planner.runtime.hf  # noqa: F401 - loaded for the children


def local_environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torch.distributed reads to join the others."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def failure_of(rank: int, error: Exception) -> Failure:
    """What to say of an exception, and whether another process caused it."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, PlannerError):
        return Failure(
            rank=rank,
            code=error.exit_code,
            message=error.message,
            remedies=error.remedies,
            trace=trace,
        )
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    lost = isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)
    return Failure(
        rank=rank,
        code=RunFailed.exit_code,
        message=f"lost another process: {message}"
        if lost
        else f"{type(error).__name__}: {message}",
        consequence=lost,
        trace=trace,
    )


def show_step(end: int, record: StepRecord) -> None:
    """One line of progress on standard error."""
    line = f"step {record.step + 1}/{end} · loss {record.loss:.6g} · {record.time_s * 1e3:,.1f} ms"
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def show_stage(what: str) -> None:
    """What is being measured, on standard error."""
    sys.stderr.write(f"measuring {what}\n")
    sys.stderr.flush()


def _child(folder: Path, request: Request, environment: Mapping[str, str]) -> None:
    """One rank. Never returns: a backend that lost a peer would wait for it at a normal exit."""
    os.environ.update(environment)
    code = 1
    try:
        code = _run(folder, request, int(environment["RANK"]))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run(folder: Path, request: Request, rank: int) -> int:
    try:
        answer = _answer(request)
        if answer is not None:
            (folder / ANSWER).write_text(answer.model_dump_json(), encoding="utf-8")
    except Exception as error:
        failure = failure_of(rank, error)
        path = folder / f"failure-{rank}.json"
        path.write_text(failure.model_dump_json(), encoding="utf-8")
        return failure.code
    return 0


def _answer(request: Request) -> RunRecord | ProfileFound | None:
    from planner.runtime.profile_session import profile_rank
    from planner.runtime.session import run_rank

    if isinstance(request, RunRequest):
        return run_rank(request, None if request.quiet else show_step)
    return profile_rank(request, None if request.quiet else show_stage)


def _watch(running: dict[int, int]) -> dict[int, int]:
    """Exit codes of those that ended by themselves: all, or shortly after the first failure."""
    codes: dict[int, int] = {}
    settle: float | None = None
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)
        elif any(codes.values()):
            settle = settle or time.monotonic() + SETTLE_S
            if time.monotonic() > settle:
                break
        if not pid:
            time.sleep(POLL_S)
    return codes


def _end(running: dict[int, int]) -> None:
    """End what still runs: ask, then insist."""
    for how, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        for pid in running:
            os.kill(pid, how)
        deadline = time.monotonic() + wait_s
        while running and time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid:
                running.pop(pid)
            else:
                time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
