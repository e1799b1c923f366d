"""What a target cannot run is named, with the nearest plan that would do."""

import pytest

from planner.errors import ExportError
from planner.exporters import TARGETS, chip_verdicts, export_plan, exporter_of
from planner.exporters.capability import compute_capability
from planner.exporters.depth import depth_difference, own_depths, planned_depths
from planner.exporters.grid import differences, grid_of
from planner.exporters.view import view_of
from tests.exporters.laid_out import exported, laid_out, refused
from tests.priced_plans import two_generations

STOCK = [t for t, e in TARGETS.items() if "asymmetric" not in e.CAPABILITY.plan_classes]
RECTANGULAR = [t for t in STOCK if "staged" not in TARGETS[t].CAPABILITY.plan_classes]
STAGED = "tp: [4, 2, 2], pp: 3, dp: 2, in_flight: classic"


def only(plan, target, where):
    return [p for p in refused(plan, target) if p.where == where]


@pytest.mark.parametrize("target", STOCK)
def test_stock_runtimes_refuse_asymmetric_plans(target):
    (problem,) = only(two_generations(), target, "plan class asymmetric")
    assert "job.plan_class=" in problem.remedy
    assert "pipeline" in problem.message


@pytest.mark.parametrize("target", RECTANGULAR)
def test_rectangular_runtimes_refuse_staged_plans(target):
    problem, *more = [
        p for p in refused(laid_out(STAGED), target) if p.where == "plan class staged"
    ]
    assert "4, 2, 2" in problem.message
    assert not any("expert" in p.message for p in (problem, *more))  # the model has none
    assert problem.remedy == "plan with --set job.plan_class=rectangular"


def test_a_short_last_micro_batch_names_the_nearest_batch():
    plan = laid_out("tp: 8, pp: 1, dp: 2, micro_batch_rows: 4", "job.global_batch=60")
    (problem,) = only(plan, "megatron", "plan class asymmetric")
    assert "the last micro-batch" in problem.message
    assert "--global-batch 56" in problem.remedy


def test_fewer_micro_batches_in_flight_than_1f1b_holds_are_refused():
    plan = laid_out("tp: 2, pp: 2, dp: 4, in_flight: [1, 1]")
    (problem,) = refused(plan, "megatron")
    assert problem.where == "micro-batches in flight"
    assert "stage 0 holds 1, the target's 1F1B 2" in problem.message
    assert refused(plan, "torch") == ()


def test_more_in_flight_are_taken_and_priced():
    plan = laid_out("tp: 2, pp: 2, dp: 4, in_flight: [4, 1]")
    (sentence,) = depth_difference(TARGETS["megatron"].CAPABILITY, view_of(plan))
    assert "holds 2, 1 micro-batches in flight by stage, the plan 4, 1" in sentence
    assert sentence in exported(plan, "megatron").differences
    assert not list(depth_difference(TARGETS["torch"].CAPABILITY, view_of(plan)))


def test_classic_depths_are_no_difference():
    pipeline = laid_out("tp: 2, pp: 4, dp: 2, in_flight: classic").pipelines[0]
    assert planned_depths(pipeline) == own_depths(pipeline) == (4, 3, 2, 1)


def test_gpipe_is_refused_where_there_is_only_1f1b():
    plan = laid_out("tp: 2, pp: 2, dp: 4, schedule: gpipe")
    assert [p.where for p in refused(plan, "megatron")] == ["schedule gpipe"]
    assert refused(plan, "torch") == ()


def test_everything_wrong_is_said_at_once():
    plan = laid_out(
        "tp: 2, pp: 2, dp: 2",
        "job.optimizer=adam8bit",
        "job.precision=fp16",
        model="glm4-9b",
        cluster="8xV100-SXM2-32GB",
    )
    found = [p.where for p in refused(plan, "torchtitan")]
    assert found == [
        "chip V100-SXM2-32GB",
        "precision fp16",
        "optimizer adam8bit",
        "gradients in 2 bytes",
        "model family glm4",
    ]


def test_two_vendors_are_refused_where_one_library_must_do():
    plan = laid_out(
        "tp: 4, pp: 2, dp: 1, placement: [node0/0-3, node1/0-3]",
        cluster="1x4xA100-SXM-80GB + 1x4x910B3-64GB @ 100Gb/s",
    )
    found = [p.where for p in refused(plan, "megatron")]
    assert "chips of several vendors" in found
    assert refused(plan, "torch") == ()


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(ExportError, match="no target has this name") as caught:
        exporter_of("megatrom")
    assert caught.value.remedies == ("did you mean megatron?",)
    assert caught.value.exit_code == 2


