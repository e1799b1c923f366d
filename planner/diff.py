"""Two plans side by side: what changes in inputs, layout, time, memory and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from planner.callable_module import make_callable
from planner.plan import Plan, Replica
from planner.terms import MEMORY_ITEMS, Shape, Terms, bottleneck, shape, used_chips

MOST_FIELDS = 40


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field of an input that differs; None where one side lacks it."""

    where: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class LayerMove:
    """Consecutive layers that other devices hold afterwards.

    ``tensor_parallel`` and ``copies`` are (before, after). ``devices_kept`` of the
    ``devices_after`` held these layers before: the others fetch them.
    """

    layers: tuple[int, int]
    tensor_parallel: tuple[tuple[int, ...], tuple[int, ...]]
    copies: tuple[int, int]
    devices_kept: int
    devices_after: int


@dataclass(frozen=True, slots=True)
class ChipMemory:
    """The fullest device of a kind of chip: peak bytes before and after; None where unused."""

    chip: str
    before: int | None
    after: int | None
    usable: int
    grown: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Reshard:
    """Whether checkpoints of the first plan can be read by the second as they are.

    ``weights`` and ``optimizer`` hold the reasons why a part has to be cut anew; empty: as it is.
    ``possible`` is False where the models differ, so that no cutting helps.
    """

    possible: bool
    weights: tuple[str, ...]
    optimizer: tuple[str, ...]

    @property
    def needed(self) -> bool:
        """Whether anything has to be cut anew."""
        return bool(self.weights or self.optimizer) or not self.possible


@dataclass(frozen=True)
class PlanDiff:
    """Everything that differs between two plans; pairs are (before, after)."""

    before: Plan
    after: Plan
    inputs: tuple[FieldChange, ...]
    shapes: tuple[Shape, Shape]
    terms: tuple[Terms, Terms]
    chips: tuple[tuple[str, int, int], ...]
    memory: tuple[ChipMemory, ...]
    moves: tuple[LayerMove, ...]
    reshard: Reshard

    @property
    def same_layout(self) -> bool:
        """Whether both plans do the same on the same devices."""
        return _layout(self.before) == _layout(self.after)

    @property
    def moved_layers(self) -> int:
        """Layers that other devices hold afterwards."""
        return sum(m.layers[1] - m.layers[0] for m in self.moves)

    @property
    def same_work(self) -> bool:
        """Whether both train the same tokens per step, so that step times compare."""
        return _tokens(self.before) == _tokens(self.after)


def diff(before: Plan, after: Plan) -> PlanDiff:
    """Compare two plans. Nothing is priced anew: figures are those in the plans."""
    return PlanDiff(
        before=before,
        after=after,
        inputs=tuple(_input_changes(before, after)),
        shapes=(shape(before), shape(after)),
        terms=(bottleneck(before).terms, bottleneck(after).terms),
        chips=_chips(before, after),
        memory=_memory(before, after),
        moves=tuple(_moves(before, after)),
        reshard=_reshard(before, after),
    )


def _tokens(plan: Plan) -> int:
    return round(plan.estimate.tokens_per_s * plan.estimate.step_time_s)


# -- inputs -----------------------------------------------------------------------------------


def _input_changes(before: Plan, after: Plan) -> Iterator[FieldChange]:
    """Fields that differ, input by input; at most ``MOST_FIELDS`` of each."""
    for name in ("model", "cluster", "job", "profile"):
        one, other = getattr(before.inputs, name), getattr(after.inputs, name)
        if one is None or other is None:
            if one is not other:
                yield FieldChange(name, one and one.name, other and other.name)
            continue
        if one.digest == other.digest:
            continue
        found = list(_changed(one.resolved, other.resolved, name))
        yield from found[:MOST_FIELDS]
        if len(found) > MOST_FIELDS:
            rest = len(found) - MOST_FIELDS
            yield FieldChange(f"{name}: {rest} more fields", None, None)


