"""What a stage may be under one setting: times, in-flight limits, prices' rows, hops.

A *setting* fixes what couples the pipelines: the interval of replica counts (ZeRO shards the
optimizer over the replicas) and which layers each class may hold (vendors that share no
collective). Under a setting every stage is independent of the others.

A stage is ``(option, first layer, end)``. Where all inner layers and cuts are alike (any plain
transformer) a stage that touches neither end of the model is described by its length alone, so
tables are small: ``middle`` by length, ``tail`` by first layer, ``head`` by end. Times in seconds
as float64 here (bounds), exact picoseconds in ``columns``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from costmodels.price import hosted
from costmodels.units import PS_PER_S
from planner.costing import (
    Bools,
    Ints,
    OptionTable,
    fabric_hop_ps,
    fair_share,
    fixed_bytes,
    gathered_bytes,
    host_bytes,
    host_limit,
    route_hop_ps,
)
from planner.graphs.topology import Topology
from planner.search.finish import least_finish_s
from planner.search.problem import Problem, Setting, Size, over_network
from planner.search.spread import Spread, spread_by

Floats = NDArray[np.float64]
UNBOUNDED_DEPTH = 1 << 20


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers ``[first, end)`` under the option at this index of the space."""

    option: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of the fastest recomputation that fits one depth; inf where none does.

    ``middle[n - 1, option, i]`` of n inner layers from i (one entry for all i where layers are
    alike), ``tail[option, i]`` from layer i to the end, ``head[option, j]`` from layer 0 to j.
    ``tail[:, 0]`` and ``head[:, L]`` are the whole model in one stage.
    """

    middle: Floats
    tail: Floats
    head: Floats


@dataclass(frozen=True, slots=True)
class Leads:
    """What surrounds the last synchronisation of a stage, at least; seconds.

    Of the pass in which a stage [i, j) ends, the forward passes of the layers before it and both
    passes of all others cannot be behind it: ``before[i]`` and ``after[j]`` bound them from below,
    for any options. Synchronisation and update of n inner layers take ``n · finish[option]`` and
    ``n · steep[option] - relief[option]`` at least: an island has few layers to itself.
    """

    before: Floats
    after: Floats
    finish: Floats
    steep: Floats
    relief: Floats

    def least(self, inner: Ints | int) -> Floats:
        """``[..., option]``: seconds to synchronise so many inner layers, at least."""
        count = np.asarray(inner)[..., None]
        out: Floats = np.maximum(count * self.finish, count * self.steep - self.relief)
        return out


@dataclass(frozen=True)
class StageSpace:
    """Every stage under one setting and one micro-batch size.

    ``time[part]`` and ``depth[part]`` are indexed by policy first, then as in :class:`Times`:
    seconds per micro-batch, and the most micro-batches in flight that memory allows (0: never).
    ``layer_time[option, layer]``: least seconds of a layer under any policy.
    ``hop[a, b, cut]``: transfer time in seconds, one way, infinite without route: optimistic for
    bounds, expected for plans. ``finish[option, n]``: least synchronisation and update time of a
    first stage of n layers. ``starts[option, i]`` and ``ends[option, j]``: whether the window of
    the option's class lets a stage begin or end there.
    """

    rows: int
    setting: Setting
    options: tuple[OptionTable, ...]
    policies: tuple[int, ...]
    uniform: bool
    time: tuple[Floats, Floats, Floats]
    depth: tuple[Ints, Ints, Ints]
    layer_time: Floats
    hop: Floats
    finish: Floats
    packing: Floats
    starts: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    leads: Leads
    chunks: int = 1
    """Chunks per stage: with several, layers are folded and micro-batches counted in pairs
    (:mod:`planner.search.folded`)."""
    back: Floats | None = None
    """``[last, first]``: hop in seconds by which a pair comes to its next chunk; None: of one chunk
    per stage. It is no part of the fill, but no takt is shorter."""
    _times: dict[int, Times] = field(default_factory=dict, repr=False)

    @cached_property
    def cut_kind(self) -> Ints:
        """Cuts with equal hops between all options have equal numbers."""
        kinds: Ints = np.unique(self.hop, axis=2, return_inverse=True)[1].ravel()
        return kinds

    @cached_property
    def hop_kind(self) -> Ints:
        """Options with equal hops to and from all others have equal numbers: class and chips."""
        count = len(self.options)
        both = np.concatenate([self.hop, self.hop.transpose(1, 0, 2)], axis=1).reshape(count, -1)
        kinds: Ints = np.unique(both, axis=0, return_inverse=True)[1].ravel()
        return kinds

    @cached_property
    def slowest_back(self) -> tuple[Floats, Floats]:
        """``[option]``: a takt below which it is no first, and no last stage."""
        if self.back is None:
            none = np.zeros(len(self.options))
            return none, none
        to_first = self.back[self.ends[:, -1]].min(axis=0, initial=np.inf)
        from_last = self.back[:, self.starts[:, 0]].min(axis=1, initial=np.inf)
        return to_first, from_last

    def back_s(self, pipeline: Sequence[Stage]) -> float:
        """The hop from the last stage to the first one; 0 where nothing goes back."""
        if self.back is None:
            return 0.0
        return float(self.back[pipeline[-1].option, pipeline[0].option])

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.layer_time.shape[1])

    @property
    def size(self) -> Size:
        """The size of its pipelines."""
        return Size(self.rows, self.chunks)

    @property
    def worth(self) -> float:
        """Rows per micro-batch, or per pair of a chunk and a micro-batch."""
        return self.rows if self.chunks == 1 else self.rows / self.chunks

    def held(self, position: Ints | int, stages: Ints | int, counts: Ints | int) -> Ints:
        """What the stage so far from the end holds in flight at least, of at least so many stages.

        ``counts``: how many micro-batches (or pairs) there are at least. Classic 1F1B holds r of
        them. Folded pipelines hold 2·(r - 1) + (v - 1)·G + 1 pairs, where groups have G = S
        micro-batches or more, or all of them where these are fewer.
        """
        r = np.asarray(position, dtype=np.int64)
        if self.chunks == 1:
            return np.minimum(r, counts)
        group = np.minimum(stages, -(-np.asarray(counts) // self.chunks))
        out: Ints = np.minimum(2 * r - 1 + (self.chunks - 1) * np.maximum(group, r), counts)
        return out

    def times(self, depth: int) -> Times:
        """Stage times with ``depth`` micro-batches in flight."""
        if depth not in self._times:
            best = [
                np.where(d >= depth, t, np.inf).min(axis=0) if len(t) else t.min(axis=0)
                for t, d in zip(self.time, self.depth, strict=True)
            ]
            self._times[depth] = Times(*best)
        return self._times[depth]

    def _at(self, option: int, first: int, end: int) -> tuple[int, tuple[int, ...]]:
        """Which part holds a stage, and where in it."""
        if end == self.layers:
            return 1, (option, first)
        if first == 0:
            return 2, (option, end)
        return 0, (end - first - 1, option, 0 if self.uniform else first)

    def stage_time(self, option: int, first: int, end: int, depth: int) -> float:
        """Seconds of one stage with ``depth`` in flight; inf where it does not fit."""
        if not (self.starts[option, first] and self.ends[option, end]):
            return float("inf")
        part, at = self._at(option, first, end)
        times = self.times(depth)
        return float((times.middle, times.tail, times.head)[part][at])

    def stage_depth(self, option: int, first: int, end: int, policy: int) -> int:
        """Most micro-batches in flight under the policy at this index; 0 if it never fits."""
        if not (self.starts[option, first] and self.ends[option, end]):
            return 0
        part, at = self._at(option, first, end)
        return int(self.depth[part][(policy, *at)])

    def policy_time(self, option: int, first: int, end: int, policy: int) -> float:
        """Seconds of one stage under the policy at this index, whether it fits or not."""
        part, at = self._at(option, first, end)
        return float(self.time[part][(policy, *at)])

    @cached_property
    def late(self) -> tuple[Floats, Floats]:
        """``[end, option]`` and ``[start, option]``: what first and last stages need of the room.

        Seconds beside the other micro-batches until they have synchronised, at least.
        """
        leads, times = self.leads, self.times(1)
        head = times.head.T + self.finish.T + leads.after[:, None]
        inner = np.maximum(self.layers - 1 - np.arange(self.layers), 0)
        tail = times.tail.T + leads.least(inner) + leads.before[:-1, None]
        return head, tail

    def finish_after(self, pipeline: Sequence[Stage], times: Sequence[float], fill: float) -> float:
        """Least seconds after the fill of a pipeline whose stages take ``times``, for a bound.

        The finish of the first stage, or what the last synchronisation of another stage lacks.
        """
        latest = fill
        for stage, seconds in zip(pipeline, times, strict=True):
            if stage.first == 0:
                own = float(self.finish[stage.option, stage.end])
                latest = max(latest, fill + own)
            else:
                inner = max(0, min(stage.end, self.layers - 1) - stage.first)
                own = float(self.leads.least(inner)[stage.option])
            around = self.leads.before[stage.first] + self.leads.after[stage.end]
            latest = max(latest, seconds + own + float(around))
        return latest - fill

    def option_prices(self, duals: Floats) -> Floats:
        """Price of one group of each option from the packing rows' duals."""
        return self.packing @ duals


