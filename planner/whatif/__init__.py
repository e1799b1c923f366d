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
from planner.whatif.evaluator import Evaluator
from planner.whatif.fleet import NodeType, fleet_of, node_type
from planner.whatif.largest import Largest, largest
from planner.whatif.link import BreakEven, break_even_link
from planner.whatif.money import Costs, costs_of
from planner.whatif.outcome import Outcome
from planner.whatif.pareto import Front, pareto_front
from planner.whatif.replace import Replacement, equal_time
from planner.whatif.runner import RunOptions, RunProgress, run
from planner.whatif.scenario import Scenario, parse_scenario
from planner.whatif.size import Sized, Target, size
from planner.whatif.sweep import Point, Sweep, sweep
from planner.whatif.tornado import Tornado, tornado
from planner.whatif.worth import Worth, worth_price

__all__ = [
    "Axis",
    "BreakEven",
    "Change",
    "Compared",
    "Comparison",
    "Costs",
    "Effort",
    "Evaluator",
    "Front",
    "Largest",
    "NodeType",
    "Outcome",
    "PlanInputs",
    "Planned",
    "Point",
    "Rates",
    "Replacement",
    "RunOptions",
    "RunProgress",
    "Scenario",
    "Sized",
    "Sweep",
    "Target",
    "Tornado",
    "Worth",
    "break_even_link",
    "catalogue_rates",
    "compare",
    "costs_of",
    "equal_time",
    "evaluate",
    "fleet_of",
    "inputs_of",
    "largest",
    "load_plan_inputs",
    "node_type",
    "pareto_front",
    "parse_axis",
    "parse_change",
    "parse_changes",
    "parse_scenario",
    "plan_inputs",
    "run",
    "size",
    "sweep",
    "tornado",
    "worth_price",
]
