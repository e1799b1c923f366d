"""What is said about a plan: the certificate, the declared space, idle chips, assumptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from costmodels.catalog import Catalog
from costmodels.compression import BLOCK
from costmodels.constants import shipped_constants
from costmodels.layers import EXPERT_IMBALANCE
from costmodels.memory import device_overhead
from costmodels.offload import HOST_MEMORY_PERCENT, OFFLOAD_BUFFER_BYTES
from costmodels.price import WAYS, hosted
from costmodels.units import GIB, MIB, PS_PER_S, S_PER_HOUR
from planner import assemble
from planner.economy import Economy, chips_of
from planner.graphs.across import islands_of, numbers_of_islands
from planner.inputs.goal import UNITS, Goal
from planner.inputs.training import notes_on_training
from planner.layout import PricedLayout
from planner.options import OptionSet
from planner.place import Placement
from planner.plan import Certificate, ObjectiveProof, SearchSpace, SolverInfo
from planner.search.engine import SearchOutcome
from planner.search.folded import CHUNKS, listed
from planner.search.regions import mixes_chunks

if TYPE_CHECKING:
    from planner.solve import Context, SolveParams

OPTIMAL_GAP = 1e-6


def stopwatch(limit_s: float | None, interrupted: Callable[[], bool]) -> Callable[[], bool]:
    """Whether the wall-clock limit has passed or the user asked to stop."""
    if limit_s is None:
        return interrupted
    end = time.monotonic() + limit_s
    return lambda: time.monotonic() >= end or interrupted()


def certificate(
    context: Context,
    outcome: SearchOutcome,
    priced: PricedLayout,
    params: SolveParams,
    interrupted: Callable[[], bool],
    exact_bound_ps: int | None = None,
) -> Certificate:
    """The proven gap of the placed plan's formula time over the declared space.

    ``exact_bound_ps``: a bound on the exact step time, where one was asked for.
    """
    objective = priced.formula_ps
    bound = min(outcome.lower_bound_ps, objective)
    gap = (objective - bound) / objective
    status: Literal["optimal", "within_tolerance", "feasible"]
    if gap <= OPTIMAL_GAP:
        status = "optimal"
    elif gap <= params.gap and outcome.complete:
        status = "within_tolerance"
    else:
        status = "feasible"
    return Certificate(
        status=status,
        objective_s=objective / PS_PER_S,
        lower_bound_s=bound / PS_PER_S,
        gap=gap,
        exact_lower_bound_s=None if exact_bound_ps is None else exact_bound_ps / PS_PER_S,
        search_space=declared_space(context),
        solver=SolverInfo(
            name="column generation, GLOP prices, CP-SAT master",
            versions={"ortools": version("ortools"), "numpy": version("numpy")},
            seed=params.seed,
            limits={"gap": params.gap, "time_limit_s": params.time_limit_s},
        ),
        deterministic=params.time_limit_s is None and not interrupted(),
    )


def goal_certificate(
    context: Context,
    goal: Goal,
    economy: Economy,
    params: SolveParams,
    interrupted: Callable[[], bool],
) -> Certificate:
    """The proven gap of the plan's cost (or energy) over all plans that are fast enough."""
    placement = economy.best.placement
    priced = placement.priced
    tokens = context.job.global_batch * context.job.seq_len
    rate = goal.rate(chips_of(context, placement))
    value = goal.value(economy.best.product, tokens)
    bound = min(goal.value(economy.bound.product, tokens), value)
    gap = (value - bound) / value
    status: Literal["optimal", "within_tolerance", "feasible"]
    if gap <= OPTIMAL_GAP:
        status = "optimal"
    else:
        status = "within_tolerance" if gap <= params.gap else "feasible"
    return Certificate(
        status=status,
        objective_s=priced.formula_ps / PS_PER_S,
        lower_bound_s=min(economy.fastest_bound_ps, priced.formula_ps) / PS_PER_S,
        gap=gap,
        exact_lower_bound_s=None,
        search_space=declared_space(context),
        solver=SolverInfo(
            name="sub-fleets, column generation, GLOP prices, CP-SAT master of least rate",
            versions={"ortools": version("ortools"), "numpy": version("numpy")},
            seed=params.seed,
            limits={"gap": params.gap, "time_limit_s": params.time_limit_s},
        ),
        deterministic=params.time_limit_s is None and not interrupted(),
        objective=ObjectiveProof(
            name=goal.kind,
            unit=UNITS[goal.kind],
            value=goal.value(priced.exact_ps / PS_PER_S * rate, tokens),
            formula_value=value,
            lower_bound=bound,
            gap=gap,
            rate=rate * S_PER_HOUR if goal.kind == "cost" else rate,
            rate_unit="usd_per_hour" if goal.kind == "cost" else "watt",
            max_step_time_s=goal.latest_ps / PS_PER_S,
        ),
    )


