"""LoRA, frozen layers, gradient precision and batch tolerance: from the job to the plan."""

import pytest

from costmodels.catalog import load_catalog
from planner.errors import InputError
from planner.estimate import estimate, read_layout
from planner.inputs.cluster import load_cluster
from planner.inputs.job import ResolvedJob, load_job, resolve_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.inputs.training import layer_training
from planner.solve import SolveParams, prepare, solve
from planner.verify import verify

GIB = 2**30
FAST = SolveParams(gap=0.05, baselines=False, simulate=False)


def inputs(*settings, model="llama-2-7b", cluster="8xA100-SXM-80GB"):
    return (
        load_model(model),
        load_cluster(cluster, load_catalog()),
        load_job(None, parse_overrides(["job.global_batch=64", *settings])),
    )


def priced(*settings, layout="tp: 2, pp: 1, dp: 4"):
    plan = estimate(*inputs(*settings), read_layout(layout)).plan
    assert verify(plan) == []
    return plan


def held(plan):
    return plan.pipelines[0].stages[0].replicas[0].memory_bytes


def modes(*settings):
    context = prepare(*inputs(*settings))
    return [t.mode for t in layer_training(context.model.graph, context.job)]


def test_without_these_fields_every_layer_is_trained():
    assert set(modes()) == {"full"}


def test_lora_trains_the_blocks_and_the_embedding_runs_forward_alone():
    assert modes("job.lora={rank: 8}") == ["forward"] + ["lora"] * 32 + ["frozen"]


def test_layers_frozen_from_the_front_run_forward_alone_and_others_pass_gradients_on():
    found = modes("job.frozen_layers=[[0, 3], [20, 22]]")
    assert found[:3] == ["forward"] * 3
    assert found[20:22] == ["frozen"] * 2
    assert found.count("full") == 34 - 5


def test_lora_state_follows_its_closed_form():
    full, lora = priced(), priced("job.lora={rank: 16}")
    # column-parallel q, k, v, gate, up: A whole, B halved; o, down: A halved, B whole
    block = 16 * (3 * (4096 + 2048) + 2 * (4096 + 5504) + (2048 + 4096) + (5504 + 4096))
    assert held(lora).gradients == 2 * 32 * block
    assert held(lora).parameters - held(full).parameters == 2 * 32 * block
    # every adapter's 12 bytes a weight, shared by four replicas
    assert held(lora).optimizer == 12 * 32 * block // 4
    assert held(lora).peak < held(full).peak
    assert lora.estimate.step_time_s < full.estimate.step_time_s
    assert any("LoRA of rank 16 on all matrices of 32 blocks" in a for a in lora.assumptions)


def test_only_trained_weights_are_reduced():
    full, lora = priced(), priced("job.lora={rank: 16}")
    (whole,), (part,) = full.sync_groups, lora.sync_groups
    assert part.time_s < whole.time_s / 20


def test_frozen_layers_save_their_share_of_the_state():
    full, half = priced(), priced("job.frozen_layers=[[0, 17]]")
    assert held(half).parameters == held(full).parameters
    assert held(half).gradients < 0.55 * held(full).gradients
    assert any("17 of 34 layers are trained" in a for a in half.assumptions)
    assert any("17 layers lie before every trained one" in a for a in half.assumptions)


def test_fp32_gradients_take_twice_the_bytes_and_more_traffic():
    half, single = priced(), priced("job.gradient_dtype=fp32")
    assert held(single).gradients == 2 * held(half).gradients
    assert single.sync_groups[0].time_s > half.sync_groups[0].time_s


def test_full_fine_tuning_needs_what_lora_does_not():
    """A 13B model on two 40 GB cards: full training does not fit, adapters do."""
    where = {"model": "llama-2-13b", "cluster": "2xA100-SXM-40GB"}
    layout = read_layout("tp: 2, pp: 1, dp: 1, recompute: full")
    full = estimate(*inputs("job.seq_len=1024", **where), layout)
    adapted = estimate(*inputs("job.seq_len=1024", "job.lora={rank: 8}", **where), layout)
    assert not full.fits
    assert adapted.fits


def test_a_searched_plan_with_frozen_layers_balances_what_is_left():
    plan = solve(
        *inputs("job.frozen_layers=[[0, 17]]", "job.techniques.tensor_parallel=false"), params=FAST
    )
    assert verify(plan) == []
    assert plan.certificate.gap < 0.2


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("job.frozen_layers=[[0, 99]]", r"goes beyond the 34 layers of"),
        ("job.frozen_layers=[[0, 34]]", "nothing is trained: every layer is frozen"),
        ("job.frozen_layers=[[4, 4]]", "holds no layer"),
        ("job.lora={rank: 0}", "greater than or equal to 1"),
        ("job.lora={rank: 8, targets: router}", "'attention', 'mlp' or 'all'"),
    ],
)
def test_what_cannot_be_trained_is_named(setting, words):
    with pytest.raises(InputError, match=words):
        prepare(*inputs(setting))


def test_a_profile_of_full_training_does_not_price_lora():
    from planner.inputs.profile import load_profile

    model, cluster, job = inputs(
        "job.lora={rank: 8}", model="opt-350-gpt2", cluster="4xA100-SXM-40GB"
    )
    with pytest.raises(InputError, match="measured with all weights trained"):
        prepare(model, cluster, job, load_profile("opt-350m-sailor"))


def test_a_resolved_job_survives_json_and_old_ones_still_load():
    context = prepare(*inputs("job.lora={rank: 8}", "job.frozen_layers=[[0, 3]]"))
    value = context.job.as_json()
    assert ResolvedJob.from_json(value).frozen_layers == ((0, 3),)
    for field in ("lora_rank", "lora_targets", "frozen_layers"):
        del value[field]
    assert ResolvedJob.from_json(value).lora_rank == 0
    with pytest.raises(ValueError, match="seq_len"):
        ResolvedJob.from_json({k: v for k, v in value.items() if k != "seq_len"})


def test_a_tolerance_offers_batches_that_fill_the_pipelines():
    """Three replicas share 64 rows in micro-batches of 4: 6 on one at least; 72 fill them all."""
    plan = solve(
        *inputs(
            "job.global_batch_tolerance=0.15",
            "job.micro_batch_rows=[4]",
            "job.max_pipeline_stages=1",
            "job.techniques.tensor_parallel=false",
            "job.seq_len=1024",
            model="llama-2-7b",
            cluster="3xA100-SXM-80GB",
        ),
        params=SolveParams(gap=0.05, simulate=False),
    )
    rows = [(p.micro_batches - 1) * 4 + p.last_micro_batch_rows for p in plan.pipelines]
    assert sum(rows) == 64
    assert max(p.micro_batches for p in plan.pipelines) == 6
    offered = {a.global_batch: a for a in plan.alternatives}
    assert 72 in offered
    assert offered[72].tokens_per_s > plan.estimate.tokens_per_s
    assert all(abs(batch - 64) <= 0.15 * 64 for batch in offered)


def test_without_a_tolerance_no_other_batch_is_offered():
    context = prepare(*inputs())
    assert context.job.global_batch_tolerance == 0
    assert resolve_job(context.job_input, context.model.graph, context.topology).lora_rank == 0
