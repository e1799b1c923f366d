"""Plans and estimates from measured profiles: what they rest on, and that a plan alone suffices."""

import json

import pytest

import planner
from planner.errors import InputError
from planner.estimate import estimate, read_layout
from planner.plan import Plan, digest, seal
from planner.solve import SolveParams, solve
from planner.verify import verify
from tests.profile_inputs import LINK, cluster, document, job, model, profile, rows

PS = 1e-12


def priced(layout, *, batch=8, cluster_text="2x2xA100-SXM-80GB @ 100Gb/s", **fields):
    return estimate(
        model(),
        cluster(cluster_text),
        job(global_batch=batch),
        read_layout(layout),
        profile=profile(**fields),
    ).plan


@pytest.fixture(scope="module")
def solved():
    return solve(
        model(), cluster(), job(), profile=profile(links=[LINK]), params=SolveParams(gap=0.01)
    )


def test_a_plan_from_a_profile_passes_the_independent_verification(solved):
    assert verify(solved) == []


def test_a_plan_says_in_its_inputs_and_assumptions_that_it_was_measured(solved):
    assert solved.inputs.profile.name == "three"
    assert solved.inputs.profile.resolved["chips"][0]["chip"] == "nvidia-a100-sxm-80gb"
    assert any("layer times and memory measured" in a for a in solved.assumptions)
    assert any("sequence length 512: that of the profile" in a for a in solved.assumptions)


def test_the_same_profile_gives_the_same_bytes(solved):
    again = solve(
        model(), cluster(), job(), profile=profile(links=[LINK]), params=SolveParams(gap=0.01)
    )
    assert again.to_json() == solved.to_json()


def test_one_chip_takes_the_sum_of_the_measured_layers():
    plan = priced("tp: 1, pp: 1, dp: 1, micro_batch_rows: 2", cluster_text="1xA100-SXM-80GB")
    (stage,) = plan.pipelines[0].stages
    time = stage.replicas[0].time_s
    # two layers of 20 ms and one of 40 ms forward, twice that backward, four micro-batches
    assert time.forward_total == pytest.approx(0.080, abs=PS)
    assert time.backward_total == pytest.approx(0.160, abs=PS)
    assert plan.pipelines[0].exact_time_s == pytest.approx(4 * 0.240, abs=10 * PS)
    assert stage.replicas[0].memory_bytes.parameters == 3 * 2_000_000
    assert plan.estimate.breakdown_s.update == pytest.approx(0.006, rel=1e-6)


def test_degrees_between_measured_rows_are_interpolated():
    plan = priced("tp: 2, pp: 1, dp: 1, micro_batch_rows: 3", batch=3)
    time = plan.pipelines[0].stages[0].replicas[0].time_s
    assert time.forward_total == pytest.approx(0.6 * 3 * 0.040, rel=1e-9)


def test_a_hop_takes_the_measured_time_of_its_share():
    plan = priced(
        "tp: 2, pp: 2, dp: 1, micro_batch_rows: 4, layers_per_stage: [[0, 2], [2, 3]]",
        links=[LINK],
    )
    # 4 rows of 512 tokens of 1,024 elements in two bytes: 4 MiB, a fifth of the way to 16 MiB
    hop = plan.pipelines[0].stages[0].hop_to_next_s
    assert hop == pytest.approx(0.002 + 0.008 * 3 / 15, abs=PS)
    assert verify(plan) == []


def test_with_blocking_transfers_the_later_stage_waits_for_the_way_there_and_back():
    layout = "tp: 2, pp: 2, dp: 1, micro_batch_rows: 4, layers_per_stage: [[0, 2], [2, 3]]"
    free, blocked = (
        priced(layout, links=[LINK], transfers=how) for how in ("overlapped", "blocking")
    )
    hop = free.pipelines[0].stages[0].hop_to_next_s
    first, last = blocked.pipelines[0].stages
    before, after = free.pipelines[0].stages
    assert first.hop_to_next_s == 0
    assert first.replicas[0].time_s == before.replicas[0].time_s
    time = last.replicas[0].time_s
    assert time.transfer_forward == time.transfer_backward == pytest.approx(hop, abs=PS)
    assert time.forward_total == pytest.approx(after.replicas[0].time_s.forward_total + hop, abs=PS)
    assert blocked.estimate.step_time_s >= free.estimate.step_time_s
    assert verify(blocked) == []