def goal_idle_reasons(context: Context, goal: Goal, placement: Placement) -> dict[int, str]:
    """Why chips of a class are not paid for."""
    out = {}
    used = chips_of(context, placement)
    what = "costs less" if goal.kind == "cost" else "takes less energy"
    for cls in context.topology.classes:
        if not any(o.class_index == cls.index for o in context.options.options):
            out[cls.index] = "no legal way to run this model's layers on these chips"
        elif used.get(cls.chip.id):
            out[cls.index] = f"not needed to be fast enough; no plan found with more of them {what}"
        else:
            out[cls.index] = f"no plan found with any of them {what} per token"
    return out


def declared_space(context: Context) -> SearchSpace:
    """What the certificate speaks about, in words."""
    job, topology, options = context.job, context.topology, context.options
    degrees = sorted({o.tp for o in options.options})
    rows = sorted({o.rows for o in options.options})
    allowed = [
        "pipelines of their own depth, layer split, chips, tensor-parallel degree per stage, "
        "recomputation per stage and number of micro-batches; chips may stay idle"
        if assemble.most_general(job) == "asymmetric"
        else "identical pipelines",
        f"tensor parallel {{{', '.join(map(str, degrees))}}} inside an island",
        *_inside_a_stage(options),
        *_over_hosts(context),
        f"{{{', '.join(map(str, rows))}}} rows per micro-batch, one value per pipeline",
        f"recomputation {{{', '.join(WAYS[p] for p in options.policies)}}}",
        f"ZeRO level {options.zero_level} over all replicas",
        "1F1B with any in-flight depth from the classic one up",
        *_interleaved(context),
        f"at most {context.problem.max_stages} stages",
        *job.constraints.describe(),
    ]
    if job.goal is not None:
        allowed.append(
            f"formula time at most {job.goal.latest_ps / PS_PER_S:.6g} s (the floor of the "
            "objective); chips that stay idle cost nothing"
        )
    if job.max_tensor_parallel is not None:
        allowed.append(f"tensor parallel at most {job.max_tensor_parallel} (max_tensor_parallel)")
    if job.gradient_compression != "none":
        allowed.append(
            f"gradients packed as {job.gradient_compression} between hosts, all of a plan's or none"
        )
    vendors = {c.chip.vendor for c in topology.classes}
    if len(vendors) > 1 and topology.cross_vendor_collectives == "none":
        allowed.append(
            "each vendor holds one run of consecutive layers, the same in all pipelines "
            "(no collective spans vendors)"
        )
    dropped = [f"{r.what}: {r.reason}" for r in options.rejected]
    if options.zero_level and context.problem.tables.packed is not None:
        dropped.append(
            "ZeRO level 0: not searched beside level 1, though in an all-reduce packed gradients "
            "save more (--forbid zero1 searches it)"
        )
    elif options.zero_level:
        dropped.append(
            "ZeRO level 0: dominated by level 1 (same traffic, no more memory or update time)"
        )
    tables = context.problem.tables.tables
    searched = {(t.option.class_index, t.option.mesh, t.option.rows) for t in tables}
    dominated = sum((o.class_index, o.mesh, o.rows) not in searched for o in options.options)
    if dominated:
        dropped.append(
            f"{dominated} options of (chips, mesh, rows): dominated by another mesh of as many "
            "chips and copies (no slower, no larger, no more to sum on any layer)"
        )
    dropped += _untried(context)
    dropped += [
        "ZeRO 2, ZeRO 3 and expert parallelism beyond a stage, offload of weights, zero-bubble "
        "schedules, unequal rows inside a stage: not in this version's space",
    ]
    return SearchSpace(allowed=tuple(allowed), dropped=tuple(dropped))


