"""Plans whose stages are meshes: found, proved, verified, priced again and broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import planner
from costmodels.units import PS_PER_S
from planner.diff import diff
from planner.errors import ExportError, InputError
from planner.estimate import PlanLayout, estimate_sketch, sketch_of
from planner.exporters import export_plan, problems_of
from planner.layout import LayoutPipeline, LayoutPricer, LayoutStage
from planner.mesh import StageMesh
from planner.meshes import mesh_problem
from planner.options import StageOption
from planner.plan import Plan
from planner.reuse import layouts_of
from planner.runtime.support import check_supported
from planner.search.compact import solve_compact
from planner.search.finish import least_finish_s
from planner.search.regions import roots
from planner.simulate import simulate
from planner.solve import Context
from planner.verify import verify
from tests.broken_plans import Body, Breakage, replica, stage
from tests.mesh_inputs import (
    PAIR,
    context_of,
    long_plan,
    moe_plan,
    planned_with,
    sharded_plan,
    small_context,
    small_plan,
)

PLANS = (moe_plan, long_plan, sharded_plan)
each = pytest.mark.parametrize("plan", PLANS, ids=lambda f: f.__name__)


def meshes_of(plan: Plan) -> set[tuple[int, int, int, bool]]:
    found = [r.mesh for p in plan.pipelines for s in p.stages for r in s.replicas]
    return {(m.context_parallel, m.expert_parallel, m.data_parallel, m.zero3) for m in found}


def test_each_technique_is_what_the_search_chooses_where_nothing_else_is_as_good() -> None:
    assert {ep for _, ep, _, _ in meshes_of(moe_plan())} == {4}
    assert {cp for cp, _, _, _ in meshes_of(long_plan())} == {4}
    assert meshes_of(sharded_plan()) == {(1, 1, 4, True)}


@each
def test_a_plan_is_verified_and_replayed(plan: Callable[[], Plan]) -> None:
    assert verify(plan()) == []
    found = simulate(plan()).step_time_s
    assert found == pytest.approx(plan().estimate.step_time_s, rel=0.02)


@each
def test_a_plan_as_a_layout_has_its_price_to_the_last_bit(plan: Callable[[], Plan]) -> None:
    context = context_of(plan)
    layout = PlanLayout("again", "", plan())
    priced = estimate_sketch(context, sketch_of(context, layout)).plan
    assert priced.pipelines == plan().pipelines
    assert priced.sync_groups == plan().sync_groups
    assert priced.estimate.step_time_s == plan().estimate.step_time_s


def test_what_would_make_rows_of_experts_fit_leaves_a_row_for_every_copy() -> None:
    """Two rows do not divide among the four copies of a stage: no change asks for so few."""
    (copies,) = {dp for _, _, dp, _ in meshes_of(moe_plan())}
    (rows,) = {r.rows for p in moe_plan().pipelines for s in p.stages for r in s.replicas}
    assert (rows, copies) == (4, 4)
    context = context_of(moe_plan, "seq_len=200000 techniques.context_parallel=false")
    found = estimate_sketch(context, sketch_of(context, PlanLayout("again", "", moe_plan())))
    assert not found.fits
    changes = [a.change for a in found.plan.alternatives]
    assert "recompute: full" in changes
    assert not any("micro_batch_rows" in change for change in changes)


@each
def test_a_file_keeps_its_hash(plan: Callable[[], Plan]) -> None:
    assert Plan.model_validate_json(plan().to_json()).content_hash() == plan().plan_id


def test_plain_meshes_say_nothing_new() -> None:
    sets = "global_batch=4 micro_batch_rows=[1]"
    plan = small_plan("1x2xA100-SXM-80GB", sets, experts=0)
    mesh = plan.model_dump(mode="json")["pipelines"][0]["stages"][0]["replicas"][0]["mesh"]
    assert set(mesh) == {"context_parallel", "expert_parallel", "tensor_parallel"}
    assert not {"context_parallel", "expert_parallel", "zero3"} & set(plan.inputs.job.resolved)


def test_the_imbalance_of_experts_is_an_assumption() -> None:
    assert any("1.1 times the mean" in line for line in moe_plan().assumptions)
    assert not any("imbalance" in line for line in long_plan().assumptions)


@pytest.mark.parametrize(
    ("plan", "technique"), [(moe_plan, "expert_parallel"), (long_plan, "context_parallel")]
)
def test_a_technique_that_is_allowed_makes_no_plan_worse_than_its_gap(
    plan: Callable[[], Plan], technique: str
) -> None:
    best = plan().certificate
    without = planned_with(plan, f"techniques.{technique}=false")
    assert best is not None
    assert without.certificate is not None
    assert best.lower_bound_s <= without.certificate.objective_s
    assert best.objective_s * (1 - best.gap) <= without.certificate.objective_s
    assert technique in " ".join(without.certificate.search_space.dropped)


# -- oracles ----------------------------------------------------------------------------------

SLOW = settings(
    derandomize=True,
    deadline=None,
    max_examples=8,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
SETS = (
    "max_pipeline_stages=2 techniques.zero3={zero3} techniques.tensor_parallel={tensor} "
    "global_batch={batch} seq_len={seq} micro_batch_rows=[2] techniques.context_parallel=true"
)


@SLOW
@given(
    cluster=st.sampled_from(("1x4xA100-SXM-80GB", "2x2xRTX4090-24GB @ 100Gb/s")),
    experts=st.sampled_from((0, 4)),
    seq=st.sampled_from((2048, 65536)),
    batch=st.sampled_from((4, 6)),
    zero3=st.booleans(),
    tensor=st.booleans(),
)
def test_whole_solves_agree_with_the_compact_model(
    cluster: str, experts: int, seq: int, batch: int, *, zero3: bool, tensor: bool
) -> None:
    sets = SETS.format(zero3=zero3, tensor=tensor, batch=batch, seq=seq)
    model = {"layers": 1, "experts": experts}
    problem = small_context(cluster, sets, **model).problem
    (region,) = roots(problem)
    optimum = solve_compact(problem, region.setting(problem))
    assert optimum.proven
    try:
        proof = small_plan(cluster, sets, **model).certificate
    except planner.InfeasibleError:
        assert optimum.time_ps is None
        return
    assert optimum.time_ps is not None
    assert proof is not None
    assert proof.lower_bound_s <= optimum.time_ps / PS_PER_S * (1 + 1e-9)
    assert proof.objective_s <= 1.15 * optimum.time_ps / PS_PER_S


@pytest.mark.parametrize("experts", [0, 4])
def test_the_bound_of_a_first_stage_is_never_above_what_devices_pay(experts: int) -> None:
    """Every pair of meshes in two pipelines, on one island and on two, cut alike and not."""
    sets = "micro_batch_rows=[4] seq_len=65536 global_batch=8 techniques.zero3=true"
    context = small_context(PAIR, sets, experts=experts)
    options = [o for o in context.options.options if o.chips <= 2]
    layers = len(context.model.graph.layers)
    seen = 0
    for one, other in product(options, repeat=2):
        for cuts, apart in product([(2, 2), (2, 1), (layers, layers)], (False, True)):
            if 2 * (one.chips + other.chips) > 4 * (1 + apart):
                continue
            seen += 1
            _check_first_stages(context, (one, other), cuts, apart=apart)
    assert seen > 50


def _check_first_stages(
    context: Context, pair: tuple[StageOption, StageOption], cuts: tuple[int, int], *, apart: bool
) -> None:
    layers = len(context.model.graph.layers)
    free = [list(i.devices) for i in context.topology.classes[0].islands]
    pipelines = []
    for p, (option, cut) in enumerate(zip(pair, cuts)):
        at = p if apart else 0
        stages = []
        for first, end in ((0, cut), (cut, layers)):
            if first < end:
                devices, free[at] = free[at][: option.chips], free[at][option.chips :]
                stages.append(
                    LayoutStage(
                        context.topology.classes[0].islands[at],
                        tuple(devices),
                        first,
                        end,
                        option.mesh,
                        (0,) * (end - first),
                    )
                )
        pipelines.append(LayoutPipeline(tuple(stages), option.rows, 1, option.rows))
    priced = LayoutPricer(context.model.graph, context.topology, context.job).price(pipelines, 1)
    for p, (option, cut) in enumerate(zip(pair, cuts)):
        table = context.problem.tables.tables[option.index]
        own = max((s.time_ps for s in priced.syncs if (p, 0) in s.members), default=0)
        least = least_finish_s(context.problem, table, (2, 2))[cut] * PS_PER_S
        assert least <= own + priced.update_ps + 1


# -- who else reads a mesh --------------------------------------------------------------------


@each
def test_a_plan_is_reused_where_its_mesh_is_tried(plan: Callable[[], Plan]) -> None:
    context = context_of(plan)
    graph = context.model.graph
    assert layouts_of(plan(), graph, context.topology, context.job) is not None
    names = ("context_parallel", "expert_parallel", "zero3")
    sets = " ".join(f"techniques.{name}=false" for name in names)
    forbidden = context_of(plan, sets).job
    assert layouts_of(plan(), graph, context.topology, forbidden) is None


def test_a_mesh_is_not_reused_where_a_profile_prices_its_chips() -> None:
    context = context_of(long_plan)
    measured = tuple(replace(c, profile=cast(Any, object())) for c in context.topology.classes)
    topology = replace(context.topology, classes=measured)
    assert layouts_of(long_plan(), context.model.graph, topology, context.job) is None


@pytest.mark.parametrize(
    ("mesh", "why"),
    [
        (StageMesh(tp=2, cp=3, ep=4), "do not divide the stage's 6"),
        (StageMesh(dp=2), "experts or ZeRO-3 alone"),
    ],
)
def test_a_mesh_that_verification_refuses_is_refused_where_it_is_read(
    mesh: StageMesh, why: str
) -> None:
    context = small_context(PAIR, "global_batch=16 seq_len=6144 micro_batch_rows=[4]")
    assert why in (mesh_problem(context.model.graph, mesh, 4, context.job)[1] or "")


def test_stock_runtimes_refuse_what_they_cannot_run_by_name() -> None:
    said = {p.where for p in problems_of(moe_plan(), "torch")}
    assert {"expert parallelism", "data parallelism inside a stage"} <= said
    assert "context parallelism" in {p.where for p in problems_of(long_plan(), "torch")}
    assert "ZeRO level 3 inside a stage" in {p.where for p in problems_of(sharded_plan(), "torch")}


@each
def test_the_runtime_refuses_what_it_cannot_run_by_name(plan: Callable[[], Plan]) -> None:
    with pytest.raises(ExportError, match=r"context|expert|ZeRO level 3"):
        check_supported(plan())


def test_megatron_takes_context_parallelism() -> None:
    text = "\n".join(file.text for file in export_plan(long_plan(), "megatron").files)
    assert "--context-parallel-size 4" in text
    assert "--tensor-model-parallel-size 1" in text


def test_a_difference_counts_the_copies_inside_a_stage() -> None:
    sets = "global_batch=2 seq_len=65536 micro_batch_rows=[1] techniques.context_parallel=false"
    other = small_plan(PAIR, sets, experts=0)
    found = diff(long_plan(), other)
    assert {move.copies[0] for move in found.moves} == {8}
    assert {move.tensor_parallel[0] for move in found.moves} == {(1,)}


def test_a_layout_names_as_many_devices_as_its_mesh() -> None:
    body = long_plan().model_dump(mode="json")
    replica(body, 0, 0)["devices"].pop()
    context = context_of(long_plan)
    with pytest.raises(InputError, match="names 3 devices for tp 1 cp 4"):
        sketch_of(context, PlanLayout("short", "", Plan.model_validate(body)))


# -- broken plans -----------------------------------------------------------------------------


def _mesh(**values: object) -> Callable[[Body], None]:
    def change(body: Body) -> None:
        replica(body, 0, 0)["mesh"] |= values

    return change


def _experts_closer(body: Body) -> None:
    for pipeline in body["pipelines"]:
        for own in pipeline["stages"]:
            own["replicas"][0]["mesh"]["expert_parallel"] = 2


def _group_gone(body: Body) -> None:
    del body["sync_groups"][0]


def _sync_for_free(body: Body) -> None:
    body["sync_groups"][0]["time_s"] = 0.0


def _gathers_for_free(body: Body) -> None:
    replica(body, 0, 0)["time_s"]["tp_comm_backward"] = 0.0


def _gathered_nothing(body: Body) -> None:
    replica(body, 0, 0)["memory_bytes"]["buffers"] -= 1


def _sharded_twice(body: Body) -> None:
    replica(body, 0, 0)["memory_bytes"]["optimizer"] //= 2


def _not_sharded(body: Body) -> None:
    stage(body, 0, 0)["zero"]["scope"] = "none"


BROKEN = {
    "experts that do not divide": (moe_plan, _mesh(expert_parallel=3), "experts do not divide"),
    "experts over fewer devices": (moe_plan, _experts_closer, "time_s.tp_comm_forward"),
    "rows that do not divide": (
        moe_plan,
        _mesh(data_parallel=1, context_parallel=4),
        "context parallelism is not allowed",
    ),
    "copies never summed": (moe_plan, _group_gone, "no group reduces layer 0"),
    "copies summed for free": (moe_plan, _sync_for_free, "sync_groups[0].time_s"),
    "optimizer cut too fine": (moe_plan, _sharded_twice, "memory_bytes.optimizer"),
    "sharded and not said so": (moe_plan, _not_sharded, "does not go with scope"),
    "weights divided without leave": (moe_plan, _mesh(zero3=True), "ZeRO-3 is not allowed"),
    "context as data": (
        long_plan,
        _mesh(context_parallel=1, data_parallel=4),
        "1 rows do not divide among 4 devices",
    ),
    "fewer devices than degrees": (long_plan, _mesh(tensor_parallel=2), "4 devices for a mesh of"),
    "experts of a dense model": (long_plan, _mesh(expert_parallel=2), "the model has no experts"),
    "weights whole again": (sharded_plan, _mesh(zero3=False), "with experts or ZeRO-3 alone"),
    "gathers for free": (sharded_plan, _gathers_for_free, "time_s.tp_comm_backward"),
    "nothing gathered": (sharded_plan, _gathered_nothing, "memory_bytes.buffers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rejects(name: str) -> None:
    good, change, expected = BROKEN[name]
    problems = "\n".join(map(str, verify(Breakage(good, change, expected).broken())))
    assert expected in problems


def test_a_mesh_reads_as_its_degrees() -> None:
    assert StageMesh(tp=4, cp=2).describe() == "tp 4 cp 2"
    assert StageMesh(dp=8, ep=8).describe() == "tp 1 dp 8 ep 8"
    assert StageMesh(dp=4, zero3=True).describe() == "tp 1 dp 4 zero 3"
