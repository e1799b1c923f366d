"""The same tasks on a Ray cluster (extra ``[ray]``): for more scenarios than one machine likes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from planner.errors import InputError, Problem
from planner.whatif.pool import ATTEMPTS, Lost, Work

IN_FLIGHT_PER_CPU = 2
"""Tasks given to Ray per CPU: one at work, one waiting, so that no CPU waits for this process."""

POLL_S = 0.5


def run_on_ray(
    work: Work,
    tasks: Sequence[Any],
    *,
    address: str | None,
    on_result: Callable[[int, Any], None],
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Run ``work`` on every task, as :func:`planner.whatif.pool.run_in_processes` does.

    ``address`` is that of a running cluster ("auto", "host:6379", "ray://host:10001"); None starts
    one on this machine, and stops it at the end. Ray itself runs a task again whose worker died;
    one that died ``ATTEMPTS`` times is :class:`Lost`. Raises InputError where Ray is not installed
    or the cluster does not answer.
    """
    ray = _ray()
    own = not ray.is_initialized()
    if own:
        _connect(ray, address)
    try:
        _run(ray, work, tasks, on_result, interrupted)
    finally:
        if own:
            ray.shutdown()


def _run(
    ray: Any,  # noqa: ANN401 - the module, which has no stubs
    work: Work,
    tasks: Sequence[Any],
    on_result: Callable[[int, Any], None],
    interrupted: Callable[[], bool],
) -> None:
    remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(work)
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = deque(range(len(tasks)))
    running: dict[Any, int] = {}
    while waiting or running:
        if interrupted():
            for reference in running:
                ray.cancel(reference, force=True)
            return
        while waiting and len(running) < cpus * IN_FLIGHT_PER_CPU:
            task = waiting.popleft()
            running[remote.remote(tasks[task])] = task
        ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL_S)
        for reference in ready:
            task = running.pop(reference)
            try:
                result: Any = ray.get(reference)
            except ray.exceptions.RayError as error:
                result = Lost(f"its worker died {ATTEMPTS} times ({type(error).__name__})")
            on_result(task, result)


def _ray() -> Any:  # noqa: ANN401 - the module
    try:
        import ray
    except ImportError:
        message = "needs Ray, which is not installed"
        remedy = "pip install 'planner[ray]', or leave --engine out to use this machine"
        raise InputError([Problem("--engine ray", message, remedy)]) from None
    return ray


def _connect(ray: Any, address: str | None) -> None:  # noqa: ANN401 - the module
    own = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        message = f"no Ray cluster answers: {str(error).splitlines()[0]}"
        remedy = "start one with `ray start --head`, or leave --address out for a local one"
        raise InputError([Problem(f"--address {address}", message, remedy)]) from None
