"""Activations in host memory: search, bound, compact model and brute force count them alike."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from costmodels.offload import HostShare
from planner.costing import host_limit
from planner.search.columns import make_columns
from planner.search.compact import solve_compact
from planner.search.pipelines import Stage
from planner.search.problem import Problem
from planner.search.space import build_space
from tests.oracle import BruteStage, brute_force, most_in_flight
from tests.search_checks import (
    assert_bound_is_below,
    assert_compact_agrees,
    assert_optimum_needs_no_dominated_option,
    stage_items,
)
from tests.strategies import Case, cases, reproducible
from tests.tick_problems import (
    AMPLE,
    TICK_PS,
    TICK_RATE,
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    open_setting,
    topology,
)

OFFLOAD, FULL_OFFLOAD = 3, 4
FLYING = 3


@reproducible(60)
@given(cases(max_pipelines=300, max_batch=5, activations=True))
def test_compact_model_agrees_with_brute_force_to_the_picosecond(case: Case) -> None:
    assert_compact_agrees(case)


@reproducible(25)
@given(cases(max_pipelines=300, max_batch=5, meshes=True, offload=True, activations=True))
def test_so_it_does_beside_optimizers_on_the_same_hosts(case: Case) -> None:
    assert_compact_agrees(case)


@reproducible(60)
@given(cases(max_pipelines=400, activations=True))
def test_bound_is_never_above_the_optimum(case: Case) -> None:
    assert_bound_is_below(case)


@reproducible(40)
@given(cases(max_pipelines=300, max_batch=6, meshes=True, activations=True))
def test_the_optimum_needs_no_dominated_option(case: Case) -> None:
    assert_optimum_needs_no_dominated_option(case)


@reproducible(40)
@given(cases(max_pipelines=300, max_batch=5, activations=True))
def test_what_is_allowed_never_makes_the_optimum_worse(case: Case) -> None:
    kept = replace(case.problem, policies=tuple(p for p in case.problem.policies if p < OFFLOAD))
    without = brute_force(kept, case.setting).time_ps
    allowed = brute_force(case.problem, case.setting).time_ps
    assert without is None or (allowed is not None and allowed <= without)


@reproducible(40)
@given(cases(max_layers=4, meshes=True, offload=True, activations=True), st.integers(1, FLYING))
def test_depths_agree_with_the_memory_model_and_the_brute_force(case: Case, flying: int) -> None:
    problem, replicas = case.problem, case.setting.replicas[0]
    tables = problem.tables
    setting = replace(open_setting(problem), replicas=(replicas, replicas))
    for rows in problem.micro_batch_rows:
        space = build_space(problem, setting, rows, optimistic=False)
        for k, table in enumerate(space.options):
            cls = problem.topology.classes[table.option.class_index]
            for index, policy in enumerate(space.policies):
                for first in range(tables.layers):
                    items = stage_items(
                        problem,
                        table,
                        (first, tables.layers),
                        policy=policy,
                        in_flight=flying,
                        replicas=replicas,
                    )
                    fits = items.peak <= cls.usable_memory_bytes and items.host <= host_limit(cls)
                    fits = fits and (policy < OFFLOAD or cls.host_known)
                    own = next(n for n, t in enumerate(tables.tables) if t is table)
                    stage = BruteStage(own, policy, first, tables.layers)
                    assert fits == (space.stage_depth(k, first, tables.layers, index) >= flying)
                    assert fits == (most_in_flight(problem, stage, replicas, flying) == flying)


def two_chips(
    *, memory: int = AMPLE, host: HostShare | None = None, policies: tuple[int, ...] = (0, 3, 4)
) -> Problem:
    """Two layers that keep 6 bytes each, one as a checkpoint; 2 ticks forward, 4 backward."""
    classes = (replace(island_class(0, 1, 2, memory=memory), host=host),)
    layer = LayerTicks(
        2, 4, recompute=(0, 0, 2), activations=(6, 6, 1), working=(0, 0, 6), parameters=0
    )
    return build_problem(
        (layer,) * 2,
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1,),),
        policies=policies,
    )


def host(rate: float, room: int = AMPLE) -> HostShare:
    return HostShare(room, rate * TICK_RATE, 1e3 * TICK_RATE)


def test_of_a_copy_only_what_is_longer_than_the_computation_is_felt() -> None:
    """6 bytes at 1 byte per tick: 4 more than the forward's 2, 2 more than the backward's 4.

    A checkpoint's byte hides behind either pass, and so do 6 bytes at 3 per tick.
    """
    (table,) = two_chips(host=host(1)).tables.tables
    assert table.forward_ps[:, 0].tolist() == [2 * TICK_PS] * 3 + [6 * TICK_PS, 2 * TICK_PS]
    assert table.backward_ps[[0, 3, 4], 0].tolist() == [4 * TICK_PS, 6 * TICK_PS, 6 * TICK_PS]
    (fast,) = two_chips(host=host(3)).tables.tables
    assert (fast.forward_ps[OFFLOAD] == fast.forward_ps[0]).all()
    assert (fast.backward_ps[OFFLOAD] == fast.backward_ps[0]).all()


def test_two_layers_worth_stay_on_the_device_and_the_rest_on_the_host() -> None:
    (table,) = two_chips(host=host(1)).tables.tables
    assert table.activation_bytes[:, 0].tolist() == [6, 6, 1, 0, 0]
    assert table.working_bytes[:, 0].tolist() == [0, 0, 6, 12, 8]
    assert table.hosted_bytes[:, 0].tolist() == [0, 0, 0, 6, 1]


def test_a_faster_host_link_is_never_slower() -> None:
    """Stages of both layers need 12 bytes to keep all: at 12 usable three in flight never fit."""
    times = []
    for rate in (0.25, 0.5, 1, 2, 3, 8):
        problem = two_chips(memory=12, host=host(rate), policies=(3,))
        times.append(solve_compact(problem, open_setting(problem)).time_ps)
    known = [t for t in times if t is not None]
    assert len(known) == len(times)
    assert known == sorted(known, reverse=True)
    assert known[0] > known[-1]


def test_it_is_taken_at_the_depth_that_needs_it() -> None:
    """Of 6 bytes each, two fit 17 and three do not; copies take 12, whatever is in flight.

    One byte per tick: the forward takes 6 instead of 2, the backward 6 instead of 4.
    """
    for memory, slow in ((17, 12), (AMPLE, 6)):
        problem = two_chips(memory=memory, host=host(1), policies=(0, OFFLOAD))
        space = build_space(problem, open_setting(problem), 1, optimistic=False)
        ticks = [round(space.times(depth).head[0, 1] * 1e12 / TICK_PS) for depth in (2, 3)]
        assert ticks == [6, slow]


def test_a_column_of_a_stage_that_must_leave_its_activations_pays_for_the_copies() -> None:
    problem = two_chips(memory=12, host=host(1), policies=(OFFLOAD,))
    space = build_space(problem, open_setting(problem), 1, optimistic=False)
    column = make_columns(problem, space, [Stage(0, 0, 1), Stage(0, 1, 2)], 4)[0]
    assert [stage.policy for stage in column.stages] == [OFFLOAD] * 2
    assert (column.forward_ps, column.backward_ps) == ((6 * TICK_PS,) * 2, (6 * TICK_PS,) * 2)


def test_an_unknown_or_full_host_takes_nothing() -> None:
    for share in (None, host(8, room=5)):
        problem = two_chips(memory=12, host=share, policies=(3,))
        assert solve_compact(problem, open_setting(problem)).time_ps is None
        assert brute_force(problem, open_setting(problem)).time_ps is None
