"""One question after the other: outcomes read from the cache, or planned here and kept there.

Inverse questions choose their next scenario by the last answer, so they go one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from planner.scenario.inputs import PlanInputs
from planner.whatif.outcome import Outcome
from planner.whatif.runner import RunOptions, run


@dataclass
class Evaluator:
    """Plans scenarios one at a time. ``asked`` counts them; ``say`` hears what is planned next."""

    options: RunOptions = field(default_factory=RunOptions)
    say: Callable[[str], None] = lambda _: None
    interrupted: Callable[[], bool] = lambda: False
    asked: int = 0
    _known: dict[str, Outcome] = field(default_factory=dict)

    def __call__(self, inputs: PlanInputs, name: str) -> Outcome:
        """The outcome of one scenario. Raises Interrupted once the user asked to stop."""
        key = inputs.digest
        if key not in self._known:
            if self.interrupted():
                raise Interrupted
            self.say(name)
            self.asked += 1
            (outcome,) = run([inputs], self.options, interrupted=self.interrupted)
            if outcome is None:
                raise Interrupted
            self._known[key] = outcome
        return self._known[key]


class Interrupted(Exception):
    """The user asked to stop before there was an answer."""
