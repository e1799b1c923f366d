"""A topology whose chips and links carry what was measured on them.

Layer times, memory and the optimizer step of a chip come from its rows; the network between nodes
and the fabric inside them from the links. What a profile does not cover stays as it was, and the
topology says so among its assumptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from costmodels.catalog import Catalog, Fabric
from costmodels.compute import optimizer_update_s
from costmodels.link_points import LinkPoints
from costmodels.memory import StateBytes
from costmodels.profiles import LayerProfile, Measurement, layer_profile
from costmodels.units import bytes_of
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import Island, IslandClass, Route, RouteFinder, Topology
from planner.inputs.profile import rows_by_way
from planner.inputs.profile_spec import ChipProfileSpec, LinkProfileSpec, ProfileSpec

Links = Mapping[tuple[str, str, str, int], LinkProfileSpec]
"""Measured links by source chip, target chip, where, and chips that send."""

MEASURED = "measured"
"""The kind of a route or a fabric whose times were measured."""


def excerpt(spec: ProfileSpec, topology: Topology, catalog: Catalog) -> ProfileSpec:
    """The part of a profile that speaks of this cluster's chips, by their ids."""
    ids = {c.chip.id for c in topology.classes}
    names = {name: meant(name, ids, catalog) for name in _names(spec)}
    chips = [
        {**chip.model_dump(mode="json"), "chip": names[chip.chip]}
        for chip in spec.chips
        if names[chip.chip] is not None
    ]
    links = [
        {**link.model_dump(mode="json"), "source": names[link.source], "target": names[link.target]}
        for link in spec.links
        if names[link.source] is not None and names[link.target] is not None
    ]
    if not chips:
        raise LookupError(", ".join(chip.chip for chip in spec.chips))
    return ProfileSpec.model_validate(
        {**spec.model_dump(mode="json"), "chips": chips, "links": links}
    )


def with_profile(
    topology: Topology, spec: ProfileSpec, model: ModelGraph, state: StateBytes
) -> Topology:
    """The topology with a profile's figures; ``spec`` names chips by id (:func:`excerpt`).

    Layers must be checked before (:func:`planner.inputs.profile.check_layers`).
    """
    profiles = {chip.chip: _profile(chip, spec, model) for chip in spec.chips}
    links: Links = {(link.source, link.target, link.where, link.chips): link for link in spec.links}
    classes = tuple(_measured_class(cls, profiles, links, state) for cls in topology.classes)
    network = {
        (a.index, b.index): points
        for a in classes
        for b in classes
        if (points := _points(links, a, b, "between_nodes"))
    }
    best: dict[int, float] = {}
    for (a, b), points in network.items():
        rate = max(p.bandwidth for p in points)
        best[a] = max(best.get(a, 0.0), rate)
        best[b] = max(best.get(b, 0.0), rate)
    return replace(
        topology,
        classes=classes,
        class_routes={
            pair: None if route is None else _route(route, network.get(pair, ()))
            for pair, route in topology.class_routes.items()
        },
        route=MeasuredRoutes(topology.route, network),
        capacity=_capacity(topology, best),
        assumptions=(*topology.assumptions, *_assumptions(classes, network, spec)),
        blocking_transfers=spec.transfers == "blocking",
    )


@dataclass(frozen=True)
class MeasuredRoutes:
    """Answers ``Topology.route``: the way of the topology in the measured time."""

    base: RouteFinder
    network: Mapping[tuple[int, int], tuple[LinkPoints, ...]]

    def __call__(self, source: Island, target: Island) -> Route | None:
        """The way between two islands; inside a host it is not a network's."""
        route = self.base(source, target)
        if route is None or source.host == target.host:
            return route
        return _route(route, self.network.get((source.class_index, target.class_index), ()))


def _route(route: Route, points: tuple[LinkPoints, ...]) -> Route:
    if not points:
        return route
    return replace(
        route,
        bandwidth=max(p.bandwidth for p in points),
        latency_s=points[-1].latency_s,
        kind=MEASURED,
        points=points,
    )


def _points(links: Links, a: IslandClass, b: IslandClass, where: str) -> tuple[LinkPoints, ...]:
    """The links with no more chips than both sides have, fewest first; else the smallest one."""
    counts = sorted(
        chips
        for source, target, scope, chips in links
        if (source, target, scope) == (a.chip.id, b.chip.id, where)
    )
    fitting = [n for n in counts if n <= min(a.size, b.size)] or counts[:1]
    return tuple(LinkPoints(n, links[a.chip.id, b.chip.id, where, n].points) for n in fitting)


def _measured_class(
    cls: IslandClass, profiles: Mapping[str, LayerProfile], links: Links, state: StateBytes
) -> IslandClass:
    profile = profiles.get(cls.chip.id)
    inside = _points(links, cls, cls, "in_node") if cls.size > 1 else ()
    return replace(
        cls,
        profile=profile,
        measured_rows_per_s=None if profile is not None else cls.measured_rows_per_s,
        update_scale=1.0 if profile is None else _update_scale(cls, profile, state),
        fabric=_fabric(inside[-1]) if inside else cls.fabric,
    )


def _fabric(points: LinkPoints) -> Fabric:
    """A switch on which a chip reaches the measured rate with one partner or with all."""
    rate = points.bandwidth
    return Fabric(MEASURED, rate, rate, 1.0, points.latency_s, full_mesh=False)


