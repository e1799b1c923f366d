"""The time of one optimizer step of a uniform run: every pipeline the same, every stage alike.

    price_step(Run(...))  ->  seconds by cause, and what each stage spends and exchanges

A run says who holds what; nothing here chooses. Chips are numbered as Megatron-LM does it: tensor
parallel fastest, then context, then data parallel, then pipeline stages. Layers are priced by
:func:`costmodels.price.price_with`, the schedule by :mod:`costmodels.schedules`, communication by
:mod:`costmodels.collectives`; this module only puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import NamedTuple

from costmodels.catalog import Chip
from costmodels.collectives import Links, SyncHost, gradient_sync_s
from costmodels.compute import optimizer_update_s
from costmodels.constants import Constants, shipped_constants
from costmodels.layers import Division
from costmodels.memory import StateBytes
from costmodels.price import LayerConfig, LayerPrice, Pricer
from costmodels.schedules import ScheduleName, exact_time
from costmodels.shapes import LayerShape
from costmodels.sharding import ShardGroup, exposed_gathers_s
from costmodels.units import PS_PER_S, bytes_of

PriceLayer = Callable[[LayerShape], LayerPrice]


@dataclass(frozen=True, slots=True)
class Run:
    """A uniform run.

    ``cuts`` are the first layers of the stages and the number of layers. ``virtual`` chunks of
    layers lie on every stage (interleaved schedule). ``rows`` sequences per micro-batch,
    ``micro_batches`` per pipeline and step. ``policy`` is the recomputation of all blocks, an
    index of :data:`costmodels.price.POLICIES`. ``zero`` shards optimizer (1), gradients (2) and
    weights (3) over ``shard`` replicas. ``overlap``: the runtime reduces gradients while the last
    backward pass runs. ``pace`` multiplies the whole step (software generations).
    ``blocking``: a stage computes nothing while activations and gradients pass to it.
    ``grouped_experts``, ``fused_routing``, ``rescaled`` and ``equal_heads`` are those of
    :class:`costmodels.price.LayerConfig`.
    ``unfused_update``: bytes per parameter that an optimizer of several kernels moves more.
    ``links`` are those of one chip; ``hosts`` the fabrics that the run fills.
    ``depths`` of None are classic 1F1B.
    """

    layers: tuple[LayerShape, ...]
    cuts: tuple[int, ...]
    chip: Chip
    links: Links
    seq_len: int
    precision: str
    state: StateBytes
    tp: int = 1
    cp: int = 1
    ep: int = 1
    expert_tp: int | None = None
    dp: int = 1
    virtual: int = 1
    rows: int = 1
    micro_batches: int = 1
    policy: int = 0
    zero: int = 0
    shard: int = 1
    sequence_parallel: bool = False
    flash: bool = True
    overlap: bool = True
    early_stop: bool = False
    fused_softmax: bool = True
    slow_host: bool = False
    once_per_host: bool = False
    padded: bool = True
    grouped_experts: bool = False
    fused_routing: bool = True
    rescaled: bool = False
    equal_heads: bool = False
    unfused_update: int = 0
    blocking: bool = False
    schedule: ScheduleName = "1f1b"
    imbalance: float = 1.0
    derate: float = 1.0
    pace: float = 1.0

    @property
    def pp(self) -> int:
        """Pipeline stages."""
        return len(self.cuts) - 1

    @property
    def chips(self) -> int:
        """Chips of the run."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def replicas(self) -> int:
        """Devices that hold the same weights outside of experts."""
        return self.cp * self.dp

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.dp * self.micro_batches * self.rows * self.seq_len

    @property
    def boundary_bytes(self) -> int:
        """Bytes of one micro-batch's activations at a cut, on one context-parallel part."""
        hidden = max([shape.hidden for shape in self.layers])
        return self.rows * self.seq_len * hidden * bytes_of(self.precision) // self.cp

    @property
    def division(self) -> Division:
        """Degrees of every layer."""
        return Division(self.tp, self.cp, self.ep, self.expert_tp, self.imbalance)

    @property
    def config(self) -> LayerConfig:
        """How every layer is run."""
        return LayerConfig(
            rows=self.rows,
            seq_len=self.seq_len,
            tp=self.tp,
            precision=self.precision,
            sequence_parallel=self.sequence_parallel and self.tp > 1,
            flash=self.flash,
            cp=self.cp,
            ep=self.ep,
            expert_tp=self.expert_tp,
            imbalance=self.imbalance,
            island=self.links.island,
            port=self.links.port,
            port_latency_s=self.links.latency_s,
            early_stop=self.early_stop,
            fused_softmax=self.fused_softmax,
            slow_host=self.slow_host,
            once_per_host=self.once_per_host,
            padded=self.padded,
            grouped_experts=self.grouped_experts,
            fused_routing=self.fused_routing,
            rescaled=self.rescaled,
            equal_heads=self.equal_heads,
            gradient_bytes=self.state.gradient,
        )


