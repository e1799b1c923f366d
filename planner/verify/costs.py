"""Re-derives times and memory of a plan from the chips, the layers and the routes.

Built on :mod:`costmodels` alone, so that an error of the planner's own tables shows here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate

from costmodels.collectives import Links
from costmodels.constants import shipped_constants
from costmodels.memory import boundary_buffer_bytes, device_overhead, stage_memory
from costmodels.offload import OFFLOAD_BUFFER_BYTES
from costmodels.price import WAYS, LayerPrice
from costmodels.schedules import exact_time, formula_time
from costmodels.sharding import ShardGroup, exposed_gathers_s
from costmodels.units import PS_PER_S
from planner.errors import Problem
from planner.graphs.topology import Island, IslandClass
from planner.plan import Mesh, Pipeline, Plan, Replica, Stage, StageTime
from planner.restore import Restored
from planner.verify.meshes import dense, experts
from planner.verify.prices import Prices


@dataclass
class Costs:
    """What the plan's parts cost by this module's own account, and what differs.

    ``backward_ends[p][s]`` is the exact end of stage s's last backward in picoseconds,
    ``formula_ps[p]`` the pipeline's formula time raised to its exact time.
    """

    problems: list[Problem] = field(default_factory=list)
    backward_ends: list[tuple[int, ...]] = field(default_factory=list)
    formula_ps: list[int] = field(default_factory=list)
    fill_ps: list[int] = field(default_factory=list)
    leads_ps: list[tuple[int, ...]] = field(default_factory=list)
    """Backward time of the stages before each stage: what its synchronisation hides behind."""


def check_costs(plan: Plan, world: Restored, prices: Prices) -> Costs:
    """Re-derive every pipeline. Call it on plans whose layout is consistent only."""
    audit = _Audit(plan, world, prices)
    for p in range(len(plan.pipelines)):
        audit.pipeline(p)
    return audit.costs


class _Audit:
    """One pass over a plan; equal stages are derived once."""

    def __init__(self, plan: Plan, world: Restored, prices: Prices) -> None:
        self.plan, self.world = plan, world
        self.costs = Costs()
        self.prices = prices
        self.times: dict[tuple[object, ...], dict[str, int]] = {}
        self.memories: dict[tuple[object, ...], dict[str, int]] = {}
        self.schedules: dict[tuple[object, ...], tuple[int, tuple[int, ...]]] = {}
        self.copies = Counter(
            layer
            for pipeline in plan.pipelines
            for stage in pipeline.stages
            for layer in range(*stage.layers)
            for _ in stage.replicas
        )

    def pipeline(self, p: int) -> None:
        """Stages, hops, formula and exact time of one pipeline."""
        pipeline = self.plan.pipelines[p]
        where = f"pipelines[{p}]"
        forward, backward = [], []
        hops = [
            self.hop(pipeline, s, f"{where}.stages[{s}].hop_to_next_s")
            for s in range(len(pipeline.stages) - 1)
        ]
        busy = [0] * len(pipeline.stages)
        if self.world.topology.blocking_transfers:
            # the later stage of every cut waits for the way there and for the way back
            busy[1:] = hops
            hops = [0] * len(hops)
        for s, hop in enumerate(hops):
            stated = pipeline.stages[s].hop_to_next_s or 0.0
            self._equal(f"{where}.stages[{s}].hop_to_next_s", stated, hop)
        for s, stage in enumerate(pipeline.stages):
            times = [
                self.replica(
                    pipeline, stage, replica, busy[s], f"{where}.stages[{s}].replicas[{r}]"
                )
                for r, replica in enumerate(stage.replicas)
            ]
            forward.append(max(t["forward_total"] for t in times))
            backward.append(max(t["backward_total"] for t in times))
        depths = tuple(stage.in_flight for stage in pipeline.stages)
        m = pipeline.micro_batches
        key = (pipeline.schedule, tuple(forward), tuple(backward), tuple(hops), depths, m)
        if key not in self.schedules:
            formula = formula_time(forward, backward, hops, m, depths, pipeline.schedule)
            exact = exact_time(pipeline.schedule, forward, backward, hops, depths, m)
            self.schedules[key] = (formula, exact.stage_last_backward_end)
        formula, ends = self.schedules[key]
        raised = max(formula, *ends)
        self._equal(f"{where}.formula_time_s", pipeline.formula_time_s, raised)
        self._equal(f"{where}.exact_time_s", pipeline.exact_time_s, max(ends))
        self.costs.backward_ends.append(ends)
        self.costs.formula_ps.append(raised)
        self.costs.fill_ps.append(sum(forward) + sum(backward) + 2 * sum(hops))
        self.costs.leads_ps.append(tuple(accumulate(backward[:-1], initial=0)))

    def replica(
        self, pipeline: Pipeline, stage: Stage, replica: Replica, busy: int, where: str
    ) -> dict[str, int]:
        """Times of one replica in picoseconds, by the names of ``StageTime``; checks its memory.

        ``busy`` picoseconds of each pass go to blocking transfers.
        """
        island = self.world.island_of[replica.devices[0]]
        cls = self.world.topology.classes[island.class_index]
        policies = _policies(stage)
        mesh = replica.mesh
        way = self.prices.way(replica.devices)
        kind = (cls.index, mesh, replica.rows, stage.layers, policies, way)
        layers = self.prices.layers(cls, mesh, replica.rows, way)[slice(*stage.layers)]
        if kind not in self.times:
            scale = self.prices.scale(cls, replica.rows // mesh.data_parallel)
            times = _stage_times(layers, policies, scale)
            times = self._with_gathers(times, layers, policies, mesh, cls)
            self.times[kind] = _with_copies(times, layers, policies, scale, cls)
        times = dict(self.times[kind])
        times |= {"transfer_forward": busy, "transfer_backward": busy}
        times["forward_total"] += busy
        times["backward_total"] += busy
        for name in StageTime.model_fields:
            self._equal(f"{where}.time_s.{name}", getattr(replica.time_s, name), times[name])
        held = (min(stage.in_flight, pipeline.micro_batches), stage.zero.level, stage.offload)
        copies = tuple(self.copies[layer] for layer in range(*stage.layers))
        if (*kind, *held, copies) not in self.memories:
            self.memories[*kind, *held, copies] = self._memory(
                cls, stage, replica, layers, policies, pipeline.micro_batches, copies
            )
        for name, value in self.memories[*kind, *held, copies].items():
            stated = getattr(replica.memory_bytes, name)
            if stated != value:
                message = f"says {stated} bytes, the layers need {value}"
                self._report(f"{where}.memory_bytes.{name}", message)
        if replica.memory_bytes.peak > cls.usable_memory_bytes:
            message = f"needs {replica.memory_bytes.peak} bytes of {cls.usable_memory_bytes} usable"
            self._report(f"{where}.memory_bytes.peak", message)
        if replica.memory_bytes.host > _host_share(cls):
            message = (
                f"offloads {replica.memory_bytes.host} bytes, its share of the host's memory is "
                f"{_host_share(cls)}"
            )
            self._report(f"{where}.memory_bytes.host", message)
        return times

    def _with_gathers(
        self,
        times: dict[str, int],
        layers: Sequence[LayerPrice],
        policies: Sequence[int],
        mesh: Mesh,
        cls: IslandClass,
    ) -> dict[str, int]:
        """The times with what gathering divided weights adds to them."""
        if not mesh.zero3:
            return times
        job, there, back = self.world.job, 0, 0
        for layer, policy in zip(layers, policies, strict=True):
            sizes = (layer.parameters - layer.expert_parameters, layer.expert_parameters)
            holdings = (dense(mesh), experts(mesh))
            exposed = exposed_gathers_s(
                layer,
                [ShardGroup(n, h.copies, h.lanes) for n, h in zip(sizes, holdings)],
                Links(cls.fabric),
                weight_bytes=job.element_bytes,
                gradient_bytes=job.state_bytes.gradient,
                policy=policy,
                gradients_alone=False,
                constants=shipped_constants(),
            )
            there += _picoseconds(exposed[0])
            back += _picoseconds(exposed[1])
        more = {"tp_comm_forward": there, "forward_total": there}
        more |= {"tp_comm_backward": back, "backward_total": back}
        return {name: value + more.get(name, 0) for name, value in times.items()}

    def hop(self, pipeline: Pipeline, s: int, where: str) -> int:
        """Picoseconds from stage s to the next, over the slowest pair of replicas."""
        stage, after = pipeline.stages[s], pipeline.stages[s + 1]
        size = self._crossing(stage.layers[1], pipeline.micro_batch_rows)
        slowest = 0
        for sender in stage.replicas:
            for receiver in after.replicas:
                # the other traffic of the two hosts: gradients upstream, activations downstream
                at_once = not self.world.topology.blocking_transfers
                out = 1 + (
                    at_once
                    and s > 0
                    and any(
                        self._meet(sender, receiver, sender, other)
                        for other in pipeline.stages[s - 1].replicas
                    )
                )
                into = 1 + (
                    at_once
                    and s + 2 < len(pipeline.stages)
                    and any(
                        self._meet(receiver, sender, receiver, other)
                        for other in pipeline.stages[s + 2].replicas
                    )
                )
                time = self._way(sender, receiver, size, out, into)
                if time is None:
                    self._report(where, "no network joins the two stages")
                    continue
                slowest = max(slowest, time)
        return slowest

    def _meet(self, a: Replica, b: Replica, c: Replica, d: Replica) -> bool:
        """Whether the ways a -> b and c -> d use a common resource."""
        used = []
        for sender, receiver in ((a, b), (c, d)):
            ways = [
                self.world.topology.route(here, there)
                for here, there in self._ways(sender, receiver)
                if here.name != there.name
            ]
            used.append({name for way in ways if way is not None for name in way.resources})
        return bool(used[0] & used[1])

    def _ways(self, sender: Replica, receiver: Replica) -> list[tuple[Island, Island]]:
        """Which islands send to which: those of both sides in turn."""
        ends = [self._places(sender), self._places(receiver)]
        count = max(map(len, ends))
        return [(ends[0][n % len(ends[0])], ends[1][n % len(ends[1])]) for n in range(count)]

    def _way(
        self, sender: Replica, receiver: Replica, size: int, out: int, into: int
    ) -> int | None:
        here, there = self._place(sender), self._place(receiver)
        source, target = (self.world.topology.classes[i.class_index] for i in (here, there))
        senders, receivers = len(sender.devices), len(receiver.devices)
        if size == 0:
            return 0
        if here.name == there.name:
            fabric = source.fabric
            rate = fabric.pair_bandwidth * fabric.efficiency * min(senders, receivers)
            return _picoseconds(size / rate + fabric.latency_s)
        share = min(senders / source.size / out, receivers / target.size / into)
        slowest = 0
        for a, b in self._ways(sender, receiver):
            route = self.world.topology.route(a, b)
            if route is None:
                return None
            slowest = max(slowest, _picoseconds(route.seconds(size, share)))
        return slowest

    def _place(self, replica: Replica) -> Island:
        return self.world.island_of[replica.devices[0]]

    def _places(self, replica: Replica) -> list[Island]:
        """All islands of a replica, in the order of its devices."""
        islands = {self.world.island_of[d].name: self.world.island_of[d] for d in replica.devices}
        return list(islands.values())

    def _crossing(self, cut: int, rows: int) -> int:
        if cut in (0, len(self.world.model.layers)):
            return 0
        job = self.world.job
        return self.world.model.boundary_bytes(cut, rows, job.seq_len, job.element_bytes)

    def _memory(
        self,
        cls: IslandClass,
        stage: Stage,
        replica: Replica,
        layers: Sequence[LayerPrice],
        policies: tuple[int, ...],
        micro_batches: int,
        copies: tuple[int, ...],
    ) -> dict[str, int]:
        first, end = stage.layers
        whole, apart = dense(replica.mesh), experts(replica.mesh)
        items = stage_memory(
            layers,
            policies,
            state=self.world.job.state_bytes,
            overhead=device_overhead(cls.chip, cls.usable_memory_bytes),
            in_flight=stage.in_flight,
            micro_batches=micro_batches,
            zero_level=stage.zero.level,
            replicas=tuple(n * whole.copies for n in copies),
            expert_replicas=copies[0] * apart.copies,
            inner=(whole.shares, apart.shares),
            boundary_bytes=boundary_buffer_bytes(
                self._crossing(first, replica.rows),
                self._crossing(end, replica.rows),
                tp=replica.mesh.tensor_parallel,
                sequence_parallel=self.world.job.sequence_parallel,
                copies=whole.copies,
            ),
            offload_buffer=OFFLOAD_BUFFER_BYTES if stage.offload == "optimizer" else None,
        )
        found = {f.name: getattr(items, f.name) for f in fields(items)}
        on_host = _host_share(cls) if items.host else 0
        return found | {"usable": cls.usable_memory_bytes, "host_usable": on_host}

    def _equal(self, where: str, stated_s: float, derived_ps: int) -> None:
        """Times agree to the picosecond."""
        if _picoseconds(stated_s) != derived_ps and stated_s != derived_ps / PS_PER_S:
            message = f"says {stated_s!r} s, re-derived {derived_ps / PS_PER_S!r} s"
            self._report(where, message)

    def _report(self, where: str, message: str) -> None:
        self.costs.problems.append(Problem(where, message))


def _stage_times(
    layers: Sequence[LayerPrice], policies: Sequence[int], scale: float
) -> dict[str, int]:
    """Sums over the layers of times that are rounded once per layer, in picoseconds."""

    def total(values: Iterator[float]) -> int:
        return sum(map(_picoseconds, values))

    times = {
        "forward": total(layer.forward_s * scale for layer in layers),
        "backward_input": total(layer.backward_input_s * scale for layer in layers),
        "backward_weight": total(layer.backward_weight_s * scale for layer in layers),
        "recompute": total(
            layer.again_s(policy) * scale for layer, policy in zip(layers, policies, strict=True)
        ),
        "tp_comm_forward": total(layer.tp_comm_forward_s for layer in layers),
        "tp_comm_backward": total(layer.tp_comm_backward_s for layer in layers),
    }
    times["forward_total"] = times["forward"] + times["tp_comm_forward"]
    times["backward_total"] = (
        times["backward_input"]
        + times["backward_weight"]
        + times["recompute"]
        + times["tp_comm_backward"]
    )
    return times


def _with_copies(
    times: dict[str, int],
    layers: Sequence[LayerPrice],
    policies: Sequence[int],
    scale: float,
    cls: IslandClass,
) -> dict[str, int]:
    """The times with what leaves for the host and comes back, less the computation beside it.

    Rates of links and of the host's memory are those of a device when all of its host copy.
    """
    there = back = 0
    for layer, policy in zip(layers, policies, strict=True):
        left = {"offload": layer.activation_bytes[1], "full_offload": layer.activation_bytes[2]}
        size, host = left.get(WAYS[policy], 0), cls.host
        if not size or host is None:
            continue  # a host that is not known is a problem of the layout
        copy = _picoseconds(size / min(host.link_bandwidth, host.memory_bandwidth))
        again = layer.recompute_s[1 if WAYS[policy] == "offload" else 2]
        forward = _picoseconds(layer.forward_s * scale)
        backward = sum(
            _picoseconds(seconds * scale)
            for seconds in (layer.backward_input_s, layer.backward_weight_s, again)
        )
        there += max(0, copy - forward)
        back += max(0, copy - backward)
    more = {"forward_total": there, "backward_total": back}
    with_totals = {name: value + more.get(name, 0) for name, value in times.items()}
    return with_totals | {"copy_forward": there, "copy_backward": back}


def _host_share(cls: IslandClass) -> int:
    """Bytes of its host's memory that a device may fill; none where the host is not known."""
    return 0 if cls.host is None or cls.host.memory_bytes is None else cls.host.memory_bytes


def _policies(stage: Stage) -> tuple[int, ...]:
    return tuple(WAYS.index(part.policy) for part in stage.recompute for _ in range(*part.layers))


def _picoseconds(seconds: float) -> int:
    return round(seconds * PS_PER_S)
