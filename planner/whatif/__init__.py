"""What if: the same planning on changed inputs.

Scenarios are values (:mod:`planner.scenario.changes`), planned side by side
(:func:`compare`) or over one or two axes (:func:`sweep`), on processes or on Ray. Inverse
questions ask for the input: how many chips (:func:`size`), how many of another chip
(:func:`equal_time`), how large a model (:func:`largest`), how fast a link
(:func:`break_even_link`), how cheap a chip (:func:`worth_price`). :func:`tornado` says which
input matters, and where the plan stops being the best.
"""

from __future__ import annotations

from planner.scenario.changes import Change
from planner.scenario.grammar import parse_change, parse_changes
from planner.scenario.inputs import PlanInputs, inputs_of, load_plan_inputs
from planner.scenario.rates import Rates, catalogue_rates
from planner.whatif.axis import Axis, parse_axis
from planner.whatif.compare import Compared, Comparison, compare
from planner.whatif.evaluate import Effort, Planned, evaluate, plan_inputs
from planner.whatif.money import Costs, costs_of
from planner.whatif.outcome import Outcome
from planner.whatif.pareto import Front, pareto_front
from planner.whatif.runner import RunOptions, RunProgress, run
from planner.whatif.scenario import Scenario, parse_scenario
from planner.whatif.sweep import Point, Sweep, sweep

__all__ = [
    "Axis",
    "Change",
    "Compared",
    "Comparison",
    "Costs",
    "Effort",
    "Front",
    "Outcome",
    "PlanInputs",
    "Planned",
    "Point",
    "Rates",
    "RunOptions",
    "RunProgress",
    "Scenario",
    "Sweep",
    "catalogue_rates",
    "compare",
    "costs_of",
    "evaluate",
    "inputs_of",
    "load_plan_inputs",
    "pareto_front",
    "parse_axis",
    "parse_change",
    "parse_changes",
    "parse_scenario",
    "plan_inputs",
    "run",
    "sweep",
]
