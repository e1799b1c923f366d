"""Whether the headline figures follow from the parts: step time, utilisation, certificate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from costmodels.confidence import step_range
from costmodels.units import PS_PER_S
from planner.errors import Problem
from planner.plan import Certificate, Estimate, Plan
from planner.restore import Restored
from planner.verify.costs import Costs
from planner.verify.goal import goal_problems

OPTIMAL_GAP = 1e-6
"""Relative gap up to which a plan counts as optimal."""

RELATIVE = 1e-9
"""How far two evaluations of one floating-point formula may differ."""


def check_figures(plan: Plan, world: Restored, costs: Costs) -> list[Problem]:
    """Step time, breakdown, throughput, utilisation and certificate."""
    step_ps, objective_ps = _step(plan, costs)
    problems = [
        *_estimate(plan, step_ps),
        *_range(plan, world),
        *_utilisation(plan, world),
    ]
    if plan.certificate is not None:
        problems += _certificate(plan.certificate, plan.estimate, objective_ps)
        problems += goal_problems(plan, world, objective_ps)
    return problems


def _step(plan: Plan, costs: Costs) -> tuple[int, int]:
    """Step time and objective in picoseconds.

    A reduction starts when all its members have run their last backward and summed the weights
    that two of their layers share; the update follows. The objective charges every pipeline its
    formula time instead, and of each reduction what the last backwards of the stages before do
    not hide.
    """
    update = _picoseconds(plan.estimate.breakdown_s.update)
    ends = {(p, s): end for p, own in enumerate(costs.backward_ends) for s, end in enumerate(own)}
    end = max(ends.values())
    finish = [0] * len(plan.pipelines)
    shared: Counter[tuple[int, int]] = Counter()
    for group in sorted(plan.sync_groups, key=lambda g: g.kind != "tied"):
        time = _picoseconds(group.time_s)
        members = [(m.pipeline, m.stage) for m in group.members]
        done = max(ends[m] for m in members) + time
        end = max(end, done)
        for p, s in members:
            if group.kind == "tied":
                ends[p, s] = done
                shared[p, s] += time
                finish[p] = max(finish[p], shared[p, s])
            else:  # whoever shares a weight waits for the first stage: nothing hides the rest
                before = shared[p, s] if (p, s) in shared else -costs.leads_ps[p][s]
                finish[p] = max(finish[p], time + before)
    formula = max(f + sync for f, sync in zip(costs.formula_ps, finish, strict=True))
    return end + update, max(formula, end) + update


def _same(stated_s: float, derived_ps: int) -> bool:
    """Whether a time agrees to the picosecond, as far as seconds as floats can say so."""
    return _picoseconds(stated_s) == derived_ps or stated_s == derived_ps / PS_PER_S


def _estimate(plan: Plan, step_ps: int) -> Iterator[Problem]:
    estimate = plan.estimate
    where = "estimate.step_time_s"
    if not _same(estimate.step_time_s, step_ps):
        message = f"says {estimate.step_time_s!r} s, re-derived {step_ps / PS_PER_S!r} s"
        yield Problem(where, message)
    parts = estimate.breakdown_s
    values = (parts.fill, parts.steady, parts.sync, parts.update)
    if min(values) < 0:
        yield Problem("estimate.breakdown_s", "holds a negative time")
    # beyond 2^53 ps (2.5 hours) seconds as floats no longer tell picoseconds apart
    rounding = len(values) * (step_ps >> 52)
    if abs(sum(map(_picoseconds, values)) - _picoseconds(estimate.step_time_s)) > rounding:
        yield Problem("estimate.breakdown_s", "does not sum to the step time")
    simulated = estimate.simulated_step_time_s
    if simulated is not None and _picoseconds(simulated) < step_ps - (step_ps >> 52):
        message = f"the replay takes {simulated!r} s, less than without contention"
        yield Problem("estimate.simulated_step_time_s", message)


def _range(plan: Plan, world: Restored) -> Iterator[Problem]:
    """The range that the used chips' validated error leaves the step time."""
    stated = plan.estimate.step_time_range_s
    if stated is None:
        return
    devices = (
        replica.devices[0]
        for pipeline in plan.pipelines
        for stage in pipeline.stages
        for replica in stage.replicas
    )
    derived = step_range(
        plan.estimate.step_time_s,
        [world.topology.classes[world.island_of[d].class_index].chip for d in devices],
        world.job.precision,
        experts=any(layer.shape.is_moe for layer in world.model.layers),
    )
    if not all(math.isclose(a, b, rel_tol=RELATIVE) for a, b in zip(stated, derived)):
        message = f"says {list(stated)!r}, re-derived {list(derived)!r}"
        yield Problem("estimate.step_time_range_s", message)