def test_chips_are_judged_for_every_target():
    (verdict,) = chip_verdicts(laid_out("tp: 8, pp: 1, dp: 2"))
    assert [target for target, _ in verdict.refused] == ["mindspeed"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("maxwell", (5, 0)), ("Maxwell 2.0", (5, 0)), ("ada", (8, 9)), ("", None), ("rubin", None)],
)
def test_compute_capability_by_architecture(name, expected):
    assert compute_capability(name) == expected


def test_a_grid_is_the_plan_seen_by_stage():
    grid = grid_of(laid_out(STAGED))
    assert [s.tensor_parallel for s in grid.stages] == [4, 2, 2]
    assert (grid.pipelines, grid.dp, grid.world) == (2, 2, 16)
    assert grid.global_batch == 64
    assert not grid.rectangular
    assert grid_of(two_generations()) is None
    assert any(
        "layer split" in d or "last micro-batch" in d for d in differences(two_generations())
    )


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_same_plan_gives_the_same_bytes(target):
    """Also the files that a target refuses are refused in the same words."""
    plan = laid_out("tp: 2, pp: 2, dp: 4, in_flight: classic", "job.gradient_dtype=fp32")

    def once():
        try:
            return [(f.path, f.text) for f in export_plan(plan, target).files]
        except ExportError as error:
            return [str(p) for p in error.problems]

    assert once() == once()


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_file_names_the_plan(target):
    plan = laid_out("tp: 1, pp: 1, dp: 16, in_flight: classic")
    try:
        found = export_plan(plan, target)
    except ExportError:
        return
    for file in found.files:
        named = plan.plan_id[:12] in file.text
        assert named or file.path == "ds_config.json", file.path


KEEPS_STATE_ON_HOSTS = {"deepspeed", "megatron", "megatron-bridge"}


@pytest.mark.parametrize("target", [t for t in TARGETS if t not in ("kubernetes", "slurm")])
def test_an_offloaded_optimizer_is_run_or_refused_by_name(target):
    plan = laid_out("tp: 1, pp: 2, offload: optimizer", "cluster.nodes.0.host_memory_gib=2048")
    problems = only(plan, target, "optimizer offload")
    assert bool(problems) == (target not in KEEPS_STATE_ON_HOSTS)
    assert all("--forbid optimizer_offload" in p.remedy for p in problems)


def test_fsdp_moves_more_than_the_optimizer():
    plan = laid_out("tp: 1, pp: 2, offload: optimizer", "cluster.nodes.0.host_memory_gib=2048")
    (problem,) = only(plan, "torchtitan", "optimizer offload")
    assert "moves weights and gradients as well" in problem.message


@pytest.mark.parametrize("target", [t for t in TARGETS if t not in ("kubernetes", "slurm")])
def test_activations_in_host_memory_are_refused_by_name(target):
    plan = laid_out("tp: 1, pp: 2, recompute: offload", "cluster.nodes.0.host_memory_gib=2048")
    (problem,) = only(plan, target, "activation offload")
    assert problem.remedy == "plan with --forbid activation_offload"


def test_runtimes_that_copy_otherwise_say_how():
    plan = laid_out("tp: 1, pp: 2, recompute: full_offload", "cluster.nodes.0.host_memory_gib=2048")
    (megatron,) = only(plan, "megatron", "activation offload")
    assert "one stage alone" in megatron.message
    (deepspeed,) = only(plan, "deepspeed", "activation offload")
    assert "waits for every copy" in deepspeed.message


@pytest.mark.parametrize("target", [t for t in TARGETS if t not in ("kubernetes", "slurm")])
def test_packed_gradients_are_refused_by_name(target):
    packed = "job.techniques.gradient_compression=int4"
    plan = laid_out("tp: 8, pp: 1, dp: 2", packed)
    assert {group.compression for group in plan.sync_groups} == {"int4"}
    (problem,) = only(plan, target, "gradient compression")
    assert "as int4 between hosts" in problem.message
    assert problem.remedy == "plan with --forbid gradient_compression"
