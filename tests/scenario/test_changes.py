from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.errors import InputError
from planner.estimate import estimate, read_layout
from planner.graphs.build_topology import build_topology
from planner.inputs.job import resolve_job
from planner.inputs.overrides import parse_overrides
from planner.scenario import changes as c
from planner.scenario.apply import apply_all, apply_change
from planner.scenario.grammar import parse_change, parse_changes
from planner.scenario.inputs import PlanInputs, inputs_from_json, inputs_of, load_plan_inputs
from planner.scenario.links import link_rate, links_of
from planner.solve import prepare
from tests.small_plans import laid_out, small_inputs

MIXED = "2x8xA100-SXM-80GB + 3x8xV100-SXM2-32GB @ 100Gb/s"


def mixed() -> PlanInputs:
    return load_plan_inputs("gpt2", MIXED)


def changed(text: str, inputs: PlanInputs | None = None) -> PlanInputs:
    return apply_all(inputs or mixed(), parse_changes(text))


def test_replaced_chips_keep_their_nodes_and_ports() -> None:
    after = changed("replace v100 by a100-sxm-40gb")
    assert after.chip_counts == {"nvidia-a100-sxm-80gb": 16, "nvidia-a100-sxm-40gb": 24}
    assert [n.nics for n in after.cluster.spec.nodes] == [
        n.nics for n in mixed().cluster.spec.nodes
    ]


def test_a_scaled_network_carries_that_many_times_more() -> None:
    before, after = mixed(), changed("link network x2")
    assert link_rate(after.cluster, "network") == 2 * link_rate(before.cluster, "network")
    assert build_topology(after.cluster.spec, after.cluster.catalog).chips == 40


def test_a_network_rate_is_the_total_of_a_node() -> None:
    after = changed("link network = 400Gb/s")
    assert link_rate(after.cluster, "network") == 50e9


def test_a_scaled_fabric_changes_one_kind_of_chip_only() -> None:
    after = changed("link fabric:v100 x0.5")
    fabrics = {i: after.cluster.catalog.chips[i].fabric for i in after.chips}
    known = mixed().cluster.catalog.chips
    v100, a100 = "nvidia-v100-sxm2-32gb", "nvidia-a100-sxm-80gb"
    assert fabrics[v100].total_bandwidth == known[v100].fabric.total_bandwidth / 2
    assert fabrics[v100].pair_bandwidth == known[v100].fabric.pair_bandwidth / 2
    assert fabrics[a100] == known[a100].fabric


def test_scaling_a_link_twice_is_scaling_it_once_by_the_product() -> None:
    twice = changed("link fabric:v100 x0.5; link fabric:v100 x0.5")
    once = changed("link fabric:v100 x0.25")
    assert twice.digest == once.digest


def test_more_memory_is_usable_memory() -> None:
    after = changed("memory v100 x2")
    classes = build_topology(after.cluster.spec, after.cluster.catalog).classes
    before = build_topology(mixed().cluster.spec, mixed().cluster.catalog).classes
    usable = {k.chip.id: k.usable_memory_bytes for k in classes}
    was = {k.chip.id: k.usable_memory_bytes for k in before}
    assert usable["nvidia-v100-sxm2-32gb"] == 2 * was["nvidia-v100-sxm2-32gb"]
    assert usable["nvidia-a100-sxm-80gb"] == was["nvidia-a100-sxm-80gb"]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("nodes v100 +1", (16, 32)),
        ("nodes v100 -1", (16, 16)),
        ("nodes v100 = 1", (16, 8)),
        ("nodes v100 = 0", (16, None)),
        ("chips v100 -1", (16, 23)),
        ("chips v100 -8", (16, 16)),
        ("chips a100 +1", (17, 24)),
        ("nodes a100 +2; nodes v100 -2", (32, 8)),
    ],
)
def test_nodes_and_chips_are_counted(text: str, counts: tuple[int, int | None]) -> None:
    found = changed(text).chip_counts
    assert (found["nvidia-a100-sxm-80gb"], found.get("nvidia-v100-sxm2-32gb")) == counts