def _changed(one: Any, other: Any, where: str) -> Iterator[FieldChange]:  # noqa: ANN401 - JSON
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys((*one, *other)):
            yield from _changed(one.get(key), other.get(key), f"{where}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        for n in range(max(len(one), len(other))):
            pair = (one[n] if n < len(one) else None, other[n] if n < len(other) else None)
            yield from _changed(*pair, f"{where}[{n}]")
    elif one != other:
        yield FieldChange(where, one, other)


# -- chips and memory -------------------------------------------------------------------------


def _chips(before: Plan, after: Plan) -> tuple[tuple[str, int, int], ...]:
    """``(chip, used before, used after)``."""
    one, other = used_chips(before), used_chips(after)
    return tuple((c, one.get(c, 0), other.get(c, 0)) for c in dict.fromkeys((*one, *other)))


def _fullest(plan: Plan) -> dict[str, tuple[int, int, dict[str, int]]]:
    """``chip: (peak, usable, items)`` of the fullest device of every kind."""
    found: dict[str, tuple[int, int, dict[str, int]]] = {}
    for pipe in plan.pipelines:
        for stage in pipe.stages:
            for replica in stage.replicas:
                memory = replica.memory_bytes
                if replica.chip not in found or memory.peak > found[replica.chip][0]:
                    items = {name: int(getattr(memory, name)) for name in MEMORY_ITEMS}
                    found[replica.chip] = (memory.peak, memory.usable, items)
    return found


def _memory(before: Plan, after: Plan) -> tuple[ChipMemory, ...]:
    one, other = _fullest(before), _fullest(after)
    rows = []
    for chip in dict.fromkeys((*one, *other)):
        old, new = one.get(chip), other.get(chip)
        grown: tuple[tuple[str, int], ...] = ()
        if old and new:
            changes = [(name, new[2][name] - old[2][name]) for name in MEMORY_ITEMS]
            grown = tuple(sorted((c for c in changes if c[1]), key=lambda c: -abs(c[1])))
        known = new or old
        usable = known[1] if known else 0
        rows.append(
            ChipMemory(chip, old[0] if old else None, new[0] if new else None, usable, grown)
        )
    return tuple(rows)


# -- layers -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """How the copies of a layer lie: sorted device groups, one per copy, tp rank by rank.

    Weights that the devices of a stage divide (ZeRO-3) are one copy. ``spread``: over how many
    devices experts lie, and whether weights are divided.
    """

    groups: tuple[tuple[str, ...], ...]
    spread: tuple[tuple[int, bool], ...] = ((1, False),)

    @property
    def degrees(self) -> tuple[int, ...]:
        return tuple(sorted({len(g) for g in self.groups}))

    @property
    def devices(self) -> frozenset[str]:
        return frozenset(d for g in self.groups for d in g)


def _holders(plan: Plan) -> list[_Held]:
    """For every layer, who holds it."""
    groups: list[list[tuple[str, ...]]] = [[] for _ in plan.layer_order]
    spread: list[set[tuple[int, bool]]] = [set() for _ in plan.layer_order]
    for pipe in plan.pipelines:
        for stage in pipe.stages:
            copies = [copy for r in stage.replicas for copy in _copies(r)]
            kinds = {(r.mesh.expert_parallel, r.mesh.zero3) for r in stage.replicas}
            for layer in stage.held_layers:
                groups[layer] += copies
                spread[layer] |= kinds
    return [_Held(tuple(sorted(g)), tuple(sorted(s))) for g, s in zip(groups, spread)]


def _copies(replica: Replica) -> list[tuple[str, ...]]:
    """The devices of every copy of the weights inside a replica."""
    mesh, devices = replica.mesh, replica.devices
    size = len(devices) if mesh.zero3 else max(1, mesh.tensor_parallel)
    return [devices[at : at + size] for at in range(0, len(devices), size)]


def _moves(before: Plan, after: Plan) -> Iterator[LayerMove]:
    """Runs of layers whose holders change, in order; none where the layers are others."""
    if before.layer_order != after.layer_order:
        return
    pairs = list(zip(_holders(before), _holders(after), strict=True))
    start = 0
    for end in range(1, len(pairs) + 1):
        if end < len(pairs) and pairs[end] == pairs[start]:
            continue
        one, other = pairs[start]
        if one != other:
            yield LayerMove(
                layers=(start, end),
                tensor_parallel=(one.degrees, other.degrees),
                copies=(len(one.groups), len(other.groups)),
                devices_kept=len(one.devices & other.devices),
                devices_after=len(other.devices),
            )
        start = end


# -- checkpoints ------------------------------------------------------------------------------


def _reshard(before: Plan, after: Plan) -> Reshard:
    """Whether a rank finds the shard it needs in a file that some rank of the first plan wrote.

    Weights are written per stage and tensor-parallel rank; with ZeRO 1 the optimizer is cut over
    the replicas as well. Devices may swap places freely: files are not tied to machines.
    """
    if before.layer_order != after.layer_order or (
        before.inputs.model.digest != after.inputs.model.digest
    ):
        return Reshard(False, ("the models differ",), ("the models differ",))
    weights = tuple(_weights(before, after))
    optimizer = list(weights)
    levels = (
        {s.zero.level for p in before.pipelines for s in p.stages},
        {s.zero.level for p in after.pipelines for s in p.stages},
    )
    copies = len(before.pipelines), len(after.pipelines)
    if levels[0] != levels[1]:
        optimizer.append(f"ZeRO level {_set(levels[0])} becomes {_set(levels[1])}")
    elif max(levels[0]) >= 1 and copies[0] != copies[1]:
        optimizer.append(f"the optimizer is cut over {copies[0]} replicas, then over {copies[1]}")
    states = [p.inputs.job.resolved.get("state_bytes") for p in (before, after)]
    if states[0] != states[1]:
        optimizer.append("the optimizer keeps other state per parameter")
    if hosted(before) != hosted(after):
        optimizer.append("its state moves between devices and host memory")
    return Reshard(True, weights, tuple(optimizer))


def hosted(plan: Plan) -> tuple[int, ...]:
    """Layers whose optimizer's state some stage keeps in host memory."""
    found = {
        layer
        for pipe in plan.pipelines
        for stage in pipe.stages
        if stage.offload == "optimizer"
        for layer in stage.held_layers
    }
    return tuple(sorted(found))


def _weights(before: Plan, after: Plan) -> Iterator[str]:
    """Cuts that the files of the first plan do not have."""
    cuts = _cuts(before), _cuts(after)
    if cuts[0] != cuts[1]:
        gone, new = sorted(cuts[0] - cuts[1]), sorted(cuts[1] - cuts[0])
        text = []
        if new:
            text.append(f"stages now also start at layer {', '.join(map(str, new[:12]))}")
        if gone:
            text.append(f"no longer at {', '.join(map(str, gone[:12]))}")
        yield "; ".join(text)
    changed = [
        n
        for n, (one, other) in enumerate(zip(_holders(before), _holders(after), strict=True))
        if one.degrees != other.degrees
    ]
    if changed:
        yield f"tensor parallelism changes for {len(changed)} of {len(before.layer_order)} layers"
    spread = [
        n
        for n, (one, other) in enumerate(zip(_holders(before), _holders(after), strict=True))
        if one.spread != other.spread and n not in changed
    ]
    if spread:
        what = "experts or divided weights lie on other devices for"
        yield f"{what} {len(spread)} of {len(before.layer_order)} layers"


def _cuts(plan: Plan) -> frozenset[int]:
    return frozenset(first for p in plan.pipelines for s in p.stages for first, _ in s.parts)


def _set(levels: set[int]) -> str:
    return "/".join(map(str, sorted(levels)))


def _layout(plan: Plan) -> object:
    packed = {group.compression for group in plan.sync_groups} - {"none"}
    return sorted(packed), [
        (
            p.micro_batches,
            p.micro_batch_rows,
            p.last_micro_batch_rows,
            p.schedule,
            [
                (
                    s.parts,
                    s.in_flight,
                    s.recompute,
                    s.zero,
                    s.offload,
                    [(r.devices, r.mesh) for r in s.replicas],
                )
                for s in p.stages
            ],
        )
        for p in plan.pipelines
    ]


make_callable(__name__, diff)
