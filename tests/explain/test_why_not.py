"""Why a plan is not otherwise: the rule, the missing GiB, or the seconds and their term."""

from __future__ import annotations

from functools import cache

import pytest

from planner.errors import InputError
from planner.explain import Ask, WhyNot, explain, parse_wish, why_not
from planner.explain.restricted import Restriction, restricted_options, solve_restricted
from planner.plan import Plan
from planner.scenario.inputs import PlanInputs, inputs_of
from planner.solve import SolveParams, prepare
from planner.whatif import plan_inputs
from tests.chunked_plans import chunked_plan, plain_plan
from tests.small_plans import MILLION, MIXED, laid_out, small_inputs


@cache
def planned() -> Plan:
    """The best plan of the tiny model on four A100."""
    found = plan_inputs(small_inputs()).plan
    assert found is not None
    return found


def asked(text: str, plan: Plan | None = None, *, search: bool = False) -> WhyNot:
    plan = plan or planned()
    return why_not(inputs_of(plan), plan, parse_wish(text), search=search)


def test_a_plans_own_inputs_are_restored_exactly() -> None:
    for plan in (planned(), laid_out("tp: 2, pp: 3", MIXED)):
        inputs = inputs_of(plan)
        again = prepare(inputs.model, inputs.cluster, inputs.job)
        assert again.job.as_json() == plan.inputs.job.resolved
        assert inputs.cluster.resolved == plan.inputs.cluster.resolved


@pytest.mark.parametrize(
    ("wish", "rule", "legal"),
    [
        ("tp=8", "there are 4 such chips", "tp 1, 2, 4"),
        ("pp=7", "the model has 6 layers", "pp 1 … 4"),
        ("dp=9", "the batch has 8 rows", "dp 1 … 4"),
        ("tp=2, pp=2, dp=2", "tp 2 × pp 2 × dp 2 = 8 chips, and there are 4", "at most 4"),
        ("rows=9", "the batch has 8 rows", "rows 1 … 8"),
        ("zero=3", "is not in this version's space", "zero 0 or 1"),
    ],
)
def test_an_illegal_wish_names_the_rule_and_what_is_legal(wish: str, rule: str, legal: str) -> None:
    answer = asked(wish)
    assert answer.verdict == "illegal"
    assert any(rule in r and legal in v for r, v in answer.rules)


def test_a_forbidden_technique_is_a_rule_of_the_job() -> None:
    found = plan_inputs(small_inputs(sets="techniques.recompute_full=false")).plan
    answer = asked("recompute=full", found)
    assert answer.verdict == "illegal"
    assert answer.rules == (("the job forbids full recomputation", "recompute none, selective"),)


def test_interleaved_pipelines_are_asked_for_where_the_job_has_none() -> None:
    answer = asked("interleaved")
    assert answer.beyond == "techniques.interleaved = true"
    assert answer.verdict in ("slower", "equal", "faster", "not found")
    plan = chunked_plan()
    assert asked("vpp", plan).verdict == "as planned"
    # the job allows them, the plan has none
    answer = asked("interleaved", plain_plan())
    assert answer.beyond == ""
    assert answer.plan is not None
    assert {p.schedule for p in answer.plan.pipelines} == {"interleaved"}
    answer = asked("schedule=1f1b", plan)
    assert answer.plan is not None
    assert {p.schedule for p in answer.plan.pipelines} == {"1f1b"}


def test_layers_that_make_no_runs_have_no_interleaved_pipelines() -> None:
    answer = asked("interleaved", laid_out("pp: 2", layers=5))
    assert answer.verdict == "illegal"
    ((rule, legal),) = answer.rules
    assert rule.startswith("3 layers between the first and the last do not make 2, 3, 4 or 6")
    assert legal == "schedule 1f1b"


def test_what_the_plan_does_already_is_said_so() -> None:
    plan = laid_out("tp: 2, pp: 2")
    for wish in ("tp=2", "pp=2", "dp=1", "tp=2, pp=2", "recompute=none", "use a100", "all chips"):
        assert asked(wish, plan).verdict == "as planned"


def test_a_slower_wish_names_the_term_that_grows() -> None:
    answer = asked("recompute=full")
    assert answer.verdict == "slower"
    assert answer.deciding_term is not None
    assert answer.deciding_term[0] == "recompute"
    assert answer.plan is not None
    assert answer.plan.estimate.step_time_s > planned().estimate.step_time_s


def test_a_search_proves_that_nothing_like_the_wish_is_faster() -> None:
    answer = asked("tp=2, recompute=full", search=True)
    assert answer.verdict == "slower"
    assert answer.lower_bound_s is not None
    assert answer.plan is not None
    assert answer.lower_bound_s <= answer.plan.estimate.step_time_s
    assert answer.lower_bound_s > planned().estimate.step_time_s
    degrees = {s.replicas[0].mesh.tensor_parallel for p in answer.plan.pipelines for s in p.stages}
    assert degrees == {2}


