"""Loads a cluster: a file, a shipped name or a line of shorthand.

load_cluster("s1-a100-v100", load_catalog())
load_cluster("8xA100-SXM-80GB + 2x8xV100-SXM2-32GB @ 100Gb/s", load_catalog())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from costmodels.catalog import Catalog, load_catalog
from planner.errors import InputError, Problem
from planner.inputs.cluster_checks import cluster_problems, cluster_warnings
from planner.inputs.cluster_chips import (
    LIBRARIES,
    check_against_chips,
    check_cross_vendor,
    own_catalog,
    own_records,
    resolve_names,
    warn_slow_fabrics,
    with_ids,
)
from planner.inputs.cluster_spec import ClusterSpec
from planner.inputs.document import Document, JsonValue
from planner.inputs.overrides import Override, apply_overrides
from planner.inputs.quantities import describe_bandwidth
from planner.inputs.reading import nearest, problems_from_validation, read_document
from planner.inputs.resources import fixture, fixture_names
from planner.inputs.shorthand import (
    GRAMMAR,
    Fleet,
    fleet_document,
    looks_like_shorthand,
    parse_shorthand,
)

__all__ = [
    "ClusterInput",
    "ClusterSpec",
    "cluster_from_document",
    "cluster_from_resolved",
    "echo",
    "load_cluster",
]


@dataclass(frozen=True, slots=True)
class ClusterInput:
    """A checked cluster. ``source`` is what the user gave; ``catalog`` knows its own chips too.

    ``notes`` are facts that were assumed or corrected, ``warnings`` what looks wrong.
    """

    name: str
    source: str
    spec: ClusterSpec
    catalog: Catalog
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def resolved(self) -> dict[str, Any]:
        """The whole value as JSON, node counts not expanded; see :func:`cluster_from_resolved`."""
        return self.spec.model_dump(mode="json")


def load_cluster(
    spec: str | Path, catalog: Catalog | None = None, overrides: Sequence[Override] = ()
) -> ClusterInput:
    """Finds, reads, overrides and checks a cluster; ``catalog`` None is the shipped one.

    ``spec`` is a path, the name of a shipped cluster or shorthand, in this order. Raises
    InputError with every problem found.
    """
    catalog = load_catalog() if catalog is None else catalog
    document, fleet = _find(str(spec))
    document = apply_overrides(document, overrides, "cluster", ClusterSpec)
    return cluster_from_document(document, catalog, fleet)


def cluster_from_document(
    document: Document, catalog: Catalog | None = None, fleet: Fleet | None = None
) -> ClusterInput:
    """Checks a cluster that was read or made already, such as one that a scenario changed.

    ``catalog`` None is the shipped one; ``fleet`` is the shorthand that it was written in. Raises
    InputError with every problem found.
    """
    catalog = load_catalog() if catalog is None else catalog
    own, problems = own_catalog(document, catalog)
    refused = own_records(document) if problems else []
    names = resolve_names(document, own, frozenset(str(r.get("id")) for r in refused))
    try:
        written = ClusterSpec.model_validate(document.data)
    except ValidationError as error:
        found = problems_from_validation(error, document, ClusterSpec)
        raise InputError([*found, *problems, *names.problems]) from None
    problems += [*names.problems, *cluster_problems(written, document)]
    if problems:
        raise InputError(problems)
    resolved = _resolved(document, names.ids, own)
    problems += check_against_chips(resolved, document, own)
    problems += check_cross_vendor(resolved, document, own)
    if problems:
        raise InputError(problems)
    warnings = [
        *cluster_warnings(resolved, document),
        *warn_slow_fabrics(resolved, document, own),
    ]
    return ClusterInput(
        name=resolved.name,
        source=document.source,
        spec=resolved,
        catalog=own,
        notes=tuple(dict.fromkeys([*names.notes, *_notes(fleet, resolved)])),
        warnings=tuple(map(str, warnings)),
    )


def cluster_from_resolved(resolved: Mapping[str, Any]) -> ClusterSpec:
    """The cluster of :attr:`ClusterInput.resolved`. Raises InputError if it is not one."""
    document = Document("cluster", cast(JsonValue, resolved))
    try:
        spec = ClusterSpec.model_validate(resolved)
    except ValidationError as error:
        raise InputError(problems_from_validation(error, document, ClusterSpec)) from None
    if problems := cluster_problems(spec, document):
        raise InputError(problems)
    return spec


def echo(spec: ClusterSpec, catalog: Catalog) -> str:
    """What was understood, one line per entry of the node list, for a person to confirm."""
    kinds = {n.name: n.kind for n in spec.networks}
    lines = []
    for node in spec.nodes:
        chips = " + ".join(f"{g.count}x{catalog.alias(g.chip)}" for g in node.devices)
        names = node.host_names
        who = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        rates = [
            f"{nic.network} {describe_bandwidth(float(nic.bandwidth_one_way * nic.count))} "
            f"{nic.kind or kinds.get(nic.network) or 'tcp (assumed)'}"
            for nic in node.nics
        ]
        lines.append("; ".join([f"{node.count} x {chips} ({who})", *rates]))
    return "\n".join(lines)


def _resolved(document: Document, ids: Mapping[str, str], own: Catalog) -> ClusterSpec:
    """The cluster with catalogue ids, and its own chips with every figure written down."""
    data = with_ids(document.data, ids)
    if records := own_records(document):
        excerpt = own.excerpt(str(record["id"]) for record in records)
        data["chips"] = cast(JsonValue, excerpt["chips"])
    return ClusterSpec.model_validate(data)


def _find(spec: str) -> tuple[Document, Fleet | None]:
    path = Path(spec)
    if not spec.strip():
        raise InputError([Problem("cluster", "nothing was given", f"the grammar is {GRAMMAR}")])
    if path.suffix in (".json", ".yaml", ".yml") or path.is_file():
        return _named(read_document(path), path.stem), None
    if shipped := fixture("clusters", spec):
        return _named(read_document(shipped), shipped.stem), None
    if looks_like_shorthand(spec):
        fleet = parse_shorthand(spec)
        data = cast(JsonValue, fleet_document(fleet, name=str(fleet)))
        return Document("cluster", data), fleet
    close = nearest(spec, fixture_names("clusters"))
    names = ", ".join(fixture_names("clusters"))
    remedy = f"did you mean {close[0]}? " if close else f"shorthand is {GRAMMAR}; "
    remedy += f"shipped are {names} (planner clusters list)"
    raise InputError([Problem("cluster", f"{spec!r} is no file and no shipped cluster", remedy)])


def _named(document: Document, name: str) -> Document:
    data = document.data
    if isinstance(data, dict) and "name" not in data:
        return Document(document.source, {"name": name, **data}, document.lines)
    return document


def _notes(fleet: Fleet | None, spec: ClusterSpec) -> list[str]:
    notes = []
    if fleet is not None:
        notes.append(f"fleet read as: {fleet}")
        if spec.hosts > 1:
            notes.append("all nodes are joined by one network that does not block")
        if any(nic.count > 1 for node in spec.nodes for nic in node.nics):
            notes.append("node rates above 400 Gb/s are taken as one port per chip")
    library = spec.cross_vendor_collectives
    if library not in ("none", "cpu-staged", *LIBRARIES):
        notes.append(f"library {library}: no figures are known, priced as cpu-staged")
    return notes
