"""The compact model against brute force, and against plans worked out by hand."""

from __future__ import annotations

from hypothesis import given, settings

from costmodels.schedules import formula_time
from planner.search.compact import CompactResult, solve_compact
from tests.oracle import BruteStage, finish_ps_of, peak_bytes, table_index
from tests.search_checks import (
    assert_compact_agrees,
)
from tests.strategies import Case, cases, reproducible
from tests.tick_problems import (
    SMALL_STATE,
    TICK_PS,
    UPDATE_PS,
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    open_setting,
    topology,
)

EXACT = reproducible(60)


@EXACT
@given(cases(max_pipelines=500, max_batch=7))
def test_agrees_with_brute_force_to_the_picosecond(case: Case) -> None:
    assert_compact_agrees(case)


@EXACT
@given(cases(max_pipelines=500, max_batch=6))  # one case of 7 takes CP-SAT minutes
def test_answer_is_a_plan_that_obeys_every_rule(case: Case) -> None:
    problem, setting = case.problem, case.setting
    found = solve_compact(problem, setting)
    if found.time_ps is None:
        return
    replicas = len(found.pipelines)
    assert setting.replicas[0] <= replicas <= setting.replicas[1]
    assert found.time_ps == max(p.column.time_ps(p.micro_batches) for p in found.pipelines)
    assert _rows(found) >= problem.global_batch
    for k, (_, _, capacity) in enumerate(problem.packing_rows):
        assert sum(p.column.usage[k] for p in found.pipelines) <= capacity
    for pipeline in found.pipelines:
        column, m = pipeline.column, pipeline.micro_batches
        assert [s.first for s in column.stages] == [0, *(s.end for s in column.stages[:-1])]
        assert column.stages[-1].end == problem.tables.layers
        depths = [s.in_flight for s in column.stages]
        times = (column.forward_ps, column.backward_ps, column.hop_ps)
        assert column.time_ps(m) == formula_time(*times, m, depths) + column.finish_ps
        assert column.finish_ps == finish_ps_of(problem, column, replicas)
        for stage in column.stages:
            cls = problem.topology.classes[stage.class_index]
            option = table_index(problem, stage.class_index, stage.mesh, column.rows)
            brute = BruteStage(option, stage.policy, stage.first, stage.end)
            peak = peak_bytes(problem, brute, min(stage.in_flight, m), replicas)
            assert peak <= cls.usable_memory_bytes


@settings(EXACT, max_examples=15)
@given(cases(max_pipelines=200, max_batch=5))
def test_nothing_is_faster_than_the_optimum(case: Case) -> None:
    best = solve_compact(case.problem, case.setting).time_ps
    if best is None:
        return
    below = solve_compact(case.problem, case.setting, upper_ps=best - 1)
    at = solve_compact(case.problem, case.setting, upper_ps=best)
    assert (below.time_ps, below.proven, below.lower_bound_ps) == (None, True, best)
    assert at.time_ps == best


def test_one_chip_runs_the_batch_one_by_one() -> None:
    case = _one_class(chips=1, layers=2, batch=5)
    found = solve_compact(case.problem, case.setting)
    assert found.time_ps == 5 * 2 * 3 * TICK_PS + UPDATE_PS


def test_equal_chips_share_the_batch_when_everything_fits() -> None:
    case = _one_class(chips=4, layers=2, batch=8)
    found = solve_compact(case.problem, case.setting)
    assert sorted(p.micro_batches for p in found.pipelines) == [2, 2, 2, 2]
    assert found.time_ps == 2 * 2 * 3 * TICK_PS + UPDATE_PS


def test_builds_a_pipeline_where_one_chip_is_too_small() -> None:
    # Two layers of 4 bytes of state each, 5 bytes of memory: one layer per chip.
    case = _one_class(chips=2, layers=2, batch=4, parameters=1, memory=5)
    found = solve_compact(case.problem, case.setting)
    (pipeline,) = found.pipelines
    assert [(s.first, s.end) for s in pipeline.column.stages] == [(0, 1), (1, 2)]


def test_deeper_pipelines_hide_long_hops_behind_more_in_flight() -> None:
    # Stages of 3 ticks, a hop of 3 ticks: the round trip of 12 ticks asks for 4 in flight.
    # State 8 per layer and buffers of 6 leave no room for both layers (16) on one chip.
    case = _one_class(chips=2, layers=2, batch=9, parameters=2, memory=15, boundary=(0, 3))
    (pipeline,) = solve_compact(case.problem, case.setting).pipelines
    assert pipeline.column.hop_ps == (3 * TICK_PS,)
    assert [s.in_flight for s in pipeline.column.stages] == [4, 1]
    assert pipeline.column.period_ps == 3 * TICK_PS


def test_recomputes_where_activations_do_not_fit() -> None:
    case = _one_class(chips=1, layers=1, batch=2, activations=(9, 5, 1), memory=4, policies=(0, 2))
    (pipeline,) = solve_compact(case.problem, case.setting).pipelines
    assert pipeline.column.stages[0].policy == 2


def test_gives_more_micro_batches_to_the_faster_chip() -> None:
    classes = (island_class(0, 1, 1), island_class(1, 1, 1))
    problem = build_problem(
        (LayerTicks(1, 2),),
        topology(classes, even_routes(classes)),
        slowness=(1, 3),
        degrees=((1,), (1,)),
        global_batch=8,
    )
    found = solve_compact(problem, open_setting(problem))
    counts = {p.column.stages[0].class_index: p.micro_batches for p in found.pipelines}
    assert counts == {0: 6, 1: 2}


def test_says_that_nothing_fits() -> None:
    case = _one_class(chips=2, layers=2, batch=4, parameters=2, memory=5)
    assert solve_compact(case.problem, case.setting) == CompactResult(None, (), True, None)


def test_same_input_gives_the_same_answer() -> None:
    case = _one_class(chips=3, layers=3, batch=7, parameters=1, memory=9, boundary=(0, 1, 0))
    first = solve_compact(case.problem, case.setting)
    assert solve_compact(case.problem, case.setting) == first


def _one_class(
    *,
    chips: int,
    layers: int,
    batch: int,
    parameters: int = 0,
    activations: tuple[int, int, int] = (0, 0, 0),
    memory: int = 100,
    boundary: tuple[int, ...] | None = None,
    policies: tuple[int, ...] = (0,),
) -> Case:
    """Single chips of one class; a layer takes one tick forward and two backward."""
    layer = LayerTicks(1, 2, (0, 0, 1), parameters=parameters, activations=activations)
    classes = (island_class(0, 1, chips, memory=memory),)
    problem = build_problem(
        (layer,) * layers,
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1,),),
        boundary=boundary,
        policies=policies,
        state=SMALL_STATE,
        global_batch=batch,
        max_stages=layers,
    )
    return Case(problem, open_setting(problem))


def _rows(found: CompactResult) -> int:
    return sum(p.column.rows * p.micro_batches for p in found.pipelines)
