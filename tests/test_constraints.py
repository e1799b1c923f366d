"""What a user rules out: obeyed by the plan, judged by the verification, explained where it is too
much."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

import planner
from planner.estimate import estimate
from planner.inputs.document import Document
from planner.inputs.job import JobInput, JobSpec, ResolvedJob, load_job
from planner.inputs.layout_spec import parse_layout
from planner.inputs.overrides import parse_overrides
from planner.plan import Plan, digest, seal
from tests.scenarios.terminal import planned
from tests.scenarios.terminal import planner as command

A100, V100 = "nvidia-a100-sxm-40gb", "nvidia-v100-sxm2-32gb"
FLEET = "1x2xA100-SXM-40GB + 2x1xV100-SXM2-32GB @ 100Gb/s"
QUICK = planner.SolveParams(gap=0.05, baselines=False, simulate=False)
SMALL = {"global_batch": 16, "seq_len": 512}


def job_of(**fields: Any) -> JobInput:
    return JobInput("job", "", JobSpec.model_validate({**SMALL, **fields}))


def context_of(**fields: Any) -> planner.solve.Context:
    return planner.prepare(
        planner.load_model("gpt2"), planner.load_cluster(FLEET), job_of(**fields)
    )


@cache
def solved(fields: str = "{}") -> Plan:
    return planner.solve(
        planner.load_model("gpt2"),
        planner.load_cluster(FLEET),
        job_of(**json.loads(fields)),
        params=QUICK,
    )


def plan_with(**fields: Any) -> Plan:
    return solved(json.dumps(fields))


def chips_of_layer(plan: Plan, layer: int) -> set[str]:
    return {
        r.chip
        for p in plan.pipelines
        for s in p.stages
        if s.layers[0] <= layer < s.layers[1]
        for r in s.replicas
    }


def hosts(plan: Plan) -> set[str]:
    return {
        d.split("/")[0]
        for p in plan.pipelines
        for s in p.stages
        for r in s.replicas
        for d in r.devices
    }


def test_forbidden_chips_stay_idle_and_the_plan_says_why() -> None:
    plan = plan_with(forbidden_chips=["A100-SXM-40GB"])
    assert {r.chip for p in plan.pipelines for s in p.stages for r in s.replicas} == {V100}
    idle = {u.reason: u.devices for u in plan.unused_devices}
    assert idle["ruled out by the job (forbidden_chips)"] == ("node0/0", "node0/1")


def test_forbidden_nodes_stay_idle() -> None:
    plan = plan_with(forbidden_nodes=["node1"])
    assert "node1" not in hosts(plan)
    assert any("forbidden_nodes" in u.reason for u in plan.unused_devices)


def test_forbidden_chips_do_not_decide_the_precision() -> None:
    """The V100 has no bf16; without it the A100 can use theirs."""
    assert context_of().job.precision == "fp16"
    assert context_of(forbidden_chips=[V100]).job.precision == "bf16"


def test_every_chip_that_is_allowed_works_where_none_may_stay_idle() -> None:
    plan = plan_with(forbidden_nodes=["node1"], techniques={"idle_chips": False})
    assert hosts(plan) == {"node0", "node2"}
    assert [u.devices for u in plan.unused_devices] == [("node1/0",)]


def test_pinned_layers_lie_where_they_must() -> None:
    plan = plan_with(pinned_layers=[{"layers": [0, 2], "only_on": [V100]}])
    assert chips_of_layer(plan, 0) == chips_of_layer(plan, 1) == {V100}
    away = plan_with(pinned_layers=[{"layers": [13, 14], "never_on": [V100]}])
    assert chips_of_layer(away, 13) == {A100}


def test_a_bound_on_tensor_parallelism_and_depth_is_kept() -> None:
    plan = plan_with(max_tensor_parallel=1, max_pipeline_stages=2)
    stages = [s for p in plan.pipelines for s in p.stages]
    assert {r.mesh.tensor_parallel for s in stages for r in s.replicas} == {1}
    assert max(len(p.stages) for p in plan.pipelines) <= 2


def test_a_tighter_job_is_never_proven_faster() -> None:
    """The bound of a part of the space is not below that of the whole by more than its proof."""
    free, tight = plan_with().certificate, plan_with(forbidden_chips=[A100]).certificate
    assert free is not None
    assert tight is not None
    assert tight.objective_s >= free.lower_bound_s


def test_certificate_declares_what_was_ruled_out() -> None:
    pin = {"layers": [0, 2], "only_on": [V100]}
    certificate = plan_with(pinned_layers=[pin]).certificate
    assert certificate is not None
    said = certificate.search_space.allowed
    assert "layers 0–1 only on V100-SXM2-32GB (pinned_layers)" in said
    bounded = plan_with(max_tensor_parallel=1, max_pipeline_stages=2).certificate
    assert bounded is not None
    assert "tensor parallel at most 1 (max_tensor_parallel)" in bounded.search_space.allowed
    assert any("max_tensor_parallel" in d for d in bounded.search_space.dropped)


def test_jobs_without_constraints_keep_their_digest() -> None:
    value = context_of().job.as_json()
    assert not {"constraints", "max_tensor_parallel"} & set(value)
    assert ResolvedJob.from_json(value).as_json() == value


def test_constraints_survive_a_round_trip() -> None:
    job = context_of(
        forbidden_nodes=["node1"],
        max_tensor_parallel=2,
        pinned_layers=[{"layers": [0, 2], "never_on": ["v100-sxm2-32gb"]}],
    ).job
    again = ResolvedJob.from_json(json.loads(json.dumps(job.as_json())))
    assert again.constraints == job.constraints
    assert again.constraints.pinned_layers[0].never_on == (V100,)
    assert again.max_tensor_parallel == 2


# -- verification ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"constraints": {"forbidden_chips": [A100]}}, "ruled out by the job (forbidden_chips)"),
        ({"constraints": {"forbidden_nodes": ["node0"]}}, "ruled out by the job (forbidden_nodes)"),
        (
            {
                "constraints": {
                    "pinned_layers": [
                        {"first": 0, "end": 1, "only_on": [], "never_on": [A100, V100]}
                    ]
                }
            },
            "wants layer 0 never on",
        ),
        ({"plan_class": "rectangular"}, "but the job asks for rectangular"),
        ({"max_pipeline_stages": 1}, "but the job allows 1"),
    ],
)
def test_a_plan_against_its_job_is_rejected(rule: dict[str, Any], expected: str) -> None:
    plan = plan_with(pinned_layers=[{"layers": [0, 2], "only_on": [V100]}])
    assert planner.verify(plan) == []
    assert plan.plan_class != "rectangular"
    assert max(len(p.stages) for p in plan.pipelines) > 1
    empty = {"forbidden_chips": [], "forbidden_nodes": [], "pinned_layers": []}
    if "constraints" in rule:
        rule = {"constraints": {**empty, **rule["constraints"]}}
    body = plan.model_dump(mode="json")
    record = body["inputs"]["job"]
    record["resolved"].update(rule)
    record["digest"] = digest(record["resolved"])
    problems = "\n".join(map(str, planner.verify(seal(Plan.model_validate(body)))))
    assert expected in problems


def test_tensor_parallelism_beyond_the_limit_is_rejected() -> None:
    context = context_of(max_tensor_parallel=1)
    layout = parse_layout(
        Document("layout", {"tp": 2, "pp": 1, "dp": 1, "chips": ["A100-SXM-40GB"]})
    )
    plan = estimate(context.model, context.cluster, context.job_input, layout).plan
    assert any("tp 2, but the job allows 1" in p.message for p in planner.verify(plan))
    assert any("max_tensor_parallel" in w for w in plan.warnings)


# -- names and contradictions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"forbidden_chips": ["H100"]}, "the cluster has no 'H100'"),
        ({"forbidden_nodes": ["nod1"]}, "the cluster has no node 'nod1'"),
        ({"pinned_layers": [{"layers": [0, 99], "only_on": [V100]}]}, "goes beyond the 14 layers"),
        ({"pinned_layers": [{"layers": [0, 1], "only_on": ["X"]}]}, "the cluster has no 'X'"),
        ({"forbidden_chips": [A100, V100]}, "rule out every chip"),
    ],
)
def test_names_that_are_not_there_are_errors(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(planner.InputError, match=message):
        context_of(**fields)


@pytest.mark.parametrize(
    ("pin", "message"),
    [
        ("{layers: [2, 2], only_on: [a]}", "holds no layer"),
        ("{layers: [0, 2]}", "either only_on or never_on"),
        ("{layers: [0, 2], only_on: [a], never_on: [b]}", "either only_on or never_on"),
    ],
)
def test_pins_that_say_nothing_are_errors(pin: str, message: str) -> None:
    with pytest.raises(planner.InputError, match=message):
        load_job(None, parse_overrides([f"job.pinned_layers=[{pin}]"]))


def test_all_wrong_names_are_reported_at_once() -> None:
    with pytest.raises(planner.InputError) as caught:
        context_of(
            forbidden_chips=["H100"],
            forbidden_nodes=["x"],
            pinned_layers=[{"layers": [0, 1], "never_on": ["B"]}],
        )
    assert len(caught.value.problems) == 3


def test_rules_that_contradict_one_another_are_named_and_no_others() -> None:
    """The pin needs a chip that is forbidden; the limit on the stages plays no part."""
    with pytest.raises(planner.InfeasibleError) as caught:
        plan_with(
            forbidden_chips=[V100],
            max_pipeline_stages=4,
            pinned_layers=[
                {"layers": [0, 2], "only_on": [V100]},
                {"layers": [5, 6], "never_on": [V100]},
            ],
        )
    message = caught.value.message
    assert "forbidden_chips" in message
    assert "pinned_layers[0]" in message
    assert "max_pipeline_stages" not in message
    assert "pinned_layers[1]" not in message
    assert [r.split(":")[0] for r in caught.value.remedies] == [
        "drop forbidden_chips",
        "drop pinned_layers[0]",
    ]


# -- the command line -----------------------------------------------------------------------------


def test_options_of_the_command_line_are_fields_of_the_job() -> None:
    found = planned(
        "gpt2", FLEET, "--seq-len", "512", "--global-batch", "16", "--gap", "0.1",
        "--forbid-node", "node1", "--pin", "0:1!=v100-sxm2-32gb", "--max-tensor-parallel", "1",
        "--max-stages", "2", "--plan-class", "staged",
    ).plan  # fmt: skip
    job = found.inputs.job.resolved
    assert job["constraints"]["forbidden_nodes"] == ["node1"]
    assert job["constraints"]["pinned_layers"][0] == {
        "first": 0, "end": 1, "only_on": [], "never_on": [V100],
    }  # fmt: skip
    limits = (job["max_tensor_parallel"], job["max_pipeline_stages"], job["plan_class"])
    assert limits == (1, 2, "staged")


def test_a_pin_that_cannot_be_read_exits_2() -> None:
    done = command("plan", "gpt2", FLEET, "--pin", "0-3=V100")
    assert done.code == 2
    assert "is not FIRST:END=CHIP" in done.err
