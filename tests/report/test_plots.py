"""Pictures of answers: the same bytes every time, and pages that need nothing else."""

from __future__ import annotations

import re
from itertools import product

import pytest

from planner.errors import InputError
from planner.report import plots, plots_sizing
from planner.scenario.changes import ScaleLink
from planner.whatif import (
    BreakEven,
    Costs,
    Outcome,
    Point,
    Sweep,
    Tornado,
    node_type,
    pareto_front,
    parse_axis,
)
from planner.whatif.link import CurvePoint
from planner.whatif.scenario import Scenario, make_cases
from planner.whatif.sensitivity import Bar, Input, Side
from planner.whatif.sizing import Sized, Tried
from tests.small_plans import laid_out, small_inputs

pytest.importorskip("matplotlib", reason="needs the extra [plot]")


def made_up_sweep(*axes: str) -> Sweep:
    """Every point trains a thousand tokens a little faster, and costs a little more."""
    parsed = [parse_axis(a) for a in axes]
    grid = list(product(*(a.values for a in parsed)))
    (case,) = make_cases(small_inputs(), [Scenario("base")])
    points = []
    for n, values in enumerate(grid):
        outcome = Outcome(status="planned", step_time_s=10.0 - n, tokens_per_step=1000)
        if n == 1:
            outcome = Outcome(status="infeasible", reason="nothing fits")
        points.append(Point(values, case, outcome, Costs(n + 1.0, None, n + 1.0, None)))
    return Sweep(tuple(parsed), tuple(points))


def link() -> BreakEven:
    curve = tuple(CurvePoint(10.0**n, 5.0 - n / 4, None if n == 1 else 4.0) for n in range(6, 12))
    plan = laid_out("tp: 1, dp: 4")
    return BreakEven("network", 12.5e9, plan, None, 5e9, None, 3.0, None, None, None, curve)


def tornado() -> Tornado:
    bars = (
        Bar(
            Input("bandwidth of network", lambda f: ScaleLink("network", f)),
            Side(0.5, 2.0, None),
            Side(2.0, None, None, "not possible"),
            (0.7, None),
        ),
    )
    return Tornado(laid_out("tp: 1, dp: 4"), 2.0, bars, (), None)


def drawn(name: str, figure, table) -> str:
    return plots.picture(figure, name, title="An answer", table=table).decode()


@pytest.mark.parametrize("axes", [("nodes a100 = 1..4",), ("seq_len = 1..3", "nodes a100 = 1..2")])
def test_sweeps_are_drawn_over_one_axis_or_two(axes: tuple[str, ...]) -> None:
    found = made_up_sweep(*axes)
    front = pareto_front([(p.outcome, p.costs) for p in found.points])
    svg = drawn("x.svg", plots.sweep_figure(found, front), plots.sweep_table(found))
    assert "tokens per second" in svg
    assert "USD per million tokens" in svg
    assert all(axis.partition(" =")[0] in svg for axis in axes)


def test_a_page_needs_nothing_else_and_holds_the_numbers() -> None:
    found = made_up_sweep("nodes a100 = 1..4")
    html = drawn("x.html", plots.sweep_figure(found, None), plots.sweep_table(found))
    assert html.startswith("<!doctype html>")
    outside = [u for u in re.findall(r'(?:src|href)="([^"]*)"', html) if not u.startswith("#")]
    assert outside == []
    assert "<script" not in html
    assert "<td>no plan</td>" in html
    assert "<td>100</td>" in html


def test_the_same_answer_is_the_same_file() -> None:
    for figure, table in (
        (plots.link_figure, plots.link_table),
        (plots.tornado_figure, plots.tornado_table),
    ):
        value = link() if figure is plots.link_figure else tornado()
        for name in ("x.svg", "x.png", "x.html"):
            files = {
                plots.picture(figure(value), name, title="t", table=table(value)) for _ in range(2)
            }
            assert len(files) == 1


def test_a_size_is_drawn_with_what_is_needed_and_what_is_proven() -> None:
    def tried(nodes: int) -> Tried:
        outcome = Outcome(
            status="planned", step_time_s=4 / nodes, lower_bound_s=3 / nodes, tokens_per_step=1000
        )
        return Tried(nodes, outcome)

    node = node_type("A100-SXM-80GB", chips=2)
    found = Sized(node, 400.0, 2, tried(2).outcome, 2, 1, (tried(1), tried(2)))
    svg = drawn("x.svg", plots_sizing.size_figure(found), plots_sizing.size_table(found))
    for text in ("needed", "at most (proven)", "4 chips", "A100-SXM-80GB chips"):
        assert text in svg
    assert [row[0] for row in plots_sizing.size_table(found)] == ["chips", "2", "4"]


def test_a_tornado_shows_where_the_plan_is_overtaken() -> None:
    svg = drawn("x.svg", plots.tornado_figure(tornado()), plots.tornado_table(tornado()))
    assert "overtaken at" in svg
    assert "no plan" in svg
    assert "bandwidth of network" in svg


def test_text_of_users_cannot_break_the_page() -> None:
    page = plots.picture(
        plots.link_figure(link()), "x.html", title="<b>&", table=[["a<b", "c"], ["1", "2"]]
    ).decode()
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "a&lt;b" in page


def test_a_name_that_is_no_picture_is_refused_before_the_work() -> None:
    with pytest.raises(InputError) as caught:
        plots.check_plot("answer.gif")
    assert ".png, .svg, .html" in str(caught.value)
    plots.check_plot(None)
    plots.check_plot("answer.PNG")
