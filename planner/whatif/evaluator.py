"""One question after the other: outcomes read from the cache, or planned here and kept there.

Inverse questions choose their next scenario by the last answer, so they go one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from planner.scenario.inputs import PlanInputs
from planner.whatif.cache import OutcomeCache, key_of
from planner.whatif.evaluation import Planned, plan_inputs
from planner.whatif.outcome import Outcome
from planner.whatif.runner import RunOptions


@dataclass
class Evaluator:
    """Plans scenarios one at a time. ``asked`` counts them; ``say`` hears what is planned next."""

    options: RunOptions = field(default_factory=RunOptions)
    say: Callable[[str], None] = lambda _: None
    interrupted: Callable[[], bool] = lambda: False
    asked: int = 0
    _known: dict[str, Outcome] = field(default_factory=dict)
    _plans: dict[str, Planned] = field(default_factory=dict)

    def __call__(self, inputs: PlanInputs, name: str) -> Outcome:
        """The outcome of one scenario. Raises Interrupted once the user asked to stop."""
        key = inputs.digest
        if key not in self._known:
            if self.interrupted():
                raise Interrupted
            self.say(name)
            self.asked += 1
            self._known[key] = self._planned(inputs)
        return self._known[key]

    def planned(self, inputs: PlanInputs, name: str) -> Planned:
        """The same with the plan, which is remembered here but not in the cache."""
        key = inputs.digest
        if key not in self._plans:
            if self.interrupted():
                raise Interrupted
            self.say(name)
            self.asked += 1
            found = plan_inputs(inputs, self.options.effort, interrupted=self.interrupted)
            if self.interrupted():
                raise Interrupted
            self._plans[key] = found
        return self._plans[key]

    def _planned(self, inputs: PlanInputs) -> Outcome:
        effort, folder = self.options.effort, self.options.cache
        cache = OutcomeCache(folder) if folder is not None else None
        found = cache.get(key_of(inputs, effort)) if cache is not None else None
        if found is None:
            found = plan_inputs(inputs, effort, interrupted=self.interrupted).outcome
            if self.interrupted():
                raise Interrupted
            if cache is not None:
                cache.put(key_of(inputs, effort), found)
        return found


class Interrupted(Exception):
    """The user asked to stop before there was an answer."""