def build_space(
    problem: Problem,
    setting: Setting,
    rows: int,
    *,
    optimistic: bool,
    horizon_s: float | None = None,
) -> StageSpace:
    """Tabulate the stages of a setting.

    ``optimistic`` relaxes what depends on the replica count to its most favourable end (for
    bounds); otherwise to the least favourable (for plans). ``horizon_s``: only plans that end by
    then are spoken about (for bounds).
    """
    spread = spread_by(problem, horizon_s)
    chosen = tuple(t for t in problem.tables.tables if t.option.rows == rows)
    replicas = setting.replicas[1] if optimistic else setting.replicas[0]
    length = problem.tables.layers
    uniform = alike(problem, chosen, rows)
    pieces = [
        [_known_stages(problem, table, policy, replicas, uniform) for table in chosen]
        for policy in problem.policies
    ]

    def stack(kind: int, part: int) -> NDArray:  # type: ignore[type-arg]
        rows_of = [np.stack([own[kind][part] for own in row]) for row in pieces]
        return np.stack(rows_of)

    # middle: [policy, n, option, i]
    time = (np.moveaxis(stack(0, 0), 1, 2), stack(0, 1), stack(0, 2))
    depth = (np.moveaxis(stack(1, 0), 1, 2), stack(1, 1), stack(1, 2))
    packing = np.zeros((len(chosen), len(problem.packing_rows)))
    starts = np.zeros((len(chosen), length), dtype=np.bool_)
    ends = np.zeros((len(chosen), length + 1), dtype=np.bool_)
    for k, table in enumerate(chosen):
        for row in problem.rows_of(table.option.class_index, table.option.chips):
            packing[k, row] = table.option.chips
        first, end = setting.windows[table.option.class_index]
        starts[k, first:end] = True
        ends[k, first + 1 : end + 1] = first < end
    for part, legal in ((1, starts & ends[:, -1:]), (2, ends & starts[:, :1])):
        time[part][:, ~legal] = np.inf
    layer_time = np.stack(
        [
            np.min(
                [(t.forward_ps[p] + t.backward_ps[p]) / PS_PER_S for p in problem.policies], axis=0
            )
            for t in chosen
        ]
    )
    barred = ~starts | np.stack([t.barred for t in chosen])
    layer_time[barred] = np.inf
    return StageSpace(
        rows=rows,
        setting=setting,
        options=chosen,
        policies=problem.policies,
        uniform=uniform,
        time=time,
        depth=depth,
        layer_time=layer_time,
        hop=_hops(problem, setting, chosen, best_hop_ps if optimistic else expected_hop_ps),
        finish=_finish(problem, chosen, setting, spread),
        packing=packing,
        starts=starts,
        ends=ends,
        leads=_leads(problem, chosen, setting, spread, layer_time, barred, uniform),
    )