def test_a_wish_that_does_not_fit_says_how_much_is_missing_where() -> None:
    inputs = small_inputs("4xV100-SXM2-32GB", parameters=800 * MILLION)
    plan = plan_inputs(inputs).plan
    assert plan is not None
    answer = asked("tp=1, dp=4, recompute=none", plan)
    assert answer.verdict == "does not fit"
    (short,) = answer.shortfalls
    # 6 layers of 800 million: 2 + 2 bytes each, and a quarter of the optimizer's 12
    state = 6 * 800 * MILLION * (2 + 2 + 12 // 4)
    assert short.peak > state
    assert short.peak > short.usable
    assert short.chip == "V100-SXM2-32GB"


def test_chips_that_are_left_out_are_searched_for() -> None:
    inputs = small_inputs("2xA100-SXM-80GB + 1x1xV100-SXM2-32GB @ 1Gb/s", layers=4)
    plan = plan_inputs(inputs).plan
    assert plan is not None
    assert [len(u.devices) for u in plan.unused_devices] == [1]
    answer = asked("use v100", plan, search=True)
    assert answer.verdict == "slower"
    assert answer.plan is not None
    assert answer.plan.unused_devices == ()
    assert asked("without v100", plan).verdict == "as planned"


def test_a_chip_that_the_cluster_lacks_is_an_error() -> None:
    with pytest.raises(InputError) as caught:
        asked("use h100")
    assert "the cluster has no h100" in str(caught.value)


def test_another_layout_is_priced_by_itself() -> None:
    answer = asked("tp: 1, pp: 4, recompute: full")
    assert answer.verdict == "slower"
    assert answer.how == "priced by itself"
    illegal = asked("tp: 8")
    assert illegal.verdict == "illegal"


def test_bf16_on_a_v100_is_illegal() -> None:
    answer = asked("precision=bf16", laid_out("tp: 1, pp: 6", MIXED), search=True)
    assert answer.verdict == "illegal"
    assert "bf16" in answer.rules[0][0]


def test_a_restriction_leaves_only_what_obeys_it() -> None:
    inputs: PlanInputs = small_inputs(MIXED)
    context = prepare(inputs.model, inputs.cluster, inputs.job)
    a100 = "nvidia-a100-sxm-80gb"
    left = restricted_options(context, Restriction(tp=2, tp_on=a100, recompute="full"))
    by_chip = {(context.topology.classes[o.class_index].chip.id, o.tp) for o in left.options}
    v100 = "nvidia-v100-sxm2-32gb"
    assert by_chip == {(a100, 2), (v100, 1), (v100, 2)}
    assert left.policies == (2,)
    assert [o.index for o in left.options] == list(range(len(left.options)))


def test_a_restricted_search_declares_only_what_it_left_out() -> None:
    inputs: PlanInputs = small_inputs("2x4xA100-SXM-80GB @ 100Gb/s")
    context = prepare(inputs.model, inputs.cluster, inputs.job)
    found = solve_restricted(context, Restriction(tp=2), SolveParams(baselines=False))
    assert found is not None
    assert found.certificate is not None
    assert {
        r.mesh.tensor_parallel for p in found.pipelines for s in p.stages for r in s.replicas
    } == {2}
    assert not any("options of" in line for line in found.certificate.search_space.dropped)


def test_an_explanation_prices_every_neighbour_and_every_margin() -> None:
    found = explain(planned(), Ask(margins=True))
    own = planned().estimate.step_time_s
    assert {n.dimension for n in found.neighbours} == {
        "tensor_parallel", "pipeline", "micro_batch_rows", "recompute", "zero", "split",
    }  # fmt: skip
    for neighbour in found.neighbours:
        if neighbour.verdict in ("slower", "faster", "equal"):
            assert neighbour.terms is not None
            assert neighbour.terms.total == pytest.approx(neighbour.step_time_s)
    assert not found.better
    (margin,) = found.margins
    assert (margin.unit, margin.chips) == ("chip", 1)
    lost = margin.lost_s(own)
    assert lost is not None
    assert lost > 0
    saved = margin.saved_s(own)
    assert saved is not None
    assert saved >= 0


def test_a_plan_of_another_model_is_told_once_and_not_stage_by_stage(tmp_path) -> None:
    other = tmp_path / "other.json"
    other.write_text(laid_out("tp: 1, pp: 4", layers=8).to_json())
    answer = asked(str(other))
    assert answer.verdict == "illegal"
    ((rule, legal),) = answer.rules
    assert "8 layers" in rule
    assert "own model" in legal


def test_a_plan_of_another_cluster_is_told_once(tmp_path) -> None:
    other = tmp_path / "other.json"
    other.write_text(laid_out("tp: 1, pp: 4").to_json())
    answer = asked(str(other), laid_out("tp: 2, pp: 3", MIXED))
    assert [rule for rule, _ in answer.rules if "device" in rule] == [
        "no device is called node0/2, nor 1 more"
    ]


def test_without_a_search_other_chips_are_answered_by_a_layout_and_a_bound() -> None:
    plan = plan_inputs(small_inputs(MIXED)).plan
    answer = asked("without a100", plan)
    assert answer.verdict == "slower"
    assert answer.how.startswith("not searched: the best rectangular layout priced")
    assert {r.chip for p in answer.plan.pipelines for s in p.stages for r in s.replicas} == {
        "nvidia-v100-sxm2-32gb"
    }
    # work over capacity: no plan of the four V100 is faster, the searched one neither
    searched = asked("without a100", plan, search=True)
    assert 0 < answer.lower_bound_s <= searched.lower_bound_s
    assert searched.plan.estimate.step_time_s <= answer.plan.estimate.step_time_s * 1.05


def test_without_a_search_another_job_is_answered_too() -> None:
    answer = asked("global_batch=16")
    assert answer.plan is not None
    assert answer.plan.estimate.tokens_per_s * answer.plan.estimate.step_time_s == pytest.approx(
        16 * 256
    )
    assert answer.lower_bound_s <= answer.plan.estimate.step_time_s