def _update_scale(cls: IslandClass, profile: LayerProfile, state: StateBytes) -> float:
    """The measured optimizer step of all layers over the formula's, at the smallest degree."""
    layers = next(iter(next(iter(profile.points.values())).values()))
    measured = sum(layer.update_s for layer in layers)
    parameters = sum(-(-layer.parameter_bytes // profile.element_bytes) for layer in layers)
    formula = optimizer_update_s(parameters, state, cls.chip)
    return measured / formula if measured > 0 and formula > 0 else 1.0


def _profile(chip: ChipProfileSpec, spec: ProfileSpec, model: ModelGraph) -> LayerProfile:
    names = {layer.name: i for i, layer in enumerate(model.layers)}
    points: dict[tuple[int, int], Sequence[Measurement]] = {}
    for way, layers in rows_by_way(chip.rows, names).items():
        points[way] = [
            Measurement(
                row.forward_s,
                row.backward_s,
                row.update_s,
                row.activation_bytes,
                row.parameter_bytes,
            )
            for _, (_, row) in sorted(layers.items())
        ]
    return layer_profile(Catalog.alias(chip.chip), bytes_of(spec.precision), points)


def _capacity(topology: Topology, best: Mapping[int, float]) -> dict[str, float]:
    """Ports of measured classes carry their best measured rate."""
    rate: dict[str, float] = {}
    for cls in topology.classes:
        for island in cls.islands:
            if cls.index in best:
                rate[island.host] = max(rate.get(island.host, 0.0), best[cls.index])
    out = dict(topology.capacity)
    for name in out:
        kind, _, rest = name.partition(":")
        host = rest.rsplit(":", 2)[0]
        if kind == "host" and name.endswith((":out", ":in")) and host in rate:
            out[name] = rate[host]
    return out


def _assumptions(
    classes: Sequence[IslandClass],
    network: Mapping[tuple[int, int], tuple[LinkPoints, ...]],
    spec: ProfileSpec,
) -> Iterator[str]:
    seen: set[str] = set()
    for cls in classes:
        if cls.chip.id in seen:
            continue
        seen.add(cls.chip.id)
        yield from _chip_assumptions(cls, spec)
    for (a, b), points in network.items():
        one, other = classes[a], classes[b]
        if points[-1].chips < min(one.size, other.size):
            yield (
                f"{one.chip.name} to {other.chip.name}: measured with {points[-1].chips} of "
                f"{min(one.size, other.size)} chips sending; taken for what the whole node reaches"
            )
    if spec.transfers == "blocking":
        yield (
            "transfers between stages block: a stage waits for what it exchanges with the stage "
            "before it (the profile says so of its runtime)"
        )
    if spec.links:
        yield (
            "measured links: times between two measured sizes are linear; beyond the largest, the "
            "rate is that of the largest; a ring sends with one chip per host and tensor-parallel "
            "rank"
        )


def _chip_assumptions(cls: IslandClass, spec: ProfileSpec) -> Iterator[str]:
    name, profile = cls.chip.name, cls.profile
    if profile is None:
        yield (
            f"{name}: not in the profile, so its layers are priced by the formulas, which may "
            "favour or wrong it against measured chips"
        )
        return
    yield (
        f"{name}: layer times and memory measured (profile of {spec.model or 'the model'}), "
        "tensor-parallel communication included; rows between measured ones are interpolated "
        "linearly, nothing is extrapolated"
    )
    faster = _over_peak(profile, cls.chip.peak(spec.precision), spec.seq_len)
    if faster > 1:
        yield (
            f"{name}: weights alone were multiplied at {faster:.1f} times the catalogue's "
            f"{spec.precision} peak, so the products ran in another precision (TF32?); utilisation "
            "refers to the stated peak all the same"
        )
    if profile.lowered:
        ways = ", ".join(f"tp={tp} at {rows} rows" for tp, rows in profile.lowered)
        yield (
            f"{name}: some layers took longer than with a larger micro-batch ({ways}); the lower "
            "time is used"
        )
    if cls.update_scale == 1.0:
        yield f"{name}: the profile has no optimizer step; the formula's is used"


def _over_peak(profile: LayerProfile, peak: float, seq_len: int) -> float:
    """The largest rate of any layer's weight products over the peak: 6 FLOPs per weight, token."""
    return max(
        6.0 * layer.parameter_bytes / profile.element_bytes * rows * seq_len / seconds / peak
        for points in profile.points.values()
        for rows, layers in points.items()
        for layer in layers[1:] or layers  # an embedding looks its weights up
        if (seconds := layer.forward_s + layer.backward_s) > 0
    )


def _names(spec: ProfileSpec) -> list[str]:
    links = [name for link in spec.links for name in (link.source, link.target)]
    return list(dict.fromkeys([*(chip.chip for chip in spec.chips), *links]))


def meant(name: str, ids: set[str], catalog: Catalog) -> str | None:
    """The one chip of the cluster that a name means; None where it means another."""
    own = {i.lower(): i for i in ids}
    if name.lower() in own:
        return own[name.lower()]
    found = sorted(ids & {chip.id for chip in catalog.find(name)})
    return found[0] if len(found) == 1 else None
