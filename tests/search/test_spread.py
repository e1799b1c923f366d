"""On how many islands layers lie by a given time, and what that means for synchronisation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels.units import PS_PER_S
from planner.graphs.topology import Island
from planner.layout import LayoutPipeline, LayoutPricer, LayoutStage
from planner.search.columns import relaxed_column
from planner.search.finish import least_finish_s
from planner.search.problem import Setting
from planner.search.space import Stage, build_space
from planner.search.spread import Spread, spread_by
from planner.solve import Context
from tests.mesh_inputs import small_context

FLEETS = ("3x4xA100-SXM-80GB @ 25Gb/s", "2x2xA100-SXM-80GB + 2x4xA100-SXM-40GB @ 25Gb/s")
JOB = "global_batch=12 micro_batch_rows=[1,2] seq_len=2048 max_tensor_parallel=2"
contexts = st.sampled_from(FLEETS).map(lambda fleet: small_context(fleet, JOB, layers=5, experts=0))
over_hosts = st.sampled_from(
    (("cross_node_context_parallel", 0, 65536), ("cross_node_expert_parallel", 8, 2048))
).map(
    lambda way: small_context(
        "4x2xA100-SXM-80GB @ 25Gb/s",
        f"global_batch=8 micro_batch_rows=[1,2,4] seq_len={way[2]} techniques.{way[0]}=true",
        layers=4,
        experts=way[1],
    )
)


def test_what_an_island_can_do_by_a_time_says_who_shares_a_layer() -> None:
    """In twice the time that an island needs for a layer: two layers. In half: two islands."""
    problem = small_context(FLEETS[0], JOB, layers=5, experts=0).problem
    layer = int(problem.chip_seconds[0].argmax())
    alone_s = 12 * float(problem.chip_seconds[0, layer]) / 4
    for part, share, islands in ((2.0, 2.0, 1), (1.0, 1.0, 1), (0.5, 0.5, 2), (0.21, 0.21, 5)):
        spread = spread_by(problem, alone_s * part)
        assert spread.share[0, layer] == pytest.approx(share)
        assert spread.islands[layer] == islands


def test_any_time_allows_everything() -> None:
    problem = small_context(FLEETS[0], JOB, layers=5, experts=0).problem
    spread = spread_by(problem, None)
    assert (spread.islands == 1).all()
    savings = np.array([3.0, -1.0, 2.0])
    assert spread.saved(0, len(spread.islands) - 3, savings, 0.5).tolist() == [0.0, 3.0, 3.0, 5.0]


def test_an_island_has_as_many_layers_alone_as_it_has_time_for() -> None:
    """Room for two and a half equal layers: the third one saves a half."""
    spread = Spread(1.0, np.ones(4), np.full((1, 4), 2.5))
    saved = spread.saved(0, 0, np.full(4, 8.0), 1e-12)
    assert saved == pytest.approx([0.0, 8.0, 16.0, 20.0, 20.0])


def test_a_stage_that_fills_its_island_leaves_others_no_time_there() -> None:
    """Three quarters of the island: of four layers where two fit, it does 3/8 of each itself.

    The other 5/8 of those that are here alone take the quarter that is left: room for 2 · 0.4.
    """
    spread = Spread(1.0, np.ones(4), np.full((1, 4), 2.0))
    assert spread.saved(0, 0, np.ones(4), 0.75)[4] == pytest.approx(0.8)
    assert spread.saved(0, 0, np.ones(4), 1.0)[4] == pytest.approx(0.0)


def test_layers_that_no_island_does_in_time_are_on_none_alone() -> None:
    spread = Spread(1.0, np.array([2.0]), np.array([[0.99]]))
    assert spread.saved(0, 0, np.array([5.0]), 0.5).tolist() == [0.0, 0.0]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Context, list[LayoutPipeline]]:
    """Pipelines on free chips of random islands; anything that the options allow."""
    context = draw(contexts | over_hosts)
    layers = len(context.model.graph.layers)
    free = {i: list(i.devices) for c in context.topology.classes for i in c.islands}
    tables = context.problem.tables.tables
    pipelines: list[LayoutPipeline] = []
    for _ in range(draw(st.integers(1, 4))):
        rows = draw(st.sampled_from((1, 2)))
        cuts = sorted(draw(st.sets(st.integers(1, layers - 1), max_size=3)))
        stages = []
        for first, end in pairwise((0, *cuts, layers)):
            ways = [
                (islands, t.option.mesh)
                for t in tables
                if t.option.rows == rows
                for islands in _homes(context, t.option.class_index, t.option.chips, free)
            ]
            if not ways:
                return context, pipelines
            islands, mesh = draw(st.sampled_from(ways))
            each = mesh.chips // len(islands)
            devices = tuple(d for island in islands for d in free[island][:each])
            for island in islands:
                del free[island][:each]
            policies = (0,) * (end - first)
            stages.append(
                LayoutStage(islands[0], devices, first, end, mesh, policies, more=islands[1:])
            )
        count = draw(st.integers(1, 6))
        pipelines.append(LayoutPipeline(tuple(stages), rows, count, rows))
    return context, pipelines


def _homes(
    context: Context, class_index: int, chips: int, free: dict[Island, list[str]]
) -> list[tuple[Island, ...]]:
    """Islands with so many free chips, or as many free islands next to each other."""
    cls = context.topology.classes[class_index]
    count = -(-chips // cls.size)
    runs = (cls.islands[k : k + count] for k in range(cls.count - count + 1))
    return [r for r in runs if all(len(free[i]) >= min(chips, cls.size) for i in r)]


@settings(max_examples=150)
@given(layouts())
def test_no_pipeline_of_a_layout_is_later_by_the_bound_than_the_layout(
    given_: tuple[Context, list[LayoutPipeline]],
) -> None:
    """Whatever is placed does its own batch, and ends when it ends: that is the horizon."""
    context, pipelines = given_
    if not pipelines:
        return
    problem = context.problem
    done = sum(p.rows * p.micro_batches for p in pipelines)
    problem = type(problem)(
        problem.tables, problem.topology, problem.policies, done, problem.max_stages
    )
    priced = LayoutPricer(context.model.graph, context.topology, context.job).price(pipelines, 1)
    horizon_ps = priced.formula_ps
    count = len(pipelines)
    setting = Setting((count, count), ((0, problem.tables.layers),) * len(context.topology.classes))
    for pipeline in pipelines:
        space = build_space(
            problem, setting, pipeline.rows, optimistic=True, horizon_s=horizon_ps / PS_PER_S
        )
        at = {(t.option.class_index, t.option.mesh): k for k, t in enumerate(space.options)}
        stages = tuple(
            Stage(at[s.island.class_index, s.mesh], s.first, s.end) for s in pipeline.stages
        )
        times = [space.stage_time(s.option, s.first, s.end, 1) for s in stages]
        column = relaxed_column(problem, space, times, stages, None)
        assert column.time_ps(pipeline.micro_batches) <= horizon_ps


@given(contexts, st.floats(1e-4, 100.0), st.floats(1.0, 3.0), st.integers(1, 4))
def test_less_time_never_makes_a_stage_synchronise_faster(
    context: Context, seconds: float, more: float, replicas: int
) -> None:
    problem = context.problem
    for table in problem.tables.tables:
        early, late, ever = (
            least_finish_s(problem, table, (replicas, replicas), spread=spread_by(problem, horizon))
            for horizon in (seconds, seconds * more, None)
        )
        assert (early >= late - 1e-11).all()
        assert (late >= ever - 1e-11).all()
        assert (np.diff(early) >= -1e-11).all()