def test_added_hosts_have_names_of_their_own() -> None:
    spec = changed("nodes a100 +2; nodes v100 +1").cluster.spec
    names = [name for node in spec.nodes for name in node.host_names]
    assert len(names) == len(set(names)) == 8


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nodes h100 +1", "the cluster has no h100"),
        ("nodes v100 -4", "but there are 3 of them"),
        ("replace v100 by v100", "fits 4 chips"),
        ("link fabric:rtx x2", "the cluster has no rtx"),
        ("link wan x2", "is no link"),
        ("efficiency v100 x2", "of the dense peak"),
        ("forbid zero7", "no technique is called"),
        ("seq_len = -3", "seq_len"),
        ("model = llama-9-7b", "no such file and no preset"),
    ],
)
def test_a_change_that_cannot_be_made_names_itself_and_the_reason(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        changed(text)
    assert says in str(caught.value)
    assert all(
        p.where.startswith(f"change '{parse_change(text).text}'") for p in caught.value.problems
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("frobnicate v100", "is not understood"),
        ("nods v100 +1", "did you mean nodes"),
        ("link network = 200", "has no unit"),
        ("link network x0", "not above 0"),
        ("link network efficiency = 1.5", "at most 1"),
        ("price v100 = 0", "never 0"),
        ("sequence_length = 4096", "did you mean seq_len"),
    ],
)
def test_text_that_is_no_change_says_what_to_write(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_change(text)
    assert says in str(caught.value)


def test_all_unreadable_parts_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_changes("frobnicate; link network = 3; nodes v100 +1")
    assert len(caught.value.problems) == 2


names = st.sampled_from(("v100", "a100-sxm-80gb", "H800"))
every_change = st.one_of(
    st.builds(c.ReplaceChip, names, names),
    st.builds(
        c.ScaleLink, st.sampled_from(("network", "fabric:v100")), st.sampled_from((0.5, 2.0))
    ),
    st.builds(c.SetLink, st.just("network"), st.integers(1, 80).map(lambda n: n * 10**9)),
    st.builds(c.SetLinkEfficiency, st.just("host:v100"), st.sampled_from((0.5, 1.0))),
    st.builds(c.SetNodes, names, st.integers(0, 99)),
    st.builds(c.AddNodes, names, st.integers(-9, 9)),
    st.builds(c.AddChips, names, st.integers(-9, 9)),
    st.builds(c.SetModel, st.just("gpt2")),
    st.builds(c.SetTechnique, st.just("zero1"), st.booleans()),
    st.builds(c.ScaleMemory, names, st.just(1.5)),
    st.builds(c.ScaleSpeed, names, st.just(0.9)),
    st.builds(c.ScaleEfficiency, names, st.just(0.9)),
    st.builds(c.SetPrice, names, st.just(0.8)),
    st.builds(c.SetPower, names, st.just(300.0)),
    st.builds(c.SetField, st.just("job"), st.just(("seq_len",)), st.just(8192), st.just("8192")),
)


@settings(deadline=None, derandomize=True, database=None)
@given(every_change)
def test_a_change_is_read_back_from_its_own_text(change: c.Change) -> None:
    assert parse_change(change.text) == change


@settings(
    deadline=None, derandomize=True, database=None, max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(st.sampled_from(("network", "fabric:v100", "host:a100")), st.sampled_from((0.25, 0.5, 3.0)))
def test_a_link_scaled_there_and_back_is_as_before(link: str, factor: float) -> None:
    inputs = mixed()
    there = apply_change(inputs, c.ScaleLink(link, factor))
    back = apply_change(there, c.ScaleLink(link, 1 / factor))
    assert link_rate(back.cluster, link) == pytest.approx(link_rate(inputs.cluster, link))
    assert there.digest != inputs.digest


def test_links_of_a_cluster_are_its_network_and_what_joins_chips_in_a_node() -> None:
    assert links_of(mixed().cluster) == (
        "network", "fabric:A100-SXM-80GB", "fabric:V100-SXM2-32GB",
    )  # fmt: skip
    single = load_plan_inputs("gpt2", "1xA100-SXM-80GB + 2xRTX4090-24GB @ 10Gb/s")
    assert links_of(single.cluster) == ("network", "host:RTX4090-24GB")


@pytest.mark.parametrize(
    ("sets", "change", "optimizer"),
    [
        ("", "optimizer = adam8bit", 2),
        ("", "optimizer = sgd", 8),
        ("optimizer_state_bytes_per_parameter=6", "seq_len = 128", 6),
        ("gradient_dtype=fp32", "optimizer = adam8bit", 2),
    ],
)
def test_a_plans_job_takes_another_optimizers_own_state(
    sets: str, change: str, optimizer: int
) -> None:
    inputs = small_inputs(sets=sets)
    layout = read_layout("tp: 1, dp: 4")
    plan = estimate(inputs.model, inputs.cluster, inputs.job, layout, replay=False).plan
    restored = inputs_of(plan)
    context = prepare(restored.model, restored.cluster, restored.job)
    assert context.job.as_json() == plan.inputs.job.resolved
    after = apply_all(restored, parse_changes(change))
    job = resolve_job(
        after.job, after.model.graph, build_topology(after.cluster.spec, after.cluster.catalog)
    )
    assert job.state_bytes.optimizer == optimizer


def test_inputs_survive_being_sent_away() -> None:
    inputs = changed("link fabric:v100 x0.5; seq_len = 1024; nodes v100 +1")
    received = inputs_from_json(inputs.as_json())
    assert received.digest == inputs.digest
    one, other = (
        resolve_job(i.job, i.model.graph, build_topology(i.cluster.spec, i.cluster.catalog))
        for i in (inputs, received)
    )
    assert one.as_json() == other.as_json()


def test_an_efficiency_counts_on_the_inputs_of_a_plan_too() -> None:
    """A plan states what its chips sustain; a change of the best product has to reach that."""
    base = inputs_of(laid_out("tp: 2, pp: 2"))
    chip = base.cluster.catalog.chips["nvidia-a100-sxm-80gb"]
    after = changed("efficiency a100 x0.5", base).cluster.catalog.chips[chip.id]
    assert after.gemm_fraction == pytest.approx(chip.gemm_fraction / 2)
    assert after.sustained("bf16") == pytest.approx(chip.sustained("bf16") / 2)


@pytest.mark.parametrize("interleaved", [None, False, True])
@pytest.mark.parametrize("rows", [8, 32])
def test_a_plan_that_is_made_again_interleaves_as_it_did(
    interleaved: bool | None, rows: int
) -> None:
    """By default, too: the plan holds what was resolved, and few rows would turn it on again."""
    given_ = [f"job.global_batch={rows}", "job.seq_len=128"]
    if interleaved is not None:
        given_.append(f"job.techniques.interleaved={str(interleaved).lower()}")
    changes = parse_overrides(given_)
    inputs = load_plan_inputs("gpt2", "2x8xA100-SXM-80GB @ 100Gb/s", None, changes)
    layout = read_layout("tp: 1, pp: 2, dp: 8")
    plan = estimate(inputs.model, inputs.cluster, inputs.job, layout, replay=False).plan
    restored = inputs_of(plan)
    again = prepare(restored.model, restored.cluster, restored.job).job
    assert again.as_json() == plan.inputs.job.resolved
    wanted = rows < 16 if interleaved is None else interleaved
    assert again.interleaved == wanted