def _inside_a_stage(options: OptionSet) -> list[str]:
    """Meshes of more than tensor parallelism, all of them inside one island."""
    meshes = [o.mesh for o in options.options]
    contexts, experts = sorted({m.cp for m in meshes}), sorted({m.ep for m in meshes})
    said = []
    if contexts != [1]:
        said.append(f"context parallel {{{', '.join(map(str, contexts))}}} inside a stage")
    if experts != [1]:
        copies = "with the fewest copies of an expert in the stage"
        said.append(f"expert parallel {{{', '.join(map(str, experts))}}} inside a stage, {copies}")
    if any(m.zero3 for m in meshes):
        said.append("ZeRO 3 over the copies inside a stage")
    if any(map(hosted, options.policies)):
        said.append(
            "kept activations on the device or, between the passes, in the host's memory, per "
            "stage: what selective recomputation keeps (offload) or checkpoints (full_offload)"
        )
    if any(m.offload for m in meshes):
        said.append("optimizer state on the device or in the host's memory, one or other per stage")
    if any(m.dp > 1 for m in meshes):
        said.append("data parallel inside a stage where experts or ZeRO 3 ask for it")
    return said


def _over_hosts(context: Context) -> list[str]:
    """Stages over several whole islands."""
    classes = context.topology.classes
    wide = [o for o in context.options.options if o.chips > classes[o.class_index].size]
    if not wide:
        return []
    numbers = sorted({islands_of(o.chips, classes[o.class_index]) for o in wide})
    what = [
        name
        for name, yes in (
            ("one copy of every expert", any(o.mesh.ep > 1 for o in wide)),
            ("sequences", any(o.mesh.ep == 1 for o in wide)),
        )
        if yes
    ]
    said = [
        f"stages over {{{', '.join(map(str, numbers))}}} whole hosts of one kind, which share "
        f"{' or '.join(what)}"
    ]
    larger = sorted({o.rows for o in wide} - set(context.job.micro_batch_rows))
    if larger:
        said.append(
            f"micro-batches of {{{', '.join(map(str, larger))}}} rows in stages over hosts alone, "
            f"of which a device gets {{{', '.join(map(str, context.job.micro_batch_rows))}}}"
        )
    return said


def _interleaved(context: Context) -> list[str]:
    """Pipelines of several chunks per stage, where they are searched."""
    chunks = context.problem.chunks
    if not (context.job.interleaved and chunks):
        return []
    where = "among chips that may hold any layer"
    if not mixes_chunks(context.problem):
        where = (
            "as many in all pipelines of a plan; vendors then share no layer, and every round of "
            "chunks changes vendor at the same cuts"
        )
    return [
        f"interleaved 1F1B with {{{', '.join(map(str, chunks))}}} chunks per stage, as many inner "
        f"layers in each chunk of a stage, the usual depths and activations on the device, {where}"
    ]


def _limited(context: Context) -> str:
    """What the model's router leaves of the hosts."""
    shapes = [layer.shape for layer in context.model.graph.layers]
    groups = {m.expert_groups for s in shapes for m in s.matmuls if m.experts > 1}
    every, chosen = max(groups, default=(1, 1))
    if chosen >= every:
        return ""
    return f" (its experts lie in {chosen} of {every} groups, as the model's router is limited)"


