"""``planner check FILE…``: every problem of every file at once, before anything is planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import typer

from costmodels.catalog import CatalogError, load_catalog
from planner.commands.loading import Loaded, load_inputs
from planner.commands.options import FormatOption, SetOption, complete_cluster
from planner.commands.output import Format, show, show_json
from planner.commands.world import digests_of, world_of
from planner.errors import InputError, Problem
from planner.inputs.cluster import load_cluster
from planner.inputs.document import JsonValue
from planner.inputs.job import JobSpec, load_job
from planner.inputs.layout_spec import layout_document, parse_layout
from planner.inputs.model import load_model
from planner.inputs.operator_graph import (
    looks_like_operator_graph,
    partition_problem,
    read_operator_graph,
)
from planner.inputs.overrides import Override, parse_overrides
from planner.inputs.profile import load_profile, looks_like_profile
from planner.inputs.reading import read_document
from planner.inputs.resources import FixtureKind, fixture
from planner.inputs.shorthand import looks_like_shorthand
from planner.partition_file import looks_like_partition, parse_partition, verify_partition
from planner.plan_file import looks_like_plan, parse_plan, require_same_inputs
from planner.report.format import plural
from planner.report.verdicts import Verdict, verdicts

Kind = Literal[
    "model",
    "cluster",
    "job",
    "layout",
    "plan",
    "chips",
    "profile",
    "operator graph",
    "partition",
]

SHIPPED: tuple[tuple[FixtureKind, Kind], ...] = (
    ("models", "model"),
    ("clusters", "cluster"),
    ("jobs", "job"),
    ("layouts", "layout"),
    ("profiles", "profile"),
)
"""Where shipped files of each kind lie; a name is looked up in this order."""


def check(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Models, clusters, jobs, layouts, profiles, plans, partitions, operator "
            "graphs and chip files, also shipped names and shorthand.",
            autocompletion=complete_cluster,
        ),
    ],
    against: Annotated[
        bool,
        typer.Option(
            "--against",
            help="Compare the plans with the MODEL CLUSTER [JOB] that stand beside them in this "
            "order: exit 5 if a plan was made for others.",
        ),
    ] = False,
    set_: SetOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """Check inputs and plans: all problems at once, with file, line, value and remedy.

    planner check cluster.yaml job.yaml; planner check plan.json --against MODEL CLUSTER JOB

    A plan is verified from scratch: coverage, legality, memory and times.
    A model and a cluster that stand together are checked against one another.
    """
    overrides = parse_overrides(set_ or ())
    found = [_recognise(name) for name in files]
    if against:
        _compare(found, overrides)
        problems: list[Problem] = []
    else:
        problems = _check_all(found, overrides)
    _answer(found, problems, format_)


@dataclass
class _Item:
    """One argument: what it is, and what is wrong with it."""

    name: str
    kind: Kind | None = None
    problems: list[Problem] = field(default_factory=list)
    about: str = ""
    data: JsonValue = None


def _recognise(name: str) -> _Item:
    """What an argument is, by its content."""
    path = Path(name)
    if not path.exists():
        for folder, shipped in SHIPPED:
            if fixture(folder, name) is not None:
                return _Item(name, shipped)
        if looks_like_shorthand(name) and path.suffix not in (".json", ".yaml", ".yml"):
            return _Item(name, "cluster")
    if path.is_dir() and (path / "config.json").is_file():
        return _Item(name, "model")
    try:
        document = read_document(path)
    except InputError as error:
        return _Item(name, problems=list(error.problems))
    kind = kind_of(document.data)
    if kind is None:
        message = "is not recognised as an input of the planner, a plan or a partition"
        remedy = "planner schema lists what each of them may say"
        return _Item(name, problems=[Problem(name, message, remedy)])
    return _Item(name, kind, data=document.data)


def kind_of(data: JsonValue) -> Kind | None:
    """What a file is meant to be, by its keys; None if nothing fits."""
    if not isinstance(data, dict):
        return None
    if looks_like_plan(data):
        return "plan"
    if looks_like_profile(data):
        return "profile"
    if looks_like_partition(data):
        return "partition"
    if looks_like_operator_graph(data):
        return "operator graph"
    if data.keys() & {"model_type", "architectures", "num_hidden_layers", "layers"}:
        return "model"
    if data.keys() & {"nodes", "networks"}:
        return "cluster"
    if data.keys() & {"tp", "pp", "dp", "layers_per_stage", "placement"}:
        return "layout"
    if "chips" in data or {"id", "vendor"} <= data.keys():
        return "chips"
    if data.keys() & JobSpec.model_fields.keys():
        return "job"
    return None


def _check_all(items: Sequence[_Item], overrides: Sequence[Override]) -> list[Problem]:
    """Fill every item's problems; returns those that lie between the items."""
    for item in items:
        if not item.problems:
            try:
                item.about = _check_one(item, overrides)
            except InputError as error:
                item.problems += error.problems
    if any(item.problems for item in items):
        return []
    loaded = _together(items, overrides)
    if loaded is None:
        return []
    try:
        world_of(loaded)
    except InputError as error:
        return list(error.problems)
    return []


