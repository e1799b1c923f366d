"""S4: one tower of two 48 GB, one 96 GB NVL and two 96 GB cards trains Llama-2-13B."""

import json

import pytest

from costmodels.units import GIB
from tests.scenarios.terminal import Planned, defects, planned, planner, replicas

S4 = ("llama-2-13b", "s4-five-gpu-tower", "s4-tower-13b")
A6000 = "nvidia-rtx-a6000-48gb"
PARAMETERS = 13_015_864_320
EQUAL_SHARDS = "dp: 5, zero: 3, micro_batch_rows: 1, recompute: full"


def priced(*more: str) -> dict:
    ended = planner("estimate", S4[0], S4[1], EQUAL_SHARDS, S4[2], "--format", "json", *more)
    assert ended.code == 0
    return json.loads(ended.out)


def short_gib(found: dict) -> dict[str, float]:
    return {k["chip"]: (k["peak_bytes"] - k["usable_bytes"]) / GIB for k in found["kinds"]}


@pytest.fixture(scope="module")
def s4() -> Planned:
    return planned(*S4, "--gap", "0.5")


@pytest.mark.parametrize(("dtype", "bytes_"), [("fp32", 18), ("same", 16)])
def test_equal_shards_are_a_fifth_of_the_state_on_every_card(dtype, bytes_):
    """43.6 GiB at 18 bytes per parameter, 38.8 GiB at 16."""
    items = priced("--set", f"job.gradient_dtype={dtype}")["memory_bytes"][0]
    state = items["parameters"] + items["gradients"] + items["optimizer"]
    assert state == pytest.approx(bytes_ * PARAMETERS / 5, rel=1e-4)


def test_equal_shards_with_fp32_gradients_overfill_the_a6000_alone():
    """43.6 GiB of state and 10 GiB beside it on 47.5 GiB."""
    short = short_gib(priced())
    assert short.pop(A6000) == pytest.approx(6.2, abs=0.5)
    assert all(missing < -30 for missing in short.values())


def test_gradients_of_two_bytes_only_just_do():
    found = priced("--set", "job.gradient_dtype=same")
    missing = short_gib(found)[A6000]
    assert not found["fits"]
    assert 0 < missing * GIB < found["memory_bytes"][0]["fragmentation"]


def test_what_flips_the_verdict_is_named():
    ended = planner("estimate", S4[0], S4[1], EQUAL_SHARDS, S4[2])
    assert "GiB too much per RTX-A6000-48GB" in ended.text
    assert "job.gradient_dtype=same: barely" in ended.text
    assert "set aside for fragmentation" in ended.text


def test_a_layout_that_must_fit_is_refused_with_what_flips_it():
    ended = planner("estimate", S4[0], S4[1], EQUAL_SHARDS, S4[2], "--must-fit")
    assert ended.code == 3
    assert "gradient_dtype=same" in ended.text


def test_the_slowest_card_sets_the_pace_of_equal_batches():
    found = priced()
    times = {k["chip"]: k["step_time_s"] for k in found["kinds"]}
    assert found["step_time_s"] == max(times.values()) == times[A6000]


def test_which_chips_a_smaller_group_takes_is_asked_for():
    for layout in ("zero: 3, dp: 2", "zero: 3, dp: 4"):
        ended = planner("estimate", S4[0], S4[1], layout, S4[2])
        assert ended.code == 2
        assert "leave some of 5 unlike chips out" in ended.text
        assert "dp: 5, or a cluster of the chips that are meant" in ended.text


def test_zero_3_over_stages_of_unlike_chips_is_refused():
    ended = planner("estimate", S4[0], S4[1], "pp: 5, dp: 1, zero: 3", S4[2])
    assert ended.code == 2
    assert "priced on chips of one kind" in ended.text


def test_all_five_cards_work_and_beat_the_best_single_pipeline(s4):
    """One pipeline over all five, split by hand, takes 32.6 s."""
    assert len([d for r in replicas(s4.plan) for d in r.devices]) == 5
    assert s4.plan.estimate.step_time_s < 30


def test_the_plan_is_sound(s4):
    assert defects(s4.plan, chips=5) == []


def test_the_owners_96_gb_card_is_a_chip_of_its_own(s4):
    usable = {r.chip: r.memory_bytes.usable / GIB for r in replicas(s4.plan)}
    assert usable["h100-nvl-96gb"] == pytest.approx(0.99 * 96)


def test_layers_are_uneven_and_the_h100_holds_the_most(s4):
    layers = {}
    for stage in s4.plan.pipelines[0].stages:
        chip = stage.replicas[0].chip
        layers.setdefault(chip, []).append(stage.layers[1] - stage.layers[0])
    assert sum(map(sum, layers.values())) == 42
    assert min(layers["h100-nvl-96gb"]) > max(layers["rtx-pro-6000-blackwell-96gb"])
    assert all(n <= 6 for n in layers.get(A6000, []))


def test_tensor_parallel_groups_are_of_matching_cards(s4):
    for r in replicas(s4.plan):
        assert len(r.devices) <= 2
        assert r.devices in (("tower/0", "tower/1"), ("tower/3", "tower/4")) or len(r.devices) == 1


def test_an_uneven_pipeline_over_all_five_cards_fits():
    """Compute-proportional 2.9, 2.9, 15.5, 9.4, 9.4, less what the H100 cannot hold."""
    layout = (
        "pp: 5, dp: 1, recompute: full, layers_per_stage: [14, 10, 10, 3, 3], "
        "chips: [h100-nvl-96gb, rtx-pro-6000-blackwell-96gb, RTX-A6000-48GB]"
    )
    ended = planner("estimate", S4[0], S4[1], layout, S4[2], "--format", "json")
    steps = json.loads(ended.out)["estimate"]["step_time_s"]
    assert planner("estimate", S4[0], S4[1], layout, S4[2], "--must-fit", "-q").code == 0
    assert 25 < steps < 36


def test_tensor_parallelism_of_five_is_refused_with_the_degrees_that_are_legal():
    ended = planner("estimate", S4[0], S4[1], "tp: 5", S4[2])
    assert ended.code == 2
    assert "tp 5 is not possible" in ended.text
    assert "one of 1, 2, 4" in ended.text