def _leads(
    problem: Problem,
    chosen: tuple[OptionTable, ...],
    setting: Setting,
    spread: Spread,
    layer_time: Floats,
    barred: Bools,
    uniform: bool,
) -> Leads:
    ways = list(problem.policies)
    forward = np.stack([t.forward_ps[ways].min(axis=0) / PS_PER_S for t in chosen])
    forward[barred] = np.inf
    length = problem.tables.layers
    finish, steep, relief = np.zeros(len(chosen)), np.zeros(len(chosen)), np.zeros(len(chosen))
    inner = np.arange(1, length - 1)
    # of layers that differ n others may take less than the first n: nothing is said of them
    if len(inner) and uniform:
        for k, table in enumerate(chosen):
            own = _known_finish(problem, table, setting, spread, 1)[: length - 1]
            finish[k] = (own[inner] / inner).min()
            steep[k] = max(float(own[-1] - own[-2]), 0.0)
            relief[k] = (inner * steep[k] - own[inner]).max()
    return Leads(
        before=np.concatenate([[0.0], np.cumsum(forward.min(axis=0))]),
        after=np.concatenate([np.cumsum(layer_time.min(axis=0)[::-1])[::-1], [0.0]]),
        finish=finish,
        steep=steep,
        relief=relief,
    )


def alike(problem: Problem, chosen: Sequence[OptionTable], rows: int) -> bool:
    """Whether all layers but the first and the last, and all inner cuts, cannot be told apart."""
    if problem.tables.layers <= 2:
        return True

    def constant(values: Ints | Bools) -> bool:
        inner = values[..., 1:-1]
        return bool((inner == inner[..., :1]).all())

    cuts = problem.tables.boundary_bytes[rows][1:]
    return bool((cuts == cuts[0]).all()) and all(
        constant(values)
        for t in chosen
        for values in (
            t.forward_ps,
            t.backward_ps,
            t.parameters,
            t.experts,
            t.activation_bytes,
            t.working_bytes,
            t.logits_bytes,
            t.barred,
        )
    )


