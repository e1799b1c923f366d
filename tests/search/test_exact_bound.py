"""The bound on exact step times against every pipeline of small problems, one by one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from costmodels import interleaved
from costmodels.schedules import exact_time, period
from costmodels.units import PS_PER_S
from planner.search.exact_bound import Leaf, exact_bound
from planner.search.exact_paths import ExactPaths, Query
from planner.search.folded import folded
from planner.search.problem import Setting
from planner.search.regions import roots
from planner.search.space import Stage, StageSpace, build_space
from tests.chunked_plans import dealt
from tests.mesh_inputs import small_context
from tests.oracle import (
    BrutePipeline,
    Run,
    all_pipelines,
    bound_hops,
    brute_force,
    most_in_flight,
)
from tests.strategies import Case, cases, reproducible

CI = reproducible(100)
ABOVE = 1 + 1e-9
JOB = (
    "global_batch=12 micro_batch_rows=[1] seq_len=2048 max_tensor_parallel=2 "
    "techniques.interleaved=true"
)


@st.composite
def times(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], list[int], int]:
    """Forwards, backwards, hops, falling depths and a number of micro-batches."""
    stages = draw(st.integers(1, 6))
    each = st.integers(1, 60)
    forward = draw(st.lists(each, min_size=stages, max_size=stages))
    backward = draw(st.lists(each, min_size=stages, max_size=stages))
    hops = draw(st.lists(st.integers(0, 80), min_size=stages - 1, max_size=stages - 1))
    more = draw(st.lists(st.integers(0, 4), min_size=stages, max_size=stages))
    depths = np.cumsum([1 + more[0], *more[1:]])[::-1].tolist()
    return forward, backward, hops, depths, draw(st.integers(1, 30))


@reproducible(400)
@given(times())
def test_no_schedule_is_faster_than_what_the_paths_ask_of_every_stage(
    given_: tuple[list[int], list[int], list[int], list[int], int],
) -> None:
    forward, backward, hops, depths, m = given_
    found = exact_time("1f1b", forward, backward, hops, depths, m)
    g = [f + b for f, b in zip(forward, backward, strict=True)]
    fill = sum(g) + 2 * sum(hops)
    before = early = 0
    for s, (f, depth) in enumerate(zip(forward, depths, strict=True)):
        done = (min(depth, m) - 1) * f
        behind = sum(g[s + 1 :]) + 2 * sum(hops[s:])
        assert before + m * g[s] <= found.stage_last_backward_end[0]
        assert fill + (m - 1) * g[s] - done <= found.stage_last_backward_end[0]
        assert early + m * g[s] <= found.stage_last_backward_end[s]
        assert early + behind + m * g[s] - done <= found.stage_last_backward_end[s]
        if s < len(hops):
            assert before + g[s] + (m + 1) * hops[s] <= found.stage_last_backward_end[0]
            before += g[s] + 2 * hops[s]
            early += f + hops[s]


@dataclass(frozen=True)
class Asked:
    """A pipeline of a case with its micro-batches and depths, and what chips cost."""

    case: Case
    space: StageSpace
    stages: tuple[Stage, ...]
    pipeline: BrutePipeline
    run: Run
    prices: tuple[float, ...]


@st.composite
def asked(draw: st.DrawFn) -> Asked | None:
    """Any pipeline that fits at depths from the classic ones up; None where none does."""
    case = draw(cases(max_pipelines=1500))
    problem, setting = case.problem, case.setting
    every = list(all_pipelines(problem, setting, bound_hops))
    if not every:
        return None
    pipeline = draw(st.sampled_from(every))
    m = draw(st.integers(1, -(-problem.global_batch // pipeline.rows)))
    count = len(pipeline.stages)
    more = draw(st.integers(0, 3))
    depths = tuple(count - s + more * (s < count - 1) for s in range(count))
    room = [most_in_flight(problem, s, setting.replicas[1], m) for s in pipeline.stages]
    if any(min(d, m) > r for d, r in zip(depths, room, strict=True)):
        return None
    space = build_space(problem, setting, pipeline.rows, optimistic=True)
    at = {id(t): k for k, t in enumerate(space.options)}
    stages = tuple(
        Stage(at[id(problem.tables.tables[s.option])], s.first, s.end) for s in pipeline.stages
    )
    ended = exact_time(
        "1f1b", pipeline.forward_ps, pipeline.backward_ps, pipeline.hop_ps, depths, m
    ).stage_last_backward_end
    first = float(space.finish[stages[0].option, stages[0].end])
    inner = [max(0, min(s.end, space.layers - 1) - s.first) for s in stages]
    after = [
        first if k == 0 else float(space.leads.least(n)[s.option])
        for k, (s, n) in enumerate(zip(stages, inner, strict=True))
    ]
    seconds = max(e / PS_PER_S + own for e, own in zip(ended, after, strict=True))
    duals = np.array([draw(st.integers(0, 12)) / 4 for _ in problem.packing_rows])
    prices = tuple(float(p) for p in space.option_prices(duals))
    run = Run(pipeline, m, depths, round(seconds * PS_PER_S))
    return Asked(case, space, stages, pipeline, run, prices)


@CI
@given(asked(), st.sampled_from((1, 4)))
def test_what_a_schedule_does_in_time_is_never_ruled_out(given_: Asked | None, finer: int) -> None:
    if given_ is None:
        return
    space, stages = given_.space, given_.stages
    seconds = given_.run.time_ps / PS_PER_S * ABOVE
    price = sum(given_.prices[s.option] for s in stages)
    fill = float(space.finish[stages[0].option, stages[0].end])
    fill += given_.pipeline.fill_ps / PS_PER_S
    paths = ExactPaths(space)
    for fills in ((0.0, np.inf), (fill / ABOVE, np.inf), (0.0, fill * ABOVE)):
        query = Query(seconds, given_.run.micro_batches, price + 1e-6, fills, finer)
        assert paths.least(np.array(given_.prices), query) is not None


@CI
@given(asked())
def test_the_pipeline_found_covers_all_layers_for_less_than_the_cutoff(
    given_: Asked | None,
) -> None:
    if given_ is None:
        return
    price = sum(given_.prices[s.option] for s in given_.stages)
    seconds = given_.run.time_ps / PS_PER_S * ABOVE
    query = Query(seconds, given_.run.micro_batches, price + 1e-6)
    found = ExactPaths(given_.space).least(np.array(given_.prices), query)
    assert found is not None
    assert found[0].first == 0
    assert found[-1].end == given_.space.layers
    assert all(a.end == b.first for a, b in pairwise(found))
    assert sum(given_.prices[s.option] for s in found) < query.cutoff


@settings(reproducible(40))
@given(st.data())
def test_what_interleaved_pipelines_do_in_time_is_never_ruled_out(data: st.DataObject) -> None:
    context = small_context("3x4xA100-SXM-80GB @ 25Gb/s", JOB, layers=8, experts=0)
    problem, chunks = context.problem, 2
    setting = Setting((1, 3), ((0, 10),))
    plain = build_space(problem, setting, 1, optimistic=True)
    space = folded(problem, plain, chunks, optimistic=True)
    assert space is not None
    cuts = data.draw(st.sampled_from([(2,), (3,), (4,), (2, 3), (2, 4), (3, 4)]))
    edges = list(pairwise((0, *cuts, space.layers)))
    options = st.integers(0, len(space.options) - 1)
    stages = tuple(Stage(data.draw(options), a, b) for a, b in edges)
    m = data.draw(st.integers(1, 12))
    policy = data.draw(st.sampled_from(range(len(space.policies))))
    forward, backward = [], []
    chunked = dealt([0, *(cut - 1 for cut in cuts), space.layers - 2], chunks)
    for stage, parts in zip(stages, chunked, strict=True):
        table, way = plain.options[stage.option], space.policies[policy]
        forward.append([int(table.forward_ps[way][a:b].sum()) for a, b in parts])
        backward.append([int(table.backward_ps[way][a:b].sum()) for a, b in parts])
    ring = [space.hop[a.option, b.option, b.first] for a, b in pairwise(stages)]
    hops = [*(round(float(h) * PS_PER_S) for h in ring), 0]
    depths = interleaved.classic_depths(len(stages), chunks, m)
    room = [
        space.stage_depth(s.option, s.first, s.end, policy) >= min(d, m * chunks)
        for s, d in zip(stages, depths, strict=True)
    ]
    assume(all(room))
    ended = interleaved.exact_time(forward, backward, hops, depths, m).stage_last_backward_end
    first = float(space.finish[stages[0].option, stages[0].end])
    inner = [max(0, min(s.end, space.layers - 1) - s.first) for s in stages]
    after = [
        first if k == 0 else float(space.leads.least(n)[s.option])
        for k, (s, n) in enumerate(zip(stages, inner, strict=True))
    ]
    seconds = max(e / PS_PER_S + own for e, own in zip(ended, after, strict=True)) * ABOVE
    prices = space.option_prices(np.ones(len(problem.packing_rows)))
    price = sum(float(prices[s.option]) for s in stages)
    query = Query(seconds, m * chunks, price + 1e-6)
    assert ExactPaths(space).least(prices, query) is not None


@reproducible(40)
@given(cases(max_pipelines=800))
def test_bound_is_not_above_the_exact_time_of_the_best_plan(case: Case) -> None:
    best = brute_force(case.problem, case.setting)
    if best.time_ps is None:
        return
    # the formula's best plan by its exact schedule, with the finish that the formula charges
    exact_ps = 0
    for run in best.runs:
        p, m = run.pipeline, run.micro_batches
        spent = exact_time("1f1b", p.forward_ps, p.backward_ps, p.hop_ps, run.depths, m).total
        rest = (m - 1) * period(p.forward_ps, p.backward_ps, p.hop_ps, run.depths)
        exact_ps = max(exact_ps, spent + run.time_ps - p.fill_ps - rest)
    leaf = Leaf(roots(case.problem)[0], case.setting, None, ())
    found = exact_bound(case.problem, [leaf], 2 * exact_ps, 0.0)
    assert 0 <= found.bound_ps <= exact_ps
    assert found == exact_bound(case.problem, [leaf], 2 * exact_ps, 0.0)


@reproducible(10)
@given(cases(max_pipelines=800))
def test_an_interrupted_proof_gives_a_weaker_bound(case: Case) -> None:
    best = brute_force(case.problem, case.setting)
    if best.time_ps is None:
        return
    leaf = Leaf(roots(case.problem)[0], case.setting, None, ())
    none = exact_bound(case.problem, [leaf], 2 * best.time_ps, 0.0, interrupted=lambda: True)
    whole = exact_bound(case.problem, [leaf], 2 * best.time_ps, 0.0)
    assert not none.complete
    assert none.bound_ps <= whole.bound_ps