def _check_one(item: _Item, overrides: Sequence[Override]) -> str:
    """One item on its own; what was understood of it."""
    if item.kind == "model":
        model = load_model(item.name, overrides)
        return f"{model.graph.parameters:,} parameters, {len(model.graph.layers)} layers"
    if item.kind == "cluster":
        spec = load_cluster(item.name, load_catalog(), overrides).spec
        return f"{plural(spec.device_count, 'chip')} in {plural(spec.hosts, 'node')}"
    if item.kind == "job":
        load_job(item.name, overrides)
        return ""
    if item.kind == "layout":
        layout = parse_layout(layout_document(item.name))
        return plural(layout.stages, "stage")
    if item.kind == "profile":
        measured = load_profile(item.name).spec.chips
        rows = sum(len(chip.rows) for chip in measured)
        return f"{plural(rows, 'row')} of {plural(len(measured), 'chip')}"
    if item.kind == "chips":
        try:
            load_catalog(Path(item.name))
        except CatalogError as error:
            found = [
                Problem(f"{item.name}: {p.where}", p.message, p.remedy) for p in error.problems
            ]
            raise InputError(found) from None
        return ""
    if item.kind == "operator graph":
        graph = read_operator_graph(read_document(item.name))
        partition_problem(graph)
        return f"{plural(len(graph.nodes), 'node')}, {plural(len(graph.tensors), 'tensor')}"
    if item.kind == "partition":
        return _check_partition(item.name)
    from planner.verify import verify

    plan = parse_plan(item.data, item.name)
    problems = verify(plan)
    if problems:
        raise InputError(
            [Problem(f"{item.name}: {p.where}", p.message, p.remedy) for p in problems]
        )
    return f"plan {plan.plan_id[:12]}, verified from scratch"


def _check_partition(name: str) -> str:
    """Verify a partition from its own file."""
    found = parse_partition(read_document(name))
    wrong = verify_partition(found)
    if wrong:
        remedy = "the file was changed after it was made: run planner partition again"
        raise InputError([Problem(name, problem, remedy) for problem in wrong])
    return f"{plural(len(found.stages), 'stage')}, verified from scratch"


def _together(items: Sequence[_Item], overrides: Sequence[Override]) -> Loaded | None:
    """One model and one cluster (and at most one job) that stand side by side."""
    kinds: tuple[Kind, ...] = ("model", "cluster", "job", "profile")
    by_kind = {k: [i.name for i in items if i.kind == k] for k in kinds}
    if len(by_kind["model"]) != 1 or len(by_kind["cluster"]) != 1:
        return None
    if len(by_kind["job"]) > 1 or len(by_kind["profile"]) > 1:
        return None
    job = by_kind["job"][0] if by_kind["job"] else None
    profile = by_kind["profile"][0] if by_kind["profile"] else None
    return load_inputs(by_kind["model"][0], by_kind["cluster"][0], job, overrides, profile)


def _compare(items: Sequence[_Item], overrides: Sequence[Override]) -> None:
    """Raise StalePlanError unless every plan was made for the inputs beside it."""
    plans = [i for i in items if i.kind == "plan"]
    measured = [i.name for i in items if i.kind == "profile"]
    inputs = [i.name for i in items if i.kind not in ("plan", "profile")]
    if not plans or len(inputs) not in (2, 3) or len(measured) > 1:
        message = "needs a plan and then MODEL CLUSTER [JOB] [PROFILE]"
        remedy = "planner check plan.json --against MODEL CLUSTER JOB"
        raise InputError([Problem("--against", message, remedy)])
    job = inputs[2] if len(inputs) == 3 else None
    profile = measured[0] if measured else None
    digests = digests_of(load_inputs(inputs[0], inputs[1], job, overrides, profile))
    for item in plans:
        item.about = _check_one(item, overrides)
        require_same_inputs(parse_plan(item.data, item.name), digests)
        item.about += ", made for these inputs"


def _answer(items: Sequence[_Item], between: Sequence[Problem], format_: Format) -> None:
    """Print the verdicts; problems end the command with exit code 2."""
    every = [p for item in items for p in item.problems] + list(between)
    if format_ is Format.json and not every:
        show_json(
            {
                "files": [
                    {"file": i.name, "kind": i.kind, "ok": True, "about": i.about} for i in items
                ]
            }
        )
    elif format_ is Format.text:
        show(
            verdicts(
                [Verdict(i.name, i.kind or "file", len(i.problems), i.about) for i in items],
            )
        )
    if every:
        raise InputError(every)
