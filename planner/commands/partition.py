"""``planner partition GRAPH [CLUSTER] [JOB]``: one copy of a graph, one device per stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from planner.commands.loading import job_overrides, load_inputs
from planner.commands.options import (
    FormatOption,
    JobArgument,
    OutputOption,
    SetOption,
    complete_cluster,
    complete_model,
)
from planner.commands.output import STDOUT, Format, check_writable, show, write_text
from planner.errors import InfeasibleError, InputError, Problem
from planner.inputs.operator_graph import (
    OperatorGraph,
    looks_like_operator_graph,
    partition_problem,
    read_operator_graph,
)
from planner.inputs.reading import read_document
from planner.partition.problem import Objective
from planner.partition_file import PartitionFile, partition_file

if TYPE_CHECKING:
    from planner.partition.solve import Limits
    from planner.partition_costs import PricedGraph

GraphArgument = Annotated[
    str,
    typer.Argument(
        metavar="GRAPH",
        help="An operator-graph file with its own times and devices; or a model (a layer-graph "
        "file, a config.json or a shipped name), whose layers are priced on CLUSTER.",
        autocompletion=complete_model,
    ),
]
OnClusterArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CLUSTER",
        help="For a model: a topology file, a shipped name, or shorthand such as "
        "'2xA100-SXM-80GB + 2xV100-SXM2-32GB @ 100Gb/s'. One stage per chip.",
        autocompletion=complete_cluster,
    ),
]


def partition(
    graph: GraphArgument,
    cluster: OnClusterArgument = None,
    job: JobArgument = None,
    output: OutputOption = None,
    interleaved: Annotated[
        bool,
        typer.Option(
            "--interleaved",
            help="Let a device hold any nodes; by default a stage is an interval of the graph.",
        ),
    ] = False,
    objective: Annotated[
        Objective,
        typer.Option(
            "--objective",
            metavar="max-load|total-load",
            help="What is least: the load of the fullest device (the takt of a pipeline), or the "
            "sum of all loads (the time of one micro-batch alone).",
        ),
    ] = Objective.max_load,
    work: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="UNITS",
            help="Deterministic work of the solver, about seconds, after which the best partition "
            "so far is returned with its gap.",
        ),
    ] = 60.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, metavar="N", help="Seed of the solver.")
    ] = 0,
    set_: SetOption = None,
    format_: FormatOption = Format.text,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report, only errors.")] = False,
) -> None:
    """Split an operator or layer graph into stages on unlike devices, and prove how good it is.

    planner partition clip-vit-l14 '2xA100-SXM-80GB + 2xV100-SXM2-32GB @ 100Gb/s'

    One copy of the graph, one device per stage. planner plan trains with many chips per stage and
    many copies, but cuts along one order of the layers.
    """
    from planner.partition.solve import Limits  # late: it loads numpy

    check_writable(output)
    limits = Limits(work=work, seed=seed)
    if _is_operator_graph(graph):
        found = _of_graph(graph, cluster, set_, limits, objective, interleaved=interleaved)
    else:
        found = _of_model(graph, cluster, job, set_, limits, objective, interleaved=interleaved)
    to_file = output is not None and output != STDOUT
    if output is not None and to_file:
        write_text(output, found.to_json())
    if output == STDOUT or format_ is Format.json:
        write_text(STDOUT, found.to_json())
    if format_ is Format.text and not quiet:
        _report(found, output)


def _is_operator_graph(graph: str) -> bool:
    path = Path(graph)
    return path.is_file() and looks_like_operator_graph(read_document(path).data)


def _of_graph(
    graph: str,
    cluster: str | None,
    set_: list[str] | None,
    limits: Limits,
    objective: Objective,
    *,
    interleaved: bool,
) -> PartitionFile:
    """Solve an operator graph on the devices that it names."""
    if cluster is not None or set_:
        message = "an operator graph names its own devices"
        remedy = "leave CLUSTER, JOB and --set out, or give a layer graph"
        raise InputError([Problem(graph, message, remedy)])
    spec = read_operator_graph(read_document(graph))
    return _solved(spec, (), limits, objective, interleaved=interleaved)


def _of_model(
    model: str,
    cluster: str | None,
    job: str | None,
    set_: list[str] | None,
    limits: Limits,
    objective: Objective,
    *,
    interleaved: bool,
) -> PartitionFile:
    """Price a model's layers on a cluster and solve; recompute only where memory asks for it."""
    if cluster is None:
        message = "is no operator graph, and a model needs a CLUSTER"
        raise InputError([Problem(model, message, "name one: '4xA100-SXM-80GB'")])
    loaded = load_inputs(model, cluster, job, job_overrides(set_))
    from planner.partition_costs import priced_graphs  # late: it loads the cost model

    misfit: InfeasibleError | None = None
    for priced in priced_graphs(loaded.model, loaded.cluster, loaded.job):
        try:
            return _of_priced(priced, limits, objective, interleaved=interleaved)
        except InfeasibleError as error:
            misfit = misfit or error
    raise InfeasibleError(
        "the layers do not fit on these chips, one copy with one chip per stage",
        where=loaded.model.name,
        remedies=["add chips or memory", "planner plan can shard layers over several chips"],
    ) from misfit


def _of_priced(
    priced: PricedGraph, limits: Limits, objective: Objective, *, interleaved: bool
) -> PartitionFile:
    return _solved(priced.graph, priced.assumptions, limits, objective, interleaved=interleaved)


def _solved(
    graph: OperatorGraph,
    assumptions: tuple[str, ...],
    limits: Limits,
    objective: Objective,
    *,
    interleaved: bool,
) -> PartitionFile:
    from planner.partition.solve import partition as solve

    problem = partition_problem(graph, interleaved=interleaved, objective=objective)
    return partition_file(graph, problem, solve(problem, limits), assumptions)


def _report(found: PartitionFile, output: str | None) -> None:
    from planner.report.partition import partition_page

    beside = output == STDOUT
    show(partition_page(found), to_stderr=beside)
    if found.assumptions:
        show(Text("\nassumed\n  " + "\n  ".join(found.assumptions), "dim"), to_stderr=beside)
    if output is not None and not beside:
        show(Text(f"wrote {output}; planner check {output} verifies it", "dim"), to_stderr=True)