def test_a_layout_that_was_not_measured_is_refused_with_what_was():
    with pytest.raises(InputError, match="8 rows per micro-batch at tp=1 were not measured"):
        priced("tp: 1, pp: 1, dp: 1, micro_batch_rows: 8")


def test_ways_that_were_not_measured_are_named_in_the_declared_space():
    only = [r for r in rows() if r["tensor_parallel"] == 1 or r["micro_batch_rows"] == 1]
    plan = solve(
        model(),
        cluster(),
        job(micro_batch_rows=[1, 2]),
        profile=profile(chips=[{"chip": "A100-SXM-80GB", "rows": only}]),
        params=SolveParams(baselines=False, simulate=False),
    )
    dropped = [d for d in plan.certificate.search_space.dropped if "not measured" in d]
    assert dropped == [
        "2 rows at tp=2 on 2xA100-SXM-80GB: 2 rows per micro-batch at tp=2 were not measured on "
        "A100-SXM-80GB (only 1 were)"
    ]


def test_slower_layers_in_the_profile_make_a_slower_plan(solved):
    slow = solve(
        model(),
        cluster(),
        job(),
        profile=profile(links=[LINK], chips=[{"chip": "A100-SXM-80GB", "rows": rows(3.0)}]),
        params=SolveParams(baselines=False, simulate=False),
    )
    assert slow.estimate.step_time_s > 2 * solved.estimate.step_time_s


def edited(plan: Plan, change) -> Plan:
    body = plan.model_dump()
    change(body)
    return seal(Plan.model_validate(body))


def test_a_profile_changed_inside_a_plan_no_longer_fits_its_digest(solved):
    def faster(body):
        for row in body["inputs"]["profile"]["resolved"]["chips"][0]["rows"]:
            row["forward_s"] /= 2

    problems = verify(edited(solved, faster))
    assert "inputs.profile.digest" in [p.where for p in problems]
    assert any("re-derived" in p.message for p in problems)


def test_a_plan_without_its_profile_has_other_times(solved):
    def forget(body):
        body["inputs"]["profile"] = None

    assert any("re-derived" in p.message for p in verify(edited(solved, forget)))


def test_a_profile_record_that_is_damaged_is_named(solved):
    def damage(body):
        record = body["inputs"]["profile"]
        record["resolved"]["seq_len"] = -1
        record["digest"] = digest(record["resolved"])

    (problem,) = verify(edited(solved, damage))
    assert problem.where == "inputs.profile.resolved"


def test_the_public_function_takes_a_profile():
    assert planner.load_profile("opt-350m-sailor").spec.precision == "fp32"


def test_the_command_line_plans_checks_and_compares(tmp_path, capsys):
    from planner.cli import main

    folder = tmp_path
    (folder / "three.json").write_text(
        json.dumps({k: v for k, v in model().resolved.items() if k != "format"})
    )
    (folder / "profile.json").write_text(json.dumps(document(links=[LINK])))
    where = "2x2xA100-SXM-80GB @ 100Gb/s"
    out = str(folder / "plan.json")
    measured = str(folder / "profile.json")
    args = ["plan", str(folder / "three.json"), where, "--global-batch", "8", "-q"]
    assert main([*args, "--profile", measured, "-o", out]) == 0
    assert main(["check", out, measured]) == 0
    against = ["check", out, str(folder / "three.json"), where, "--against"]
    assert main([*against, measured, "--set", "job.global_batch=8"]) == 0
    capsys.readouterr()
    assert main([*against, "--set", "job.global_batch=8"]) == 5
    assert "give it too" in capsys.readouterr().err
    estimated = ["estimate", str(folder / "three.json"), where, "tp: 2, pp: 2", "-q"]
    assert main([*estimated, "--profile", measured, "--global-batch", "8"]) == 0
    assert main(["schema", "profile"]) == 0
    assert '"title": "planner profile"' in capsys.readouterr().out
