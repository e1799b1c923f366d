"""What must hold for every plan, and between the plans of clusters that differ in one thing.

A cluster that is better in one respect (a chip more, a faster port, more memory) holds every plan
of the other one, so its optimum is no worse, and so are bounds and plans up to their proven gaps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from planner.plan import Certificate, Plan
from planner.simulate import simulate
from planner.verify import verify
from tests.small_jobs import CHIPS, Node, SmallJob, planned, small_jobs

ROUNDING = 1e-9

Test = TypeVar("Test", bound=Callable[..., None])


def examples(count: int) -> Callable[[Test], Test]:
    """The same examples in every test, so that plans are made once; no minutes of shrinking."""
    phases = (Phase.explicit, Phase.generate)
    limits = settings(deadline=None, database=None, max_examples=count, phases=phases)
    return lambda test: seed(2)(limits(test))


few, more = examples(4), examples(12)


def proof(plan: Plan) -> Certificate:
    assert plan.certificate is not None
    return plan.certificate


def at_most(value: float, limit: float) -> bool:
    return value <= limit * (1 + ROUNDING)


# --- one plan -----------------------------------------------------------------------------------


@given(small_jobs())
@more
def test_the_bound_is_never_above_the_objective(job):
    assert proof(planned(job)).lower_bound_s <= proof(planned(job)).objective_s


@given(small_jobs())
@more
def test_the_exact_step_time_is_never_above_the_formula_time(job):
    plan = planned(job)
    assert at_most(plan.estimate.step_time_s, proof(plan).objective_s)


@given(small_jobs())
@more
def test_the_replay_agrees_with_the_plan_within_2_percent(job):
    plan = planned(job)
    assert simulate(plan).step_time_s == pytest.approx(plan.estimate.step_time_s, rel=0.02)


@given(small_jobs())
@more
def test_every_plan_is_verified_from_scratch(job):
    assert verify(planned(job)) == []


@given(small_jobs())
@more
def test_every_chip_is_placed_once_or_idle_with_a_reason(job):
    plan = planned(job)
    placed = [d for p in plan.pipelines for s in p.stages for r in s.replicas for d in r.devices]
    idle = [d for u in plan.unused_devices for d in u.devices if u.reason]
    assert len(placed) + len(idle) == len({*placed, *idle}) == job.chips


@given(small_jobs())
@more
def test_the_whole_batch_is_trained(job):
    rows = sum(
        (p.micro_batches - 1) * p.micro_batch_rows + p.last_micro_batch_rows
        for p in planned(job).pipelines
    )
    assert rows == job.batch


# --- a better cluster ---------------------------------------------------------------------------


def another_host(job: SmallJob) -> SmallJob:
    """One more host of a kind that is there."""
    return job.with_node(0, count=job.nodes[0].count + 1)


def another_kind(job: SmallJob) -> SmallJob:
    """One host of a kind that is not there yet."""
    there = {n.chip for n in job.nodes}
    chip = next(c for c in CHIPS if c not in there)
    return replace(job, nodes=(*job.nodes, Node("new-", chip, 1, 2, gbit=100)))


def faster_ports(job: SmallJob) -> SmallJob:
    """Twice the network rate at all hosts."""
    return replace(job, nodes=tuple(replace(n, gbit=2 * n.gbit) for n in job.nodes))


def more_memory(job: SmallJob) -> SmallJob:
    """Nothing reserved any more."""
    return replace(job, nodes=tuple(replace(n, reserved_gib=0.0) for n in job.nodes))


better = pytest.mark.parametrize(
    "improve", [another_host, another_kind, faster_ports, more_memory], ids=lambda f: f.__name__
)
Improve = Callable[[SmallJob], SmallJob]


@better
@given(job=small_jobs())
@few
def test_a_better_cluster_never_has_a_bound_above_the_old_plan(improve: Improve, job):
    """The old plan exists on the better cluster, so no bound there may be above its time.

    Two proofs of different clusters may stop at different distances from their optima; that the
    bounds themselves are ordered is not promised.
    """
    before, after = planned(job), planned(improve(job))
    assert at_most(proof(after).lower_bound_s, proof(before).objective_s)


@better
@given(job=small_jobs())
@few
def test_a_better_cluster_is_no_slower_than_its_gap_allows(improve: Improve, job):
    """Every plan of the old cluster exists on the better one, so its bound is not above it."""
    before, after = planned(job), planned(improve(job))
    assert at_most(proof(after).objective_s * (1 - proof(after).gap), proof(before).objective_s)


@better
@given(job=small_jobs())
@few
def test_with_the_old_plan_as_hint_a_better_cluster_is_never_slower(improve: Improve, job):
    before, after = planned(job), planned(improve(job), hint=job)
    assert at_most(after.estimate.step_time_s, before.estimate.step_time_s)


# --- the same cluster in other words ------------------------------------------------------------


@given(small_jobs(), st.randoms(use_true_random=False))
@few
def test_names_and_order_of_nodes_change_nothing(job, random):
    names = [f"host{k}-" for k in range(len(job.nodes))]
    random.shuffle(names)
    nodes = [replace(n, prefix=name) for n, name in zip(job.nodes, names)]
    nodes.reverse()
    told, retold = planned(job), planned(replace(job, nodes=tuple(nodes)))
    assert (proof(told).objective_s, proof(told).lower_bound_s) == (
        proof(retold).objective_s,
        proof(retold).lower_bound_s,
    )


@given(small_jobs())
@few
def test_counted_hosts_are_the_same_as_hosts_written_one_by_one(job):
    single = [
        replace(n, prefix=f"{n.prefix}{i}-", count=1) for n in job.nodes for i in range(n.count)
    ]
    counted, written = planned(job), planned(replace(job, nodes=tuple(single)))
    assert proof(counted).objective_s == proof(written).objective_s


# --- all times times k --------------------------------------------------------------------------


def measured(job: SmallJob, factor: float) -> SmallJob:
    """All chips measured, ``factor`` times as slow; nothing to send, next to nothing to update."""
    layers = tuple(replace(s, million_weights=0, sent=1) for s in job.layers)
    nodes = tuple(replace(n, rows_per_s=(0.4 + 0.3 * k) / factor) for k, n in enumerate(job.nodes))
    return replace(job, layers=layers, nodes=nodes)


@given(small_jobs(), st.sampled_from((2.0, 8.0)))
@few
def test_times_that_are_all_longer_make_the_step_longer_by_the_same_factor(job, factor):
    """Launches and latencies stay, microseconds in steps of a second."""
    once, slower = planned(measured(job, 1.0)), planned(measured(job, factor))
    assert proof(slower).objective_s == pytest.approx(factor * proof(once).objective_s, rel=1e-3)
