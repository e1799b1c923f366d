"""S8, long sequences on small cards, and S9, experts on two kinds of nodes: meshes in a stage."""

from functools import cache

import pytest

import planner
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.plan import Plan
from planner.verify import verify

LONG = "seq_len=131072 global_batch=8"


@cache
def solved(model: str, cluster: str, sets: str, gap: float = 0.05) -> Plan:
    """The plan, as far as a short proof goes."""
    inputs = (load_model(model), load_cluster(cluster))
    job = load_job(None, parse_overrides([f"job.{part}" for part in sets.split()]))
    params = planner.SolveParams(gap=gap, baselines=False, simulate=False)
    return planner.solve(*inputs, job, params=params)


def long(allowed: bool) -> Plan:
    sets = LONG if allowed else f"{LONG} techniques.context_parallel=false"
    return solved("llama-3-8b", "s8-a40-long-context", sets)


def experts() -> Plan:
    sets = "global_batch=256 micro_batch_rows=[8]"
    return solved("mixtral-8x7b", "s9-h100-a100", sets, 0.2)


def test_s8_long_sequences_are_shared_and_recomputed() -> None:
    plan = long(allowed=True)
    stages = [s for p in plan.pipelines for s in p.stages]
    assert min(r.mesh.context_parallel for s in stages for r in s.replicas) > 1
    assert {part.policy for s in stages for part in s.recompute} == {"full"}
    assert verify(plan) == []


def test_s8_context_parallelism_pays_between_cards_on_pcie() -> None:
    best, without = long(allowed=True), long(allowed=False)
    assert best.estimate.step_time_s < 0.95 * without.estimate.step_time_s


@pytest.mark.slow
def test_s8_the_large_model_is_proven_not_to_fit() -> None:
    with pytest.raises(planner.InfeasibleError, match="missing per device"):
        solved("llama-3-70b", "s8-a40-long-context", LONG)


def test_s9a_experts_stay_inside_a_node_and_a_kind_of_chip() -> None:
    plan = experts()
    replicas = [r for p in plan.pipelines for s in p.stages for r in s.replicas]
    assert {r.mesh.expert_parallel for r in replicas} <= {1, 2, 4, 8}
    assert max(r.mesh.expert_parallel for r in replicas) == 8
    for replica in replicas:
        assert len({device.rpartition("/")[0] for device in replica.devices}) == 1
    assert verify(plan) == []


def test_s9a_the_imbalance_is_shown_and_what_was_tried_is_declared() -> None:
    plan = experts()
    assert any("imbalance factor" in line for line in plan.assumptions)
    assert plan.certificate is not None
    allowed = "\n".join(plan.certificate.search_space.allowed)
    assert "expert parallel {1, 2, 4, 8} inside a stage" in allowed
