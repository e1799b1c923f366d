"""Plans that pack gradients between hosts: found, verified, priced, refused, broken."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

import planner
from planner.diff import diff
from planner.errors import ExportError, InputError
from planner.estimate import PlanLayout, estimate, estimate_sketch, read_layout, sketch_of
from planner.estimate.techniques import estimate_uniform
from planner.explain.wish import Changed, parse_wish
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job
from planner.inputs.overrides import parse_overrides
from planner.plan import Plan
from planner.report.differences import diff_rows
from planner.report.summary import packed_as
from planner.runtime.support import check_supported
from planner.simulate import simulate
from planner.solve import Context, prepare
from planner.verify import verify
from tests.broken_plans import Body, problems_of
from tests.mesh_inputs import QUICK, small_model

FP8 = "techniques.gradient_compression=fp8"
INT4 = "techniques.gradient_compression=int4"
MODEL = {"layers": 4, "experts": 0}
SLOW, FAST = "4x2xA100-SXM-80GB @ 1Gb/s", "4x2xA100-SXM-80GB @ 6400Gb/s"
LAYOUT = "tp: 1, pp: 1, dp: 8"


def job(*sets: str) -> Any:
    wanted = ("global_batch=64", "seq_len=512", "micro_batch_rows=[8]", *sets)
    return load_job(None, parse_overrides([f"job.{part}" for part in wanted]))


def context(*sets: str, cluster: str = SLOW) -> Context:
    return prepare(small_model(**MODEL), load_cluster(cluster), job(*sets))


@cache
def laid(*sets: str, cluster: str = SLOW, layout: str = LAYOUT, derate: float = 1.0) -> Plan:
    fleet = load_cluster(
        cluster, None, parse_overrides([f"cluster.nodes.0.devices.0.derate={derate}"])
    )
    return estimate(small_model(**MODEL), fleet, job(*sets), read_layout(layout)).plan


@cache
def found(*sets: str, cluster: str = SLOW) -> Plan:
    return planner.solve(small_model(**MODEL), load_cluster(cluster), job(*sets), params=QUICK)


def test_the_ring_over_hosts_sends_packed_gradients_and_whole_weights() -> None:
    """Of 4 hosts and 2 + 2 bytes, 3/4 of 65/64 + 2; inside hosts nothing changes."""
    plain, packed = laid().estimate.breakdown_s.sync, laid(FP8).estimate.breakdown_s.sync
    assert packed_as(laid(FP8)) == "fp8"
    assert packed == pytest.approx(plain * 193 / 256, rel=0.01)
    whole = laid("techniques.zero1=false").estimate.breakdown_s.sync
    both = laid(FP8, "techniques.zero1=false").estimate.breakdown_s.sync
    assert both == pytest.approx(whole * 65 / 128, rel=0.01)


def test_fewer_bits_are_faster_on_slow_links_and_not_taken_where_packing_is_slower() -> None:
    times = [laid(*sets).estimate.step_time_s for sets in ((), (FP8,), (INT4,))]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[1] > times[2]
    busy = laid(INT4, cluster=FAST, derate=0.01)  # packing takes long
    assert packed_as(busy) == ""
    assert busy.estimate == laid(cluster=FAST, derate=0.01).estimate


def test_a_faster_network_is_never_slower() -> None:
    times = [
        laid(INT4, cluster=f"4x2xA100-SXM-80GB @ {rate}Gb/s").estimate.step_time_s
        for rate in (1, 2.5, 5, 25, 100, 400)
    ]
    assert times == sorted(times, reverse=True)


def test_inside_a_host_nothing_is_packed() -> None:
    alone = laid(INT4, cluster="1x8xA100-SXM-80GB", layout=LAYOUT)
    assert packed_as(alone) == ""
    assert {g.compression for g in laid(INT4).sync_groups} == {"int4"}


def test_the_search_finds_it_and_is_no_slower_than_without() -> None:
    plans = [found(), found(FP8), found(INT4)]
    proofs = [plan.certificate for plan in plans]
    values = [proof.objective_s for proof in proofs if proof is not None]
    assert values == sorted(values, reverse=True)
    for plan in plans:
        assert verify(plan) == []
        assert plan.certificate is not None
        assert plan.certificate.lower_bound_s <= plan.certificate.objective_s
    best = laid(INT4).estimate.step_time_s
    assert proofs[2] is not None
    assert proofs[2].lower_bound_s <= best * (1 + 1e-9)


def test_layouts_are_verified_and_replayed() -> None:
    for plan in (laid(FP8), laid(INT4, "techniques.zero1=false"), laid(INT4, cluster=FAST)):
        assert verify(plan) == []
        replayed = simulate(plan).step_time_s
        assert replayed == pytest.approx(plan.estimate.step_time_s, rel=0.02)


def test_a_plan_as_a_layout_has_its_price_to_the_last_bit() -> None:
    own = context(INT4)
    priced = estimate_sketch(own, sketch_of(own, PlanLayout("again", "", laid(INT4)))).plan
    assert priced.sync_groups == laid(INT4).sync_groups
    assert priced.estimate.step_time_s == laid(INT4).estimate.step_time_s


def test_the_plan_says_that_it_trains_other_numbers() -> None:
    plan = found(FP8)
    assert plan.certificate is not None
    space = plan.certificate.search_space
    assert any("packed as fp8" in text for text in space.allowed)
    assert any("ZeRO level 0: not searched" in text for text in space.dropped)
    assert any("the numbers that are trained differ" in text for text in plan.assumptions)
    plain = found()
    assert plain.certificate is not None
    assert any("gradient_compression" in text for text in plain.certificate.search_space.dropped)
    assert not any("packed" in text for text in plain.assumptions)


def test_16_bits_of_16_are_said_to_save_nothing() -> None:
    plan = laid("techniques.gradient_compression=fp16")
    assert packed_as(plan) == ""
    wide = laid("techniques.gradient_compression=fp16", "gradient_dtype=fp32")
    assert packed_as(wide) == "fp16"
    said = found("techniques.gradient_compression=fp16").assumptions
    assert any("no smaller than they are" in text for text in said)


def test_switched_off_a_job_names_nothing_new() -> None:
    for off in (
        (),
        ("techniques.gradient_compression=none",),
        ("techniques.gradient_compression=false",),
    ):
        resolved = context(*off).job
        assert resolved.gradient_compression == "none"
        assert "gradient_compression" not in resolved.as_json()
    assert laid("techniques.gradient_compression=none").plan_id == laid().plan_id


def test_another_form_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match="int4"):
        job("techniques.gradient_compression=fp6")


def test_uniform_layouts_are_not_priced_with_it() -> None:
    with pytest.raises(InputError, match="packed gradients are not priced"):
        estimate_uniform(
            small_model(**MODEL), load_cluster(SLOW), job(FP8), read_layout(f"{LAYOUT}, zero: 3")
        )


def test_a_difference_and_the_runtime_name_it() -> None:
    rows = diff_rows(diff(laid(), laid(FP8)), None)
    (row,) = [r for r in rows if r.what == "gradients between hosts"]
    assert (row.before, row.after) == ("as they are", "fp8")
    assert not diff(laid(), laid(FP8)).same_layout
    with pytest.raises(ExportError, match="gradients packed as fp8"):
        check_supported(laid(FP8))


def test_it_can_be_wished_for() -> None:
    wish = parse_wish("compression=fp8")
    assert isinstance(wish, Changed)
    (change,) = wish.changes
    assert (change.path, change.value) == (("techniques", "gradient_compression"), "fp8")  # type: ignore[union-attr]


# -- broken plans -----------------------------------------------------------------------------


def _first(change: Callable[[Body], None]) -> Callable[[Body], None]:
    return lambda body: change(body["sync_groups"][0])


def _plain(group: Body) -> None:
    group["compression"] = "none"


def _smaller(group: Body) -> None:
    group["compression"] = "int4"


def _free(group: Body) -> None:
    group["time_s"] -= 1e-4


def _forbidden(body: Body) -> None:
    del body["inputs"]["job"]["resolved"]["gradient_compression"]


BROKEN: dict[str, tuple[Callable[[Body], None], str]] = {
    "sent as they are": (_first(_plain), "sync_groups[0].time_s"),
    "in other bits": (_first(_smaller), "int4 is not what the job allows (fp8)"),
    "packed for free": (_first(_free), "sync_groups[0].time_s"),
    "not allowed": (_forbidden, "fp8 is not what the job allows (none)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rejects(name: str) -> None:
    change, expected = BROKEN[name]
    assert expected in problems_of(laid(FP8), change)


def test_rejects_packing_inside_an_island() -> None:
    body = laid(FP8, cluster="1x8xA100-SXM-80GB").model_dump(mode="json")
    body["sync_groups"][0]["compression"] = "fp8"
    problems = "\n".join(map(str, verify(Plan.model_validate(body))))
    assert "packed between islands" in problems
