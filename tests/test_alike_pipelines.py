"""Pipelines that differ in names alone are priced once: at the price that each has by itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.layout import LayoutPipeline, LayoutStage
from planner.mesh import StageMesh
from planner.search.problem import Setting
from planner.search.space import Stage, build_space
from planner.search.stage_costs import StageCosts
from planner.solve import Context
from tests.mesh_inputs import small_context
from tests.priced_plans import check_by_kind

FLEET = "3x4xA100-SXM-80GB + 3x4xV100-SXM2-32GB @ 100Gb/s"
LAYERS = 6


@cache
def context() -> Context:
    return small_context(FLEET, "global_batch=64 seq_len=2048", layers=LAYERS - 2, experts=0)


@st.composite
def layouts(draw: st.DrawFn) -> list[LayoutPipeline]:
    """A few pipelines anywhere on the fleet; stages may share islands and hosts."""
    islands = [i for c in context().topology.classes for i in c.islands]
    ways = [(w,) * LAYERS for w in context().options.policies]
    out = []
    for _ in range(draw(st.integers(2, 6))):
        cut = draw(st.sampled_from((2, 4)))
        stages = []
        for first, end in ((0, cut), (cut, LAYERS)):
            island = islands[draw(st.integers(0, len(islands) - 1))]
            chips = draw(st.sampled_from((1, 2)))
            stages.append(
                LayoutStage(
                    island,
                    island.devices[:chips],
                    first,
                    end,
                    StageMesh(chips),
                    draw(st.sampled_from(ways))[first:end],
                )
            )
        micro_batches = draw(st.sampled_from((2, 5)))
        rows = draw(st.sampled_from((1, 64)))  # 64 rows do not fit
        out.append(LayoutPipeline(tuple(stages), rows, micro_batches, rows))
    return out


@settings(max_examples=60, deadline=None)
@given(layouts())
def test_a_layout_costs_the_same_whether_islands_are_known_to_be_alike_or_not(
    pipelines: list[LayoutPipeline],
) -> None:
    check_by_kind(context(), pipelines)


@settings(max_examples=30, deadline=None)
@given(layouts())
def test_priced_stages_lie_on_the_devices_of_their_own_pipeline(
    pipelines: list[LayoutPipeline],
) -> None:
    priced = context().pricer.price(pipelines, 1)
    for pipe, own in zip(pipelines, priced.pipelines, strict=True):
        assert tuple(s.stage for s in own.stages) == pipe.stages


def test_islands_of_one_class_behind_the_same_ports_are_alike() -> None:
    topology = context().topology
    for cls in topology.classes:
        assert len({topology.cells[i.name] for i in cls.islands}) == 1
    assert len(set(topology.cells.values())) == 2


TWO_SPEEDS = """
name: two-speeds
nodes:
  - name_prefix: fast-
    count: 4
    devices: [{chip: A100-SXM-80GB, count: 4}]
    nics: [{network: ib, bandwidth_one_way: 400 Gb/s}]
  - name_prefix: slow-
    count: 4
    devices: [{chip: V100-SXM2-32GB, count: 4}]
    nics: [{network: ib, bandwidth_one_way: 50 Gb/s}]
networks:
  - {name: ib, kind: ib}
"""


def test_equal_pipelines_do_not_wait_for_the_ports_of_other_classes(tmp_path: Path) -> None:
    """A100 hosts have eight times the ports of V100 hosts; only mixed replicas need the latter."""
    fleet = tmp_path / "two-speeds.yaml"
    fleet.write_text(TWO_SPEEDS)
    problem = small_context(
        str(fleet), "global_batch=64 seq_len=2048", layers=LAYERS - 2, experts=0
    ).problem
    windows = ((0, LAYERS),) * len(problem.topology.classes)
    space = build_space(problem, Setting((4, 4), windows), 1, optimistic=False)
    costs = StageCosts(problem, space)
    for k, table in enumerate(space.options):
        cls = problem.topology.classes[table.option.class_index]
        stage = Stage(k, 0, LAYERS)
        (mixed, _), (alone, _) = (costs.finish_ps(stage, True, a) for a in (False, True))
        if cls.chip.id == "nvidia-a100-sxm-80gb":
            assert alone < mixed
        else:
            assert alone == mixed
