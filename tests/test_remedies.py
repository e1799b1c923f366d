"""What would help where nothing fits: more nodes of the same kinds."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

from planner.remedies import bigger_cluster, quick_step_s
from planner.search.problem import Setting
from planner.search.space import Stage, build_space
from planner.search.stage_costs import StageCosts
from tests.mesh_inputs import PAIR, small_context

JOB = "global_batch=16 seq_len=2048"


def test_more_of_the_same_nodes_are_a_fleet_like_any_other() -> None:
    context = small_context(PAIR, JOB, layers=4, experts=0)
    bigger = bigger_cluster(context.topology, 2)
    (before,), (after,) = context.topology.classes, bigger.classes
    assert after.count == 2 * before.count
    assert len({d for island in after.islands for d in island.devices}) == 2 * 8
    for source, target in permutations(after.islands, 2):
        assert bigger.route(source, target) == context.topology.class_routes[0, 0]
    assert quick_step_s(context, bigger, context.job) is not None


def test_stages_on_more_of_the_same_nodes_have_hops_in_either_placement() -> None:
    """Middle stages ask whether their neighbours share a port, which named islands answer."""
    context = small_context(PAIR, JOB, layers=4, experts=0)
    topology = bigger_cluster(context.topology, 2)
    problem = replace(context.problem, topology=topology)
    setting = Setting((1, 1), ((0, problem.tables.layers),))
    space = build_space(problem, setting, 1, optimistic=False)
    four = next(k for k, t in enumerate(space.options) if t.option.chips == 4)
    stages = [Stage(four, 0, 2), Stage(four, 2, 4), Stage(four, 4, 6)]
    hops = StageCosts(problem, space).hops_ps(stages, False)
    assert hops is not None
    assert len(hops) == 2
    assert min(hops) > 0
