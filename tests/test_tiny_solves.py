"""Whole solves of tiny real inputs against the compact model: the optimum is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import HealthCheck, given, seed, settings

import planner
from costmodels.units import PS_PER_S
from planner.search.compact import solve_compact
from planner.search.regions import Region, roots
from planner.verify import verify
from tests.tiny_inputs import TinyInputs, tiny_inputs

CI = settings(
    deadline=None,
    max_examples=24,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
SAME = seed(1)
"""The same examples in both tests, so that each is solved once."""
QUICK = planner.SolveParams(baselines=False, simulate=False)
ROUNDING = 1e-9
FAR = 1.15
"""Worst ratio to the optimum that is put up with; the usual one is 1.000."""


@CI
@SAME
@given(tiny_inputs())
def test_certified_bound_is_never_above_the_optimum(inputs: TinyInputs) -> None:
    plan, optimum = _answers(inputs)
    if plan is not None and plan.certificate is not None and optimum is not None:
        assert plan.certificate.lower_bound_s <= optimum * (1 + ROUNDING)
        assert plan.certificate.lower_bound_s <= plan.certificate.objective_s


@CI
@SAME
@given(tiny_inputs())
def test_plan_exists_where_one_fits_and_is_near_the_optimum(inputs: TinyInputs) -> None:
    plan, optimum = _answers(inputs)
    assert (plan is None) == (optimum is None)
    if plan is not None and plan.certificate is not None and optimum is not None:
        assert plan.certificate.objective_s <= FAR * optimum


@settings(CI, max_examples=12)
@SAME
@given(tiny_inputs())
def test_bound_on_exact_time_is_above_neither_the_step_time_nor_the_optimum(
    inputs: TinyInputs,
) -> None:
    plan, optimum = _answers(inputs)
    if plan is None or optimum is None:
        return
    params = replace(QUICK, exact_bound=True)
    found = planner.solve(inputs.model, inputs.cluster, inputs.job, params=params)
    assert found.certificate is not None
    assert found.certificate.exact_lower_bound_s is not None
    assert 0 < found.certificate.exact_lower_bound_s <= found.estimate.step_time_s
    assert found.certificate.exact_lower_bound_s <= optimum * (1 + ROUNDING)
    assert found.estimate.step_time_s == plan.estimate.step_time_s
    assert verify(found) == []


@settings(CI, max_examples=10)
@SAME
@given(tiny_inputs(max_layers=4, hosted=True))
def test_so_it_is_with_activations_on_hosts_and_packed_gradients(inputs: TinyInputs) -> None:
    plan, optimum = _answers(inputs)
    assert (plan is None) == (optimum is None)
    if plan is not None and plan.certificate is not None and optimum is not None:
        assert verify(plan) == []
        assert plan.certificate.lower_bound_s <= optimum * (1 + ROUNDING)
        assert plan.certificate.lower_bound_s <= plan.certificate.objective_s <= FAR * optimum


def _answers(inputs: TinyInputs) -> tuple[planner.Plan | None, float | None]:
    """The plan, and the time of the best one."""
    key = repr((inputs.model.resolved, inputs.cluster.spec, inputs.job.spec))
    if key not in _KNOWN:
        _KNOWN[key] = _plan(inputs), _optimum_s(inputs)
    return _KNOWN[key]


_KNOWN: dict[str, tuple[planner.Plan | None, float | None]] = {}


def _plan(inputs: TinyInputs) -> planner.Plan | None:
    """The plan; None where it is proven that nothing fits."""
    try:
        return planner.solve(inputs.model, inputs.cluster, inputs.job, params=QUICK)
    except planner.InfeasibleError:
        return None


def _optimum_s(inputs: TinyInputs) -> float | None:
    """Least formula time over all settings, from one integer program per choice of windows."""
    problem = planner.prepare(inputs.model, inputs.cluster, inputs.job).problem
    times = []
    for region in _single_cuts(roots(problem)):
        found = solve_compact(problem, region.setting(problem))
        assert found.proven
        if found.time_ps is not None:
            times.append(found.time_ps)
    return min(times) / PS_PER_S if times else None


def _single_cuts(regions: list[Region]) -> list[Region]:
    """All regions in which every pipeline changes vendor at the same known layers."""
    found = []
    for region in regions:
        ranges = [range(low, high + 1) for low, high in region.cuts]
        for cuts in product(*ranges):
            if list(cuts) == sorted(set(cuts)):
                found.append(replace(region, cuts=tuple((c, c) for c in cuts)))
    return found
