"""S1: eight A100-80 and sixteen V100-32 over 100 Gb/s Ethernet train Llama-2-13B."""

from dataclasses import replace

import pytest

from costmodels.catalog import Chip, load_catalog
from costmodels.collectives import point_to_point_s
from costmodels.price import LayerConfig, price_layer
from planner.inputs.model import load_model
from tests.scenarios.terminal import Planned, defects, host, planned, planner, replicas

S1 = ("llama-2-13b", "s1-a100-v100", "s1-pretrain-13b")
A100, V100 = "8 x A100", "16 x Tesla V100"
NOMINAL = 12.5e9
"""100 Gb/s in bytes per second."""


@pytest.fixture(scope="module")
def s1() -> Planned:
    """Proven as far as the tests ask; the README's own command proves it to 1 %."""
    return planned(*S1, "--gap", "0.05")


def test_the_plan_is_sound(s1):
    assert defects(s1.plan, chips=24) == []


def test_it_is_verified_from_scratch(s1):
    assert planner("check", s1.file).code == 0


def test_fp16_is_chosen_for_the_whole_job(s1):
    assert s1.plan.inputs.job.resolved["precision"] == "fp16"


def test_the_choice_of_fp16_is_noted_with_its_reason(s1):
    assert "precision fp16" in s1.text
    assert "no bf16 on V100-SXM2-32GB" in s1.text


def test_bf16_is_refused_and_names_the_v100():
    ended = planner("plan", *S1, "--precision", "bf16")
    assert ended.code == 2
    assert "V100-SXM2-32GB has no bf16" in ended.err
    assert "job.precision=fp16" in ended.err


def test_it_beats_the_a100_alone(s1):
    assert s1.plan.estimate.step_time_s < s1.baseline(A100)


def test_it_beats_the_equal_split(s1):
    assert s1.plan.estimate.step_time_s < s1.baseline("equal split")


def test_no_faster_than_both_kinds_on_their_own_together(s1):
    """A mixed fleet does not create speed, unless it relieves memory (and then says so)."""
    together = 1 / s1.baseline(A100) + 1 / s1.baseline(V100)
    ratio = (1 / s1.plan.estimate.step_time_s) / together
    assert ratio <= 1 or "memory relief" in s1.text


def test_mixing_the_generations_pays(s1):
    """The V100 have 44.5 % of the compute: a plan that wins little leaves it lying around."""
    assert s1.baseline(A100) / s1.plan.estimate.step_time_s > 1.3


def test_tensor_parallel_groups_stay_inside_a_node(s1):
    assert all(len({host(d) for d in r.devices}) == 1 for r in replicas(s1.plan))


def test_every_pipeline_uses_both_generations_at_their_speed(s1):
    """The A100 of a pipeline run more layers per chip than its V100."""
    for pipeline in s1.plan.pipelines:
        layers: dict[str, list[int]] = {}
        for stage in pipeline.stages:
            (replica,) = stage.replicas
            had = layers.setdefault(replica.chip, [0, 0])
            had[0] += stage.layers[1] - stage.layers[0]
            had[1] += len(replica.devices)
        per_chip = {chip: n / chips for chip, (n, chips) in layers.items()}
        if len(per_chip) == 2:
            (fast,) = [c for c in per_chip if "a100" in c]
            (slow,) = [c for c in per_chip if "v100" in c]
            assert per_chip[fast] > per_chip[slow]


def test_the_boundary_of_one_row_is_42_megabytes():
    graph = load_model("llama-2-13b").graph
    assert graph.boundary_bytes(20, 1, 4096, 2) == 4096 * 5120 * 2 == 41_943_040


def test_the_boundary_takes_3_4_ms_at_the_nominal_rate():
    assert point_to_point_s(41_943_040, NOMINAL, 0.0) == pytest.approx(3.36e-3, rel=0.01)


def test_no_hop_between_nodes_is_faster_than_the_wire(s1):
    """Nominal bandwidth is never reached, and TCP at 100 Gb/s stays far below it."""
    hops = [
        (a.hop_to_next_s, pipeline.micro_batch_rows)
        for pipeline in s1.plan.pipelines
        for a, b in zip(pipeline.stages, pipeline.stages[1:])
        if host(a.replicas[0].devices[0]) != host(b.replicas[0].devices[0])
    ]
    assert hops
    assert all(hop > rows * 41_943_040 / NOMINAL for hop, rows in hops)


@pytest.mark.parametrize("what", ["forward_s", "activation_bytes"])
def test_attention_without_flash_is_charged_on_the_v100(what):
    """The same chip with a fused kernel is faster and keeps no scores."""
    v100 = load_catalog().get("V100-SXM2-32GB")
    block = load_model("llama-2-13b").graph.layers[20].shape

    def price(chip: Chip) -> float | tuple[int, int, int]:
        flash = chip.flash_attention
        config = LayerConfig(1, 4096, 1, "fp16", sequence_parallel=False, flash=flash)
        return getattr(price_layer(block, chip, chip.fabric or chip.host_fabric, config), what)

    assert price(v100) > price(replace(v100, flash_attention=True))


def test_the_user_is_told_about_attention_on_the_v100(s1):
    assert "V100-SXM2-32GB: no fused attention" in s1.text
