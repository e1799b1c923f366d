"""The pricing dynamic program against all pipelines, one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import inf, isclose

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.units import PS_PER_S
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.search.exact_paths import ExactPaths
from planner.search.exact_paths import Query as ExactQuery
from planner.search.finish import least_finish_s
from planner.search.pipelines import SHARED, Pricer
from planner.search.space import Floats, Stage, StageSpace, best_hop_ps, build_space
from planner.solve import prepare
from tests.oracle import BruteStage, all_cuts, most_in_flight, stage_ps
from tests.strategies import Case, cases, reproducible
from tests.tick_problems import (
    AMPLE,
    TICK_S,
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    open_setting,
    topology,
)

CI = reproducible(100)
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Query:
    """What the pricer is asked: a price per option of the space, τ, λ and a depth cap."""

    prices: tuple[float, ...]
    takt_s: float
    weight: float
    depth_cap: int


@dataclass(frozen=True)
class Asked:
    """A case, one of its spaces, and queries over it."""

    case: Case
    space: StageSpace
    queries: tuple[Query, ...]


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """Queries at takts that pipelines really have, and between them."""
    case = draw(cases(max_pipelines=1500))
    rows = draw(st.sampled_from(sorted(case.problem.tables.boundary_bytes)))
    space = build_space(case.problem, case.setting, rows, optimistic=True)
    points = [float(p) for p in Pricer(space, case.problem.max_stages).breakpoints()]
    takts = st.sampled_from(points or [TICK_S]) | st.floats(TICK_S, 60 * TICK_S)
    price = st.integers(0, 12).map(lambda n: n / 4)
    queries = tuple(
        Query(
            tuple(draw(price) for _ in space.options),
            draw(takts),
            draw(st.sampled_from((0.0, 1.0, 0.2))) / TICK_S,
            draw(st.integers(1, 4)),
        )
        for _ in range(3)
    )
    return Asked(case, space, queries)


@CI
@given(asked())
def test_no_pipeline_is_cheaper_than_the_answer(given_: Asked) -> None:
    for query in given_.queries:
        cost, _ = _ask(given_, query)
        assert cost <= _cheapest(given_, query) * (1 + TOLERANCE)


@CI
@given(asked())
def test_the_pipeline_of_the_answer_costs_what_the_answer_says(given_: Asked) -> None:
    for query in given_.queries:
        cost, pipeline = _ask(given_, query)
        if pipeline is not None:
            assert isclose(cost, _cost(given_, query, pipeline), rel_tol=TOLERANCE, abs_tol=1e-15)


@CI
@given(asked())
def test_answer_is_the_cheapest_pipeline_where_memory_is_ample(given_: Asked) -> None:
    classes = given_.case.problem.topology.classes
    if any(cls.usable_memory_bytes < AMPLE for cls in classes):
        return
    for query in given_.queries:
        cost, pipeline = _ask(given_, query)
        assert isclose(cost, _cheapest(given_, query), rel_tol=TOLERANCE, abs_tol=1e-15)
        assert (pipeline is None) == (cost == inf)


@CI
@given(asked())
def test_queries_answered_together_agree_with_queries_alone(given_: Asked) -> None:
    same = [q for q in given_.queries if q.prices == given_.queries[0].prices]
    same += [Query(same[0].prices, q.takt_s, q.weight, q.depth_cap) for q in given_.queries[1:]]
    same *= SHARED  # enough for two threads
    pricer = Pricer(given_.space, given_.case.problem.max_stages)
    together = pricer.solve(
        np.array(same[0].prices),
        np.array([q.takt_s for q in same]),
        np.array([q.weight for q in same]),
        np.array([q.depth_cap for q in same]),
    )
    alone = {query: _ask(given_, query) for query in same}
    for k, query in enumerate(same):
        assert (together.cost[k], together.pipelines[k]) == alone[query]


@CI
@given(asked(), st.sampled_from((0.5, 0.99, 1.01, 2.0)))
def test_cutoff_hides_exactly_what_is_not_below_it(given_: Asked, factor: float) -> None:
    for query in given_.queries:
        cost, _ = _ask(given_, query)
        if cost in (0.0, inf):
            continue
        hidden, _ = _ask(given_, query, cutoff=cost * factor)
        assert hidden == inf if factor < 1 else isclose(hidden, cost, rel_tol=TOLERANCE)


@CI
@given(asked())
def test_answer_never_rises_with_a_longer_takt(given_: Asked) -> None:
    for query in given_.queries:
        longer = Query(query.prices, 1.5 * query.takt_s, query.weight, query.depth_cap)
        assert _ask(given_, longer)[0] <= _ask(given_, query)[0] * (1 + TOLERANCE)


@CI
@given(asked())
def test_breakpoints_hold_the_takt_of_every_pipeline(given_: Asked) -> None:
    points = Pricer(given_.space, given_.case.problem.max_stages).breakpoints()
    for query in given_.queries:
        _, pipeline = _ask(given_, query)
        if pipeline is not None:
            times = _times(given_, query, pipeline)
            hops = _hops(given_, pipeline)
            takt = max(*times, *hops) if hops else max(times)
            assert np.any(np.isclose(points, takt, rtol=TOLERANCE, atol=0.0))


def test_price_of_a_class_moves_layers_to_the_other_one() -> None:
    classes = (island_class(0, 1, 1), island_class(1, 1, 1))
    problem = build_problem(
        (LayerTicks(1, 1),) * 3,
        topology(classes, even_routes(classes)),
        slowness=(1, 1),
        degrees=((1,), (1,)),
    )
    pricer = Pricer(build_space(problem, open_setting(problem), 1, optimistic=True), 3)
    for prices, expected in (((1.0, 2.0), 0), ((2.0, 1.0), 1)):
        answer = pricer.solve(np.array(prices), np.array([1.0]), np.zeros(1), 1)
        assert answer.cost[0] == 1.0
        assert answer.pipelines[0] == (Stage(expected, 0, 3),)


def test_layers_that_fit_only_together_are_found() -> None:
    # The fat tensor between the layers needs 2·6 bytes of buffers only where it is sent away.
    classes = (island_class(0, 1, 1, memory=10),)
    problem = build_problem(
        (LayerTicks(1, 1, parameters=1),) * 2,
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1,),),
        boundary=(0, 6),
    )
    pricer = Pricer(build_space(problem, open_setting(problem), 1, optimistic=True), 2)
    answer = pricer.solve(np.ones(1), np.array([1.0]), np.zeros(1), 1)
    assert answer.pipelines[0] == (Stage(0, 0, 2),)


def test_a_longer_stage_may_fit_where_a_shorter_one_does_not() -> None:
    """It begins at a thinner cut, whose buffers are smaller: neither pass stops before it."""
    classes = (island_class(0, 1, 3, memory=12),)
    problem = build_problem(
        (LayerTicks(1, 1, parameters=1),) * 5,
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1,),),
        boundary=(0, 0, 9, 9, 0),
        max_stages=5,
    )
    space = build_space(problem, open_setting(problem, (1, 1)), 1, optimistic=True)
    assert [space.stage_depth(0, i, 4, 0) > 0 for i in (3, 2, 1)] == [False, False, True]
    pipeline = (Stage(0, 0, 1), Stage(0, 1, 4), Stage(0, 4, 5))
    pricer, price, takt = Pricer(space, 5), np.ones(1), np.array([900 * TICK_S])
    one, free, any_ = np.ones(1, dtype=np.int64), np.zeros(1), np.array([inf])
    assert pricer.solve(price, takt, free, 1).pipelines == (pipeline,)
    assert pricer.floor(price, takt, free, one, any_)[0] == 3
    assert ExactPaths(space).least(price, ExactQuery(900 * TICK_S, 1, 100.0)) == pipeline


def _ask(
    given_: Asked, query: Query, cutoff: float | None = None
) -> tuple[float, tuple[Stage, ...] | None]:
    pricer = Pricer(given_.space, given_.case.problem.max_stages)
    answer = pricer.solve(
        np.array(query.prices),
        np.array([query.takt_s]),
        np.array([query.weight]),
        query.depth_cap,
        cutoffs=None if cutoff is None else np.array([cutoff]),
    )
    return float(answer.cost[0]), answer.pipelines[0]


def _cheapest(given_: Asked, query: Query) -> float:
    problem = given_.case.problem
    best = inf
    for cuts in all_cuts(problem.tables.layers, problem.max_stages):
        intervals = list(zip((0, *cuts), (*cuts, problem.tables.layers)))
        for choice in product(range(len(given_.space.options)), repeat=len(intervals)):
            pipeline = tuple(Stage(k, i, j) for k, (i, j) in zip(choice, intervals))
            best = min(best, _cost(given_, query, pipeline))
    return best


def _cost(given_: Asked, query: Query, pipeline: tuple[Stage, ...]) -> float:
    """Σ price + λ·fill, infinite where a stage does not fit or a stage or hop exceeds τ."""
    times, hops = _times(given_, query, pipeline), _hops(given_, pipeline)
    if max((*times, *hops)) > query.takt_s * (1 + 1e-12):
        return inf
    head = pipeline[0]
    table = given_.space.options[head.option]
    least = least_finish_s(given_.case.problem, table, given_.case.setting.replicas)
    fill = sum(times) + 2 * sum(hops) + float(least[head.end])
    return sum(query.prices[s.option] for s in pipeline) + query.weight * fill


def _times(given_: Asked, query: Query, pipeline: tuple[Stage, ...]) -> list[float]:
    """Fastest policy of each stage that keeps min(position from the end, cap) in flight."""
    problem, setting = given_.case.problem, given_.case.setting
    found = []
    for s, stage in enumerate(pipeline):
        option = given_.space.options[stage.option].option
        need = min(len(pipeline) - s, query.depth_cap)
        low, high = setting.windows[option.class_index]
        ways = [
            stage_ps(problem, way)
            for policy in problem.policies
            for way in (BruteStage(option.index, policy, stage.first, stage.end),)
            if most_in_flight(problem, way, setting.replicas[1], need) == need
        ]
        inside = low <= stage.first and stage.end <= high
        found.append(min(ways) / PS_PER_S if ways and inside else inf)
    return found


def _hops(given_: Asked, pipeline: tuple[Stage, ...]) -> list[float]:
    problem = given_.case.problem
    crossing = problem.tables.boundary_bytes[given_.space.rows]
    hops = [
        best_hop_ps(
            problem.topology,
            given_.space.options[a.option],
            given_.space.options[b.option],
            int(crossing[b.first]),
        )
        for a, b in pairwise(pipeline)
    ]
    return [inf if ps is None else ps / PS_PER_S for ps in hops]


@pytest.mark.parametrize("slope", [1, 2])
@pytest.mark.parametrize("replicas", [1, 4])
def test_layers_that_are_alike_are_priced_as_any_others(replicas: int, slope: int) -> None:
    changes = parse_overrides(["job.seq_len=1024", "job.global_batch=64"])
    context = prepare(
        load_model("llama-2-7b", changes),
        load_cluster("8xA100-SXM-40GB + 8xV100-SXM2-32GB @ 100Gb/s", None, changes),
        load_job(None, changes),
    )
    setting = replace(open_setting(context.problem), replicas=(replicas, replicas))
    space = build_space(context.problem, setting, 2, optimistic=True)
    windows, plain = Pricer(space, 64), Pricer(space, 64)
    plain.items = None  # the pass that makes nothing of equal layers
    random = np.random.default_rng(replicas)
    points = windows.breakpoints()
    takts = np.sort(random.choice(points[points > 0], 60))
    weights = random.choice([0.0, 0.3, 1.0], 60) * 2 / takts
    prices = random.uniform(0.2, 1.0, len(space.options))
    caps = random.integers(1, 30, 60)
    one = windows.solve(prices, takts, weights, caps, slope=slope)
    other = plain.solve(prices, takts, weights, caps, slope=slope)
    assert np.isfinite(one.cost).sum() > 40
    assert one.cost.tolist() == pytest.approx(other.cost.tolist(), rel=1e-12)
    for k, pipeline in enumerate(one.pipelines):
        assert (pipeline is None) == (other.pipelines[k] is None)
        if pipeline is not None:
            cost = _priced(space, pipeline, prices, weights[k], int(caps[k]), slope)
            assert isclose(cost, one.cost[k], rel_tol=1e-12)
    floors = windows.floor(prices, takts, weights, caps, np.full(60, inf))
    assert (floors <= one.cost * (1 + 1e-12)).all()


def _priced(
    space: StageSpace,
    pipeline: tuple[Stage, ...],
    prices: Floats,
    weight: float,
    cap: int,
    slope: int,
) -> float:
    """Price and weighted fill of a pipeline, stage by stage."""
    size = len(pipeline)
    cost = weight * float(space.finish[pipeline[0].option, pipeline[0].end])
    for s, stage in enumerate(pipeline):
        depth = min(slope * (size - s - 1) + 1, cap)
        cost += float(prices[stage.option])
        cost += weight * space.stage_time(stage.option, stage.first, stage.end, depth)
    for a, b in pairwise(pipeline):
        assert a.end == b.first
        cost += 2 * weight * float(space.hop[a.option, b.option, b.first])
    return cost


def test_pipelines_that_cannot_synchronise_in_time_are_left_out_and_no_others() -> None:
    """Room for fill and finish: whoever is through by then stays in the answer.

    On 100 Gb/s a stage of half the model takes seconds to sum its gradients, and what is behind
    it hides little.
    """
    changes = parse_overrides(["job.seq_len=1024", "job.global_batch=256"])
    context = prepare(
        load_model("llama-2-7b", changes),
        load_cluster("4x8xA100-SXM-40GB + 4x8xV100-SXM2-32GB @ 100Gb/s", None, changes),
        load_job(None, changes),
    )
    setting = replace(open_setting(context.problem), replicas=(16, 16))
    space = build_space(context.problem, setting, 1, optimistic=True)
    pricer = Pricer(space, 64)
    random = np.random.default_rng(5)
    points = pricer.breakpoints()
    takts = np.sort(random.choice(points[points > 0], 80))
    weights = random.choice([0.3, 1.0, 4.0], 80) / takts
    prices = random.uniform(0.2, 1.0, len(space.options))
    free = pricer.solve(prices, takts, weights, 8)
    rooms = random.uniform(0.2, 2.0, 80)
    within = pricer.solve(prices, takts, weights, 8, rooms=rooms)
    assert (within.cost >= free.cost * (1 - 1e-12)).all()
    assert (within.cost > free.cost * 1.01).sum() > 10
    floors = pricer.floor(prices, takts, weights, np.full(80, 8), np.full(80, inf), rooms)
    assert (floors <= within.cost * (1 + 1e-12)).all()
    in_time = 0
    for pipeline in {p for p in (*free.pipelines, *within.pipelines) if p is not None}:
        times, hops = _least_times(space, pipeline, 8)
        latest = _through(space, pipeline, times, hops)
        for k in np.flatnonzero((rooms >= latest) & (takts >= max(*times, *hops))):
            in_time += 1
            cost = _priced(space, pipeline, prices, weights[k], 8, 1)
            assert within.cost[k] <= cost * (1 + 1e-12)
    assert in_time > 300


def _least_times(
    space: StageSpace, pipeline: tuple[Stage, ...], cap: int
) -> tuple[list[float], list[float]]:
    size = len(pipeline)
    times = [
        space.stage_time(s.option, s.first, s.end, min(size - k, cap))
        for k, s in enumerate(pipeline)
    ]
    return times, [float(space.hop[a.option, b.option, b.first]) for a, b in pairwise(pipeline)]


def _through(
    space: StageSpace, pipeline: tuple[Stage, ...], times: list[float], hops: list[float]
) -> float:
    """When the last stage of a lone micro-batch has synchronised: the formula, least finishes."""
    fill = sum(times) + 2 * sum(hops)
    latest, lead = 0.0, 0.0
    for stage, seconds in zip(pipeline, times, strict=True):
        if stage.first == 0:
            own = float(space.finish[stage.option, stage.end])
        else:
            inner = min(stage.end, space.layers - 1) - stage.first
            own = float(space.leads.least(inner)[stage.option])
        latest = max(latest, fill - lead + own)
        table = space.options[stage.option]
        forward = table.forward_ps[:, stage.first : stage.end].sum(axis=1).min()
        lead += seconds - float(forward) / PS_PER_S
    return latest