def _window_sums(values: Ints) -> Ints:
    """``out[i, n]`` = sum of ``values[i : i + n]``; positions past the end repeat the last sum."""
    length = len(values)
    prefix = np.concatenate([[0], np.cumsum(values)])
    ends = np.minimum(np.arange(length)[:, None] + np.arange(length + 1)[None, :], length)
    out: Ints = prefix[ends] - prefix[:length, None]
    return out


def _window_max(values: Ints) -> Ints:
    length = len(values)
    out = np.zeros((length, length + 1), dtype=np.int64)
    for n in range(1, length + 1):
        stop = length - n + 1
        out[:stop, n] = np.maximum(out[:stop, n - 1], values[n - 1 :])
    return out


def stage_limits(
    problem: Problem, table: OptionTable, policy: int, replicas: int
) -> tuple[Ints, Ints, Ints]:
    """Static bytes, bytes per in-flight micro-batch and room left, each ``[i, n]``.

    There is no room (-1) where the stage's state does not fit its host, or a layer must not lie on
    these chips.
    """
    tables = problem.tables
    cls = problem.topology.classes[table.option.class_index]
    over = tables.overheads[cls.index]
    per_layer = fixed_bytes(tables, table, replicas)
    length = tables.layers
    edge = np.concatenate([tables.boundary_bytes[table.option.rows], [0]])
    ends = np.minimum(np.arange(length)[:, None] + np.arange(length + 1)[None, :], length)
    buffers = 2 * (edge[:length, None] + edge[ends])
    buffers //= table.option.mesh.boundary_parts(sequence_parallel=tables.sequence_parallel)
    static = (
        _window_sums(per_layer)
        + _window_max(table.working_bytes[policy])
        + _window_max(gathered_bytes(tables, table))
        + buffers
        + over.context_bytes
        + over.buffer_bytes
        + over.fragmentation_bytes
        + tables.offload_buffer(table.option)
    )
    each = _window_sums(table.activation_bytes[policy])
    room = cls.usable_memory_bytes - static
    if table.option.mesh.offload:
        on_host = _window_sums(host_bytes(tables, table, replicas))
        room = np.where(on_host > host_limit(cls), -1, room)
    if table.barred.any():
        room = np.where(_window_sums(table.barred.astype(np.int64)) > 0, -1, room)
    return static, each, room


Pieces = tuple[tuple[Floats, Floats, Floats], tuple[Ints, Ints, Ints]]
"""Times and depths, cut as in :class:`Times`."""


def _known_stages(
    problem: Problem, table: OptionTable, policy: int, replicas: int, uniform: bool
) -> Pieces:
    """As ``_stages``; found once for all settings with as many replicas, where it is small."""
    if not uniform:
        return _stages(problem, table, policy, replicas, uniform)
    key = ("stages", id(table), policy, replicas)
    if key not in problem.known:
        problem.known[key] = _stages(problem, table, policy, replicas, uniform)
    out: Pieces = problem.known[key]
    return out


def _stages(
    problem: Problem, table: OptionTable, policy: int, replicas: int, uniform: bool
) -> Pieces:
    """Times and depths of one option under one policy, cut into middle, tail and head."""
    length = problem.tables.layers
    time = _window_sums(table.forward_ps[policy] + table.backward_ps[policy]) / PS_PER_S
    _, each, room = stage_limits(problem, table, policy, replicas)
    depth = np.where(
        each > 0, np.maximum(room, 0) // np.maximum(each, 1), UNBOUNDED_DEPTH * (room >= 0)
    )
    if hosted(policy):
        depth = np.minimum(depth, _host_depths(problem, table, policy, replicas))
    return _cut(time, length, uniform, np.inf), _cut(depth, length, uniform, 0)


def _host_depths(problem: Problem, table: OptionTable, policy: int, replicas: int) -> Ints:
    """``[i, n]``: most micro-batches in flight whose kept activations the host has room for."""
    cls = problem.topology.classes[table.option.class_index]
    each = _window_sums(table.hosted_bytes[policy])
    if not cls.host_known:
        return np.zeros_like(each)
    room = host_limit(cls) - _window_sums(host_bytes(problem.tables, table, replicas))
    depths: Ints = np.where(
        each > 0, np.maximum(room, 0) // np.maximum(each, 1), UNBOUNDED_DEPTH * (room >= 0)
    )
    return depths


