"""Interleaved plans: Megatron-LM takes their chunks, every other stock runtime says why not."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest

from planner.exporters import TARGETS
from planner.exporters.depth import depth_difference, exact_s, own_depths, planned_depths
from planner.exporters.megatron_layout import layout_counts, parse_layout
from planner.exporters.view import block_counts, recomputed, view_of
from planner.plan import Plan
from tests.chunked_plans import chunked_context, chunked_pipeline, chunked_plan, plan_of
from tests.exporters.laid_out import broken, exported, refused, text_of
from tests.exporters.test_megatron import flags

FOUR = "1x8xA100-SXM-80GB"
DEALT = tuple(((first, first + 2), (8 + first, 8 + first + 2)) for first in range(0, 8, 2))
"""16 layers in two chunks on each of four stages."""


@lru_cache(maxsize=8)
def four_stages(micro_batches: int, policy: int = 0, depth: int = 0) -> Plan:
    """One pipeline of four stages of two chunks; the first holds ``depth`` more pairs."""
    context = chunked_context(batch=micro_batches, cluster=FOUR, layers=14)
    devices = [(f"node0/{2 * s}", f"node0/{2 * s + 1}") for s in range(4)]
    pipe = chunked_pipeline(context, devices, DEALT, micro_batches, policy)
    if depth:
        (priced,) = context.pricer.price([pipe], 1).pipelines
        stages = tuple(
            replace(s, in_flight=p.in_flight + (0 if n else depth))
            for n, (s, p) in enumerate(zip(pipe.stages, priced.stages, strict=True))
        )
        pipe = replace(pipe, stages=stages)
    return plan_of(context, [pipe])


def test_a_layout_names_a_part_per_chunk_in_the_order_of_the_layers() -> None:
    found = flags(four_stages(8))
    assert found["pipeline-model-parallel-layout"] == "Et|t*2|t*2|t*2|t*2|t*2|t*2|tL"
    assert found["pipeline-model-parallel-size"] == "4"
    assert "microbatch-group-size-per-virtual-pipeline-stage" not in found
    assert not [f for f in found if "virtual" in f]
    parts = parse_layout(found["pipeline-model-parallel-layout"])
    assert layout_counts(parts) == block_counts(view_of(four_stages(8)))


def test_two_stages_of_two_replicas_take_turns() -> None:
    found = flags(chunked_plan())
    assert found["pipeline-model-parallel-layout"] == "Et*2|t*2|t*3|tL"
    assert found["global-batch-size"] == "8"


@pytest.mark.parametrize("micro_batches", [6, 10])
def test_larger_groups_are_told(micro_batches: int) -> None:
    """6 in one group and 10 in two of 5, over four stages."""
    found = flags(four_stages(micro_batches))
    group = {6: "6", 10: "5"}[micro_batches]
    assert found["microbatch-group-size-per-virtual-pipeline-stage"] == group


@pytest.mark.parametrize(
    ("micro_batches", "says"),
    [(9, "groups of 4 and 5"), (3, "as many as stages")],
)
def test_groups_that_megatron_does_not_make_are_refused(micro_batches: int, says: str) -> None:
    (problem,) = refused(four_stages(micro_batches), "megatron")
    assert problem.where == "interleaved micro-batches"
    assert says in problem.message
    assert f"--global-batch {8 if micro_batches == 9 else 4}" in problem.remedy


def test_recomputation_is_counted_by_chunk() -> None:
    plan = four_stages(8, policy=2)
    assert [r.full for r in recomputed(view_of(plan))] == [1, 2, 2, 2, 2, 2, 2, 1]
    assert flags(plan)["recompute-method"] == "uniform"


@pytest.mark.parametrize(
    "target", sorted(set(TARGETS) - {"megatron", "torch", "kubernetes", "slurm"})
)
def test_others_refuse_chunks_by_name(target: str) -> None:
    found = {p.where: p for p in refused(chunked_plan(), target)}
    if target == "accelerate":  # it has no pipeline at all
        assert "pipeline parallelism" in found
        return
    problem = found["schedule interleaved"]
    assert "--set job.techniques.interleaved=false" in problem.remedy


def test_the_reference_runtime_takes_them() -> None:
    for target in ("torch", "kubernetes", "slurm"):
        assert refused(chunked_plan(), target) == ()
    assert '"chunks"' in text_of(exported(chunked_plan(), "torch"), "plan.json")


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("Et|t*2|t*2|t*2|t*2|t*2|t*2|tL", "Et*3|t*4|t*4|t*3L", "layout"),
        ("Et|t*2|", "Et*2|t|", "layout"),
        ("--global-batch-size 8", "--global-batch-size 9", "turns"),
        (
            "--micro-batch-size 1",
            "--microbatch-group-size-per-virtual-pipeline-stage 8\n  --micro-batch-size 1",
            "turns",
        ),
        (
            "--micro-batch-size 1",
            "--num-virtual-stages-per-pipeline-rank 2\n  --micro-batch-size 1",
            "exclusive",
        ),
    ],
)
def test_every_rule_catches_what_it_names(old: str, new: str, rule: str) -> None:
    assert rule in broken(four_stages(8), "megatron", ("arguments.sh", old, new))


def test_depths_of_interleaved_1f1b_are_no_difference() -> None:
    (pipeline,) = four_stages(8).pipelines
    assert planned_depths(pipeline) == own_depths(pipeline) == (11, 9, 7, 5)
    assert exact_s(pipeline, own_depths(pipeline)) == pytest.approx(
        pipeline.exact_time_s, rel=1e-12
    )
    assert not list(depth_difference(TARGETS["megatron"].CAPABILITY, view_of(four_stages(8))))


def test_more_pairs_in_flight_are_told() -> None:
    plan = four_stages(8, depth=1)
    (text,) = depth_difference(TARGETS["megatron"].CAPABILITY, view_of(plan))
    assert "11, 9, 7, 5 pairs of a chunk and a micro-batch in flight by stage" in text
    assert "the plan 12, 9, 7, 5" in text


def test_fewer_pairs_in_flight_are_refused() -> None:
    found = refused(four_stages(8, depth=-1), "megatron")
    assert [p.where for p in found] == ["pairs of chunk and micro-batch in flight"]
    assert "stage 0 holds 10, the target's 1F1B 11" in found[0].message
