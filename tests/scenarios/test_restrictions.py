"""What the user forbids does not happen: techniques, classes of plans, depth, micro-batches."""

from planner.plan import Plan
from tests.scenarios.terminal import defects, planned, planner, replicas

PAIR = ("gpt2", "1xA100-SXM-40GB + 1xV100-SXM2-32GB @ 400Gb/s:ib",
        "--seq-len", "512", "--global-batch", "24")  # fmt: skip
FOUR = ("gpt2", "2xA100-SXM-40GB + 2xV100-SXM2-32GB @ 100Gb/s",
        "--seq-len", "512", "--global-batch", "16")  # fmt: skip
"""Where the V100 only slow the A100 down."""

TIGHT = ("llama-2-7b", "4xA100-SXM-40GB", "--global-batch", "16")
"""Needs three cards for its state, so pipelines or tensor parallelism, and memory is short."""


def policies(plan: Plan) -> set[str]:
    return {r.policy for p in plan.pipelines for s in p.stages for r in s.recompute}


def test_idle_chips_forbidden_means_that_every_chip_works():
    found = planned(*FOUR, "--forbid", "idle-chips").plan
    assert (defects(found, chips=4), found.unused_devices) == ([], ())


def test_tensor_parallelism_forbidden():
    found = planned(*TIGHT, "--forbid", "tensor-parallel").plan
    assert (defects(found, chips=4), {len(r.devices) for r in replicas(found)}) == ([], {1})


def test_recomputation_forbidden():
    found = planned(*TIGHT, "--forbid", "recompute-full", "--forbid", "recompute-selective").plan
    assert (defects(found, chips=4), policies(found)) == ([], {"none"})


def test_zero_forbidden():
    found = planned(*PAIR, "--forbid", "zero1").plan
    assert {s.zero.level for p in found.pipelines for s in p.stages} == {0}


def test_no_pipelines_of_more_than_one_stage():
    """The best plan here has two."""
    found = planned(*PAIR, "--set", "job.max_pipeline_stages=1").plan
    assert {len(p.stages) for p in found.pipelines} == {1}


def test_only_the_micro_batches_that_were_allowed():
    found = planned(*PAIR, "--set", "job.micro_batch_rows=[3]").plan
    assert {p.micro_batch_rows for p in found.pipelines} == {3}


def test_a_rectangular_plan_where_nothing_else_is_allowed(images):
    """The best plan for M2 gives the faster pair more rows; not every runtime can run that."""
    found = planned(images, "m2-timm", "m2-timm", "--set", "job.plan_class=rectangular").plan
    assert (defects(found, chips=4), found.plan_class) == ([], "rectangular")


def test_an_optimizer_of_the_user_is_what_is_planned_with():
    """8-bit Adam keeps two bytes per parameter instead of twelve."""

    def optimizer(plan: Plan) -> int:
        return sum(r.memory_bytes.optimizer * len(r.devices) for r in replicas(plan))

    shards = ("--set", "job.max_pipeline_stages=1", "--forbid", "zero1")
    full = optimizer(planned("gpt2", "1xA100-SXM-40GB", "--global-batch", "8", *shards).plan)
    small = optimizer(planned("gpt2", "1xA100-SXM-40GB", "--global-batch", "8", *shards,
                              "--set", "job.optimizer=adam8bit").plan)  # fmt: skip
    assert full == 6 * small


def test_an_objective_that_does_not_exist_yet_is_refused():
    assert planner("plan", *PAIR, "--objective", "cost").code == 2
