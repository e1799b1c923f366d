"""Plans that leave activations in host memory: found, verified, priced, refused, broken."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

import planner
from costmodels.units import GIB
from planner.errors import ExportError
from planner.estimate import PlanLayout, estimate, estimate_sketch, read_layout, sketch_of
from planner.explain.adjacent import neighbours
from planner.explain.wish import Changed, parse_wish
from planner.inputs.cluster import ClusterInput, cluster_from_document
from planner.inputs.document import Document
from planner.inputs.job import load_job
from planner.inputs.overrides import parse_overrides
from planner.plan import Plan
from planner.report.explanation import words_of
from planner.reuse import layouts_of
from planner.runtime.support import check_supported
from planner.simulate import simulate
from planner.solve import Context, prepare
from planner.terms import bottleneck, shape
from planner.verify import verify
from tests.broken_plans import Body, problems_of
from tests.mesh_inputs import QUICK, small_model

ON = "techniques.activation_offload=true"
MODEL = {"layers": 12, "experts": 0}
NARROW = {"host_link": {"bandwidth_one_way": "3 GB/s"}}
LAYOUT = "tp: 1, pp: 2, recompute: [offload, full_offload]"


def box(host_gib: float | None = 64, **node: Any) -> ClusterInput:
    """Two cards of 16 GB on PCIe in one host."""
    own = {"name": "box", "devices": [{"chip": "T4-16GB", "count": 2}], **node}
    if host_gib is not None:
        own["host_memory_gib"] = host_gib
    return cluster_from_document(Document("box", {"name": "box", "nodes": [own]}))


def job(*sets: str) -> Any:
    wanted = ("global_batch=16", "seq_len=8192", "micro_batch_rows=[2]", *sets)
    return load_job(None, parse_overrides([f"job.{part}" for part in wanted]))


def context(host_gib: float | None = 64, *sets: str, **node: Any) -> Context:
    return prepare(small_model(**MODEL), box(host_gib, **node), job(*sets))


@cache
def left_plan() -> Plan:
    """Without the technique everything is recomputed."""
    return planner.solve(small_model(**MODEL), box(), job(ON), params=QUICK)


@cache
def laid_plan() -> Plan:
    """All that is kept leaves on the first stage, checkpoints on the second."""
    return estimate(small_model(**MODEL), box(**NARROW), job(ON), read_layout(LAYOUT)).plan


def ways(plan: Plan) -> set[str]:
    return {part.policy for p in plan.pipelines for s in p.stages for part in s.recompute}


def test_what_had_to_be_recomputed_is_left_on_the_host() -> None:
    without = planner.solve(small_model(**MODEL), box(), job(), params=QUICK)
    assert "full" in ways(without)
    assert "offload" in ways(left_plan())
    assert left_plan().estimate.step_time_s < without.estimate.step_time_s


def test_a_plan_is_verified_and_replayed() -> None:
    for plan in (left_plan(), laid_plan()):
        assert verify(plan) == []
        found = simulate(plan).step_time_s
        assert found == pytest.approx(plan.estimate.step_time_s, rel=0.02)


def test_a_plan_as_a_layout_has_its_price_to_the_last_bit() -> None:
    own = context(64, ON)
    priced = estimate_sketch(own, sketch_of(own, PlanLayout("again", "", left_plan()))).plan
    assert priced.pipelines == left_plan().pipelines
    assert priced.estimate.step_time_s == left_plan().estimate.step_time_s


def test_a_layout_asks_for_it_by_stage_and_pays_what_computation_does_not_hide() -> None:
    """Of the blocks' copies at 3 GB/s; a block's checkpoint hides behind any pass."""
    own = context(64, ON, **NARROW)
    (pipeline,) = laid_plan().pipelines
    first, second = (s.replicas[0] for s in pipeline.stages)
    costs = own.pricer.costs(0, own.problem.tables.tables[0].option.mesh, 1)
    host = own.topology.classes[0].host
    assert host is not None
    there = back = 0.0
    for layer in costs[: pipeline.stages[0].layers[1]]:
        copy = layer.price.activation_bytes[1] / min(host.link_bandwidth, host.memory_bandwidth)
        there += max(0.0, copy - layer.price.forward_s)
        computing = layer.price.backward_input_s + layer.price.backward_weight_s
        back += max(0.0, copy - computing - layer.price.recompute_s[1])
    assert there > 0
    assert first.time_s.copy_forward == pytest.approx(there, abs=1e-10)
    assert first.time_s.copy_backward == pytest.approx(back, abs=1e-10)
    head = costs[-1]  # its passes are shorter than the copies of what it keeps
    assert second.time_s.copy_forward == head.copy_forward_ps[4] / 1e12 < first.time_s.copy_forward
    assert second.time_s.recompute > 0
    kept = sum(c.price.activation_bytes[1] for c in costs[: pipeline.stages[0].layers[1]])
    assert first.memory_bytes.host == 2 * kept  # two micro-batches in flight


def test_what_is_left_on_a_host_that_is_too_small_is_a_shortfall() -> None:
    found = estimate(small_model(**MODEL), box(2), job(ON), read_layout(LAYOUT))
    assert not found.fits
    assert any(short.on_host for short in found.shortfalls)


def test_a_host_of_unknown_memory_takes_nothing_and_the_certificate_says_why() -> None:
    unknown = planner.solve(small_model(**MODEL), box(None), job(ON), params=QUICK)
    assert not ways(unknown) & {"offload", "full_offload"}
    assert unknown.certificate is not None
    dropped = unknown.certificate.search_space.dropped
    assert any("activation offload" in text and "host_memory_gib" in text for text in dropped)


def test_the_certificate_names_it_and_the_assumptions_say_what_was_taken() -> None:
    plan = left_plan()
    assert plan.certificate is not None
    space = plan.certificate.search_space
    assert any("full_offload" in text for text in space.allowed)
    assert not any("activation_offload" in text for text in space.dropped)
    assert any("two layers' worth" in text for text in plan.assumptions)
    without = planner.solve(small_model(**MODEL), box(), job(), params=QUICK)
    assert without.certificate is not None
    assert any("activation_offload" in text for text in without.certificate.search_space.dropped)


def test_switched_off_a_plan_names_nothing_new() -> None:
    assert "activation_offload" not in context().job.as_json()
    plan = planner.solve(small_model(**MODEL), box(), job(), params=QUICK)
    text = plan.model_copy(update={"certificate": None}).to_json()
    assert "copy_forward" not in text
    assert "offload" not in text.replace('"offload": "none"', "")


def test_what_goes_with_recomputation_needs_its_leave() -> None:
    assert context(64, ON).options.policies == (0, 1, 2, 3, 4)
    assert context(64, ON, "techniques.recompute_full=false").options.policies == (0, 1, 3)
    assert context(64, ON, "techniques.recompute_selective=false").options.policies == (0, 2, 4)
    assert context().options.policies == (0, 1, 2)


@pytest.mark.parametrize("field", ["host_memory_bandwidth", "host_link"])
def test_more_bandwidth_is_never_slower(field: str) -> None:
    times = []
    for rate in (1, 2, 3, 6, 64, 128):
        value: Any = f"{rate} GB/s"
        if field == "host_link":
            value = {"bandwidth_one_way": value, "total_bandwidth_one_way": f"{2 * rate} GB/s"}
        node = {"host_memory_bandwidth": "400 GB/s", field: value}
        found = estimate(small_model(**MODEL), box(**node), job(ON), read_layout(LAYOUT))
        times.append(found.plan.estimate.step_time_s)
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]


def test_a_plan_is_reused_and_its_neighbours_are_judged() -> None:
    own = context(64, ON)
    assert layouts_of(left_plan(), own.model.graph, own.topology, own.job) is not None
    said = [n.change for n in neighbours(own, left_plan())]
    assert "recompute full_offload everywhere" in said


def test_reports_say_what_the_time_went_to() -> None:
    plan = laid_plan()
    assert shape(plan).recompute == ("offload", "full_offload")
    assert "copying" in words_of(plan)["recompute"]
    slow = bottleneck(plan)
    (pipeline,) = plan.pipelines
    time = pipeline.stages[slow.stage].replicas[0].time_s
    extra = time.recompute + time.copy_forward + time.copy_backward
    assert slow.terms.recompute == pytest.approx(pipeline.micro_batches * extra)
    assert slow.terms.total == pytest.approx(plan.estimate.step_time_s)


def test_the_runtime_refuses_it_by_name() -> None:
    with pytest.raises(ExportError, match="activations in host memory"):
        check_supported(laid_plan())


def test_a_host_that_is_shared_with_an_optimizer_holds_both() -> None:
    text = "tp: 1, pp: 2, recompute: offload, offload: optimizer"
    allowed = job(ON, "techniques.optimizer_offload=true")
    plan = estimate(small_model(**MODEL), box(), allowed, read_layout(text)).plan
    assert verify(plan) == []
    for p in plan.pipelines:
        for n, s in enumerate(p.stages):
            memory = s.replicas[0].memory_bytes
            state = 8 * memory.parameters
            assert memory.host > state
            assert (memory.host - state) % (len(p.stages) - n) == 0
            assert memory.host <= 64 * GIB * 80 // 100 // 2


def test_it_can_be_wished_for() -> None:
    wish = parse_wish("offload=activations")
    assert isinstance(wish, Changed)
    (change,) = wish.changes
    assert (change.path, change.value) == (("techniques", "activation_offload"), True)  # type: ignore[union-attr]


# -- broken plans -----------------------------------------------------------------------------


def _first(change: Callable[[Body], None]) -> Callable[[Body], None]:
    return lambda body: change(body["pipelines"][0]["stages"][0])


def _kept(own: Body) -> None:
    own["recompute"][0]["policy"] = "none"


def _less(own: Body) -> None:
    own["replicas"][0]["memory_bytes"]["host"] //= 2


def _hidden(own: Body) -> None:
    time = own["replicas"][0]["time_s"]
    time["forward_total"] -= time.pop("copy_forward")


def _one_layer(own: Body) -> None:
    own["replicas"][0]["memory_bytes"]["activations"] -= 10**6


def _forbidden(body: Body) -> None:
    del body["inputs"]["job"]["resolved"]["activation_offload"]


def _unknown(body: Body) -> None:
    del body["inputs"]["cluster"]["resolved"]["nodes"][0]["host_memory_gib"]


BROKEN: dict[str, tuple[Callable[[Body], None], str]] = {
    "kept on the device after all": (_first(_kept), "memory_bytes.activations"),
    "half of it on the host": (_first(_less), "memory_bytes.host"),
    "copied for free": (_first(_hidden), "time_s.copy_forward"),
    "no room for copies under way": (_first(_one_layer), "memory_bytes.activations"),
    "not allowed": (_forbidden, "offload is not allowed here"),
    "a host of unknown memory": (_unknown, "does not say how much memory"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rejects(name: str) -> None:
    change, expected = BROKEN[name]
    assert expected in problems_of(laid_plan(), change)
