"""From a row to a run that the cost model prices, with every rule that filled in a gap."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from costmodels.catalog import Catalog, network_kind
from costmodels.collectives import Links
from costmodels.footprint import Workspace, run_footprint
from costmodels.memory import adam_state
from costmodels.price import POLICIES
from costmodels.step import Run, price_step
from planner.graphs.model_graph import ModelGraph
from planner.validate.chips import CORES_PER_CHIP, Fleet, find_fleet
from planner.validate.fields import (
    Unstated,
    count,
    degrees,
    network,
    precision,
    recompute,
    unlisted,
    zero,
)
from planner.validate.shapes import build_model
from planner.validate.stacks import Stack, stack_of, workspace_of
from planner.validate.table import Row


@dataclass(frozen=True)
class Case:
    """A row as a run. ``recipe`` is the precision's finer name; ``open_policy``: recomputation is
    not stated and the least that fits was taken."""

    row: Row
    graph: ModelGraph
    run: Run
    stack: Stack
    recipe: str
    hosts: int
    notes: tuple[str, ...]
    open_policy: bool = False


def build_case(row: Row, catalog: Catalog) -> Case:
    """The run of a row. Raises Unstated with the reason where it cannot be expressed."""
    fleet = find_fleet(row, catalog)
    built = build_model(row)
    stack = stack_of(row)
    rule = precision(row)
    notes = [*fleet.notes, *built.notes]
    chip = fleet.chip
    job_precision = rule.job
    if not chip.supports(job_precision):
        job_precision = "bf16" if chip.supports("bf16") else "fp16"
        notes.append(f"{rule.job} priced as {job_precision}: the chip has no rate for it")
    seq = count(row, "seq")
    if seq is None:
        raise Unstated("seq is not stated")
    sharing = zero(row)
    level = sharing.level
    tp, pp, virtual, dp, cp, ep = _degrees(row, fleet, level, notes)
    shape = built.graph
    blocks = len(shape.layers) - 2
    if pp * virtual > blocks + 2:
        raise Unstated(f"{pp} stages of {virtual} chunks, but the model has {blocks} blocks")
    cuts = _cuts(blocks, pp)
    half = stack.fp16_gradient_bytes if job_precision == "fp16" else 0
    gradient = rule.gradient_bytes or half or stack.gradient_bytes
    if not sharing.stated and stack.shards_optimizer and dp * cp > 1:
        level = 1
        notes.append("optimizer sharded over the replicas (ZeRO-1): the runtime's default")
    state = adam_state(job_precision, gradient)
    rows, micro_batches = _batch(row, dp, pp, notes)
    policy = recompute(row)
    shard = min(sharing.shard or dp * cp, dp * cp) if level else 1
    run = Run(
        layers=tuple(layer.shape for layer in shape.layers),
        cuts=cuts,
        chip=chip,
        links=_links(row, fleet, notes),
        seq_len=seq,
        precision=job_precision,
        state=state,
        tp=tp,
        cp=cp,
        ep=ep,
        dp=dp,
        virtual=virtual,
        rows=rows,
        micro_batches=micro_batches,
        policy=POLICIES.index(policy or "none"),
        zero=level,
        shard=shard,
        sequence_parallel=_sequence_parallel(row, tp, stack),
        flash=stack.flash,
        overlap=stack.overlap,
        early_stop=stack.early_stop,
        fused_softmax=stack.fused_softmax and built.fused,
        blocking=stack.blocking,
        slow_host=stack.slow_host,
        padded=stack.pads,
        grouped_experts=stack.grouped_experts,
        fused_routing=stack.fused_routing,
        rescaled=stack.rescaled,
        equal_heads=stack.equal_heads,
        unfused_update=stack.unfused_update,
        once_per_host=stack.once_per_host and "tokendrop" not in row["model"].lower(),
        imbalance=1.0 if stack.balanced else 1.1,
    )
    hosts = -(-fleet.chips // fleet.per_node)
    if policy is None and not (stack.fitting or unlisted(row)):
        notes.append("recomputation none: not stated")
    elif policy is None:
        run = _least_recomputation(run, workspace_of(stack), notes)
    return Case(row, shape, run, stack, rule.recipe, hosts, tuple(notes), policy is None)


def _least_recomputation(run: Run, space: Workspace, notes: list[str]) -> Run:
    """Recomputation is not stated: the least that fits the chip, all of it where none does."""
    stages = price_step(run, exact=False).stages
    for policy, name in enumerate(POLICIES):
        if name == POLICIES[-1] or run_footprint(run, stages, policy, space).fits:
            notes.append(f"recomputation {name}: the least that fits")
            return replace(run, policy=policy)
    return run


def _degrees(
    row: Row, fleet: Fleet, level: int, notes: list[str]
) -> tuple[int, int, int, int, int, int]:
    given = degrees(row)
    tp, pp, cp, dp = given["TP"], given["PP"], given["CP"], given["DP"]
    if tp is None and pp is None and dp is None:
        if level < 3:
            raise Unstated("the parallel layout is not stated")
        notes.append("sharded over all chips, no other parallelism")
    tp, pp, cp = tp or 1, pp or 1, cp or 1
    cores = CORES_PER_CHIP.get(fleet.chip.id, 1)
    if cores > 1 and tp * pp * cp * (dp or 1) > fleet.chips and tp % cores == 0:
        notes.append(f"degrees count cores, {cores} on a chip: tp {tp} is {tp // cores} chips")
        tp //= cores
    chips = tp * pp * cp
    if fleet.chips % chips:
        raise Unstated(f"tp {tp} × pp {pp} × cp {cp} = {chips} does not divide {fleet.chips} chips")
    if dp is not None and chips * dp != fleet.chips:
        notes.append(f"dp {fleet.chips // chips}: what the chips leave (the row says {dp})")
    dp = fleet.chips // chips
    batch = count(row, "global_batch")
    if given["CP"] is None and batch is not None and dp > batch and dp % batch == 0:
        cp, dp = cp * (dp // batch), batch
        notes.append(f"cp {cp}: more chips than rows in a batch")
    ep = given["EP"] or 1
    experts = count(row, "moe_experts")
    if given["EP"] is None and experts and given["TP"] is None:
        ep = math.gcd(experts, cp * dp)
        notes.append(f"ep {ep}: experts spread over the chips")
    if ep > 1 and tp * cp * dp % ep:
        raise Unstated(f"ep {ep} does not divide the {tp * cp * dp} chips of a stage")
    virtual = given["VPP"]
    if virtual is None and pp > 1 and re.search(r"interleaved|vpp", row["notes"].lower()):
        layers = (count(row, "layers") or 0) // pp
        virtual = max((v for v in range(1, 7) if layers and layers % v == 0), default=1)
        notes.append(f"interleaved, chunks not stated: {virtual} per stage")
    return tp, pp, virtual or 1, dp, cp, ep


def _cuts(blocks: int, pp: int) -> tuple[int, ...]:
    """First layers of the stages: blocks evenly; where only blocks, embedding and head together
    divide by the stages, these two count as blocks."""
    base, extra = divmod(blocks, pp)
    sizes = [base + (1 if s < extra else 0) for s in range(pp)]
    if extra and (blocks + 2) % pp == 0 and pp > 1:
        each = (blocks + 2) // pp
        sizes = [each - 1, *[each] * (pp - 2), each - 1]
    cuts = [0]
    for size in sizes:
        cuts.append(cuts[-1] + size)
    return (0, *(c + 1 for c in cuts[1:-1]), blocks + 2)


def _batch(row: Row, dp: int, pp: int, notes: list[str]) -> tuple[int, int]:
    rows, batch = count(row, "micro_batch"), count(row, "global_batch")
    if batch is None:
        rows = rows or 1
        each = 4 * pp if pp > 1 else 1
        notes.append(f"global batch {rows * each * dp}: {each} micro-batches per pipeline")
        return rows, each
    per = max(1, round(batch / dp))
    if rows is None:
        rows = next(r for r in (4, 2, 1) if per % r == 0) if pp == 1 else 1
        notes.append(f"{rows} rows per micro-batch")
    rows = min(rows, per)
    return rows, max(1, round(per / rows))


def _sequence_parallel(row: Row, tp: int, stack: Stack) -> bool:
    text = row["sequence_parallel"].lower()
    if tp == 1:
        return False
    if text:
        return text in ("yes", "true", "1")
    return stack.flash


def _links(row: Row, fleet: Fleet, notes: list[str]) -> Links:
    chip = fleet.chip
    fabric = chip.fabric or chip.host_fabric
    found = network(row, fleet.per_node, chip.nic_bytes_per_s)
    if found is None or fleet.chips <= fleet.per_fabric:
        return Links(fabric, fleet.per_fabric)
    kind = network_kind(found.kind)
    ports = max(1, round(found.per_host / (50e9)))
    port = kind.achievable(found.per_host, ports) / fleet.per_node
    return Links(fabric, fleet.per_fabric, port, kind.latency_s)
