"""What people would have done by hand, priced by the same model: it stands beside every plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from costmodels.price import WAYS
from costmodels.price import hosted as hosted_way
from planner.assemble import broken_constraint
from planner.graphs.topology import Island, Topology
from planner.layout import LayoutPipeline, LayoutPricer, LayoutStage, PricedLayout
from planner.mesh import StageMesh
from planner.options import OptionSet, tensor_parallel_degrees

MAX_PRICED_DEVICES = 4096
"""Above this, equal splits are enumerated over few shapes only (they are all alike)."""


@dataclass(frozen=True)
class EqualSplit:
    """A rectangular layout over given islands: equal layers, rows as equal as they go."""

    tp: int
    pp: int
    dp: int
    rows: int
    policy: int
    layouts: tuple[LayoutPipeline, ...]
    priced: PricedLayout

    def describe(self) -> str:
        """One line for people."""
        return (
            f"tp {self.tp}, pp {self.pp}, dp {self.dp}, {self.rows} rows per micro-batch, "
            f"recompute {WAYS[self.policy]}"
        )


def split_evenly(layers: int, stages: int) -> list[tuple[int, int]]:
    """Intervals whose lengths differ by at most one, longer ones first."""
    base, extra = divmod(layers, stages)
    out = []
    start = 0
    for s in range(stages):
        end = start + base + (1 if s < extra else 0)
        out.append((start, end))
        start = end
    return out


def block_intervals(model_layers: int, stages: int) -> list[tuple[int, int]] | None:
    """Equal blocks per stage with the embedding on the first and the head on the last stage."""
    if model_layers < 3:
        return split_evenly(model_layers, stages) if stages <= model_layers else None
    blocks = model_layers - 2
    if stages > blocks:
        return None
    inner = [(a + 1, b + 1) for a, b in split_evenly(blocks, stages)]
    inner[0] = (0, inner[0][1])
    inner[-1] = (inner[-1][0], model_layers)
    return inner


def rectangular_layout(
    groups: list[tuple[Island, tuple[str, ...]]],
    intervals: list[tuple[int, int]],
    dp: int,
    rows: int,
    batch: int,
    policy: int,
    *,
    only_first: bool = False,
    offload: bool = False,
) -> list[LayoutPipeline]:
    """Pipelines in Megatron's rank order: tensor parallel fastest, then data, then pipeline.

    The batch is split over the replicas as evenly as whole rows allow; the first has most.
    """
    out = []
    # shared by all stages that are alike, so that pricing sees at once that they are
    policies = [(policy,) * (end - first) for first, end in intervals]
    meshes = {n: StageMesh(n, offload=offload) for n in {len(devices) for _, devices in groups}}
    for d in range(1 if only_first else dp):
        share = batch // dp + (1 if d < batch % dp else 0)
        micro_batches = -(-share // rows)
        out.append(
            LayoutPipeline(
                stages=tuple(
                    LayoutStage(
                        island=groups[s * dp + d][0],
                        devices=groups[s * dp + d][1],
                        first=first,
                        end=end,
                        mesh=meshes[len(groups[s * dp + d][1])],
                        policies=policies[s],
                    )
                    for s, (first, end) in enumerate(intervals)
                ),
                rows=rows,
                micro_batches=micro_batches,
                last_rows=share - (micro_batches - 1) * rows,
            )
        )
    return out


def tp_groups(
    topology: Topology, classes: tuple[int, ...], tp: int
) -> list[tuple[Island, tuple[str, ...]]]:
    """All whole groups of ``tp`` chips of the classes, island by island."""
    out = []
    for c in classes:
        for island in topology.classes[c].islands:
            for k in range(len(island.devices) // tp):
                out.append((island, island.devices[k * tp : (k + 1) * tp]))
    return out


def vendors_mixed(topology: Topology, layouts: list[LayoutPipeline]) -> bool:
    """Whether some stage has replicas on two vendors although no collective spans them."""
    if topology.cross_vendor_collectives != "none" or len(layouts) < 2:
        return False
    for s in range(len(layouts[0].stages)):
        vendors = {topology.classes[p.stages[s].island.class_index].chip.vendor for p in layouts}
        if len(vendors) > 1:
            return True
    return False


def equal_splits(
    pricer: LayoutPricer,
    options: OptionSet,
    classes: tuple[int, ...],
    *,
    use: Callable[[int], bool] = lambda _: True,
    all_chips: bool = True,
) -> tuple[list[EqualSplit], str]:
    """Feasible rectangular layouts over the classes, fastest first, and why others are not.

    ``use(dp)`` filters data-parallel degrees; with ``all_chips`` no chip may be left over, and
    shapes whose first pipeline alone takes longer than a whole layout known are left out.
    """
    topology = pricer.topology
    layers = len(pricer.model.layers)
    chips = sum(topology.classes[c].chips for c in classes)
    batch = pricer.job.global_batch
    legal = {(o.class_index, o.tp, o.rows) for o in options.options if o.mesh.plain}
    every_rows = sorted({o.rows for o in options.options})
    found: list[EqualSplit] = []
    limit_ps: int | None = None
    reason = "no degrees divide the chips and the layers"
    sizes = [topology.classes[c].size for c in classes]
    if not all_chips:
        # parts of the fleet take the fastest chips first
        classes = tuple(sorted(classes, key=lambda c: (_row_ps(pricer, options, c), c)))
    for tp in tensor_parallel_degrees(min(sizes)):
        rows_choices = [r for r in every_rows if all((c, tp, r) in legal for c in classes)]
        if not rows_choices:
            continue
        groups = tp_groups(topology, classes, tp)
        if all_chips and len(groups) * tp != chips:
            continue
        longest = min(len(groups), layers, pricer.job.max_pipeline_stages or layers)
        for pp in range(1, longest + 1):
            intervals = block_intervals(layers, pp)
            if intervals is None or (all_chips and len(groups) % pp):
                continue
            for dp in [len(groups) // pp] if all_chips else range(1, len(groups) // pp + 1):
                if dp < 1 or not use(dp):
                    continue
                if chips > MAX_PRICED_DEVICES and pp not in (1, 2, 4, 8, 16, 32):
                    continue
                split, why = _best_policy(
                    pricer, options, groups, intervals, tp, pp, dp, rows_choices, batch, limit_ps
                )
                if split is not None:
                    found.append(split)
                    if all_chips:
                        limit_ps = min(limit_ps or split.priced.exact_ps, split.priced.exact_ps)
                elif why:
                    reason = why
    found.sort(key=lambda e: (e.priced.exact_ps, e.tp, e.pp, e.dp, e.rows))
    return found, reason


def _row_ps(pricer: LayoutPricer, options: OptionSet, class_index: int) -> float:
    """Chip time of one row through the whole model, at the smallest legal degree and rows."""
    own = [(o.tp, o.rows) for o in options.options if o.class_index == class_index and o.mesh.plain]
    if not own:
        return math.inf
    tp, rows = min(own)
    costs = pricer.costs(class_index, StageMesh(tp), rows)
    return tp / rows * sum(c.forward_total_ps(0) + c.backward_total_ps(0) for c in costs)


def _best_policy(
    pricer: LayoutPricer,
    options: OptionSet,
    groups: list[tuple[Island, tuple[str, ...]]],
    intervals: list[tuple[int, int]],
    tp: int,
    pp: int,
    dp: int,
    rows_choices: list[int],
    batch: int,
    limit_ps: int | None,
) -> tuple[EqualSplit | None, str]:
    """Fastest feasible micro-batch size and recomputation of one shape, if below the limit."""
    best: EqualSplit | None = None
    reason = ""
    hosted = {o.class_index for o in options.options if o.mesh.offload}
    homes = [False]
    if hosted >= {island.class_index for island, _ in groups}:
        homes.append(True)
    for rows, offload in product(rows_choices, homes):
        if dp * rows > batch:
            continue
        done = False
        for policy in options.policies:
            if done and not hosted_way(policy):
                continue  # policies are in order of time: a slower one that fits is no better
            first = rectangular_layout(groups, intervals, dp, rows, batch, policy, only_first=True)
            alone_ps = pricer.alone_ps(first[0], options.zero_level, dp)
            if limit_ps is not None and alone_ps >= limit_ps:
                done = True
                continue
            layouts = rectangular_layout(
                groups, intervals, dp, rows, batch, policy, offload=offload
            )
            broken = broken_constraint(layouts, pricer.job, pricer.topology)
            if broken is not None:
                return None, broken
            if vendors_mixed(pricer.topology, layouts):
                return None, "replicas of a layer would lie on two vendors without a collective"
            priced = pricer.price(layouts, options.zero_level)
            if not priced.fits:
                reason = priced.problems[0]
                continue
            if best is None or priced.exact_ps < best.priced.exact_ps:
                best = EqualSplit(tp, pp, dp, rows, policy, tuple(layouts), priced)
            done = True
    return best, reason
