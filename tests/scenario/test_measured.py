"""Explanations and what-if of plans that rest on a profile: it goes along, or says why not."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest

from planner.cli import main
from planner.diff import diff
from planner.errors import InputError
from planner.estimate import estimate, read_layout
from planner.explain import explain, parse_wish, why_not
from planner.inputs.cluster import cluster_from_document
from planner.inputs.document import Document
from planner.plan import Plan
from planner.scenario.apply import apply_all
from planner.scenario.grammar import parse_changes
from planner.scenario.inputs import PlanInputs, inputs_from_json, inputs_of
from planner.scenario.links import networks_of
from planner.solve import prepare
from planner.whatif.evaluator import Evaluator
from planner.whatif.limits import largest
from planner.whatif.pricing import kept
from planner.whatif.runner import RunOptions
from planner.whatif.sensitivity import inputs_of_tornado
from tests.profile_inputs import LINK, MIB, cluster, document, job, model, profile

INSIDE = {
    "source": "A100-SXM-80GB",
    "target": "A100-SXM-80GB",
    "where": "in_node",
    "points": [[MIB, 0.001]],
}
MEASURED = profile(links=[LINK, INSIDE])
LEAST_S = 0.23
"""Eight rows of 120 ms on four chips take 0.24 s by the profile; by the formulas 0.12 s."""


def inputs(text: str = "2x2xA100-SXM-80GB @ 100Gb/s") -> PlanInputs:
    return PlanInputs(model(), cluster(text), job(), MEASURED)


def changed(text: str, base: PlanInputs | None = None) -> PlanInputs:
    return apply_all(base or inputs(), parse_changes(text))


@cache
def planned(layout: str = "tp: 1, pp: 2, micro_batch_rows: 1", *, measured: bool = True) -> Plan:
    base = inputs()
    own = base.profile if measured else None
    return estimate(base.model, base.cluster, base.job, read_layout(layout), profile=own).plan


def messages(error: pytest.ExceptionInfo[InputError]) -> str:
    return str(error.value.message)


def test_a_plan_gives_its_profile_back_and_is_priced_the_same() -> None:
    again = inputs_of(planned())
    assert again.profile is not None
    assert again.profile.name == "three"
    priced = kept(planned(), again)
    assert priced is not None
    assert priced.step_time_s == pytest.approx(planned().estimate.step_time_s)
    bare = kept(planned(), PlanInputs(again.model, again.cluster, again.job))
    assert bare is not None
    assert bare.step_time_s < LEAST_S < priced.step_time_s


def test_a_profile_travels_to_a_worker_and_counts_in_the_digest() -> None:
    base = inputs()
    there = inputs_from_json(json.loads(json.dumps(base.as_json())))
    assert there.profile is not None
    assert there.profile.spec == MEASURED.spec
    assert there.digest == base.digest
    assert PlanInputs(base.model, base.cluster, base.job).digest != base.digest
    assert changed("link network x2").digest != base.digest


def test_neighbours_and_wishes_are_priced_with_what_was_measured() -> None:
    found = explain(planned())
    times = [n.step_time_s for n in found.neighbours if n.step_time_s is not None]
    assert times
    assert min(times) > LEAST_S
    answer = why_not(inputs_of(planned()), planned(), parse_wish("tp=2, pp=1"), search=False)
    assert answer.plan is not None
    assert answer.plan.inputs.profile == planned().inputs.profile
    assert answer.plan.estimate.step_time_s > LEAST_S


def test_a_search_for_a_wish_rests_on_the_profile_too() -> None:
    answer = why_not(inputs_of(planned()), planned(), parse_wish("zero=0"))
    assert answer.plan is not None
    assert answer.plan.inputs.profile == planned().inputs.profile


def test_a_degree_that_was_not_measured_is_no_plan() -> None:
    answer = why_not(inputs_of(planned()), planned(), parse_wish("tp=4"), search=False)
    assert answer.plan is None
    assert answer.verdict in ("illegal", "not found")


def test_a_scaled_network_scales_the_messages_that_were_measured_on_it() -> None:
    after = changed("link network x2")
    assert after.profile is not None
    network, inside = after.profile.spec.links
    assert network.points == ((MIB, 0.001), (16 * MIB, 0.005))
    assert inside.points == ((MIB, 0.001),)
    hop = prepare(after.model, after.cluster, after.job, after.profile).topology.class_routes[0, 0]
    before = prepare(model(), cluster(), job(), MEASURED).topology.class_routes[0, 0]
    assert hop is not None
    assert before is not None
    assert hop.bandwidth == 2 * before.bandwidth


def test_a_scaled_fabric_scales_what_was_measured_inside_nodes() -> None:
    after = changed("link fabric:a100 x0.5")
    assert after.profile is not None
    network, inside = after.profile.spec.links
    assert network.points == ((MIB, 0.002), (16 * MIB, 0.010))
    assert inside.points == ((MIB, 0.002),)
    unused = changed("link host:a100 x0.5").profile  # its chips talk over NVLink
    assert unused is not None
    assert unused.spec == MEASURED.spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = gpt2", "the profile three was measured with this model"),
        ("model.layers.0.parameters = 5", "the profile three was measured with this model"),
        ("efficiency a100 x0.9", "write speed a100 x0.9"),
        ("link network = 200Gb/s", "write link network xFACTOR"),
        ("link network efficiency = 0.5", "measured on this link"),
        ("link fabric:a100 = 100GB/s", "measured on this link"),
        ("cluster.nodes.0.nics.0.bandwidth_one_way = 1Gb/s", "measured on links"),
    ],
)
def test_changes_that_a_profile_would_swallow_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        changed(text)
    assert said in messages(error)
    assert f"change '{parse_changes(text)[0].text}'" in messages(error)


def test_a_chip_that_was_not_measured_keeps_the_formulas_efficiency() -> None:
    mixed = inputs("2xA100-SXM-80GB + 2xV100-SXM2-32GB @ 100Gb/s")
    assert changed("efficiency v100 x0.9", mixed).digest != mixed.digest
    names = [varied.name for varied in inputs_of_tornado(mixed)]
    assert "matrix efficiency of V100-SXM2-32GB" in names
    assert "matrix efficiency of A100-SXM-80GB" not in names
    assert "speed of A100-SXM-80GB" in names


def test_a_network_by_name_has_to_be_the_only_one() -> None:
    base = inputs("2xA100-SXM-80GB@100Gb/s + 2xA100-SXM-80GB@100Gb/s")
    (name,) = networks_of(base.cluster)
    assert changed(f"link network:{name} x2", base).profile != base.profile
    data = base.cluster.resolved
    first, second = data["nodes"]
    port = {**second["nics"][0], "network": "other"}
    document = Document("cluster", {**data, "nodes": [first, {**second, "nics": [port]}]})
    two = replace(base, cluster=cluster_from_document(document, base.cluster.catalog))
    with pytest.raises(InputError, match="does not say which network"):
        changed("link network:other x2", two)


def test_the_largest_model_or_sequence_is_not_asked_of_a_profile() -> None:
    for what in ("model", "seq_len"):
        with pytest.raises(InputError, match="measured at one size"):
            largest(inputs(), what, Evaluator(RunOptions()))


def test_the_difference_of_plans_names_their_profiles() -> None:
    bare = planned(measured=False)
    (field,) = [c for c in diff(bare, planned()).inputs if c.where == "profile"]
    assert (field.before, field.after) == (None, "three")
    assert not [c for c in diff(planned(), planned()).inputs if c.where.startswith("profile")]


def test_commands_take_the_profile_from_the_plan_or_from_a_file(tmp_path, capsys) -> None:
    plan, measured = tmp_path / "plan.json", tmp_path / "profile.json"
    three = tmp_path / "three.json"
    plan.write_text(planned().to_json())
    measured.write_text(json.dumps(document(links=[LINK, INSIDE])))
    three.write_text(json.dumps({k: v for k, v in model().resolved.items() if k != "format"}))
    scenario = ["-s", "link network x2", "--gap", "0.9", "-j", "1", "--format", "json"]
    assert main(["whatif", "compare", str(plan), *scenario]) == 0
    own = json.loads(capsys.readouterr().out)
    base = [str(three), "2x2xA100-SXM-80GB @ 100Gb/s", "--global-batch", "8"]
    assert main(["whatif", "compare", *base, "--profile", str(measured), *scenario]) == 0
    given = json.loads(capsys.readouterr().out)
    times = [row["step_time_s"] for row in own["scenarios"]]
    assert times == [row["step_time_s"] for row in given["scenarios"]]
    assert min(times) > LEAST_S
    assert main(["whatif", "compare", str(plan), "-s", "efficiency a100 x0.9"]) == 2
    assert "write speed a100 x0.9" in capsys.readouterr().err
    scenario = scenario[:2]
    assert main(["whatif", "compare", str(plan), "--profile", str(measured), *scenario]) == 2
    assert "needs a cluster" in capsys.readouterr().err