class StageCost(NamedTuple):
    """One stage and one micro-batch: seconds of compute, recomputation, communication.

    ``held`` are the parameters of one device outside of experts, and in them.
    """

    layers: tuple[LayerPrice, ...]
    forward_s: float
    backward_s: float
    gather_forward_s: float
    gather_backward_s: float
    held: tuple[int, int]


class StepPrice(NamedTuple):
    """Seconds of a step; ``items`` sum to ``step_s``."""

    step_s: float
    stages: tuple[StageCost, ...]
    items: tuple[tuple[str, float], ...]


def price_step(
    run: Run,
    constants: Constants | None = None,
    *,
    price: PriceLayer | None = None,
    exact: bool = True,
) -> StepPrice:
    """Price a run. ``exact`` solves the schedule's recurrence, else its closed form is taken.

    ``price`` stands in for the layer formulas (a measured profile). ValueError where chips must
    talk and nothing joins them; LookupError for a precision that the chip does not have.
    """
    c = constants or shipped_constants()
    stages = _stages(run, c, price)
    pipeline, bubble = _pipeline_s(run, stages, exact)
    reduced = {held: _reduced_s(run, *held) for held in {stage.held for stage in stages}}
    sync = max(_sync_s(run, stage, reduced[stage.held], c) for stage in stages)
    update = max(_update_s(run, *held, c) for held in reduced)
    whole = pipeline + sync + update
    hosts = -(-run.chips // run.links.island) if run.links.island else 1
    waiting = whole * c.jitter * log(hosts)
    slower = (whole + waiting) * (run.pace - 1.0)
    return StepPrice(
        step_s=whole + waiting + slower,
        stages=stages,
        items=(
            ("pipeline", pipeline - bubble),
            ("bubble", bubble),
            ("gradient synchronisation", sync),
            ("optimizer update", update),
            ("stragglers", waiting),
            ("software generation", slower),
        ),
    )


def _stages(run: Run, c: Constants, price: PriceLayer | None) -> tuple[StageCost, ...]:
    if price is None:
        price = Pricer.of(run.chip, run.links.fabric, run.config, run.derate, c).price
    known: dict[LayerShape, _Layer] = {}
    seen: dict[int, _Layer] = {}
    for i, shape in {id(shape): shape for shape in run.layers}.items():
        found = known.get(shape) or _layer(run, price(shape), c)
        known[shape] = seen[i] = found
    layers = [seen[id(shape)] for shape in run.layers]
    out = []
    for first, end in zip(run.cuts, run.cuts[1:]):
        prices, forward, backward, gather, scatter, dense, experts = zip(*layers[first:end])
        there, back = sum(gather), sum(scatter)
        seconds = (sum(forward) + there, sum(backward) + back, there, back)
        out.append(StageCost(prices, *seconds, (sum(dense), sum(experts))))
    return tuple(out)


_Layer = tuple[LayerPrice, float, float, float, float, int, int]
"""A layer's price; seconds forward, backward, gathering before the one and around the other;
parameters outside of experts, and in them."""


def _layer(run: Run, p: LayerPrice, c: Constants) -> _Layer:
    forward = p.forward_s + p.tp_comm_forward_s
    backward = (
        p.backward_input_s + p.backward_weight_s + p.recompute_s[run.policy] + p.tp_comm_backward_s
    )
    dense = p.parameters - p.expert_parameters
    return (p, forward, backward, *_gather_s(run, p, c), dense, p.expert_parameters)


def _gather_s(run: Run, layer: LayerPrice, c: Constants) -> tuple[float, float]:
    """Exposed seconds of gathering a layer's weights and scattering its gradients, per pass."""
    if run.zero < 2 or run.shard <= 1 or layer.parameters == 0:
        return 0.0, 0.0
    dense = layer.parameters - layer.expert_parameters
    return exposed_gathers_s(
        layer,
        (
            ShardGroup(dense, run.shard, run.tp),
            ShardGroup(layer.expert_parameters, *_expert_group(run, run.shard)),
        ),
        run.links,
        weight_bytes=bytes_of(run.precision),
        gradient_bytes=run.state.gradient,
        policy=run.policy,
        gradients_alone=run.zero == 2,
        constants=c,
    )


def _expert_group(run: Run, replicas: int) -> tuple[int, int]:
    """Ranks and stride of the devices that hold the same experts."""
    if run.ep == 1:
        return replicas, run.tp
    slices = run.division.expert_slices
    return max(1, replicas * run.tp // (run.ep * slices)), run.ep * slices


def _pipeline_s(run: Run, stages: Sequence[StageCost], exact: bool) -> tuple[float, float]:
    """Seconds until the last backward ends, and those of them in which the slowest stage waits."""
    forward = [s.forward_s for s in stages]
    backward = [s.backward_s for s in stages]
    hops = _hops_s(run)
    if run.blocking:
        # The later stage of a cut waits for the way there and back; nothing is left to be hidden.
        forward[1:] = [f + hop for f, hop in zip(forward[1:], hops)]
        backward[1:] = [b + hop for b, hop in zip(backward[1:], hops)]
        hops = [0.0] * len(hops)
    slowest = max(f + b for f, b in zip(forward, backward))
    m, v = run.micro_batches, run.virtual
    busy = m * slowest
    if v > 1 or not exact:
        fill = (sum(forward) + sum(backward)) / v + 2 * sum(hops)
        total = fill + (m - 1 / v) * slowest
        if v > 1:
            # Every chunk boundary is passed, around from the last stage to the first as well.
            total += 2 * (v - 1) * (sum(hops) + max(hops, default=0.0))
    else:
        depths = tuple(min(run.pp - s, m) for s in range(run.pp))
        if run.schedule == "gpipe":
            depths = (m,) * run.pp
        ps = tuple([round(t * PS_PER_S) for t in times] for times in (forward, backward, hops))
        total = exact_time(run.schedule, ps[0], ps[1], ps[2], depths, m).total / PS_PER_S
        busy = m * max(f + b for f, b in zip(ps[0], ps[1])) / PS_PER_S
    return total, max(0.0, total - busy)


def _hops_s(run: Run) -> list[float]:
    """Seconds of one micro-batch's activations between neighbouring stages."""
    if run.pp == 1:
        return []
    links, size = run.links, run.boundary_bytes
    stage = run.tp * run.cp * run.dp
    if links.island and stage * 2 > links.island:
        if links.port <= 0:
            raise ValueError("stages lie on several fabrics, and no network joins them")
        # A chip sends its slice, its whole group sends at once; neighbours on both sides share.
        each = size / run.tp
        last = run.pp - 2
        return [
            each / links.port * (2 if 0 < s <= last else 1) + links.latency_s
            for s in range(run.pp - 1)
        ]
    rate = links.fabric.pair_bandwidth * links.fabric.efficiency * run.tp
    return [size / rate + links.fabric.latency_s] * (run.pp - 1)


def _reduced_s(run: Run, dense: int, experts: int) -> float:
    """Seconds of summing the gradients of a stage and handing out the updated weights."""
    state = run.state
    if run.zero >= 3:
        # Only replicas of the shards are left to be summed.
        shards = max(1, run.shard)
        own = -(-dense * state.gradient // shards)
        return _reduce_s(run, own, run.replicas // shards, run.tp * shards)
    each = -(-(state.gradient + state.parameter) // 2) if run.zero else state.gradient
    total = _reduce_s(run, dense * each, run.replicas, run.tp)
    if experts:
        total += _reduce_s(run, experts * each, *_expert_group(run, run.replicas))
    return total


def _sync_s(run: Run, stage: StageCost, total: float, c: Constants) -> float:
    """Those of the ``total`` seconds of :func:`_reduced_s` that come after the last pass."""
    beside = stage.backward_s + (stage.forward_s if run.zero else 0.0)
    hidden = c.gradient_overlap * beside if run.overlap else 0.0
    return max(total - hidden, c.gradient_tail * total)


def _reduce_s(run: Run, bytes_: int, ranks: int, stride: int) -> float:
    """Two-tier reduction of ``bytes_`` on each of ``ranks`` chips."""
    if ranks <= 1 or bytes_ == 0:
        return 0.0
    links = run.links
    inside = links.inside(ranks, stride)
    hosts = -(-ranks // inside)
    lanes = min(stride, links.island) if links.island else stride
    host = SyncHost(
        replicas=inside,
        shard_bytes=bytes_,
        fabric=links.fabric,
        exchanged_bytes=bytes_ * lanes,
        port_bytes_per_s=links.port * links.island if hosts > 1 else None,
    )
    return gradient_sync_s([host], latency_s=links.latency_s, count=hosts)


def _update_s(run: Run, dense: int, experts: int, c: Constants) -> float:
    shards = run.shard if run.zero else 1
    own = _expert_group(run, shards)[0] if experts and run.zero else 1
    seconds = 0.0
    for parameters, replicas in ((dense, shards), (experts, own)):
        if parameters:
            seconds += optimizer_update_s(
                parameters,
                run.state,
                run.chip,
                replicas,
                derate=run.derate,
                constants=c,
                unfused_bytes=run.unfused_update,
            )
    return seconds
