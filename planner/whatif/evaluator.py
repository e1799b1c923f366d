"""One question after the other: outcomes read from the cache, or planned here and kept there.

Inverse questions choose their next scenario by the last answer, so they go one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from planner.scenario.inputs import PlanInputs
from planner.whatif.cache import OutcomeCache, key_of
from planner.whatif.evaluation import Planned, decide_inputs, plan_inputs
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

    def enough(self, inputs: PlanInputs, name: str, tokens_per_s: float | None) -> Outcome:
        """What decides whether inputs train so many tokens per second; see ``decide_inputs``.

        What is known of them without a rate decides for every rate.
        """
        for key in (f"{inputs.digest} None", f"{inputs.digest} {tokens_per_s!r}"):
            if key in self._known:
                return self._known[key]
        effort = self.options.effort

        def decide() -> Outcome:
            return self.decided(inputs, name, tokens_per_s).outcome

        self._known[key] = self._kept(key_of(inputs, effort, rate=repr(tokens_per_s)), decide)
        return self._known[key]

    def decided(self, inputs: PlanInputs, name: str, tokens_per_s: float | None) -> Planned:
        """The same with the plan, which is remembered here but not in the cache."""
        key = f"{inputs.digest} {tokens_per_s!r}"
        if key not in self._plans:
            if self.interrupted():
                raise Interrupted
            self.say(name)
            self.asked += 1
            effort = self.options.effort
            found = decide_inputs(inputs, tokens_per_s, effort, interrupted=self.interrupted)
            if self.interrupted():
                raise Interrupted
            self._plans[key] = found
        return self._plans[key]

    def _planned(self, inputs: PlanInputs) -> Outcome:
        effort = self.options.effort

        def plan() -> Outcome:
            return plan_inputs(inputs, effort, interrupted=self.interrupted).outcome

        return self._kept(key_of(inputs, effort), plan)

    def _kept(self, key: str, make: Callable[[], Outcome]) -> Outcome:
        """The outcome of a key from the cache, or made and kept there."""
        folder = self.options.cache
        cache = OutcomeCache(folder) if folder is not None else None
        found = cache.get(key) if cache is not None else None
        if found is None:
            found = make()
            if self.interrupted():
                raise Interrupted
            if cache is not None:
                cache.put(key, found)
        return found


class Interrupted(Exception):
    """The user asked to stop before there was an answer."""
