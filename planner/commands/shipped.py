"""``planner models|clusters|jobs|layouts list|show``: what comes with the planner, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from costmodels.catalog import load_catalog
from planner.commands.options import FormatOption
from planner.commands.output import STDOUT, Format, show, show_json, write_text
from planner.errors import InputError, Problem
from planner.inputs.cluster import echo, load_cluster
from planner.inputs.job import load_job
from planner.inputs.layout_spec import layout_document, parse_layout
from planner.inputs.model import load_model
from planner.inputs.problems import nearest
from planner.inputs.reading import read_text
from planner.inputs.resources import FixtureKind, fixture, fixture_names


def complete_shipped(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the kind whose command is completed (``planner models show …``)."""
    kind = context.parent.info_name if context.parent is not None else None
    return [
        name
        for known in FACTS
        if known == kind
        for name in fixture_names(known)
        if name.startswith(incomplete)
    ]


Facts = dict[str, object]

TextArgument = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="Only those whose name contains this.")
]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A shipped name.", autocompletion=complete_shipped)
]


def model_facts(name: str) -> Facts:
    """Exact sizes of a shipped model."""
    graph = load_model(name).graph
    widest = max((layer.shape.hidden for layer in graph.layers), default=0)
    return {
        "name": name,
        "parameters": graph.parameters,
        "active_parameters": graph.active_parameters,
        "layers": len(graph.layers),
        "hidden": widest,
        "max_seq_len": graph.max_seq_len,
    }


def cluster_facts(name: str) -> Facts:
    """Chips and nodes of a shipped cluster."""
    cluster = load_cluster(name, load_catalog())
    return {
        "name": name,
        "chips": cluster.spec.device_count,
        "nodes": cluster.spec.hosts,
        "holds": echo(cluster.spec, cluster.catalog).splitlines(),
    }


def job_facts(name: str) -> Facts:
    """What a shipped job asks for; null where the planner chooses."""
    spec = load_job(name).spec
    return {
        "name": name,
        "global_batch": spec.global_batch,
        "seq_len": spec.seq_len,
        "precision": spec.precision,
        "optimizer": spec.optimizer,
    }


def layout_facts(name: str) -> Facts:
    """Degrees of a shipped layout."""
    layout = parse_layout(layout_document(name))
    return {
        "name": name,
        "tp": layout.spec.tp,
        "pp": layout.stages,
        "dp": layout.spec.dp,
        "micro_batch_rows": layout.spec.micro_batch_rows,
    }


FACTS: dict[FixtureKind, Callable[[str], Facts]] = {
    "models": model_facts,
    "clusters": cluster_facts,
    "jobs": job_facts,
    "layouts": layout_facts,
}


def group(kind: FixtureKind) -> typer.Typer:
    """The commands ``list`` and ``show`` of one kind."""
    noun = kind[:-1]
    app = typer.Typer(
        help=f"The {kind} that come with the planner; they work by name in any folder.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def list_(text: TextArgument = None, format_: FormatOption = Format.text) -> None:
        from planner.report.shipped import shipped_table

        names = [n for n in fixture_names(kind) if text is None or text.lower() in n]
        if not names:
            near = ", ".join(nearest(text or "", fixture_names(kind)))
            remedy = f"near: {near}" if near else f"planner {kind} list shows all"
            raise InputError([Problem("", f"no shipped {noun} has {text!r} in its name", remedy)])
        facts = [FACTS[kind](name) for name in names]
        if format_ is Format.json:
            show_json(facts)
        else:
            show(shipped_table(kind, facts))

    def show_(name: NameArgument, format_: FormatOption = Format.text) -> None:
        path = fixture(kind, name)
        if path is None:
            close = nearest(name, fixture_names(kind))
            remedy = f"did you mean {close[0]}?" if close else f"planner {kind} list shows all"
            raise InputError([Problem(name, f"no shipped {noun} has this name", remedy)])
        text = read_text(path)
        if format_ is Format.json:
            show_json({**FACTS[kind](name), "file": path.name, "text": text})
        else:
            write_text(STDOUT, text)

    list_.__doc__ = f"List the {kind} that come with the planner.\n\nplanner {kind} list"
    show_.__doc__ = (
        f"Print the file of a shipped {noun}: a start for your own.\n\nplanner {kind} show NAME"
    )
    app.command("list")(list_)
    app.command("show")(show_)
    return app


models, clusters, jobs, layouts = map(group, FACTS)
