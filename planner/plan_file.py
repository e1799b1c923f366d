"""Reads ``plan.json`` back, and says what is wrong with one that was changed or broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from planner.errors import InputError, Problem, StalePlanError
from planner.inputs.problems import problems_from_validation
from planner.inputs.reading import read_document
from planner.plan import SCHEMA_VERSION, Plan


def read_plan(path: Path | str) -> Plan:
    """The plan in a file. Raises InputError with every problem and its line.

    A plan that was edited by hand no longer has the hash that it carries: that is a problem too,
    because everything that people agreed on by its ``plan_id`` would silently change.
    """
    plan = parse_plan(_json(path), path)
    if plan.plan_id != plan.content_hash():
        message = f"plan_id {plan.plan_id[:12] or 'is empty:'} is not the hash of the content"
        remedy = "the file was changed after it was made: run planner plan again"
        raise InputError([Problem(str(path), message, remedy)])
    return plan


def parse_plan(value: Any, path: Path | str) -> Plan:  # noqa: ANN401 - any JSON value
    """The plan that a JSON value is, whatever its hash. Raises InputError with every problem."""
    if not looks_like_plan(value):
        message = "is not a plan (it has no schema_version and pipelines)"
        raise InputError([Problem(str(path), message, "give a file that planner plan -o wrote")])
    version = value.get("schema_version")
    if version != SCHEMA_VERSION:
        message = f"schema version {version!r} cannot be read"
        remedy = f"this planner reads version {SCHEMA_VERSION}: make the plan again"
        raise InputError([Problem(read_document(path).where(("schema_version",)), message, remedy)])
    try:
        return Plan.model_validate(value)
    except ValidationError as error:
        raise InputError(problems_from_validation(error, read_document(path), Plan)) from None


def looks_like_plan(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Whether a JSON value is meant as a plan, right or wrong."""
    return isinstance(value, dict) and ("pipelines" in value or "plan_id" in value)


def require_same_inputs(plan: Plan, digests: dict[str, str]) -> None:
    """Raise StalePlanError unless the plan was made for inputs with these digests.

    ``digests`` by input: model, cluster, job, and profile where one is at hand.
    """
    made_for = {
        "model": plan.inputs.model,
        "cluster": plan.inputs.cluster,
        "job": plan.inputs.job,
        "profile": plan.inputs.profile,
    }
    records = {name: made_for[name] for name in digests}
    changed = {n: r for n, r in records.items() if r is None or r.digest != digests[n]}
    lacking = plan.inputs.profile is not None and "profile" not in digests
    if changed:
        details = "; ".join(
            f"{name} {record.name!r} had digest {record.digest[:12]}, now {digests[name][:12]}"
            if record is not None
            else f"there was no {name}, now there is one of digest {digests[name][:12]}"
            for name, record in changed.items()
        )
        raise StalePlanError(
            f"the plan was made for another {' and another '.join(changed)}: {details}",
            where=f"plan {plan.plan_id[:12]}",
            remedies=[
                "run planner plan again for these inputs",
                "give the same --set and job as for the plan if it should still fit",
                *(["the plan was made from a profile: give it too"] if lacking else []),
            ],
        )


def _json(path: Path | str) -> Any:  # noqa: ANN401 - any JSON value
    """The value of a file; problems are found again by the reader that knows their lines."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return read_document(path).data
