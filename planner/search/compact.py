"""The whole problem as one CP-SAT model: exact on small clusters, the oracle of the search.

Column generation splits the problem; this model does not, shares no code with the pricing, the
master or the bound, and answers to the same formula. It is meant for a few pipelines of a few
stages.

Slots p = 0 … P−1 are pipelines, P the most replicas that the setting, the chips and the batch
allow. Positions s = 0 … S−1 are stages, S the most that are allowed; a shorter pipeline leaves its
*first* positions empty, so that position S−1 is always the last stage. Layers v, options k,
recomputation policies a, cuts c (before layer c), replica counts r. Per slot:

    y[v,s]     layer v is in a stage ≤ s; x[v,s] = y[v,s] − y[v,s−1] says that it is in stage s
    o[s,k]     stage s runs under option k         w[s,k,a]  … with recomputation policy a
    e[s,k,k′]  … and stage s+1 under option k′     z[s,k,r]  … and the plan has r pipelines
    D[s]       micro-batches in flight             m         number of micro-batches
    g[s], b[s] picoseconds of a micro-batch, of    h[s]      picoseconds of the hop s → s+1
               its backward
    τ          period                              f         synchronisation and update time

and ``R[r]``: the plan has r pipelines. D and m are sums of literals "D[s] ≥ n", "m ≥ n".
``[literal] ⇒`` marks an enforced constraint; nothing uses a big-M, and products with a small
count become one enforced linear constraint per count. g, h and f are bounded from below only:
less is always better.

    minimise T                                              (all in ``compact_program``)

     (1) y[v,s−1] ≤ y[v,s],  y[v+1,s] ≤ y[v,s],  y[v,S−1] = active      `_add_coverage`
     (2) stage s holds a layer ⇔ used[s];  used[s−1] ≤ used[s]          `_add_coverage`
     (3) Σ_k o[s,k] = used[s];  Σ_a w[s,k,a] = o[s,k];  one micro-batch
         size per pipeline;  a class holds only layers of its window,
         an option none that is barred from its chips                    `_add_choices`
     (4) [w[s,k,a]] ⇒ g[s] ≥ Σ_v time[k,a,v]·x[v,s]                      `_add_times`
     (5) Σ_k′ e[s,k,k′] = o[s,k];  Σ_k e[s,k,k′] ≤ o[s+1,k′];
         [e[s,k,k′]] ⇒ h[s] ≥ Σ_c hop[k,k′,c]·(y[c−1,s] − y[c,s]), with
         the slower hop of a port that two of the hops share             `_add_hops`
     (6) D[S−1] = 1;  [used[s]] ⇒ D[s] ≥ D[s+1] + 1                      `_add_depths`
     (7) τ ≥ g[s];  τ ≥ h[s];  [D[s] − D[j] + 1 ≤ n] ⇒ n·τ ≥ A[s,j]
         with A[s,j] = Σ_{s..j} g + 2·Σ_{s..j−1} h, for all s < j, n     `_add_depths`
     (8) [o[s,k] or z[s,k,r]] ⇒ state + kept[s] + max_v working·x
         + max_v gathered·x + logits + ⌊boundaries⌋ + overhead ≤ usable,
         gathered is of ZeRO-3 alone; with offload state less optimizer,
         Σ_v host[k,v,r]·x + hosted[s] ≤ a device's share of its host;
         [D[s] ≥ n and m ≥ n] ⇒ kept[s] ≥ n·Σ_v activation·x, and
         hosted[s] ≥ n·Σ_v hosted activation·x                           `_add_memory`
     (9) [z[s,k,r]] ⇒ f ≥ finish[k,i,j,r]·(y[j−1,s] − y[i,s−1])
         − Σ_{s′<s} b[s′]: in full where stage s holds the layers
         i … j−1; f ≥ update[k,i,j,r]·(…), nothing hidden, where option
         k offloads;  [w[s,k,a]] ⇒ b[s] = Σ_v backward[k,a,v]·x[v,s]     `_add_finish`
    (10) [m ≥ n] ⇒ T ≥ Σ g + 2·Σ h + (n − 1)·τ + f                       `_add_step_time`
    (11) Σ_p rows·m ≥ global batch                                       `_add_batch`
    (12) chips in groups of at least n ≤ capacity, every packing row    `_add_packing`
    (13) Σ_p active = Σ_r r·R[r];  Σ_r R[r] = 1;  Σ_r z[s,k,r] = o[s,k];
         z[s,k,r] ≤ R[r]                                                 `_add_replicas`
    (14) (rows·m, chips) falls lexicographically from slot to slot       `_add_order`

D[S−1] = 1 costs nothing: the period sees differences of depths only, and memory rises with each.
For the same reason D[s] ≤ 3·(S−1−s) + 1: no g and no h exceeds τ, so A[s,j] ≤ (3·(j−s) + 1)·τ.

Wrong proofs of CP-SAT 9.15: on 1 to 3 % of random models of this kind it called a plan optimal
that was up to twice as slow as the optimum, or a feasible model infeasible. The model and the
solver therefore avoid what was seen to cause it: more than one enforcement literal per
constraint, inclusion detection in presolve (google/or-tools issue 5293) and the detection of
"greater than at least one of". Without the three, 0 of 2,500 disagreed with brute force.
"""

