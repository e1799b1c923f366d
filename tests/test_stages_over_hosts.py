"""Plans whose stages lie on several hosts: found, verified, priced again, replayed and broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from costmodels.units import PS_PER_S
from planner.errors import ExportError
from planner.estimate import PlanLayout, estimate_sketch, sketch_of
from planner.explain.adjacent import against_the_job
from planner.exporters import export_plan, problems_of
from planner.exporters.megatron_arguments import expert_arguments
from planner.exporters.megatron_rules import EXPERTS as EXPERT_RULES
from planner.exporters.megatron_rules import MegatronRead
from planner.exporters.view import view_of
from planner.graphs.across import numbers_of_islands
from planner.layout import LayoutPipeline, LayoutPricer, LayoutStage
from planner.mesh import StageMesh
from planner.meshes import over_islands_problem
from planner.options import StageOption
from planner.plan import Plan
from planner.reuse import layouts_of
from planner.runtime.support import check_supported
from planner.search.finish import least_finish_s
from planner.simulate import simulate
from planner.solve import Context
from planner.verify import verify
from tests.broken_plans import Body, replica
from tests.mesh_inputs import moe_plan, small_context, small_plan

HOSTS = "4x2xRTX4090-24GB @ 400Gb/s"
EXPERTS = (
    "global_batch=32 micro_batch_rows=[4,8] seq_len=2048 max_pipeline_stages=2",
    {"layers": 4, "experts": 16, "width": 5120},
)
SEQUENCES = (
    "global_batch=2 micro_batch_rows=[1] seq_len=262144 max_pipeline_stages=1 "
    "techniques.cross_node_context_parallel=true",
    {"layers": 2, "experts": 0, "width": 4096},
)


def experts_plan() -> Plan:
    """Sixteen experts in a layer, which two cards cannot hold."""
    return small_plan(HOSTS, EXPERTS[0], **EXPERTS[1])


def sequences_plan() -> Plan:
    """Sequences whose activations two cards cannot hold."""
    return small_plan(HOSTS, SEQUENCES[0], **SEQUENCES[1])


CASES = {experts_plan: EXPERTS, sequences_plan: SEQUENCES}
each = pytest.mark.parametrize("plan", CASES, ids=lambda f: f.__name__)


def context_of(plan: Callable[[], Plan], more: str = "") -> Context:
    sets, model = CASES[plan]
    return small_context(HOSTS, f"{sets} {more}", **model)


def hosts_of(plan: Plan) -> set[int]:
    found = [r.devices for p in plan.pipelines for s in p.stages for r in s.replicas]
    return {len({d.rpartition("/")[0] for d in devices}) for devices in found}


def test_a_stage_takes_whole_hosts_where_one_cannot_hold_it() -> None:
    assert max(hosts_of(experts_plan())) > 1
    assert max(hosts_of(sequences_plan())) > 1


@each
def test_a_plan_is_verified_and_replayed(plan: Callable[[], Plan]) -> None:
    assert verify(plan()) == []
    assert simulate(plan()).step_time_s == pytest.approx(plan().estimate.step_time_s, rel=0.02)


@each
def test_a_plan_as_a_layout_has_its_price_to_the_last_bit(plan: Callable[[], Plan]) -> None:
    context = context_of(plan)
    priced = estimate_sketch(context, sketch_of(context, PlanLayout("again", "", plan()))).plan
    assert priced.pipelines == plan().pipelines
    assert priced.sync_groups == plan().sync_groups
    assert priced.estimate.step_time_s == plan().estimate.step_time_s


@each
def test_the_certificate_names_the_space_and_its_bound_is_below(plan: Callable[[], Plan]) -> None:
    proof = plan().certificate
    assert proof is not None
    assert 0 < proof.lower_bound_s <= proof.objective_s
    assert any("whole hosts of one kind" in line for line in proof.search_space.allowed)


@each
def test_a_plan_is_reused_only_where_the_job_allows_hosts(plan: Callable[[], Plan]) -> None:
    context = context_of(plan)
    graph = context.model.graph
    assert layouts_of(plan(), graph, context.topology, context.job) is not None
    names = ("cross_node_expert_parallel", "cross_node_context_parallel")
    sets = " ".join(f"techniques.{name}=false" for name in names)
    forbidden = context_of(plan, sets).job
    assert layouts_of(plan(), graph, context.topology, forbidden) is None


def test_dense_models_and_few_experts_keep_their_space() -> None:
    for experts in (0, 2):
        context = small_context(HOSTS, "global_batch=8", experts=experts)
        assert not context.job.cross_node_expert_parallel
        assert "cross_node_expert_parallel" not in context.job.as_json()
        assert max(o.chips for o in context.options.options) == 2
    context = small_context(HOSTS, "global_batch=8", experts=8)
    assert context.job.cross_node_expert_parallel
    assert max(o.chips for o in context.options.options) == 8


def test_sequences_that_the_job_does_not_share_are_not_shared_over_hosts() -> None:
    """The switch for hosts alone opens nothing that verification would refuse."""
    sets = "global_batch=8 seq_len=2048 techniques.cross_node_context_parallel=true"
    for experts in (0, 8):
        context = small_context(HOSTS, sets, experts=experts)
        assert not context.job.context_parallel
        assert {o.mesh.cp for o in context.options.options} == {1}
    context = small_context(HOSTS, f"{sets} techniques.context_parallel=true", experts=0)
    assert max(o.mesh.cp for o in context.options.options) == 8


def test_rows_that_the_user_names_are_those_of_a_micro_batch() -> None:
    """Eight rows may be eight devices' one: a plan's own rows leave its stages in the space."""
    context = small_context(HOSTS, "global_batch=64 micro_batch_rows=[8]", experts=8)
    wide = [o for o in context.options.options if o.chips > 2]
    assert {o.rows for o in wide if o.mesh.dp == 8} >= {8}


def test_islands_that_nothing_joins_are_said_though_all_else_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = context_of(experts_plan)
    layouts = layouts_of(experts_plan(), context.model.graph, context.topology, context.job)
    assert layouts is not None
    pricer = LayoutPricer(context.model.graph, context.topology, context.job)
    assert pricer.price(layouts, 1).fits
    monkeypatch.setattr(pricer, "port", lambda _: None)
    assert any("which no network joins" in p for p in pricer.price(layouts, 1).problems)


def test_rows_that_only_stages_over_hosts_take_are_not_against_the_job() -> None:
    context = small_context(HOSTS, "global_batch=64 seq_len=8192", experts=8)
    sketch = sketch_of(context_of(experts_plan), PlanLayout("its own", "", experts_plan()))
    for rows, allowed in ((8, True), (16, False)):
        pipelines = tuple(replace(p, rows=rows) for p in sketch.pipelines)
        said = against_the_job(context, replace(sketch, pipelines=pipelines))
        assert ("rows per micro-batch" not in (said or "")) == allowed


def test_rows_of_the_user_are_not_added_to() -> None:
    own = small_context(HOSTS, "global_batch=64 micro_batch_rows=[2]", experts=8)
    assert own.job.cross_node_rows == ()
    context = small_context(HOSTS, "global_batch=64 seq_len=8192", experts=8)
    assert context.job.micro_batch_rows == (1, 2, 4)
    assert context.job.cross_node_rows == (8,)
    wide = [o for o in context.options.options if o.rows == 8]
    assert {o.chips > 2 for o in wide} == {True}
    assert {8 // o.mesh.dp for o in wide} <= {1, 2, 4}


@pytest.mark.parametrize(
    ("cluster", "numbers"),
    [
        (HOSTS, (2, 4)),
        ("3x2xRTX4090-24GB @ 100Gb/s", (2,)),
        ("1x4xRTX4090-24GB", ()),
        ("4x3xRTX4090-24GB @ 100Gb/s", ()),
        ("32x1xRTX4090-24GB @ 100Gb/s", (2, 4, 8)),
    ],
)
def test_powers_of_two_of_islands_that_a_network_joins(
    cluster: str, numbers: tuple[int, ...]
) -> None:
    topology = small_context(cluster, "global_batch=8").topology
    assert numbers_of_islands(topology, topology.classes[0]) == numbers


@pytest.mark.parametrize(
    ("mesh", "why"),
    [
        (StageMesh(tp=4), "inside an island"),
        (StageMesh(dp=4, zero3=True), "ZeRO-3"),
        (StageMesh(dp=4, ep=2), "pipelines of their own"),
        (StageMesh(dp=4), "pipelines of their own"),
        (StageMesh(cp=4), "cross_node_context_parallel"),
        (StageMesh(dp=4, ep=4), None),
    ],
)
def test_what_may_lie_on_several_islands(mesh: StageMesh, why: str | None) -> None:
    job = small_context(HOSTS, "global_batch=8", experts=8).job
    found = over_islands_problem(mesh, 2, job)
    assert found is None if why is None else why in (found or "")


@pytest.mark.parametrize("experts", [0, 8])
def test_the_bound_of_a_first_stage_is_never_above_what_devices_pay(experts: int) -> None:
    """One and two pipelines of any pair of options, at least one of them over hosts."""
    sets = (
        "micro_batch_rows=[4] seq_len=65536 global_batch=8 techniques.context_parallel=true "
        "techniques.cross_node_context_parallel=true"
    )
    context = small_context(HOSTS, sets, experts=experts)
    options = context.options.options
    layers = len(context.model.graph.layers)
    seen = 0
    for one, other in product(options, repeat=2):
        pipelines = [p for p in ((one,), (one, other)) if any(o.chips > 2 for o in p)]
        for chosen, cut in product(pipelines, (2, layers)):
            hosts = sum(max(1, o.chips // 2) * (1 + (cut < layers)) for o in chosen)
            if hosts <= 4:
                seen += 1
                _check_first_stages(context, chosen, cut)
    assert seen > 20


def _check_first_stages(context: Context, chosen: tuple[StageOption, ...], cut: int) -> None:
    layers = len(context.model.graph.layers)
    islands = list(context.topology.classes[0].islands)
    pipelines = []
    for option in chosen:
        stages = []
        for first, end in [(0, cut), (cut, layers)][: 1 + (cut < layers)]:
            held = [islands.pop(0) for _ in range(max(1, option.chips // 2))]
            devices = tuple(d for island in held for d in island.devices)[: option.chips]
            policies = (0,) * (end - first)
            stages.append(
                LayoutStage(
                    held[0], devices, first, end, option.mesh, policies, more=tuple(held[1:])
                )
            )
        pipelines.append(LayoutPipeline(tuple(stages), option.rows, 1, option.rows))
    priced = LayoutPricer(context.model.graph, context.topology, context.job).price(pipelines, 1)
    counts = (len(chosen), len(chosen))
    for p, option in enumerate(chosen):
        tables = context.problem.tables.tables
        own = [t for t in tables if t.option.index == option.index]
        paid = max((s.time_ps for s in priced.syncs if (p, 0) in s.members), default=0)
        for table in own:  # none where another mesh is at least as good
            least = least_finish_s(context.problem, table, counts)[cut] * PS_PER_S
            assert least <= paid + priced.update_ps + 1


def test_runtimes_that_cannot_run_it_say_so() -> None:
    assert "expert parallelism" in {p.where for p in problems_of(experts_plan(), "torch")}
    with pytest.raises(ExportError, match=r"expert"):
        check_supported(experts_plan())


def test_megatron_writes_experts_over_hosts_with_the_dispatcher_that_knows_hosts() -> None:
    files = {f.path: f.text for f in export_plan(experts_plan(), "megatron").files}
    mesh = experts_plan().pipelines[0].stages[0].replicas[0].mesh
    text = files["arguments.sh"]
    assert f"--expert-model-parallel-size {mesh.expert_parallel}" in text
    assert "--moe-token-dispatcher-type flex" in text
    assert "--moe-flex-dispatcher-backend deepep" in text


def test_megatron_writes_experts_inside_a_host_as_they_were() -> None:
    files = {f.path: f.text for f in export_plan(moe_plan(), "megatron").files}
    text = files["arguments.sh"]
    assert "--expert-model-parallel-size 4" in text
    assert "--expert-tensor-parallel-size 1" in text
    assert "--micro-batch-size 1" in text
    assert "--moe-token-dispatcher-type alltoall" in text
    said = {p.where for p in problems_of(moe_plan(), "megatron-bridge")}
    assert "expert parallelism" in said


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"expert-model-parallel-size": "3"}, "divide"),
        ({"expert-model-parallel-size": "2"}, "ep"),
        ({"expert-tensor-parallel-size": "2"}, "devices"),
    ],
)
def test_experts_that_were_changed_in_the_file_are_refused(
    change: dict[str, str], rule: str
) -> None:
    view = view_of(moe_plan())
    flags = dict(expert_arguments(view)) | {"num-experts": "4"} | change
    read = MegatronRead(flags, ("device",) * 4, view)
    ((_, message),) = [(r.name, r.broken(read)) for r in EXPERT_RULES]
    assert rule in message


# -- broken plans -----------------------------------------------------------------------------


def _swapped(body: Body) -> None:
    devices = replica(body, 0, 0)["devices"]
    devices[0], devices[-1] = devices[-1], devices[0]


def _faster(body: Body) -> None:
    replica(body, 0, 0)["time_s"]["tp_comm_forward"] = 0.0


def _free(body: Body) -> None:
    body["sync_groups"][0]["time_s"] = 0.0


def _forbidden(body: Body) -> None:
    del body["inputs"]["job"]["resolved"]["cross_node_expert_parallel"]


BROKEN = {
    "half of another host": (_swapped, "whole islands of one kind"),
    "a network for nothing": (_faster, "time_s.tp_comm_forward"),
    "gradients for nothing": (_free, "sync_groups[0].time_s"),
    "a job that forbids it": (_forbidden, "not allowed by the job"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_verification_finds_what_is_wrong(name: str) -> None:
    change, expected = BROKEN[name]
    body = experts_plan().model_dump(mode="json")
    change(body)
    found = verify(Plan.model_validate(body))
    assert any(expected in f"{p.where}: {p.message} {p.remedy}" for p in found), found
