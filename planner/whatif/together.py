"""Several scenarios planned at the same time, with their plans: on processes, in the order asked.

Sweeps keep figures only (:mod:`planner.whatif.runner`); questions that price one scenario's plan
on another's inputs need the plans.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from planner.errors import PlannerError
from planner.plan import Plan
from planner.scenario.inputs import PlanInputs, inputs_from_json
from planner.whatif.evaluation import Effort, Planned, plan_inputs
from planner.whatif.outcome import outcome_from_json
from planner.whatif.pool import Lost, run_in_processes

Named = tuple[str, PlanInputs]
"""A scenario's name, for progress, and its inputs."""


def plan_together(
    scenarios: Sequence[Named],
    effort: Effort | None = None,
    *,
    hint: Plan | None = None,
    workers: int = 1,
    progress: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> tuple[Planned | None, ...]:
    """Plan every scenario; None for what an interruption left undone. Equal ones share a plan.

    With one worker nothing is started, and an interruption ends a search with the best so far.
    Raises PlannerError where a worker met a bug, or was killed again and again.
    """
    first = {inputs.digest: (name, inputs) for name, inputs in reversed(scenarios)}
    order = list(dict.fromkeys(inputs.digest for _, inputs in scenarios))
    found: dict[str, Planned] = {}
    if workers < 2 or len(order) < 2:
        for key in order:
            if interrupted():
                break
            name, inputs = first[key]
            progress(name)
            found[key] = plan_inputs(inputs, effort, hint=hint, interrupted=interrupted)
    else:
        progress(f"{len(order)} scenarios on {min(workers, len(order))} processes")

        def on_result(task: int, result: Any) -> None:  # noqa: ANN401 - JSON, or Lost
            name = first[order[task]][0]
            found[order[task]] = _planned(name, result)
            progress(f"{len(found)} of {len(order)} are done, the last {name}")

        tasks = [_task(first[key][1], effort or Effort(), hint) for key in order]
        run_in_processes(
            plan_json, tasks, workers=workers, on_result=on_result, interrupted=interrupted
        )
    return tuple(found.get(inputs.digest) for _, inputs in scenarios)


def _task(inputs: PlanInputs, effort: Effort, hint: Plan | None) -> Mapping[str, Any]:
    known = None if hint is None else hint.to_json()
    return {"inputs": inputs.as_json(), "effort": effort.as_json(), "hint": known}


def plan_json(task: Mapping[str, Any]) -> dict[str, Any]:
    """The work of a process: plain JSON in and out; a bug is a text that names it."""
    try:
        inputs = inputs_from_json(task["inputs"])
        hint = None if task["hint"] is None else Plan.model_validate_json(task["hint"])
        done = plan_inputs(inputs, Effort(**task["effort"]), hint=hint)
        plan = None if done.plan is None else done.plan.to_json()
        return {"outcome": done.outcome.as_json(), "plan": plan}
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
        return {"bug": f"internal error in {where}: {type(error).__name__}: {error}"}


def _planned(name: str, result: Any) -> Planned:  # noqa: ANN401 - JSON, or Lost
    if isinstance(result, Lost):
        raise PlannerError(f"{name}: {result.reason}")
    if "bug" in result:
        raise PlannerError(f"{name}: {result['bug']}")
    plan = None if result["plan"] is None else Plan.model_validate_json(result["plan"])
    return Planned(outcome_from_json(result["outcome"]), plan)