def _cut(full: NDArray, length: int, uniform: bool, missing: float) -> tuple:  # type: ignore[type-arg]
    """``[i, n]`` as middle ``[n - 1, i]``, tail ``[i]`` and head ``[j]``."""
    count = max(0, length - 2)
    start = np.arange(length)
    tail = full[start, length - start]
    head = np.full(length + 1, missing, dtype=full.dtype)
    head[1:] = full[0, 1:]
    if uniform:
        middle = full[1 : 1 + min(1, count), 1 : count + 1].T if count else full[:0, :1]
        return middle.reshape(count, 1), tail, head
    middle = np.full((count, length), missing, dtype=full.dtype)
    for n in range(1, count + 1):
        middle[n - 1, 1 : length - n] = full[1 : length - n, n]
    return middle, tail, head


HopPrice = Callable[[Topology, OptionTable, OptionTable, int], int | None]


def _hops(
    problem: Problem, setting: Setting, chosen: tuple[OptionTable, ...], price: HopPrice
) -> Floats:
    """Hop seconds between any two options at every cut; infinite without a route."""
    topology = problem.topology
    cuts = problem.tables.boundary_bytes[chosen[0].option.rows]
    out = np.full((len(chosen), len(chosen), problem.tables.layers + 1), np.inf)
    sizes = {int(b): np.flatnonzero(cuts == b) for b in np.unique(cuts)}
    ranks = setting.ranks or (0,) * len(topology.classes)
    for a, from_table in enumerate(chosen):
        for b, to_table in enumerate(chosen):
            if ranks[from_table.option.class_index] > ranks[to_table.option.class_index]:
                continue
            for size, where in sizes.items():
                ps = price(topology, from_table, to_table, size)
                if ps is not None:
                    out[a, b, where] = ps / PS_PER_S
    return out


def _finish(
    problem: Problem, chosen: tuple[OptionTable, ...], setting: Setting, spread: Spread
) -> Floats:
    out = np.zeros((len(chosen), problem.tables.layers + 1))
    for k, table in enumerate(chosen):
        out[k] = _known_finish(problem, table, setting, spread, 0)
    return out


def _known_finish(
    problem: Problem, table: OptionTable, setting: Setting, spread: Spread, first: int
) -> Floats:
    """Least finishes by number of layers; found once for all settings in which they are equal."""
    own = table.option.class_index
    met = tuple(setting.meet(own, c.index) for c in problem.topology.classes)
    key = ("finish", id(table), setting.replicas, spread.horizon_s, first, met)
    if key not in problem.known:
        problem.known[key] = least_finish_s(
            problem, table, setting.replicas, setting, first=first, spread=spread
        )
    out: Floats = problem.known[key]
    return out


def best_hop_ps(
    topology: Topology, source: OptionTable, target: OptionTable, bytes_: int
) -> int | None:
    """The least time that a hop between two options can take anywhere in the cluster."""
    a = topology.classes[source.option.class_index]
    b = topology.classes[target.option.class_index]
    chips_a, chips_b = source.option.chips, target.option.chips
    ways = []
    if a.index == b.index and chips_a + chips_b <= a.size:
        ways.append(fabric_hop_ps(bytes_, a.fabric, chips_a, chips_b))
    route = topology.class_routes.get((a.index, b.index))
    if route is not None:
        ways.append(route_hop_ps(bytes_, route, fair_share(a, chips_a, b, chips_b)))
    return min(ways) if ways else None


def expected_hop_ps(
    topology: Topology,
    source: OptionTable,
    target: OptionTable,
    bytes_: int,
    busy: tuple[bool, bool] = (False, False),
) -> int | None:
    """The time that a placement can count on: over the network as soon as there are islands.

    ``busy`` says for either end whether its stage has a second neighbour over the network.
    """
    a = topology.classes[source.option.class_index]
    b = topology.classes[target.option.class_index]
    chips_a, chips_b = source.option.chips, target.option.chips
    if not over_network(topology, source, target):
        return (
            fabric_hop_ps(bytes_, a.fabric, chips_a, chips_b)
            if chips_a + chips_b <= a.size
            else None
        )
    route = topology.class_routes.get((a.index, b.index))
    if route is None:
        return None
    share = min(chips_a / a.size / (1 + busy[0]), chips_b / b.size / (1 + busy[1]))
    return route_hop_ps(bytes_, route, share)


__all__ = [
    "Problem",
    "Setting",
    "StageSpace",
    "best_hop_ps",
    "build_space",
    "expected_hop_ps",
    "stage_limits",
]
