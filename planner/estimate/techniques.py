"""A layout file that asks for context or expert parallelism, interleaving, ZeRO 2 or 3.

Such a layout is uniform, on chips of one kind (ZeRO 2 and 3 alone: see ``mixed``). It becomes a
:class:`costmodels.step.Run`; what is impossible is listed at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from costmodels.collectives import Links
from costmodels.price import POLICIES
from costmodels.step import Run
from costmodels.uniform import UniformPrice, price_uniform
from costmodels.units import GIB, bytes_of
from planner.baselines import split_evenly
from planner.errors import InputError, Problem
from planner.estimate.mixed import KindPrice, chip_of, price_kinds
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import IslandClass, Topology
from planner.inputs.cluster import ClusterInput
from planner.inputs.job import JobInput, ResolvedJob
from planner.inputs.layout_spec import UNIFORM, LayoutInput
from planner.inputs.model import ModelInput
from planner.options import tensor_parallel_problem
from planner.resolve import topology_and_job


@dataclass(frozen=True, slots=True)
class UniformEstimate:
    """A priced uniform layout; ``notes`` are defaults that were filled in.

    ``kinds`` are all kinds of chips of a group of unlike ones, and ``price`` that of the slowest.
    """

    layout: str
    price: UniformPrice
    notes: tuple[str, ...]
    kinds: tuple[KindPrice, ...] = ()
    remedies: tuple[str, ...] = ()

    @property
    def left_bytes(self) -> int:
        """Room on the fullest chip; below 0 where the layout does not fit."""
        return room(self.price, self.kinds)


def room(price: UniformPrice, kinds: tuple[KindPrice, ...]) -> int:
    """Bytes left on the fullest chip of any kind; below 0 where the layout does not fit."""
    if kinds:
        return min(kind.left_bytes for kind in kinds)
    return price.footprint.usable - price.footprint.worst.peak


def _priced(run: Run, topology: Topology) -> tuple[UniformPrice, tuple[KindPrice, ...]]:
    """The run on its one kind of chip, or on all kinds, and then the price of the slowest."""
    if len(topology.classes) == 1:
        return price_uniform(run), ()
    kinds = price_kinds(run, topology)
    return max((kind.price for kind in kinds), key=lambda price: price.step_s), kinds


def _remedies(run: Run, topology: Topology) -> tuple[str, ...]:
    """Changes that make a run fit that does not, each priced; one that only just does says so."""
    same = bytes_of(run.precision)
    changes: list[tuple[str, Run]] = []
    if run.policy < 2:
        changes.append(("recompute: full", replace(run, policy=2)))
    if run.state.gradient > same:
        state = replace(run.state, gradient=same)
        changes.append(("--set job.gradient_dtype=same", replace(run, state=state)))
        if run.policy < 2:
            both = replace(run, state=state, policy=2)
            changes.append(("recompute: full with --set job.gradient_dtype=same", both))
    found = []
    for text, changed in changes:
        price, kinds = _priced(changed, topology)
        left = room(price, kinds) / GIB
        worst = min(kinds, key=lambda k: k.left_bytes).price if kinds else price
        aside = worst.footprint.worst.fragmentation / GIB
        if left >= 0:
            found.append(f"{text}: fits with {left:.1f} GiB to spare")
        elif left + aside >= 0:
            found.append(
                f"{text}: barely, {-left:.2f} GiB have to come from the {aside:.1f} GiB set aside "
                "for fragmentation"
            )
    return tuple(found) or ("more chips to share the state (dp), or shorter rows: job.seq_len",)


def estimate_uniform(
    model: ModelInput, cluster: ClusterInput, job: JobInput, layout: LayoutInput
) -> UniformEstimate:
    """Price a uniform layout. Raises InputError with every problem."""
    topology, resolved = topology_and_job(model, cluster, job)
    reader = _Reader(layout, model.graph, topology, resolved)
    run = reader.run()
    try:
        price, kinds = _priced(run, topology)
        remedies = _remedies(run, topology) if room(price, kinds) < 0 else ()
    except (ValueError, LookupError) as error:
        raise InputError([Problem(layout.name, str(error.args[0]))]) from None
    return UniformEstimate(layout.name, price, tuple(reader.notes), kinds, remedies)


class _Reader:
    """One pass over a uniform layout; problems are kept until all of it has been read."""

    def __init__(
        self, layout: LayoutInput, model: ModelGraph, topology: Topology, job: ResolvedJob
    ) -> None:
        self.layout, self.spec = layout, layout.spec
        self.model, self.topology, self.job = model, topology, job
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def run(self) -> Run:
        """The run of the layout. Raises InputError with every problem."""
        spec, job = self.spec, self.job
        cls, chips = self._chips()
        tp = spec.tp if isinstance(spec.tp, int) else spec.tp[0]
        pp = self.layout.stages
        why = tensor_parallel_problem(self.model, tp, job.seq_len, job.sequence_parallel)
        if why is not None:
            self._problem(f"tp {tp} is not possible: {why}", "another degree", "tp")
        if job.seq_len % (spec.cp * 2) and spec.cp > 1:
            message = f"{job.seq_len} tokens do not divide into 2 parts for each of cp {spec.cp}"
            self._problem(message, "a degree that divides the sequence", "cp")
        experts = max((m.experts for la in self.model.layers for m in la.shape.matmuls), default=1)
        if spec.ep > 1 and experts % spec.ep:
            message = f"{experts} experts do not divide by ep {spec.ep}"
            self._problem(message, "a degree that divides the experts", "ep")
        if job.lora_rank or job.frozen_layers:
            message = "frozen weights and adapters are not priced together with these techniques"
            self.problems.append(Problem(self.layout.name, message, "train all weights"))
        if job.gradient_compression != "none":
            message = "packed gradients are not priced together with these techniques"
            remedy = "--set job.techniques.gradient_compression=none"
            self.problems.append(Problem(self.layout.name, message, remedy))
        dp = self._dp(chips, tp, pp)
        if spec.ep > 1 and (tp * spec.cp * dp) % (spec.ep * (spec.expert_tp or 1)):
            message = f"ep {spec.ep} does not divide the {tp * spec.cp * dp} chips of a stage"
            self._problem(message, "fewer expert-parallel devices", "ep")
        cuts = self._cuts(pp)
        if self.problems or cuts is None:
            raise InputError(self.problems)
        level = (int(job.zero1) if spec.zero is None else spec.zero) if dp * spec.cp > 1 else 0
        rows = spec.micro_batch_rows
        return Run(
            layers=tuple(layer.shape for layer in self.model.layers),
            cuts=cuts,
            chip=chip_of(cls),
            links=self._links(cls),
            seq_len=job.seq_len,
            precision=job.precision,
            state=job.state_bytes,
            tp=tp,
            cp=spec.cp,
            ep=spec.ep,
            expert_tp=spec.expert_tp,
            dp=dp,
            virtual=spec.virtual,
            rows=rows,
            micro_batches=max(1, -(-job.global_batch // (dp * rows))),
            policy=POLICIES.index(spec.recompute if isinstance(spec.recompute, str) else "none"),
            zero=level,
            shard=min(spec.shard or dp * spec.cp, dp * spec.cp) if level else 1,
            sequence_parallel=job.sequence_parallel,
            flash=cls.chip.flash_attention,
            grouped_experts=job.grouped_experts,
            schedule=spec.schedule,
            derate=cls.derate,
        )

    def _problem(self, message: str, remedy: str, *path: str | int) -> None:
        self.problems.append(Problem(self.layout.where(*path), message, remedy))

    def _chips(self) -> tuple[IslandClass, int]:
        """A kind of chip that the layout runs on, the first of them, and how many there are."""
        classes = self.topology.classes
        spec = self.spec
        mixed = (spec.zero or 0) >= 2 and self.layout.stages == 1 and spec.tp in (1, (1,))
        alone = all(getattr(spec, f) in (1, None) for f in UNIFORM)
        if len(classes) > 1 and not (mixed and alone and spec.chips is None):
            message = "asks for techniques that are priced on chips of one kind"
            remedy = (
                f"a cluster of {classes[0].name} alone; ZeRO 2 and 3 with one stage, tp 1 and "
                "nothing else run on unlike chips too"
            )
            self.problems.append(Problem(self.layout.name, message, remedy))
            return classes[0], classes[0].chips
        return classes[0], self.topology.chips

    def _dp(self, chips: int, tp: int, pp: int) -> int:
        each = tp * self.spec.cp * pp
        equation = f"tp {tp} × cp {self.spec.cp} × pp {pp}"
        most = chips // each
        mixed = len(self.topology.classes) > 1 and not self.problems
        if mixed and (self.spec.dp or self.job.global_batch) < chips:
            had = f"dp {self.spec.dp}" if self.spec.dp else f"{self.job.global_batch} rows per step"
            message = f"{had} leave some of {chips} unlike chips out, and do not say which"
            self._problem(message, f"dp: {chips}, or a cluster of the chips that are meant", "dp")
        elif self.spec.dp is not None and self.spec.dp > most:
            message = f"{equation} × dp {self.spec.dp} needs more than {chips} chips"
            remedy = f"dp: {most} at most" if most else "smaller degrees"
            self._problem(message, remedy, "dp")
        if self.spec.dp is not None:
            return self.spec.dp
        if most < 1:
            message = f"{equation} = {each} chips, but the cluster has {chips}"
            self._problem(message, "smaller degrees", "tp")
            return 1
        dp = min(most, self.job.global_batch)
        self.notes.append(f"dp {dp}: as many pipelines as the chips allow (default)")
        return dp

    def _cuts(self, pp: int) -> tuple[int, ...] | None:
        kinds = [layer.shape.kind for layer in self.model.layers]
        before, after = int(kinds[0] == "embedding"), int(kinds[-1] == "head")
        blocks = len(kinds) - before - after
        chunks = pp * self.spec.virtual
        if chunks > blocks:
            message = f"{pp} stages of {self.spec.virtual} chunks, but there are {blocks} blocks"
            field = "virtual" if self.spec.virtual > 1 else "pp"
            self._problem(message, f"at most {blocks} chunks in all", field)
            return None
        counts = [b - a for a, b in split_evenly(blocks, pp)]
        cuts = [0]
        for count in counts:
            cuts.append(cuts[-1] + count)
        inner = [cut + before for cut in cuts[1:-1]]
        return (0, *inner, len(kinds))

    def _links(self, cls: IslandClass) -> Links:
        if len(self.topology.classes) > 1:
            return Links(cls.fabric)  # of every kind by itself, in price_kinds
        route = self.topology.class_routes.get((cls.index, cls.index))
        if route is None:
            return Links(cls.fabric, cls.size)
        return Links(cls.fabric, cls.size, route.bandwidth / cls.size, route.latency_s)
