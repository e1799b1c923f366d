"""How many chips train so many tokens in so many days: the least number of nodes, with a proof.

More nodes never make the best plan slower (chips may stay idle), so the least number is found by
bisection. A number that fails is proven to fail where even the proven bound on every plan of that
fleet is too slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from costmodels.units import S_PER_DAY
from planner.assemble import model_flops
from planner.errors import InfeasibleError, InputError, NoPlanFound, Problem
from planner.inputs.job import JobInput
from planner.inputs.model import ModelInput
from planner.scenario.inputs import PlanInputs
from planner.whatif.evaluator import Evaluator
from planner.whatif.fleet import NodeType, fleet_of
from planner.whatif.outcome import Outcome

FIRST_MFU = 0.45
"""Utilisation that the first guess takes; it decides how many scenarios are planned, no more."""

SATURATED = 1.02
"""Twice the nodes bring less than this: no number of them will do."""

MOST_NODES = 200_000
MOST_ASKED = 40


@dataclass(frozen=True, slots=True)
class Target:
    """Tokens to train in seconds. ``goodput`` is the share of the time in which steps count."""

    tokens: float
    seconds: float
    goodput: float = 1.0

    @property
    def tokens_per_s(self) -> float:
        """What a step has to train per second of it."""
        return self.tokens / (self.seconds * self.goodput)

    @property
    def days(self) -> float:
        """The time in days."""
        return self.seconds / S_PER_DAY


@dataclass(frozen=True)
class Tried:
    """So many nodes, and what became of them."""

    nodes: int
    outcome: Outcome


@dataclass(frozen=True)
class Sized:
    """The least number of nodes that was found to do.

    ``proven_least``: fewer nodes than that cannot do it, by the proven bounds. ``tried`` is every
    fleet that was planned, smallest first.
    """

    node: NodeType
    target_tokens_per_s: float
    nodes: int
    outcome: Outcome
    proven_least: int
    tried: tuple[Tried, ...]

    @property
    def chips(self) -> int:
        """Chips of the fleet."""
        return self.nodes * self.node.chips


def size(
    model: ModelInput,
    job: JobInput,
    node: NodeType,
    target: Target,
    evaluator: Evaluator,
) -> Sized:
    """The least fleet that reaches the target.

    Raises NoPlanFound where more nodes stop helping before the target is reached, InfeasibleError
    where the model fits on no number of them that was tried, InputError for invalid inputs.
    """
    return least_nodes(
        lambda nodes: PlanInputs(model, fleet_of(node, nodes), job),
        node,
        target.tokens_per_s,
        evaluator,
    )


def least_nodes(
    inputs_for: Callable[[int], PlanInputs], node: NodeType, rate: float, evaluator: Evaluator
) -> Sized:
    """The least number of nodes whose plan trains ``rate`` tokens per second."""
    search = _Search(inputs_for, node, rate, evaluator, {})
    high = search.bracket()
    low = max((n for n, o in search.known.items() if not search.does(o)), default=0)
    while high - low > 1:
        middle = search.guess(low, high)
        if search.does(search.at(middle)):
            high = middle
        else:
            low = middle
    return Sized(
        node,
        rate,
        high,
        search.at(high),
        search.proven_least(),
        tuple(Tried(n, o) for n, o in sorted(search.known.items())),
    )


@dataclass
class _Search:
    """One bisection; ``known`` holds the outcome of every number of nodes asked for."""

    inputs_for: Callable[[int], PlanInputs]
    node: NodeType
    rate: float
    evaluator: Evaluator
    known: dict[int, Outcome]

    def at(self, nodes: int) -> Outcome:
        """The outcome of a number of nodes. Raises InputError where the inputs are invalid."""
        if nodes not in self.known:
            if len(self.known) >= MOST_ASKED:
                message = f"no answer after {MOST_ASKED} fleets"
                raise NoPlanFound(message, remedies=["raise --gap, or narrow the question"])
            name = f"{nodes * self.node.chips:,} × {self.node.name}"
            outcome = self.evaluator(self.inputs_for(nodes), name)
            if outcome.status in ("invalid", "failed"):
                raise InputError([Problem(name, outcome.reason, "; ".join(outcome.remedies))])
            self.known[nodes] = outcome
        return self.known[nodes]

    def does(self, outcome: Outcome) -> bool:
        """Whether an outcome reaches the rate."""
        return outcome.tokens_per_s is not None and outcome.tokens_per_s >= self.rate

    def bracket(self) -> int:
        """A number of nodes that does, from a guess by work over peak."""
        nodes = self._first_guess()
        for number in range(MOST_ASKED):
            outcome = self.at(nodes)
            if self.does(outcome):
                return nodes
            reached = outcome.tokens_per_s or 0.0
            half = [o.tokens_per_s or 0.0 for n, o in self.known.items() if 2 * n <= nodes]
            if reached and half and reached < max(half) * SATURATED:
                raise self._saturated(nodes, max(reached, *half))
            if nodes > MOST_NODES:
                break
            aim = nodes * self.rate / reached * 1.02 if reached else nodes * 2.0
            if number > 2:  # the guess by proportion does not get there
                aim = max(aim, nodes * 2.0)
            nodes = min(MOST_NODES + 1, max(math.ceil(aim), nodes + 1), nodes * 4)
        raise self._nowhere(nodes, self.at(nodes))

    def _first_guess(self) -> int:
        inputs = self.inputs_for(1)
        seq_len = inputs.job.spec.seq_len or inputs.model.graph.max_seq_len or 4096
        flops = model_flops(inputs.model.graph, min(seq_len, 4096)).with_attention
        peak = max(rate for _, rate in self.node.chip.peak_flops)
        chips = self.rate * flops / (peak * FIRST_MFU)
        return min(MOST_NODES, max(1, math.ceil(chips / self.node.chips)))

    def guess(self, low: int, high: int) -> int:
        """Between what fails and what does: in proportion to the rates, kept off the ends."""
        below, above = self.known.get(low), self.known[high]
        span = high - low
        if below is None or below.tokens_per_s is None or above.tokens_per_s is None:
            return low + span // 2
        rise = above.tokens_per_s - below.tokens_per_s
        share = (self.rate - below.tokens_per_s) / rise if rise > 0 else 0.5
        step = round(min(0.9, max(0.1, share)) * span)
        return low + min(span - 1, max(1, step))

    def proven_least(self) -> int:
        """One more than the largest number that is proven not to do."""
        failing = [0]
        for nodes, outcome in self.known.items():
            most = outcome.most_tokens_per_s
            if outcome.status == "infeasible" or (most is not None and most < self.rate):
                failing.append(nodes)
        return max(failing) + 1

    def _saturated(self, nodes: int, reached: float) -> NoPlanFound:
        message = (
            f"no number of {self.node.name} was found to train {self.rate:,.0f} tokens/s: "
            f"{nodes * self.node.chips:,} of them reach {reached:,.0f}, and twice as many bring "
            "less than 2 % more"
        )
        batch = self.inputs_for(1).job.spec.global_batch
        return NoPlanFound(message, remedies=[f"--global-batch {2 * batch}: more can work at once"])

    def _nowhere(self, nodes: int, outcome: Outcome) -> InfeasibleError | NoPlanFound:
        if outcome.status == "infeasible":
            return InfeasibleError(outcome.reason, remedies=outcome.remedies)
        message = f"{nodes * self.node.chips:,} chips do not do it, and no more were tried"
        return NoPlanFound(message, remedies=["ask for less, or name a faster chip"])
