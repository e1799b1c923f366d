"""Where the time of a step goes, as its bottleneck sees it, and what shape a plan has.

The *bottleneck* is the busiest stage of the pipeline that ends last. The step is what this stage
works (by cause), what it waits for the rest of its pipeline, and what follows the last backward.
Everything is read from the plan alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from costmodels.price import WAYS
from planner.plan import Pipeline, Plan, Replica, Stage


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds of one step by cause; they sum to the step time.

    ``recompute`` is the time that saves activation memory: recomputation, and what copies of
    activations to hosts and back add. ``pipeline`` is filling, draining and transfers: the step
    less what the bottleneck works. ``sync`` and ``update`` are what of them follows the last
    backward.
    """

    compute: float
    recompute: float
    tensor_parallel: float
    pipeline: float
    sync: float
    update: float

    @property
    def total(self) -> float:
        """The step time."""
        return sum(value for _, value in self.items())

    def items(self) -> tuple[tuple[str, float], ...]:
        """``(name, seconds)`` in the order of the fields."""
        return tuple((f.name, float(getattr(self, f.name))) for f in fields(self))

    def as_json(self) -> dict[str, float]:
        """Plain JSON."""
        return dict(self.items())


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The busiest stage of the last pipeline to end; numbers count from 0."""

    pipeline: int
    stage: int
    chip: str
    layers: tuple[int, int]
    busy_s: float
    share: float
    terms: Terms
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Tightest:
    """The device that keeps the least memory, in bytes, and the items that fill it."""

    pipeline: int
    stage: int
    chip: str
    device: str
    peak: int
    usable: int
    items: tuple[tuple[str, int], ...]

    @property
    def left(self) -> int:
        """Bytes that stay free; below 0 where the plan does not fit."""
        return self.usable - self.peak


@dataclass(frozen=True, slots=True)
class Shape:
    """What a plan looks like: intervals are (least, most) over its pipelines and stages."""

    pipelines: int
    stages: tuple[int, int]
    tensor_parallel: tuple[int, int]
    rows: tuple[int, int]
    recompute: tuple[str, ...]
    plan_class: str
    chunks: tuple[int, int] = (1, 1)
    """Chunks of layers per stage."""

    def as_json(self) -> dict[str, object]:
        """Plain JSON; chunks where some stage holds several."""
        value = asdict(self)
        if self.chunks == (1, 1):
            del value["chunks"]
        return value


def bottleneck(plan: Plan) -> Bottleneck:
    """The stage that decides the step time, and where the step goes from its point of view."""
    p = max(range(len(plan.pipelines)), key=lambda n: (plan.pipelines[n].exact_time_s, -n))
    pipe = plan.pipelines[p]
    s = max(range(len(pipe.stages)), key=lambda n: (per_micro_batch_s(pipe.stages[n]), -n))
    replica = slowest(pipe.stages[s])
    terms = _terms(plan, pipe, replica)
    busy = terms.compute + terms.recompute + terms.tensor_parallel
    return Bottleneck(
        pipeline=p,
        stage=s,
        chip=replica.chip,
        layers=pipe.stages[s].layers,
        busy_s=busy,
        share=busy / plan.estimate.step_time_s,
        terms=terms,
        parts=pipe.stages[s].parts,
    )


def per_micro_batch_s(stage: Stage) -> float:
    """Seconds that a stage works on one micro-batch."""
    time = slowest(stage).time_s
    return time.forward_total + time.backward_total


def slowest(stage: Stage) -> Replica:
    """The replica of a stage that takes longest."""
    return max(stage.replicas, key=lambda r: r.time_s.forward_total + r.time_s.backward_total)


def _terms(plan: Plan, pipe: Pipeline, replica: Replica) -> Terms:
    step, m, time = plan.estimate.step_time_s, pipe.micro_batches, replica.time_s
    update = plan.estimate.breakdown_s.update
    tensor_parallel = m * (time.tp_comm_forward + time.tp_comm_backward)
    recompute = m * (time.recompute + time.copy_forward + time.copy_backward)
    busy = m * (time.forward_total + time.backward_total)
    waiting = max(0.0, min(pipe.exact_time_s, step - update) - busy)
    return Terms(
        compute=_clean(busy - recompute - tensor_parallel),
        recompute=_clean(recompute),
        tensor_parallel=_clean(tensor_parallel),
        pipeline=_clean(waiting),
        sync=_clean(step - update - busy - waiting),
        update=update,
    )


def _clean(seconds: float) -> float:
    """Whole picoseconds, as all times of a plan: what is less came from subtracting."""
    return round(seconds, 12) + 0.0


MEMORY_ITEMS = (
    "parameters", "gradients", "optimizer", "activations", "logits", "buffers", "context",
    "fragmentation",
)  # fmt: skip


def tightest(plan: Plan) -> Tightest:
    """The device with the least memory to spare."""
    found = [
        (r.memory_bytes.usable - r.memory_bytes.peak, p, s, r)
        for p, pipe in enumerate(plan.pipelines)
        for s, stage in enumerate(pipe.stages)
        for r in stage.replicas
    ]
    _, p, s, replica = min(found, key=lambda f: f[:3])
    memory = replica.memory_bytes
    return Tightest(
        pipeline=p,
        stage=s,
        chip=replica.chip,
        device=replica.devices[0],
        peak=memory.peak,
        usable=memory.usable,
        items=tuple((name, int(getattr(memory, name))) for name in MEMORY_ITEMS),
    )


def shape(plan: Plan) -> Shape:
    """The plan's degrees."""
    stages = [s for p in plan.pipelines for s in p.stages]
    policies = {part.policy for s in stages for part in s.recompute}
    return Shape(
        pipelines=len(plan.pipelines),
        stages=_span([len(p.stages) for p in plan.pipelines]),
        tensor_parallel=_span([r.mesh.tensor_parallel for s in stages for r in s.replicas]),
        rows=_span([p.micro_batch_rows for p in plan.pipelines]),
        recompute=tuple(name for name in WAYS if name in policies),
        plan_class=plan.plan_class,
        chunks=_span([len(s.parts) for s in stages]),
    )


def used_chips(plan: Plan) -> dict[str, int]:
    """Chips that hold a stage, by kind, in the order of their first stage."""
    counts: dict[str, int] = {}
    for pipe in plan.pipelines:
        for stage in pipe.stages:
            for replica in stage.replicas:
                counts[replica.chip] = counts.get(replica.chip, 0) + len(replica.devices)
    return counts


def _span(values: list[int]) -> tuple[int, int]:
    return min(values), max(values)
