"""Columns obey memory, cost what the schedule formula says, and are placed as they count chips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels.schedules import exact_time, formula_time, period, upper_bound_time
from planner.search.columns import Column, make_columns
from planner.search.problem import Problem
from planner.search.space import Stage, StageSpace, build_space, stage_limits
from tests.oracle import (
    BruteStage,
    Run,
    StageFacts,
    all_cuts,
    all_pipelines,
    finish_ps_of,
    packs,
    peak_bytes,
    plan_hops,
    runs_of,
    table_index,
)
from tests.search_checks import (
    stage_items,
)
from tests.strategies import Case, cases, problems, reproducible
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

CI = reproducible(100)
COUNTS = (1, 2, 5)
SIZE = {"max_pipelines": 250}
COMPARED = 40
"""Cases whose every pipeline is run by brute force."""


@cache
def drawn() -> tuple[Case, ...]:
    """Cases on which every property of columns is looked at: drawn and priced once."""
    found: list[Case] = []

    @CI
    @given(cases(**SIZE))
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    assert len(found) >= 100
    return tuple(found)


@cache
def columns_of(number: int) -> tuple[tuple[Column, int], ...]:
    """The columns of every sequence of stages, with the micro-batches they were made for."""
    return tuple(_columns(drawn()[number]))


def every(*, apart: bool = False) -> Iterator[tuple[Case, Column, int]]:
    """All columns of all cases; ``apart``: without those whose stages lie side by side, which the
    oracle does not price."""
    for number, case in enumerate(drawn()):
        for column, count in columns_of(number):
            if not (apart and column.together):
                yield case, column, count


def test_columns_fit_into_memory_with_what_they_keep_in_flight() -> None:
    for case, column, count in every():
        problem, replicas = case.problem, case.setting.replicas[0]
        most = column.max_micro_batches or 2 * count
        for m in {1, count, most}:
            for stage in column.stages:
                option = table_index(problem, stage.class_index, stage.mesh, column.rows)
                brute = BruteStage(option, stage.policy, stage.first, stage.end)
                peak = peak_bytes(problem, brute, min(stage.in_flight, m), replicas)
                usable = problem.topology.classes[stage.class_index].usable_memory_bytes
                assert peak <= usable, case


def test_column_time_is_the_schedule_formula_plus_finish() -> None:
    for case, column, count in every(apart=True):
        depths = _depths(column)
        times = (column.forward_ps, column.backward_ps, column.hop_ps)
        formula = formula_time(*times, count, depths)
        finish = finish_ps_of(case.problem, column, case.setting.replicas[0], case.setting)
        assert column.time_ps(count) == formula + finish, case
        assert column.period_ps == period(*times, depths), case


def test_column_depths_fall_to_one_at_the_last_stage() -> None:
    for case, column, _ in every():
        depths = _depths(column)
        assert depths[-1] == 1, case
        assert all(a > b for a, b in pairwise(depths)), case


def test_exact_time_is_above_the_formula_only_where_passes_pile_up() -> None:
    """Where the slowest forward and backward (or hops) fit into one period it never is."""
    fitting = 0
    for case, column, count in every():
        times = (column.forward_ps, column.backward_ps, column.hop_ps)
        exact = exact_time("1f1b", *times, _depths(column), count).total
        assert exact <= upper_bound_time(*times, _depths(column), count), case
        hop = max(column.hop_ps, default=0)
        slowest = max(hop, *column.forward_ps) + max(hop, *column.backward_ps)
        if slowest <= column.period_ps:
            fitting += 1
            assert exact <= column.time_ps(count) - column.finish_ps, case
    assert fitting > 500


def test_columns_pay_for_the_hops_that_a_placement_can_count_on() -> None:
    for case, column, _ in every(apart=True):
        tables = case.problem.tables
        used = [
            tables.tables[table_index(case.problem, s.class_index, s.mesh, column.rows)]
            for s in column.stages
        ]
        crossing = [int(tables.boundary_bytes[column.rows][s.first]) for s in column.stages[1:]]
        assert list(column.hop_ps) == plan_hops(case.problem.topology, used, crossing), case


@pytest.mark.parametrize("ticks", [0, 7, 40, 150])
def test_micro_batches_are_the_most_that_end_by_the_target(ticks: int) -> None:
    target = ticks * TICK_PS
    for case, column, _ in every():
        count = column.micro_batches(target)
        assert count == 0 or column.time_ps(count) <= target, case
        assert count == column.max_micro_batches or column.time_ps(count + 1) > target, case


def test_no_column_is_better_than_all_policies_and_depths_allow() -> None:
    for number, case in enumerate(drawn()[:COMPARED]):
        best = best_runs(number)
        for column, _ in columns_of(number):
            if column.together:
                continue
            stages = _stages(case, column)
            for m in COUNTS:
                if column.max_micro_batches is None or m <= column.max_micro_batches:
                    assert column.time_ps(m) >= best[stages, m].time_ps, case


def test_a_column_exists_wherever_a_pipeline_fits() -> None:
    for number, case in enumerate(drawn()[:COMPARED]):
        found = {
            (_stages(case, column), count)
            for column, count in columns_of(number)
            if not column.together
        }
        assert found == set(best_runs(number)), case


@CI
@given(cases(**SIZE), st.integers(1, 3))
def test_stage_limits_agree_with_the_memory_model(case: Case, in_flight: int) -> None:
    problem, replicas = case.problem, case.setting.replicas[0]
    for k, table in enumerate(problem.tables.tables):
        usable = problem.topology.classes[table.option.class_index].usable_memory_bytes
        for policy in problem.policies:
            static, each, room = stage_limits(problem, table, policy, replicas)
            for first, end in _intervals(problem.tables.layers):
                items = stage_items(
                    problem,
                    table,
                    (first, end),
                    policy=policy,
                    in_flight=in_flight,
                    replicas=replicas,
                )
                at = first, end - first
                assert items.peak == static[at] + in_flight * each[at]
                assert room[at] == usable - static[at]
                brute = BruteStage(k, policy, first, end)
                assert items.peak == peak_bytes(problem, brute, in_flight, replicas)


@settings(CI, max_examples=150)
@given(problems(max_layers=1), st.lists(st.sampled_from((1, 2, 4)), max_size=9))
def test_packing_rows_admit_exactly_what_fits_into_islands(
    problem: Problem, sizes: list[int]
) -> None:
    for cls in problem.topology.classes:
        legal = {t.option.chips for t in problem.tables.tables if t.option.class_index == cls.index}
        groups = [size for size in sizes if size in legal]
        admitted = all(
            sum(tp for tp in groups if k in problem.rows_of(cls.index, tp)) <= capacity
            for k, (c, _, capacity) in enumerate(problem.packing_rows)
            if c == cls.index
        )
        assert admitted == packs(groups, cls.size, cls.count)


def test_memory_that_cannot_hold_the_round_trip_costs_period() -> None:
    # Two stages of 3 ticks, hop 3: the rule wants 4 in flight; 2 fit and carry 12 ticks of trip.
    classes = (island_class(0, 1, 2, memory=2 * 10 + 6),)
    problem = build_problem(
        (LayerTicks(1, 2, activations=(10, 10, 10)),) * 2,
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1,),),
        boundary=(0, 3),
        global_batch=6,
    )
    setting = open_setting(problem, (1, 1))
    space = build_space(problem, setting, 1, optimistic=False)
    (column,) = make_columns(problem, space, [Stage(0, 0, 1), Stage(0, 1, 2)], 6)
    assert _depths(column) == (2, 1)
    assert column.period_ps == 6 * TICK_PS
    assert column.fill_ps == 12 * TICK_PS


@pytest.mark.parametrize(("tied", "waits"), [((), 0), (((0, 2),), 1), (((0, 1),), 1)])
def test_what_shares_a_weight_with_an_earlier_stage_synchronises_behind_nothing(
    tied: tuple[tuple[int, int], ...], waits: int
) -> None:
    """Four chips on four hosts, two pipelines of two stages: layer 0, and layers 1 and 2."""
    classes = (island_class(0, 1, 4, update_rate=1e6 * TICK_RATE),)
    problem = build_problem(
        (LayerTicks(100, 500, parameters=400),) * 3,
        topology(classes, even_routes(classes, TICK_RATE)),
        slowness=(1,),
        degrees=((1,),),
        boundary=(0, 1, 1),
        zero_level=1,
        tied=tied,
    )
    state = replace(problem.tables.state, parameter=2, gradient=2)
    problem = replace(problem, tables=replace(problem.tables, state=state))
    space = build_space(problem, open_setting(problem, (2, 2)), 1, optimistic=False)
    (column,) = make_columns(problem, space, [Stage(0, 0, 1), Stage(0, 1, 3)], 6)
    update_ps = finish_ps_of(problem, column, 1)
    # rings of two: half of 400 or 800 parameters · (2 + 2); the second stage's hides behind 500
    apart = max(800, 1600 - 500)
    # shards of 200 parameters · 2 are summed first, by both stages, and then nothing hides
    together = 400 + 1600
    ticks = together if waits else apart
    assert column.finish_ps - update_ps == pytest.approx(ticks * TICK_PS, rel=1e-3)


def test_stages_side_by_side_fill_an_island_before_they_use_the_network() -> None:
    """Three stages on islands of two: the first hop stays inside, the second one leaves."""
    classes = (island_class(0, 2, 2, fabric_rate=3 * TICK_RATE),)
    problem = build_problem(
        (LayerTicks(1, 2),) * 3,
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1,),),
        boundary=(0, 6, 6),
        global_batch=6,
    )
    space = build_space(problem, open_setting(problem, (1, 1)), 1, optimistic=False)
    stages = [Stage(0, k, k + 1) for k in range(3)]
    by_placement = {c.together: c.hop_ps for c in make_columns(problem, space, stages, 6)}
    leaves = by_placement[False][1]
    assert by_placement[True][0] == 2 * TICK_PS
    assert by_placement[True][1] < leaves  # no second neighbour over the network shares the port
    assert by_placement[False] == (leaves, leaves)


def _columns(case: Case) -> Iterator[tuple[Column, int]]:
    layers = case.problem.tables.layers
    for rows in case.problem.tables.boundary_bytes:
        space: StageSpace = build_space(case.problem, case.setting, rows, optimistic=False)
        for cuts in all_cuts(layers, case.problem.max_stages):
            intervals = list(zip((0, *cuts), (*cuts, layers)))
            for choice in product(range(len(space.options)), repeat=len(intervals)):
                pipeline = [Stage(k, i, j) for k, (i, j) in zip(choice, intervals)]
                for count in COUNTS:
                    for column in make_columns(case.problem, space, pipeline, count):
                        yield column, count


Place = tuple[int, int, int]


def _stages(case: Case, column: Column) -> tuple[Place, ...]:
    """The table and the layers of every stage."""
    return tuple(
        (table_index(case.problem, s.class_index, s.mesh, column.rows), s.first, s.end)
        for s in column.stages
    )


@cache
def best_runs(number: int) -> dict[tuple[tuple[Place, ...], int], Run]:
    """The best run of every sequence of stages over all policies and depths."""
    case = drawn()[number]
    best: dict[tuple[tuple[Place, ...], int], Run] = {}
    facts = StageFacts(case.problem, case.setting.replicas[0])
    for pipeline in all_pipelines(case.problem, case.setting):
        stages = tuple((s.option, s.first, s.end) for s in pipeline.stages)
        for run in runs_of(facts, pipeline, max(COUNTS)):
            key = (stages, run.micro_batches)
            if run.micro_batches in COUNTS and (key not in best or run.time_ps < best[key].time_ps):
                best[key] = run
    return best


def _depths(column: Column) -> tuple[int, ...]:
    return tuple(s.in_flight for s in column.stages)


def _intervals(layers: int) -> Iterator[tuple[int, int]]:
    for first in range(layers):
        for end in range(first + 1, layers + 1):
            yield first, end
