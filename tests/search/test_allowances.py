"""Pipelines that wait for each other: bundles that share islands, and time allowed per layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import islice, product

import numpy as np
import pytest

from planner.place import AS_EXPECTED, Load, assign
from planner.search.allowances import Allowances
from planner.search.columns import make_columns
from planner.search.engine import Engine, SearchLimits
from planner.search.folded import beside_one_another
from planner.search.master import least_target, solve_integer
from planner.search.planning import Planning, Solution
from planner.search.problem import Problem
from planner.search.regions import roots
from planner.search.relaxation import Relaxation
from planner.search.space import Stage, build_space
from planner.search.stage_costs import TRUST, StageCosts
from planner.searches import engine_for, realised
from planner.solve import Context
from tests.mesh_inputs import small_context
from tests.tick_problems import (
    TICK_PS,
    TICK_RATE,
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    open_setting,
    topology,
)

REPLICAS = 10
NEVER = 1 << 60


def hosts_of_four(count: int = 4) -> Problem:
    """Hosts of four chips with a slow network; layers of 400 parameters, 2 bytes each."""
    classes = (island_class(0, 4, count, fabric_rate=1e9 * TICK_RATE, update_rate=1e9 * TICK_RATE),)
    problem = build_problem(
        (LayerTicks(100, 500, parameters=400),) * 3,
        topology(classes, even_routes(classes, TICK_RATE)),
        slowness=(1,),
        degrees=((1,),),
        boundary=(0, 1, 1),
        zero_level=1,
        global_batch=32,
    )
    state = replace(problem.tables.state, parameter=2, gradient=2)
    return replace(problem, tables=replace(problem.tables, state=state))


def planning_of(problem: Problem, replicas: int) -> Planning:
    setting = open_setting(problem, (replicas, replicas))
    guess = 10**6 * TICK_PS
    relaxation = Relaxation(problem, setting, problem.sizes_of(setting), guess, None)
    planning = Planning(problem, setting, relaxation)
    for cut in (1, 2):
        stages = [Stage(0, 0, cut), Stage(0, cut, 3)]
        (size,) = planning.sizes
        planning.add(planning.pricer(size), stages, 8)
    return planning


def test_bundles_share_the_port_of_a_host_and_the_ring_has_fewer_hosts() -> None:
    planning = planning_of(hosts_of_four(), 8)
    column = next(c for c in planning.columns.values() if c.stages[0].end == 1 and not c.together)
    found = planning.bundles(column)
    assert [c.beside for c in found] == [1, 2, 4]
    # 400 · (2 + 2) bytes of the first stage from every chip of a host, or half of them, or one;
    # the second one's twice as many hide behind a backward of 500. All other replicas lie alone
    first = {1: 7 / 8 * 1600 * 4, 2: 6 / 7 * 1600 * 2, 4: 4 / 5 * 1600}
    for bundle in found:
        assert bundle.beside is not None
        ticks = max(first[bundle.beside], 2 * first[bundle.beside] - 500)
        assert bundle.finish_ps == pytest.approx(ticks * TICK_PS, rel=0.01)
    apart = next(c for c in planning.columns.values() if c.together)
    assert planning.bundles(apart) == [apart]


def test_whole_numbers_of_bundles_are_multiples() -> None:
    problem = hosts_of_four()
    planning = planning_of(problem, 8)
    column = next(c for c in planning.columns.values() if not c.together)
    four = replace(column, beside=4)
    target = four.time_ps(4)
    setting = open_setting(problem, (1, 8))
    for columns, counts in (([four], (8,)), ([replace(column, beside=1)], (8,))):
        found = solve_integer(problem, setting, columns, target, goal=32, work_limit=1.0, seed=0)
        assert found == counts
    # 28 rows need seven pipelines; in bundles of four there are eight
    single, bundles = (
        solve_integer(
            problem,
            replace(setting, replicas=(1, 7)),
            [replace(column, beside=n)],
            target,
            goal=28,
            work_limit=1.0,
            seed=0,
        )
        for n in (1, 4)
    )
    assert single == (7,)
    assert bundles is None


def test_a_bundle_lies_on_one_island_however_many_others_there_are() -> None:
    """Five pipelines of a bundle of four and a single one, of another cut, on hosts of four."""
    problem = hosts_of_four(count=3)
    space = build_space(problem, open_setting(problem, (5, 5)), 1, optimistic=False)
    cut = [make_columns(problem, space, [Stage(0, 0, k), Stage(0, k, 3)], 4)[0] for k in (1, 2)]
    columns = [replace(cut[1], beside=1), replace(cut[0], beside=4)]
    loads = [Load(0, 4, 1), *[Load(1, 4, 1)] * 4]
    layouts = assign(columns, loads, problem.topology, AS_EXPECTED)
    for s in range(2):
        assert len({pipe.stages[s].island.name for pipe in layouts[1:]}) == 1
    used = Counter(d for pipe in layouts for stage in pipe.stages for d in stage.devices)
    assert len(used) == 10
    assert set(used.values()) == {1}
    # by layers alone the single one comes between them
    torn = assign(columns, loads, problem.topology, "replicas-together")
    assert len({pipe.stages[0].island.name for pipe in torn[1:]}) == 2


# --- on named devices ----------------------------------------------------------------------------


@cache
def two_kinds() -> Context:
    """64 chips of two kinds, whose network is slow."""
    return small_context(
        "8x4xA100-SXM-40GB + 8x4xV100-SXM2-32GB @ 25Gb/s",
        "global_batch=128 seq_len=2048",
        layers=12,
        experts=0,
    )


def many_pipelines() -> tuple[Context, Planning, Engine]:
    """Columns of ten pipelines on them."""
    context = two_kinds()
    engine = engine_for(context, SearchLimits(gap=0.01, seed=0), lambda _: None, lambda: False)
    region = replace(roots(context.problem)[0], replicas=(REPLICAS, REPLICAS))
    setting = region.setting(context.problem)
    guess = 10**13
    relaxation = Relaxation(
        context.problem, setting, context.problem.sizes_of(setting), guess, None
    )
    relaxation.improve(None, rounds=4, max_queries=10**5, finest=0.01, interrupted=lambda: False)
    planning = Planning(context.problem, setting, relaxation)
    assert planning.generate(None, 6, lambda: False) is not None
    return context, planning, engine


def waited(planning: Planning, solution: Solution) -> tuple[int, list[int]]:
    """When pipelines that wait for each other reach the batch, and how long every layer takes."""
    layers = range(planning.problem.tables.layers)
    each = [list(planning.exchanges(column)) for column in solution.columns]
    takes = [
        max(
            own
            for stages in each
            for parts, own, _, _ in stages
            if any(a <= layer < b for a, b in parts)
        )
        for layer in layers
    ]
    columns = [
        replace(
            column,
            finish_ps=max(
                max(
                    rest,
                    *(takes[k] - hidden for a, b in parts for k in range(a, b)),
                )
                for parts, _, hidden, rest in stages
            ),
        )
        for column, stages in zip(solution.columns, each, strict=True)
    ]
    batch = planning.problem.global_batch
    return least_target(columns, solution.counts, batch, 10 * solution.target_ps), takes


def test_bundles_take_on_devices_what_they_were_expected_to() -> None:
    context, planning, _ = many_pipelines()
    found = planning.whole(None, seed=0, work_limit=0.6, bundled=True)
    assert found
    for solution in found:
        assert all(c.together or c.beside is not None for c in solution.columns)
        for column, count in zip(solution.columns, solution.counts, strict=True):
            assert count % (column.beside or 1) == 0
        real = realised(context, solution)
        assert real is not None
        takes = waited(planning, solution)[1]
        # other columns' replicas may happen to share an island: never much longer, if at all
        for layer, took in enumerate(real.sync_ps):
            assert took <= takes[layer] * 1.05


def test_under_an_allowance_no_stage_exchanges_longer_and_all_wait_for_it() -> None:
    _, planning, _ = many_pipelines()
    (first,) = planning.whole(None, seed=0, work_limit=0.6, bundled=True)[-1:]
    target, takes = waited(planning, first)
    layers = planning.problem.tables.layers
    found = list(islice(Allowances(planning).search(takes, target, lambda: False), 2))
    assert found
    for allowance in found:
        assert len(allowance) == layers
        solutions = planning.whole(None, seed=0, work_limit=0.6, bundled=True, demand_ps=allowance)
        assert solutions
        for solution in solutions:
            for column in solution.columns:
                for parts, own, hidden, rest in planning.exchanges(column):
                    assert own <= min(min(allowance[a:b]) for a, b in parts) * TRUST
                    longest = max(max(allowance[a:b]) for a, b in parts)
                    assert column.finish_ps >= max(longest - hidden, rest)


def test_the_search_chooses_again_where_many_pipelines_were_guessed_wrong() -> None:
    _, planning, engine = many_pipelines()
    (first,) = planning.whole(None, seed=0, work_limit=0.6)[-1:]
    real = engine._realise(first)
    assert real is not None
    assert real.real_ps > first.target_ps * 1.1
    assert engine._keep(first, real)
    assert engine._allowed(planning, real)
    assert engine.best is not None
    assert any(c.beside is not None for c in engine.best.columns)
    assert engine.best.real_ps < real.real_ps
    _, planning, other = many_pipelines()
    assert other._keep(first, real)
    assert other._synchronised(planning, first, real)
    assert other.best is not None
    assert other.best.real_ps <= engine.best.real_ps


def test_narrowed_columns_have_no_stage_that_exchanges_longer_than_its_layers_may() -> None:
    _, planning, _ = many_pipelines()
    layers = planning.problem.tables.layers
    space = build_space(planning.problem, planning.setting, 1, optimistic=False)
    costs = StageCosts(planning.problem, space)
    allowance = [2 * 10**11 + 10**10 * layer for layer in range(layers)]
    left = costs.within(allowance)
    gone = 0
    for k, first in product(range(len(space.options)), range(layers)):
        for end in range(first + 1, layers + 1):
            stage = Stage(k, first, end)
            least = min(costs.finish_ps(stage, together)[0] for together in (False, True))
            before, after = (s.stage_time(k, first, end, 1) for s in (space, left))
            if after == before:
                outer = first == 0 or end == layers
                allowed = min(allowance[first:end]) if outer else max(allowance)
                assert np.isinf(before) or least <= allowed * TRUST
            else:
                assert np.isinf(after)
                assert least > min(allowance[first:end]) * TRUST
                gone += 1
    assert gone


def test_pipelines_that_are_asked_for_within_an_allowance_keep_to_it() -> None:
    _, planning, _ = many_pipelines()
    (first,) = planning.whole(None, seed=0, work_limit=0.6, bundled=True)[-1:]
    allowance = [t // 2 for t in waited(planning, first)[1]]
    narrow, prices = planning.narrowed(allowance), planning._master.solve(first.target_ps)
    assert prices is not None
    known = set(planning.columns)
    assert sum(narrow.ask(prices, first.target_ps, turn) for turn in range(2))
    fresh = [c for key, c in planning.columns.items() if key not in known]
    inner = 0
    for column in fresh:
        costs = planning._costs[column.rows]
        stages = beside_one_another(column, planning._options[column.rows])
        for stage in stages:
            least = min(costs.finish_ps(stage, together)[0] for together in (False, True))
            outer = stage.first == 0 or stage.end == planning.problem.tables.layers
            allowed = min(allowance[stage.first : stage.end]) if outer else max(allowance)
            assert least <= allowed * TRUST
            inner += not outer
    assert inner


def test_a_search_for_an_allowance_ends_at_once_when_it_is_interrupted() -> None:
    _, planning, _ = many_pipelines()
    start = [10**11] * planning.problem.tables.layers
    assert list(Allowances(planning).search(start, NEVER, lambda: True)) == []