def _untried(context: Context) -> list[str]:
    """Techniques that this search left out, and how to have them tried."""
    job, topology = context.job, context.topology
    tried = {
        "context_parallel": job.context_parallel,
        "expert_parallel": job.expert_parallel,
        "zero3": job.zero3,
        "optimizer_offload": job.optimizer_offload,
        "activation_offload": job.activation_offload,
    }
    names = [name for name, yes in tried.items() if not yes]
    said = []
    if names:
        fields = ", ".join(f"job.techniques.{name}" for name in names)
        said.append(f"{', '.join(names)} inside a stage: not tried ({fields}=true tries them)")
    over = (
        ("experts", job.expert_parallel, job.cross_node_expert_parallel, "expert_parallel"),
        ("sequences", job.context_parallel, job.cross_node_context_parallel, "context_parallel"),
    )
    spanned = any(numbers_of_islands(topology, cls) for cls in topology.classes)
    for what, inside, tried_over, name in over:
        if spanned and inside and not tried_over:
            field = f"job.techniques.cross_node_{name}"
            said.append(f"{what} over several hosts: not tried ({field}=true tries them)")
    if not job.interleaved:
        said.append("interleaved pipelines: not tried (job.techniques.interleaved=true tries them)")
    elif not context.problem.chunks:
        said.append(
            "interleaved pipelines: there are none, the layers between the first and the last are "
            f"not alike, or make no {listed(CHUNKS)} equal runs of two or more"
        )
    if job.gradient_compression == "none":
        said.append(
            "gradients in fewer bits between hosts: not tried, they change what is trained "
            "(job.techniques.gradient_compression=fp8 tries them)"
        )
    return said


def idle_reasons(
    context: Context, priced: PricedLayout, all_chips_s: float | None
) -> dict[int, str]:
    """Why chips of a class stay idle, if they do."""
    used: dict[int, int] = {}
    for p in priced.pipelines:
        for s in p.stages:
            c = s.stage.island.class_index
            used[c] = used.get(c, 0) + s.stage.chips
    step = priced.exact_ps / PS_PER_S
    out = {}
    for cls in context.topology.classes:
        taken = used.get(cls.index, 0)
        if not any(o.class_index == cls.index for o in context.options.options):
            out[cls.index] = "no legal way to run this model's layers on these chips"
            continue
        if all_chips_s is None:
            versus = "no plan that uses every chip was found"
        elif all_chips_s >= step:
            versus = (
                f"the best plan found that uses every chip takes {all_chips_s:.4g} s instead of "
                f"{step:.4g} s"
            )
        else:
            versus = "a plan that uses every chip is not faster by the formula"
        joined = [
            other
            for other in used
            if context.topology.class_routes.get((cls.index, other)) is not None
        ]
        if taken == 0 and not joined:
            out[cls.index] = f"no network joins them with the chips in use; {versus}"
        elif taken == 0:
            out[cls.index] = f"no plan found is faster with any of them; {versus}"
        else:
            out[cls.index] = (
                f"{taken} of {cls.chips} {cls.chip.name} suffice: no faster plan was found that "
                f"uses the rest; {versus}"
            )
    return out


def _offload(context: Context) -> Iterator[str]:
    """What a host is taken to have for an offloaded optimizer, or for activations."""
    indices = {o.class_index for o in context.options.options if o.mesh.offload}
    if indices:
        yield (
            "offloaded optimizer: gradients down the host link, update and weights up follow the "
            f"last backward one after the other; {HOST_MEMORY_PERCENT} % of a host's memory may "
            f"hold state, {context.job.state_bytes.total} bytes per parameter, "
            f"{OFFLOAD_BUFFER_BYTES // MIB} MiB of every device are buffers; all devices of a host "
            "share it evenly"
        )
    if any(map(hosted, context.options.policies)):
        yield (
            "offloaded activations: a layer's are copied beside the computation of one layer, "
            "with two layers' worth on the device; what takes longer is added to each pass, and "
            f"nothing hides behind communication; {HOST_MEMORY_PERCENT} % of a host's memory may "
            "hold them; its devices share it evenly and are taken to copy at the same time"
        )
        indices |= {o.class_index for o in context.options.options}
    for index in sorted(indices):
        host = context.topology.classes[index].host
        if host is None or host.memory_bytes is None:
            continue
        yield (
            f"{context.topology.classes[index].name}: a device has {host.memory_bytes / GIB:.1f} "
            f"GiB of its host's memory, {host.link_bandwidth / 1e9:.1f} GB/s each way to it, and "
            f"{host.memory_bandwidth / 1e9:.1f} GB/s of what the host streams (100 GB/s per host "
            "where host_memory_bandwidth is not given)"
        )