def _utilisation(plan: Plan, world: Restored) -> Iterator[Problem]:
    """Throughput and model FLOP utilisation, by the formulas of the plan's contract."""
    job, model = world.job, world.model
    step = plan.estimate.step_time_s
    if step <= 0:
        yield Problem("estimate.step_time_s", "is not positive")
        return
    tokens = job.global_batch * job.seq_len
    peak = sum(
        world.topology.classes[world.island_of[device].class_index].chip.peak(job.precision)
        for pipeline in plan.pipelines
        for stage in pipeline.stages
        for replica in stage.replicas
        for device in replica.devices
    )
    given = [layer.shape.generic for layer in model.layers if layer.shape.generic is not None]
    if given:
        six_n = with_attention = sum(3.0 * g.forward_flops_per_row / job.seq_len for g in given)
    else:
        six_n = 6.0 * model.active_parameters
        with_attention = six_n + sum(
            6.0 * layer.shape.hidden * job.seq_len
            for layer in model.layers
            if layer.shape.attention is not None
        )
    derived = {
        "tokens_per_s": tokens / step,
        "mfu": with_attention * tokens / (peak * step),
        "mfu_6n": six_n * tokens / (peak * step),
    }
    for name, value in derived.items():
        stated = getattr(plan.estimate, name)
        if not math.isclose(stated, value, rel_tol=RELATIVE):
            yield Problem(f"estimate.{name}", f"says {stated!r}, re-derived {value!r}")
    # a profile may have been measured faster than the stated precision's peak, as fp32 in TF32 is,
    # and frozen weights do less than the six FLOPs that count
    counted = plan.inputs.profile is None and not job.lora_rank and not job.frozen_layers
    if derived["mfu"] > 1 and counted:
        message = f"{derived['mfu']:.0%} of the peak: the chips cannot be that fast"
        yield Problem("estimate.mfu", message)


def _certificate(proof: Certificate, estimate: Estimate, objective_ps: int) -> Iterator[Problem]:
    objective, bound = proof.objective_s, proof.lower_bound_s
    if not _same(objective, objective_ps):
        message = f"says {objective!r} s, re-derived {objective_ps / PS_PER_S!r} s"
        yield Problem("certificate.objective_s", message)
    if _picoseconds(objective) < _picoseconds(estimate.step_time_s):
        yield Problem("certificate.objective_s", "is below the step time")
    if bound > objective:
        yield Problem("certificate.lower_bound_s", f"{bound!r} s is above the objective")
    if bound < 0:
        yield Problem("certificate.lower_bound_s", "is negative")
    exact = proof.exact_lower_bound_s
    if exact is not None and exact > estimate.step_time_s:
        yield Problem("certificate.exact_lower_bound_s", f"{exact!r} s is above the step time")
    gap = (objective - bound) / objective if objective > 0 else 0.0
    if proof.objective is not None:  # the gap is that of the job's own objective
        gap = proof.objective.gap
    if not math.isclose(proof.gap, gap, rel_tol=RELATIVE, abs_tol=1e-12):
        yield Problem("certificate.gap", f"says {proof.gap!r}, re-derived {gap!r}")
    allowed = proof.solver.limits.get("gap")
    if (proof.status == "optimal") != (gap <= OPTIMAL_GAP):
        message = f"says {proof.status} at a gap of {gap:.2e}; optimal means {OPTIMAL_GAP:g}"
        yield Problem("certificate.status", message)
    elif (
        proof.status == "within_tolerance"
        and isinstance(allowed, (int, float))
        and gap > allowed * (1 + RELATIVE)
    ):
        message = f"says within_tolerance at a gap of {gap:.2e}, but the limit was {allowed:g}"
        yield Problem("certificate.status", message)
    if proof.solver.limits.get("time_limit_s") is not None and proof.deterministic:
        yield Problem("certificate.deterministic", "is true although a wall-clock limit was set")


def _picoseconds(seconds: float) -> int:
    return round(seconds * PS_PER_S)
