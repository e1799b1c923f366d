"""What a user rules out: chips and nodes that a job must not use, chips that layers must lie on.

Names are those of the cluster: a chip's catalogue id or an unambiguous alias, a node as its devices
are named. Once resolved they are catalogue ids, so that a plan can be judged by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from costmodels.catalog import Catalog
from planner.errors import InputError, Problem
from planner.inputs.cluster import ClusterInput
from planner.inputs.cluster_spec import ClusterSpec
from planner.inputs.job_spec import JobSpec, PinSpec
from planner.inputs.reading import nearest


@dataclass(frozen=True, slots=True)
class Pin:
    """Layers ``[first, end)`` lie on the kinds of chip in ``only_on``, or on none in ``never_on``.

    Kinds are catalogue ids; one of the two is empty.
    """

    first: int
    end: int
    only_on: tuple[str, ...] = ()
    never_on: tuple[str, ...] = ()

    def allows(self, chip_id: str) -> bool:
        """Whether the layers may lie on a kind of chip."""
        return chip_id in self.only_on if self.only_on else chip_id not in self.never_on

    def describe(self) -> str:
        """``layers 0–3 only on V100-SXM2-32GB``."""
        span = f"layer {self.first}" if self.end == self.first + 1 else None
        span = span or f"layers {self.first}–{self.end - 1}"
        names = ", ".join(map(Catalog.alias, self.only_on or self.never_on))
        return f"{span} {'only' if self.only_on else 'never'} on {names}"


@dataclass(frozen=True, slots=True)
class Constraints:
    """Catalogue ids of forbidden kinds of chip, names of forbidden nodes, pinned layers."""

    forbidden_chips: tuple[str, ...] = ()
    forbidden_nodes: tuple[str, ...] = ()
    pinned_layers: tuple[Pin, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.forbidden_chips or self.forbidden_nodes or self.pinned_layers)

    def forbids(self, host: str, chip_id: str) -> str | None:
        """Which field of the job rules out a chip of a host; None where none does."""
        if chip_id in self.forbidden_chips:
            return "forbidden_chips"
        return "forbidden_nodes" if host in self.forbidden_nodes else None

    def barred(self, chip_id: str, layers: int) -> tuple[bool, ...]:
        """For every layer whether some pin keeps it off a kind of chip."""
        pins = [p for p in self.pinned_layers if not p.allows(chip_id)]
        return tuple(any(p.first <= n < p.end for p in pins) for n in range(layers))

    def describe(self) -> Iterator[str]:
        """What is ruled out, in words."""
        if self.forbidden_chips:
            yield f"no {', '.join(map(Catalog.alias, self.forbidden_chips))} (forbidden_chips)"
        if self.forbidden_nodes:
            yield f"nothing on {', '.join(self.forbidden_nodes)} (forbidden_nodes)"
        for pin in self.pinned_layers:
            yield f"{pin.describe()} (pinned_layers)"

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_json` restores it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Constraints:
        """The constraints of :meth:`as_json`. TypeError or ValueError if they are none."""
        pins = tuple(
            Pin(int(p["first"]), int(p["end"]), tuple(p["only_on"]), tuple(p["never_on"]))
            for p in value["pinned_layers"]
        )
        return cls(tuple(value["forbidden_chips"]), tuple(value["forbidden_nodes"]), pins)


def constraints_of(spec: JobSpec, cluster: ClusterInput, layers: int) -> Constraints:
    """The job's constraints in the cluster's own names.

    Raises InputError with every name that the cluster does not have, every pin of layers that the
    model (of so many ``layers``) does not have, and where no chip would be left.
    """
    problems: list[Problem] = []
    chips = resolved_chips(spec.forbidden_chips, cluster, "job: forbidden_chips", problems)
    nodes = _nodes(spec.forbidden_nodes, cluster.spec, problems)
    pins = tuple(
        _pin(pin, cluster, layers, f"job: pinned_layers[{n}]", problems)
        for n, pin in enumerate(spec.pinned_layers)
    )
    found = Constraints(chips, nodes, pins)
    if not problems and found and not _left(cluster.spec, found):
        message = "rule out every chip of the cluster"
        problems.append(
            Problem("job: forbidden_chips, forbidden_nodes", message, "leave some chips to use")
        )
    if problems:
        raise InputError(problems)
    return found


def forbidden_devices(spec: ClusterSpec, constraints: Constraints) -> dict[str, str]:
    """Every device that the job must not use, and the field of the job that says so."""
    found: dict[str, str] = {}
    if not (constraints.forbidden_chips or constraints.forbidden_nodes):
        return found
    for node in spec.nodes:
        kinds = [group.chip for group in node.devices for _ in range(group.count)]
        for host in node.host_names:
            for n, kind in enumerate(kinds):
                field = constraints.forbids(host, kind)
                if field is not None:
                    found[f"{host}/{n}"] = field
    return found


def resolved_chips(
    names: Iterable[str], cluster: ClusterInput, where: str, problems: list[Problem]
) -> tuple[str, ...]:
    """Catalogue ids of chips of the cluster, in the order given; what is wrong goes to problems."""
    have = tuple(dict.fromkeys(g.chip for node in cluster.spec.nodes for g in node.devices))
    known = ", ".join(map(Catalog.alias, have))
    found: list[str] = []
    for name in names:
        fits = [name] if name in have else []
        fits = fits or [c.id for c in cluster.catalog.find(name) if c.id in have]
        if len(fits) == 1:
            found.append(fits[0])
        elif fits:
            both = " and ".join(map(Catalog.alias, fits))
            problems.append(Problem(where, f"{name!r} fits {both}", "write one of them"))
        else:
            problems.append(Problem(where, f"the cluster has no {name!r}", f"it has {known}"))
    return tuple(dict.fromkeys(found))


def _nodes(names: Sequence[str], spec: ClusterSpec, problems: list[Problem]) -> tuple[str, ...]:
    """Names of hosts; an entry of several equal hosts may be named by its prefix."""
    hosts = dict.fromkeys(h for node in spec.nodes for h in node.host_names)
    groups = {n.name_prefix: n.host_names for n in spec.nodes if n.name_prefix is not None}
    found: list[str] = []
    for name in names:
        if name in hosts:
            found.append(name)
        elif name in groups:
            found += groups[name]
        else:
            close = nearest(name, hosts)
            few = list(hosts)[:5]
            remedy = f"did you mean {close[0]}?" if close else f"it has {', '.join(few)}"
            message = f"the cluster has no node {name!r}"
            problems.append(Problem("job: forbidden_nodes", message, remedy))
    return tuple(dict.fromkeys(found))


def _pin(
    pin: PinSpec, cluster: ClusterInput, layers: int, where: str, problems: list[Problem]
) -> Pin:
    first, end = pin.layers
    if end > layers:
        message = f"[{first}, {end}) goes beyond the {layers} layers of the model"
        problems.append(Problem(where, message, f"layers are numbered 0 to {layers - 1}"))
    return Pin(
        first,
        end,
        resolved_chips(pin.only_on, cluster, where, problems),
        resolved_chips(pin.never_on, cluster, where, problems),
    )


def _left(spec: ClusterSpec, constraints: Constraints) -> bool:
    """Whether some chip may still be used."""
    return any(
        constraints.forbids(host, group.chip) is None
        for node in spec.nodes
        for group in node.devices
        for host in node.host_names
    )
