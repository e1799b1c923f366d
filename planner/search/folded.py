"""Interleaved pipelines in the search: one round of chunks looks like a pipeline of its own.

A stage of v chunks holds as many layers in each of them, and the first and the last layer of the
model lie beside the first and the last chunk. So the inner layers fold into a v-th of them, a chain
through which every micro-batch goes v times. What the search counts there are pairs of a chunk and
a micro-batch: v·m of them, each worth a v-th of the micro-batch's rows and taking a v-th of the
stage's time. In these units the formula of :mod:`costmodels.interleaved` is that of 1F1B,

    sum of g / v + 2·v·hops + (v·m - 1)·takt / v,

so that pricing, bound and column generation are the same program on folded tables.

Only where inner layers are alike, and v divides their number; stages of an interleaved pipeline
hold at least one inner layer per chunk. Activations are kept on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costmodels import interleaved
from costmodels.price import hosted
from costmodels.units import PS_PER_S
from planner.costing import Ints, OptionTable
from planner.mesh import StageMesh
from planner.search.columns import Column, TemplateStage, finish_ps
from planner.search.problem import Problem, Setting, Size
from planner.search.space import (
    UNBOUNDED_DEPTH,
    Floats,
    HopPrice,
    Leads,
    Stage,
    StageSpace,
    alike,
    best_hop_ps,
    build_space,
    expected_hop_ps,
    stage_limits,
)
from planner.search.stage_costs import StageCosts

FEWEST_STAGES = 2
CHUNKS = (2, 3, 4, 6)
"""Chunks per stage that are tried."""


def size_space(
    problem: Problem,
    setting: Setting,
    size: Size,
    *,
    optimistic: bool,
    horizon_s: float | None = None,
) -> StageSpace | None:
    """The space of pipelines of one size; None where it has no interleaved ones."""
    space = build_space(problem, setting, size.rows, optimistic=optimistic, horizon_s=horizon_s)
    if size.chunks == 1:
        return space
    return folded(problem, space, size.chunks, optimistic=optimistic)


def chunk_numbers(layers: int) -> tuple[int, ...]:
    """Numbers of chunks per stage that a model of so many layers can have, of those tried."""
    return tuple(v for v in CHUNKS if folds(layers, v))


def listed(numbers: Sequence[int]) -> str:
    """``2, 3 or 4``."""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last


def foldable(problem: Problem) -> tuple[int, ...]:
    """Numbers of chunks per stage that pipelines of a problem can have: none of unlike layers."""
    tables = problem.tables
    for rows in problem.micro_batch_rows:
        own = [t for t in tables.tables if t.option.rows == rows]
        if not alike(problem, own, rows):
            return ()
    return chunk_numbers(tables.layers)


def folds(layers: int, chunks: int) -> bool:
    """Whether the inner layers make so many equal runs, each long enough for two stages."""
    inner = layers - 2
    return inner % chunks == 0 and inner // chunks >= FEWEST_STAGES


def folded_layers(layers: int, chunks: int) -> int:
    """Layers that one round of chunks goes through: the first, a run of inner ones, the last."""
    return layers if chunks == 1 else (layers - 2) // chunks + 2


def unfold(cut: int, length: int, chunks: int) -> int:
    """The layer at a cut of ``length`` folded ones, as if chunks of a stage lay side by side."""
    if cut == 0:
        return 0
    inner = 1 + chunks * (min(cut, length - 1) - 1)
    return inner if cut < length else inner + 1


def folded(
    problem: Problem, space: StageSpace, chunks: int, *, optimistic: bool
) -> StageSpace | None:
    """The space of pipelines with so many chunks per stage, in pairs; None where there is none.

    ``optimistic``: what depends on the pipeline is relaxed (for bounds).
    """
    if not space.uniform or not folds(space.layers, chunks):
        return None
    if space.setting.chunks not in (None, chunks):
        return None
    length = folded_layers(space.layers, chunks)
    at = np.array([unfold(cut, length, chunks) for cut in range(length + 1)])
    starts, ends = space.starts[:, at[:-1]], space.ends[:, at]
    if space.setting.chunks is None:
        # chunks lie all over the model: a class may hold any layer or none
        windows = [space.setting.windows[t.option.class_index] for t in space.options]
        anywhere = np.array([window == (0, space.layers) for window in windows])
        starts, ends = starts & anywhere[:, None], ends & anywhere[:, None]
    if not starts.any():
        return None
    middle, tail, head = (part / chunks for part in space.time)
    time = (middle[:, chunks - 1 :: chunks], tail[..., at[:-1]], head[..., at])
    time[1][..., [0, -1]] = np.inf  # all layers, and the last one alone
    time[2][..., [0, 1, -1]] = np.inf
    time[1][:, ~(starts & ends[:, -1:])] = np.inf  # inner stages have starts and ends
    time[2][:, ~(ends & starts[:, :1])] = np.inf
    pairs = _pairs(problem, space, chunks, optimistic=optimistic)
    depth = tuple(np.where(np.isfinite(t), count, 0) for t, count in zip(time, pairs, strict=True))
    layer_time = space.layer_time[:, at[:-1]].copy()
    layer_time[:, [0, -1]] /= chunks
    layer_time[~starts] = np.inf
    leads = space.leads
    return StageSpace(
        rows=space.rows,
        setting=space.setting,
        options=space.options,
        policies=space.policies,
        uniform=True,
        time=time,
        depth=(depth[0], depth[1], depth[2]),
        layer_time=layer_time,
        hop=space.hop[:, :, at],
        finish=space.finish[:, at],
        packing=space.packing,
        starts=starts,
        ends=ends,
        leads=Leads(
            before=leads.before[at] / chunks,
            after=leads.after[at] / chunks,
            finish=leads.finish * chunks,
            steep=leads.steep * chunks,
            relief=leads.relief,
        ),
        chunks=chunks,
        back=_back_s(problem, space, best_hop_ps if optimistic else expected_hop_ps),
    )


def _back_s(problem: Problem, space: StageSpace, price: HopPrice) -> Floats:
    """``[last, first]``: what the hop from a last stage to a first one takes, at least.

    It keeps pace with the chunks; a stage of few chips has little of a port.
    """
    bytes_ = int(problem.tables.boundary_bytes[space.rows][1])
    kinds = [(t.option.class_index, t.option.chips) for t in space.options]
    members = dict(zip(kinds, space.options, strict=True))
    known = {
        (a, b): price(problem.topology, one, two, bytes_)
        for a, one in members.items()
        for b, two in members.items()
    }
    each = [[known[a, b] for b in kinds] for a in kinds]
    return np.array([[np.inf if ps is None else ps / PS_PER_S for ps in row] for row in each])


def _pairs(
    problem: Problem, space: StageSpace, chunks: int, *, optimistic: bool
) -> tuple[Ints, Ints, Ints]:
    """Most pairs in flight that memory allows, at least (plans) or at most (bounds).

    Cut as the times are. A pair holds the inner layers of a chunk at least, and its first or last
    layer too at most.
    """
    replicas = space.setting.replicas[1 if optimistic else 0]

    def known(table: OptionTable, policy: int) -> tuple[Ints, Ints, Ints]:
        """Found once for all settings with as many replicas."""
        key = ("pairs", id(table), policy, replicas, chunks, optimistic)
        if key not in problem.known:
            problem.known[key] = _pairs_of(problem, table, policy, replicas, chunks, optimistic)
        out: tuple[Ints, Ints, Ints] = problem.known[key]
        return out

    rows = [[known(table, policy) for table in space.options] for policy in space.policies]
    middle, tail, head = (np.stack([[own[k] for own in row] for row in rows]) for k in range(3))
    return np.moveaxis(middle, 1, 2)[..., None], tail, head


def _pairs_of(
    problem: Problem,
    table: OptionTable,
    policy: int,
    replicas: int,
    chunks: int,
    optimistic: bool,
) -> tuple[Ints, Ints, Ints]:
    """Pairs of one option under one policy."""
    layers = problem.tables.layers
    length = folded_layers(layers, chunks)
    _, _, room = stage_limits(problem, table, policy, replicas)
    each = table.activation_bytes[policy]
    first, last = (0, 0) if optimistic else (int(each[0]), int(each[-1]))
    at = np.array([unfold(cut, length, chunks) for cut in range(length + 1)])

    def fit(left: Ints, inner: Ints, edge: int) -> Ints:
        held = inner * int(each[1]) + edge
        most = np.where(held > 0, left // np.maximum(held, 1), UNBOUNDED_DEPTH)
        return np.where((left >= 0) & (not hosted(policy)), most, 0)

    inner = np.arange(1, length - 1)
    ends, begins = np.arange(length + 1), np.arange(length)
    middle = fit(room[1, chunks * inner], inner, 0)
    parts = table.option.mesh.boundary_parts(sequence_parallel=problem.tables.sequence_parallel)
    # what the first stage gets from the last one, and that from the one before it
    edge = (
        0 if optimistic else 2 * int(problem.tables.boundary_bytes[table.option.rows][1]) // parts
    )
    head = fit(room[0, at] - edge, np.clip(ends - 1, 0, length - 2), first)
    left = room[at[:-1], layers - at[:-1]] - edge
    tail = fit(left, np.clip(length - 1 - begins, 0, length - 2), last)
    return middle, tail, head


def interleaved_columns(
    problem: Problem,
    space: StageSpace,
    pipeline: Sequence[Stage],
    micro_batches: int,
    costs: StageCosts,
) -> list[Column]:
    """Columns of a folded sequence of stages, with either placement; empty where nothing fits.

    ``costs`` are those of the space that was folded. Depths are the usual ones of interleaved 1F1B.
    """
    count, chunks, cap = len(pipeline), space.chunks, max(1, micro_batches)
    if count < FEWEST_STAGES:
        return []
    # from S micro-batches on, whole groups of S: others need more room, and are seldom worth it
    depths = interleaved.classic_depths(count, chunks, min(cap, count))
    beside = [
        Stage(
            s.option,
            unfold(s.first, space.layers, chunks),
            unfold(s.end, space.layers, chunks),
        )
        for s in pipeline
    ]
    whole = interleaved.classic_depths(count, chunks, count)
    chosen, any_number = [], True
    for stage, own, depth, most in zip(pipeline, beside, depths, whole, strict=True):
        room = [
            space.stage_depth(stage.option, stage.first, stage.end, p)
            for p in range(len(space.policies))
        ]
        ways = [
            (f + b, p, f, b)
            for p, (_, f, b) in enumerate(costs.ways(own))
            if room[p] >= min(depth, cap * chunks)
        ]
        if not ways:
            return []
        chosen.append(min(ways)[1:])
        any_number &= room[chosen[-1][0]] >= most
    forward = tuple(f for _, f, _ in chosen)
    backward = tuple(b for _, _, b in chosen)
    stages = []
    for number, (stage, (policy, _, _), depth) in enumerate(
        zip(pipeline, chosen, depths, strict=True)
    ):
        own_chips = costs.chips[stage.option]
        dealt = _dealt(stage, number, count, space)
        stages.append(
            TemplateStage(
                own_chips.class_index,
                space.options[stage.option].option.mesh,
                dealt[0][0],
                dealt[-1][1],
                space.policies[policy],
                depth,
                dealt,
            )
        )
    found: list[Column] = []
    for together in (False, True):
        hops, back = costs.hops_ps(beside, together), costs.back_ps(beside, together)
        if hops is None or back is None or (together and found and found[0].hop_ps == hops):
            continue
        ring = (*hops, back)
        found.append(
            Column(
                stages=tuple(stages),
                rows=space.rows,
                forward_ps=forward,
                backward_ps=backward,
                hop_ps=hops,
                fill_ps=interleaved.fill_time(forward, backward, ring, chunks),
                period_ps=interleaved.takt(forward, backward, ring, chunks),
                finish_ps=finish_ps(costs, beside, [b // chunks for b in backward], together),
                usage=costs.usage(pipeline),
                max_micro_batches=None if any_number else cap,
                chunks=chunks,
                together=together,
            )
        )
    return found


def _dealt(stage: Stage, number: int, count: int, space: StageSpace) -> tuple[tuple[int, int], ...]:
    """The chunks of a folded stage: as many inner layers of every run."""
    run, chunks = space.layers - 2, space.chunks
    first, end = max(stage.first - 1, 0), min(stage.end - 1, run)
    out = [[1 + c * run + first, 1 + c * run + end] for c in range(chunks)]
    if number == 0:
        out[0][0] = 0
    if number == count - 1:
        out[-1][1] += 1
    return tuple((a, b) for a, b in out)


def beside_one_another(column: Column, options: dict[tuple[int, StageMesh], int]) -> list[Stage]:
    """The stages of a column with as many layers each, as if their chunks lay side by side."""
    out: list[Stage] = []
    done = 0
    for stage in column.stages:
        option = options[stage.class_index, stage.mesh]
        out.append(Stage(option, done, done + stage.layers))
        done += stage.layers
    return out
