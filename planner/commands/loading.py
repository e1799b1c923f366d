"""From what the command line names to checked inputs, all their problems at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from costmodels.catalog import Catalog, CatalogError, load_catalog
from planner.commands.calibration_file import calibrated_chips
from planner.commands.constraint_options import GivenConstraints, constraint_overrides
from planner.errors import InputError, Problem

if TYPE_CHECKING:
    from planner.inputs.cluster import ClusterInput
    from planner.inputs.job import JobInput
    from planner.inputs.model import ModelInput
    from planner.inputs.overrides import Override
    from planner.inputs.profile import ProfileInput

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The inputs of a plan."""

    model: ModelInput
    cluster: ClusterInput
    job: JobInput
    profile: ProfileInput | None = None


def load_inputs(
    model: str,
    cluster: str,
    job: str | None,
    overrides: Sequence[Override],
    profile: str | None = None,
    *,
    calibration: str | None = None,
    found: Sequence[Problem] = (),
) -> Loaded:
    """Read all of them, chips as a calibration file has them.

    Raises InputError with the problems of all, after those ``found``.
    """
    from planner.inputs.cluster import load_cluster
    from planner.inputs.job import load_job
    from planner.inputs.model import load_model
    from planner.inputs.profile import load_profile

    problems = list(found)
    catalog = _attempt(lambda: _catalog(calibration), problems)
    found_model = _attempt(lambda: load_model(model, overrides), problems)
    found_cluster = _attempt(lambda: load_cluster(cluster, catalog, overrides), problems)
    found_job = _attempt(lambda: load_job(job, overrides), problems)
    measured = None
    if profile is not None:
        measured = _attempt(lambda: load_profile(profile), problems)
    if problems or found_model is None or found_cluster is None or found_job is None:
        raise InputError(problems)
    return Loaded(found_model, found_cluster, found_job, measured)


def _catalog(calibration: str | None) -> Catalog:
    if calibration is None:
        return load_catalog()
    try:
        return load_catalog({"chips": calibrated_chips(calibration)})
    except CatalogError as error:
        found = [Problem(f"{calibration}: {p.where}", p.message, p.remedy) for p in error.problems]
        raise InputError(found) from None


def read_overrides(
    sets: Sequence[str] | None,
    *,
    forbid: Sequence[str] | None = None,
    objective: str | None = None,
    global_batch: int | None = None,
    seq_len: int | None = None,
    precision: str | None = None,
    constraints: GivenConstraints | None = None,
) -> tuple[tuple[Override, ...], tuple[Problem, ...]]:
    """The short options and every ``--set`` as one list, and what is wrong with the others.

    A ``--set`` has the last word. The problems are for :func:`load_inputs`, which reports them
    together with those of the inputs.
    """
    from planner.inputs.job import TECHNIQUES
    from planner.inputs.overrides import Override, parse_overrides
    from planner.inputs.problems import nearest

    problems: list[Problem] = []
    found: list[Override] = []
    for name in forbid or ():
        technique = name.replace("-", "_")
        if technique in TECHNIQUES:
            path = ("techniques", technique)
            found.append(
                Override("job", path, value=False, text=f"job.techniques.{technique}=false")
            )
            continue
        close = nearest(technique, TECHNIQUES)
        remedy = f"did you mean {close[0]}?" if close else f"known: {', '.join(TECHNIQUES)}"
        problems.append(Problem(f"--forbid {name}", "no technique has this name", remedy))
    short = {
        "objective": objective,
        "global_batch": global_batch,
        "seq_len": seq_len,
        "precision": precision,
    }
    found += [
        Override("job", (field,), value=value, text=f"job.{field}={value}")
        for field, value in short.items()
        if value is not None
    ]
    if constraints is not None:
        found += constraint_overrides(constraints, problems)
    for text in sets or ():
        try:
            found += parse_overrides([text])
        except InputError as error:
            problems += error.problems
    return tuple(found), tuple(problems)


def job_overrides(
    sets: Sequence[str] | None,
    *,
    forbid: Sequence[str] | None = None,
    objective: str | None = None,
    global_batch: int | None = None,
    seq_len: int | None = None,
    precision: str | None = None,
) -> tuple[Override, ...]:
    """:func:`read_overrides` where nothing else is read: raises InputError with all problems."""
    found, problems = read_overrides(
        sets,
        forbid=forbid,
        objective=objective,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=precision,
    )
    if problems:
        raise InputError(problems)
    return found


def _attempt(load: Callable[[], T], problems: list[Problem]) -> T | None:
    """The result, or None with the problems kept for later."""
    try:
        return load()
    except InputError as error:
        problems += error.problems
        return None
