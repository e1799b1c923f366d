"""Plans whose stages keep their optimizer's state on the host: found, verified, priced, broken."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

import planner
from costmodels.units import GIB, PS_PER_S
from planner.diff import diff, hosted
from planner.errors import ExportError, InfeasibleError
from planner.estimate import PlanLayout, estimate, estimate_sketch, read_layout, sketch_of
from planner.explain.wish import Changed, parse_wish
from planner.inputs.cluster import ClusterInput, cluster_from_document
from planner.inputs.document import Document
from planner.inputs.job import load_job
from planner.inputs.overrides import parse_overrides
from planner.options import legal_options
from planner.plan import Plan
from planner.report.differences import diff_rows
from planner.reuse import layouts_of
from planner.runtime.support import check_supported
from planner.search.compact import solve_compact
from planner.search.problem import Setting
from planner.simulate import simulate
from planner.solve import Context, prepare
from planner.verify import verify
from tests.broken_plans import Body, problems_of
from tests.mesh_inputs import QUICK, small_model

ON = "techniques.optimizer_offload=true"
MODEL = {"layers": 16, "experts": 0, "width": 16384}
"""Blocks of 111 million parameters: 1.8 billion, of which two cards cannot hold 16 bytes each."""


def box(host_gib: float | None = 64, **node: Any) -> ClusterInput:
    """Two cards of 16 GB on PCIe in one host."""
    own = {"name": "box", "devices": [{"chip": "T4-16GB", "count": 2}], **node}
    if host_gib is not None:
        own["host_memory_gib"] = host_gib
    return cluster_from_document(Document("box", {"name": "box", "nodes": [own]}))


def job(*sets: str) -> Any:
    wanted = ("global_batch=4", "seq_len=1024", "micro_batch_rows=[1]", *sets)
    return load_job(None, parse_overrides([f"job.{part}" for part in wanted]))


@cache
def hosted_plan() -> Plan:
    """The only way in which the model fits the box."""
    return planner.solve(small_model(**MODEL), box(), job(ON), params=QUICK)


def context(host_gib: float | None = 64, *sets: str, **node: Any) -> Context:
    return prepare(small_model(**MODEL), box(host_gib, **node), job(*sets))


def test_what_does_not_fit_fits_with_the_state_on_the_host_and_the_refusal_says_so() -> None:
    with pytest.raises(InfeasibleError) as refused:
        planner.solve(small_model(**MODEL), box(), job(), params=QUICK)
    flag = "--set job.techniques.optimizer_offload=true: checked, a plan exists, "
    (remedy,) = [text for text in refused.value.remedies if text.startswith(flag)]
    first_look = float(remedy.removeprefix(flag).partition(" s per step")[0])
    # One round of the search, to any gap: 10.0 % slower than the plan that more rounds find.
    assert 1.0 <= first_look / hosted_plan().estimate.step_time_s < 1.11
    assert any(s.offload == "optimizer" for p in hosted_plan().pipelines for s in p.stages)


def test_the_step_pays_for_links_and_processors() -> None:
    """Of the slowest stage: 2 + 2 bytes per parameter over PCIe, 28 through half the host."""
    plan = hosted_plan()
    host = context().topology.classes[0].host
    assert host is not None
    most = max(
        r.memory_bytes.host // 16 for p in plan.pipelines for s in p.stages for r in s.replicas
    )
    by_hand = most * (4 / host.link_bandwidth + 28 / 50e9)
    assert host.memory_bandwidth == 50e9
    assert plan.estimate.breakdown_s.update == pytest.approx(by_hand, rel=0.02)
    faster = planner.solve(
        small_model(**MODEL),
        box(host_memory_bandwidth="400 GB/s"),
        job(ON),
        params=QUICK,
    )
    assert faster.estimate.step_time_s < plan.estimate.step_time_s


def test_a_plan_is_verified_and_replayed() -> None:
    assert verify(hosted_plan()) == []
    found = simulate(hosted_plan()).step_time_s
    assert found == pytest.approx(hosted_plan().estimate.step_time_s, rel=0.02)


def test_a_plan_as_a_layout_has_its_price_to_the_last_bit() -> None:
    own = context(64, ON)
    priced = estimate_sketch(own, sketch_of(own, PlanLayout("again", "", hosted_plan()))).plan
    assert priced.pipelines == hosted_plan().pipelines
    assert priced.estimate.step_time_s == hosted_plan().estimate.step_time_s


def test_a_layout_asks_for_offload_by_stage() -> None:
    text = "tp: 1, pp: 2, layers_per_stage: [12, 4], offload: [optimizer, none]"
    found = estimate(small_model(**MODEL), box(), job(ON), read_layout(text))
    (pipeline,) = found.plan.pipelines
    assert [s.offload for s in pipeline.stages] == ["optimizer", "none"]
    first, second = (s.replicas[0].memory_bytes for s in pipeline.stages)
    assert (first.optimizer, second.host) == (0, 0)
    assert first.host == 8 * first.parameters  # 16 bytes for 2
    assert second.optimizer == 6 * second.parameters
    assert found.plan.plan_class == "staged"
    assert found.fits
    assert verify(found.plan) == []


def test_a_host_that_is_too_small_is_a_shortfall_of_the_layout() -> None:
    text = "tp: 1, pp: 2, recompute: full, offload: optimizer"
    found = estimate(small_model(**MODEL), box(16), job(ON), read_layout(text))
    assert not found.fits
    assert all(short.on_host for short in found.shortfalls)
    assert "offloads" in str(found.shortfalls[0])
    assert "of its host" in str(found.shortfalls[0])


def test_a_host_of_unknown_memory_takes_nothing_and_says_why() -> None:
    options = legal_options(small_model(**MODEL).graph, context().topology, context(64, ON).job)
    assert any(o.mesh.offload for o in options.options)
    unknown = context(None, ON)
    assert not any(o.mesh.offload for o in unknown.options.options)
    (said,) = [r for r in unknown.options.rejected if "offload" in r.what]
    assert "host_memory_gib" in said.reason


def test_every_device_of_a_host_has_an_even_share_of_it() -> None:
    host = context().topology.classes[0].host
    assert host is not None
    assert host.memory_bytes == 64 * GIB * 80 // 100 // 2
    link = {"bandwidth_one_way": "16 GB/s", "total_bandwidth_one_way": "10 GB/s"}
    shared = context(host_link=link).topology.classes[0].host
    assert shared is not None
    assert shared.link_bandwidth == 5e9


def test_without_the_switch_nothing_new_is_said() -> None:
    resolved = context().job.as_json()
    assert "optimizer_offload" not in resolved
    assert "host_memory_bandwidth" not in box().resolved["nodes"][0]
    assert not any(o.mesh.offload for o in context().options.options)


def test_the_certificate_names_what_was_allowed_and_the_assumptions_what_was_taken() -> None:
    plan = hosted_plan()
    assert plan.certificate is not None
    space = plan.certificate.search_space
    assert any("in the host's memory" in text for text in space.allowed)
    assert not any("optimizer_offload" in text for text in space.dropped)
    assert any("100 GB/s per host" in text for text in plan.assumptions)


def test_the_search_agrees_with_the_compact_model() -> None:
    own = context(64, ON, "max_pipeline_stages=2")
    problem = own.problem
    windows = ((0, problem.tables.layers),)
    optimum = solve_compact(problem, Setting((1, 1), windows))
    assert optimum.proven
    assert optimum.time_ps is not None
    plan = planner.solve(
        small_model(**MODEL), box(), job(ON, "max_pipeline_stages=2"), params=QUICK
    )
    assert plan.certificate is not None
    assert plan.certificate.lower_bound_s <= optimum.time_ps / PS_PER_S * (1 + 1e-9)
    assert plan.certificate.objective_s <= 1.02 * optimum.time_ps / PS_PER_S


def test_allowing_it_costs_no_plan_that_is_found_without_it() -> None:
    small = small_model(layers=2, experts=0)
    without = planner.solve(small, box(), job(), params=QUICK)
    allowed = planner.solve(small, box(), job(ON), params=QUICK)
    assert allowed.estimate.step_time_s <= without.estimate.step_time_s
    assert hosted(allowed) == ()


def test_a_plan_is_reused_where_offload_is_allowed() -> None:
    plan, own = hosted_plan(), context(64, ON)
    graph = own.model.graph
    assert layouts_of(plan, graph, own.topology, own.job) is not None
    assert layouts_of(plan, graph, own.topology, context().job) is None


def test_a_difference_says_where_the_state_went() -> None:
    text = "tp: 1, pp: 2, recompute: full"
    before = estimate(small_model(**MODEL), box(), job(ON), read_layout(text)).plan
    after = estimate(
        small_model(**MODEL), box(), job(ON), read_layout(f"{text}, offload: optimizer")
    ).plan
    found = diff(before, after)
    assert not found.same_layout
    assert "its state moves between devices and host memory" in found.reshard.optimizer
    (row,) = [r for r in diff_rows(found, None) if r.what == "optimizer state"]
    assert (row.before, row.after) == ("on the devices", "in host memory")


def test_the_runtime_refuses_it_by_name() -> None:
    with pytest.raises(ExportError, match="offload to optimizer"):
        check_supported(hosted_plan())


# -- broken plans -----------------------------------------------------------------------------


def _stages(change: Callable[[Body], None]) -> Callable[[Body], None]:
    def every(body: Body) -> None:
        for pipeline in body["pipelines"]:
            for own in pipeline["stages"]:
                if own["offload"] == "optimizer":
                    change(own)

    return every


def _forgotten(own: Body) -> None:
    own["offload"] = "none"


def _smaller(own: Body) -> None:
    own["replicas"][0]["memory_bytes"]["host"] //= 2


def _larger_host(own: Body) -> None:
    own["replicas"][0]["memory_bytes"]["host_usable"] *= 2


def _no_buffer(own: Body) -> None:
    own["replicas"][0]["memory_bytes"]["buffers"] -= 1


def _for_free(body: Body) -> None:
    body["estimate"]["breakdown_s"]["update"] = 1e-3


def _forbidden(body: Body) -> None:
    del body["inputs"]["job"]["resolved"]["optimizer_offload"]


BROKEN: dict[str, tuple[Callable[[Body], None], str]] = {
    "state on the device after all": (_stages(_forgotten), "memory_bytes.optimizer"),
    "half of it on the host": (_stages(_smaller), "memory_bytes.host"),
    "a larger host": (_stages(_larger_host), "memory_bytes.host_usable"),
    "nothing to stream through": (_stages(_no_buffer), "memory_bytes.buffers"),
    "updated for free": (_for_free, "estimate.breakdown_s.update"),
    "not allowed": (_forbidden, "optimizer offload is not allowed by the job"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rejects(name: str) -> None:
    change, expected = BROKEN[name]
    assert expected in problems_of(hosted_plan(), change)


def test_offload_can_be_wished_for() -> None:
    wish = parse_wish("offload")
    assert isinstance(wish, Changed)
    (change,) = wish.changes
    assert (change.path, change.value) == (("techniques", "optimizer_offload"), True)  # type: ignore[union-attr]