from __future__ import annotations

from dataclasses import dataclass

from ortools.sat.python import cp_model

from costmodels.schedules import depth_rule, period
from planner.costing import OptionTable
from planner.search.columns import Column, TemplateStage
from planner.search.compact_program import Program
from planner.search.compact_variables import Slot, finish_ps, hops_ps, unhidden_ps
from planner.search.problem import Problem, Setting


@dataclass(frozen=True, slots=True)
class CompactPipeline:
    """One pipeline of the answer; its column is priced for this many micro-batches."""

    column: Column
    micro_batches: int


@dataclass(frozen=True, slots=True)
class CompactResult:
    """Best formula time (None: none found) in picoseconds, its pipelines, and what is proven.

    ``proven`` with a time means optimal; without one, that nothing fits (by ``upper_ps``, where
    one was given). ``lower_bound_ps`` is None where nothing fits at all.
    """

    time_ps: int | None
    pipelines: tuple[CompactPipeline, ...]
    proven: bool
    lower_bound_ps: int | None


def solve_compact(
    problem: Problem,
    setting: Setting,
    *,
    upper_ps: int | None = None,
    work_limit: float = 60.0,
    seed: int = 0,
) -> CompactResult:
    """The least formula time under a setting, with the depths, cuts and counts that attain it.

    ``upper_ps`` asks for plans no slower than that. One worker and a deterministic ``work_limit``:
    the same input gives the same answer.
    """
    program = Program(problem, setting, upper_ps)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    # what these switch off proves wrong optima in 9.15, see the module docstring
    solver.parameters.presolve_inclusion_work_limit = 0
    solver.parameters.auto_detect_greater_than_at_least_one_of = False
    solver.parameters.max_deterministic_time = work_limit
    solver.parameters.catch_sigint_signal = False  # Ctrl-C belongs to the program
    status = solver.solve(program.model)
    if status == cp_model.INFEASIBLE:
        return CompactResult(None, (), True, None if upper_ps is None else upper_ps + 1)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return CompactResult(None, (), False, max(0, round(solver.best_objective_bound)))
    pipelines = tuple(
        _decode(program, slot, solver) for slot in program.slots if solver.value(slot.active)
    )
    return CompactResult(
        max(p.column.time_ps(p.micro_batches) for p in pipelines),
        pipelines,
        status == cp_model.OPTIMAL,
        round(solver.best_objective_bound),
    )


def _decode(program: Program, slot: Slot, solver: cp_model.CpSolver) -> CompactPipeline:
    """The pipeline of an active slot as a column, with the least depths for its period."""
    problem = program.problem
    replicas = next(r for r, literal in program.replicas.items() if solver.value(literal))
    micro_batches = sum(solver.value(more) for more in slot.many)
    chosen: list[tuple[OptionTable, int, int, int]] = []
    first = 0
    for s, used in enumerate(slot.used):
        if not solver.value(used):
            continue
        end = sum(solver.value(y) for y in slot.y[s])
        k = next(k for k, o in enumerate(slot.option[s]) if solver.value(o))
        a = next(a for a, w in slot.way[s][k].items() if solver.value(w))
        chosen.append((program.tables[k], a, first, end))
        first = end
    forward = tuple(int(t.forward_ps[a, i:j].sum()) for t, a, i, j in chosen)
    backward = tuple(int(t.backward_ps[a, i:j].sum()) for t, a, i, j in chosen)
    hops = hops_ps(problem, [t for t, *_ in chosen], [i for _, _, i, _ in chosen])
    usage = tuple(
        sum(t.option.chips for t, *_ in chosen if t.option.class_index == c and t.option.chips >= n)
        for c, n, _ in problem.packing_rows
    )
    # The least depths for the period found: the solver's are no less, so that memory admits them.
    depths = depth_rule(forward, backward, hops, solver.value(slot.period))
    return CompactPipeline(
        Column(
            stages=tuple(
                TemplateStage(t.option.class_index, t.option.mesh, i, j, a, depth)
                for (t, a, i, j), depth in zip(chosen, depths)
            ),
            rows=chosen[0][0].option.rows,
            forward_ps=forward,
            backward_ps=backward,
            hop_ps=hops,
            fill_ps=sum(forward) + sum(backward) + 2 * sum(hops),
            period_ps=period(forward, backward, hops, depths),
            finish_ps=max(
                0,
                *(
                    finish_ps(problem, t, i, j, replicas) - sum(backward[:s])
                    for s, (t, _, i, j) in enumerate(chosen)
                ),
                *(unhidden_ps(problem, t, i, j, replicas) for t, _, i, j in chosen),
            ),
            usage=usage,
            max_micro_batches=micro_batches,
        ),
        micro_batches,
    )
