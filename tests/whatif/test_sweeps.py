"""Axes, grids of scenarios, fronts, and what scenarios cost."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InputError
from planner.report.sweeps import sweep_csv, sweep_object
from planner.scenario.changes import SetField, SetLink, SetNodes
from planner.scenario.rates import ChipRates, Figure, Rates, catalogue_rates, with_rates
from planner.whatif import (
    Costs,
    Effort,
    Outcome,
    RunOptions,
    Scenario,
    compare,
    costs_of,
    pareto_front,
    parse_axis,
    parse_changes,
    parse_scenario,
    sweep,
)
from planner.whatif.scenario import make_cases
from tests.small_plans import small_inputs

QUICK = Effort(gap=0.2)
A100 = "nvidia-a100-sxm-80gb"


@pytest.mark.parametrize(
    ("text", "name", "numbers", "unit"),
    [
        ("nodes v100 = 0..3", "nodes v100", (0, 1, 2, 3), ""),
        ("link network = 25Gb/s, 100Gb/s", "link network", (25, 100), "Gb/s"),
        ("link network x 0.5, 1, 2", "link network x", (0.5, 1, 2), ""),
        ("seq_len = 512..4096*2", "seq_len", (512, 1024, 2048, 4096), ""),
        ("speed v100 x0.8..1.0/0.1", "speed v100 x", (0.8, 0.9, 1.0), ""),
        ("nodes v100 +0..2", "nodes v100 +", (0, 1, 2), ""),
        ("precision = fp16, bf16", "precision", (None, None), ""),
        ("link network = 25Gb/s, 25GB/s", "link network", (None, None), ""),
        ("replace v100 by a100-sxm-40gb, h100-sxm-80gb", "replace v100 by", (None, None), ""),
    ],
)
def test_axes_are_read(text: str, name: str, numbers: tuple, unit: str) -> None:
    axis = parse_axis(text)
    assert axis.name == name
    assert tuple(v.number for v in axis.values) == pytest.approx(numbers)
    assert axis.unit == unit
    assert axis.numeric == (None not in numbers)


def test_the_values_of_an_axis_are_changes() -> None:
    assert parse_axis("nodes v100 = 1, 2").values[1].change == SetNodes("v100", 2)
    assert parse_axis("link network = 8Gb/s, 16Gb/s").values[0].change == SetLink("network", 10**9)
    last = parse_axis("seq_len = 1..2").values[1].change
    assert last == SetField("job", ("seq_len",), 2, "2")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nodes v100 = 4", "has one value"),
        ("nodes v100 = 5..2", "is no range"),
        ("nodes v100 = 1..9*1", "is no range"),
        ("frobnicate", "is not understood"),
        ("link network = 25, 50", "has no unit"),
    ],
)
def test_what_is_no_axis_says_so(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_axis(text)
    assert says in str(caught.value)


def test_a_sweep_plans_every_combination(tmp_path: Path) -> None:
    axes = [parse_axis("chips a100 -1, 2"), parse_axis("global_batch = 4, 8")]
    options = RunOptions(effort=QUICK, workers=1, cache=tmp_path)
    found = sweep(small_inputs(layers=4), axes, options, rates=priced(2.0))
    assert [[v.text for v in p.values] for p in found.points] == [
        ["1", "4"], ["1", "8"], ["2", "4"], ["2", "8"],
    ]  # fmt: skip
    assert found.complete
    fleets = [dict(p.outcome.fleet)[A100] for p in found.points if p.outcome]
    assert fleets == [3, 3, 2, 2]
    assert all(p.costs.usd_per_hour == 2.0 * p.outcome.chips_used for p in found.points)
    front = pareto_front([(p.outcome, p.costs) for p in found.points], ("time", "cost"))
    assert front.best
    lines = list(csv.DictReader(io.StringIO(sweep_csv(found))))
    assert [line["global_batch"] for line in lines] == ["4", "8", "4", "8"]
    assert all(float(line["tokens_per_s"]) > 0 for line in lines)
    points = sweep_object(found, front)["points"]
    assert sum(p["on_front"] for p in points) == len(front.best)


def test_more_than_two_axes_are_refused() -> None:
    axes = [parse_axis("global_batch = 4, 8")] * 3
    with pytest.raises(InputError) as caught:
        sweep(small_inputs(), axes)
    assert "3 axes" in str(caught.value)


def test_a_change_that_cannot_be_made_is_told_before_anything_is_planned() -> None:
    with pytest.raises(InputError) as caught:
        sweep(small_inputs(), [parse_axis("nodes h100 = 1, 2")])
    assert "the cluster has no h100" in str(caught.value)


def test_scenarios_are_compared_with_the_base() -> None:
    found = compare(
        small_inputs(layers=4),
        [parse_scenario("half: chips a100 -2"), parse_scenario("price a100 = 3")],
        QUICK,
        rates=priced(2.0),
    )
    base, half, dear = found.rows
    assert [r.case.scenario.name for r in found.rows] == [
        "as it is", "half", "price a100 = 3 USD/h",
    ]  # fmt: skip
    assert base.plan is not None
    assert half.outcome.tokens_per_s < base.outcome.tokens_per_s
    assert dear.plan == base.plan
    assert dear.costs.usd_per_hour == pytest.approx(1.5 * base.costs.usd_per_hour)


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(InputError):
        compare(small_inputs(), [parse_scenario("a: seq_len=1"), parse_scenario("a: seq_len=2")])


# -- money ------------------------------------------------------------------------------------


def priced(usd: float | None, watts: float | None = None) -> Rates:
    figures = [None if v is None else Figure(v, "given") for v in (usd, watts)]
    return Rates((ChipRates(A100, *figures),))


def planned(step_s: float, *, chips: int = 4, tokens: int = 1000) -> Outcome:
    return Outcome(
        status="planned", step_time_s=step_s, tokens_per_step=tokens, used=((A100, chips),),
        fleet=((A100, 8),),
    )  # fmt: skip


def test_costs_worked_by_hand() -> None:
    # 1,000 tokens in 3.6 s on 4 chips of 2 USD/h and 500 W: a million tokens take an hour
    found = costs_of(planned(3.6), priced(2.0, 500.0))
    assert found.usd_per_hour == 8.0
    assert found.usd_per_million_tokens == pytest.approx(8.0)
    assert found.kwh_per_million_tokens == pytest.approx(2.0)
    assert costs_of(planned(3.6), priced(2.0), "fleet").usd_per_hour == 16.0


def test_an_unknown_price_stays_unknown() -> None:
    found = costs_of(planned(3.6), priced(None, 500.0))
    assert found.usd_per_hour is None
    assert found.usd_per_million_tokens is None
    assert found.kilowatts == 2.0
    assert costs_of(planned(3.6), Rates()) == Costs(None, None, None, None)


def test_the_catalogues_prices_have_their_sources_and_are_never_zero() -> None:
    inputs = small_inputs("2xH100-SXM-80GB + 2xH800-SXM-80GB @ 100Gb/s")
    rates = catalogue_rates(inputs.cluster, inputs.chips)
    h100, h800 = (rates.of(c) for c in inputs.chips)
    assert h100.usd_per_hour is not None
    assert "catalogue: read" in h100.usd_per_hour.source
    assert h800.usd_per_hour is None
    assert rates.usd_per_hour({inputs.chips[0]: 1, inputs.chips[1]: 1}) is None


def test_given_prices_replace_the_catalogues() -> None:
    inputs = small_inputs()
    known = catalogue_rates(inputs.cluster, inputs.chips)
    rates = with_rates(known, inputs.cluster, parse_changes("price a100 = 7; power a100 = 250"))
    assert rates.of(A100).usd_per_hour == Figure(7.0, "given")
    assert rates.of(A100).watts == Figure(250.0, "given")


def test_a_replacing_chip_has_the_catalogues_price_or_the_scenarios() -> None:
    scenarios = [
        parse_scenario("replace a100 by h100-sxm-80gb"),
        parse_scenario("replace a100 by h100-sxm-80gb; price h100 = 9"),
        parse_scenario("replace a100 by h800-sxm-80gb"),
    ]
    cases = make_cases(small_inputs(), scenarios, priced(2.0))
    prices = [case.rates.of(case.inputs.chips[0]).usd_per_hour for case in cases]
    assert [p.value if p else None for p in prices] == [3.99, 9.0, None]


# -- fronts -----------------------------------------------------------------------------------

costs = st.integers(1, 6).map(lambda n: Costs(float(n), None, float(n), None))
points = st.lists(st.tuples(st.integers(1, 6).map(float), costs), min_size=1, max_size=12)


@settings(deadline=None, derandomize=True, database=None)
@given(points)
def test_nobody_on_the_front_is_beaten_and_everybody_else_is(found: list) -> None:
    judged = [(planned(step), cost) for step, cost in found]
    front = pareto_front(judged, ("time", "cost"))
    figures = [(step, cost.usd_per_million_tokens) for step, cost in found]

    def beaten(n: int) -> bool:
        own = figures[n]
        return any(f != own and f[0] <= own[0] and f[1] <= own[1] for f in figures)

    assert set(front.best) == {n for n in range(len(found)) if not beaten(n)}
    assert front.unknown == ()


def test_points_that_cannot_be_judged_are_named() -> None:
    judged = [
        (planned(1.0), Costs(1.0, None, 1.0, None)),
        (planned(1.0), Costs(None, None, None, None)),
        (Outcome(status="infeasible", reason="no"), Costs(None, None, None, None)),
    ]
    front = pareto_front(judged, ("time", "cost"))
    assert (front.best, front.unknown) == ((0,), (1, 2))
    assert pareto_front(judged, ("time", "energy")).unknown == (0, 1, 2)


def test_a_scenario_may_have_a_name() -> None:
    assert parse_scenario("twice the network: link network x2").name == "twice the network"
    assert parse_scenario("link network x2; seq_len = 2").name == "link network x2; seq_len = 2"
    assert parse_scenario("link fabric:a100 x2") == Scenario(
        "link fabric:a100 x2", parse_changes("link fabric:a100 x2")
    )
    with pytest.raises(InputError):
        parse_scenario("nothing: ")