def _packing(context: Context) -> Iterator[str]:
    """What packed gradients are taken to be, and that they are other gradients."""
    name = context.job.gradient_compression
    if name == "none":
        return
    packed = context.problem.tables.packed
    if packed is None:
        yield f"gradients packed as {name} would be no smaller than they are: nothing is packed"
        return
    scales = "" if name == "fp16" else f", a scale of 32 bits per {BLOCK} values included"
    weights = "; weights gathered after the update keep their width" if packed.zero_level else ""
    yield (
        f"gradients are packed as {name} between hosts where a plan is faster with it: "
        f"{float(packed.packed):.4g} bytes for {packed.state.gradient}{scales}, summed unpacked"
        f"{weights}; packing streams the memory of every chip once per pass"
    )
    yield (
        f"packing as {name} rounds gradients: the numbers that are trained differ from those of a "
        "run without, and no figure here says what that does to convergence"
    )


def assumptions(context: Context) -> tuple[str, ...]:
    """Everything that was assumed, not given."""
    out = [*context.model.notes, *context.cluster.notes, *context.job.notes]
    out += notes_on_training(context.model.graph, context.job)
    out += context.topology.assumptions
    for cls in context.topology.classes:
        over = device_overhead(cls.chip, cls.usable_memory_bytes)
        out.append(
            f"{cls.chip.name}: {cls.usable_memory_bytes / GIB:.1f} GiB usable of "
            f"{cls.chip.memory_bytes / GIB:.0f} GiB, of which {over.context_bytes / GIB:.1f} GiB "
            f"context, {over.buffer_bytes / GIB:.1f} GiB communication buffers and "
            f"{over.fragmentation_bytes / GIB:.1f} GiB fragmentation are set aside"
        )
    if context.job.goal is not None:
        unit = "USD per hour" if context.job.goal.kind == "cost" else "W"
        for rate in context.job.goal.rates:
            out.append(f"{Catalog.alias(rate.chip)}: {rate.figure:g} {unit} ({rate.source})")
    exposed = shipped_constants().tensor_exposed
    out.append(
        f"tensor-parallel communication: {exposed:.0%} of it exposed; its groups stay inside an "
        "island"
    )
    meshes = [o.mesh for o in context.options.options]
    if any(m.ep > 1 for m in meshes):
        out.append(
            f"experts: the busiest gets {EXPERT_IMBALANCE:g} times the mean number of tokens "
            "(imbalance factor, assumed for routers with a balancing loss)"
        )
    if context.model.graph.has_experts:
        out.append("experts: tokens are copied to them and summed by fused kernels")
    if any(m.ep > 1 for m in meshes) and _over_hosts(context):
        out.append(
            "experts over hosts: a token is sent once to every host that holds any of its experts "
            f"and copied there{_limited(context)}; every chip has an even share of its host's port"
        )
    if any(m.cp > 1 for m in meshes):
        out.append(
            "context parallelism: every device takes one piece from the front of a sequence and "
            "one from the back, so that a causal mask leaves all of them the same work"
        )
    if any(m.zero3 for m in meshes):
        out.append(
            f"ZeRO 3: {shipped_constants().shard_exposed:.0%} of gathers and scatters exposed, "
            "and what the computation beside them does not cover"
        )
    out += _offload(context)
    out += _packing(context)
    out.append(
        "activations cross stages in slices over the ports of all chips of a tensor-parallel "
        "group, with a fair share of their host's ports"
    )
    if context.model.graph.tied and context.options.zero_level:
        out.append(
            "a weight shared by the first and the last stage: the replicas exchange the shards "
            "that they update; a runtime that exchanges whole gradients takes so many times longer"
        )
    if any(c.measured_rows_per_s for c in context.topology.classes):
        out.append("layer times are scaled to the measured rows per second in the cluster file")
    seen: list[str] = []
    for line in out:
        if line not in seen:
            seen.append(line)
    return tuple(seen)
