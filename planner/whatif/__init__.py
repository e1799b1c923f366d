"""What if: the same planning on changed inputs.

Scenarios are values (:mod:`planner.scenario.changes`), planned side by side
(:func:`compare`) or over one or two axes (:func:`sweep`), on processes or on Ray. Inverse
questions ask for the input: how many chips (:func:`size`), how many of another chip
(:func:`equal_time`), how large a model (:func:`largest`), how fast a link
(:func:`break_even_link`), how cheap a chip (:func:`worth_price`). :func:`tornado` says which
input matters, and where the plan stops being the best.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_PUBLIC = {
    "Axis": "planner.whatif.axis",
    "BreakEven": "planner.whatif.link",
    "Change": "planner.scenario.changes",
    "Compared": "planner.whatif.comparison",
    "Comparison": "planner.whatif.comparison",
    "Costs": "planner.whatif.money",
    "Effort": "planner.whatif.evaluation",
    "Evaluator": "planner.whatif.evaluator",
    "Front": "planner.whatif.pareto",
    "Largest": "planner.whatif.limits",
    "NodeType": "planner.whatif.fleet",
    "Outcome": "planner.whatif.outcome",
    "PlanInputs": "planner.scenario.inputs",
    "Planned": "planner.whatif.evaluation",
    "Point": "planner.whatif.grid",
    "Rates": "planner.scenario.rates",
    "Replacement": "planner.whatif.replace",
    "RunOptions": "planner.whatif.runner",
    "RunProgress": "planner.whatif.runner",
    "Scenario": "planner.whatif.scenario",
    "Sized": "planner.whatif.sizing",
    "Sweep": "planner.whatif.grid",
    "Target": "planner.whatif.sizing",
    "Tornado": "planner.whatif.sensitivity",
    "Worth": "planner.whatif.worth",
    "break_even_link": "planner.whatif.link",
    "catalogue_rates": "planner.scenario.rates",
    "compare": "planner.whatif.comparison",
    "costs_of": "planner.whatif.money",
    "equal_time": "planner.whatif.replace",
    "evaluate": "planner.whatif.evaluation",
    "fleet_of": "planner.whatif.fleet",
    "inputs_of": "planner.scenario.inputs",
    "largest": "planner.whatif.limits",
    "load_plan_inputs": "planner.scenario.inputs",
    "node_type": "planner.whatif.fleet",
    "pareto_front": "planner.whatif.pareto",
    "parse_axis": "planner.whatif.axis",
    "parse_change": "planner.scenario.grammar",
    "parse_changes": "planner.scenario.grammar",
    "parse_scenario": "planner.whatif.scenario",
    "plan_inputs": "planner.whatif.evaluation",
    "run": "planner.whatif.runner",
    "size": "planner.whatif.sizing",
    "sweep": "planner.whatif.grid",
    "tornado": "planner.whatif.sensitivity",
    "worth_price": "planner.whatif.worth",
}

if TYPE_CHECKING:
    from planner.scenario.changes import Change
    from planner.scenario.grammar import parse_change, parse_changes
    from planner.scenario.inputs import PlanInputs, inputs_of, load_plan_inputs
    from planner.scenario.rates import Rates, catalogue_rates
    from planner.whatif.axis import Axis, parse_axis
    from planner.whatif.comparison import Compared, Comparison, compare
    from planner.whatif.evaluation import Effort, Planned, evaluate, plan_inputs
    from planner.whatif.evaluator import Evaluator
    from planner.whatif.fleet import NodeType, fleet_of, node_type
    from planner.whatif.grid import Point, Sweep, sweep
    from planner.whatif.limits import Largest, largest
    from planner.whatif.link import BreakEven, break_even_link
    from planner.whatif.money import Costs, costs_of
    from planner.whatif.outcome import Outcome
    from planner.whatif.pareto import Front, pareto_front
    from planner.whatif.replace import Replacement, equal_time
    from planner.whatif.runner import RunOptions, RunProgress, run
    from planner.whatif.scenario import Scenario, parse_scenario
    from planner.whatif.sensitivity import Tornado, tornado
    from planner.whatif.sizing import Sized, Target, size
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


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'planner.whatif' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
