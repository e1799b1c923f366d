"""How many chips train so many tokens in so many days: the least number of nodes, with a proof.

More nodes never make the best plan slower (chips may stay idle), so the least number is found by
bisection. Of every fleet only that is asked which decides: a plan that is fast enough, or a bound
that proves that none is. A rectangular layout of few chips says where to begin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from costmodels.units import PS_PER_S, S_PER_DAY
from planner.assemble import model_flops
from planner.beside import chips_used
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

RESOLUTION = 0.01
"""Relative precision of the number that is found: plans are no nearer to the best ones."""

PROOFS = 3
"""Smaller fleets of which a proof is tried, after the least number was found."""

FURTHER = 3
"""How many steps in proportion the last of them goes down at once: bounds may widen on the way."""

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

    ``proven_least``: fewer nodes than that cannot do it, by the proven bounds. ``below`` is the
    largest number for which no plan was found; what lies between was not tried. ``tried`` is
    every fleet that was planned, smallest first.
    """

    node: NodeType
    target_tokens_per_s: float
    nodes: int
    outcome: Outcome
    proven_least: int
    below: int
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

    def fleet(nodes: int) -> PlanInputs:
        return PlanInputs(model, fleet_of(node, nodes), job)

    return least_nodes(
        fleet,
        node,
        target.tokens_per_s,
        evaluator,
        first=rectangular_nodes(fleet, node, target.tokens_per_s),
    )


def least_nodes(
    inputs_for: Callable[[int], PlanInputs],
    node: NodeType,
    rate: float,
    evaluator: Evaluator,
    *,
    first: int | None = None,
    known: Mapping[int, Outcome] | None = None,
) -> Sized:
    """The least number of nodes whose plan trains ``rate`` tokens per second.

    ``first`` is asked first, by default a guess; ``known`` holds outcomes that need no asking.
    """
    search = _Search(inputs_for, node, rate, evaluator, dict(known or {}))
    high = search.bracket(first or search.first_guess())
    high = min([high, *(n for n, o in search.known.items() if search.does(o))])
    low = search.below(high)
    while high - low > max(1, int(high * RESOLUTION)):
        middle = search.guess(low, high)
        if search.does(search.at(middle)):
            high = middle
        else:
            low = middle
    search.prove(high)
    search.finish(high)
    return Sized(
        node,
        rate,
        high,
        search.at(high),
        search.proven_least(),
        search.below(high),
        tuple(Tried(n, o) for n, o in sorted(search.known.items())),
    )


def rectangular_nodes(
    inputs_for: Callable[[int], PlanInputs], node: NodeType, rate: float
) -> int | None:
    """The least number of nodes of a rectangular layout that trains so many tokens per second.

    None where none was met on up to four times the nodes of the first guess.
    """
    from planner.solve import prepare
    from planner.whatif.rectangles import least_rectangle

    most = min(MOST_NODES, 4 * guess_nodes(inputs_for(1), node, rate))
    inputs = inputs_for(most)
    context = prepare(inputs.model, inputs.cluster, inputs.job, inputs.profile)
    tokens = context.job.global_batch * context.job.seq_len
    found = least_rectangle(context, round(tokens / rate * PS_PER_S))
    if found is None or not context.job.idle_chips:
        return None
    return -(-chips_used(found) // node.chips)


def guess_nodes(inputs: PlanInputs, node: NodeType, rate: float) -> int:
    """Nodes by work over peak."""
    seq_len = inputs.job.spec.seq_len or inputs.model.graph.max_seq_len or 4096
    flops = model_flops(inputs.model.graph, min(seq_len, 4096)).with_attention
    peak = max(rate for _, rate in node.chip.peak_flops)
    chips = rate * flops / (peak * FIRST_MFU)
    return min(MOST_NODES, max(1, math.ceil(chips / node.chips)))


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
            outcome = self.evaluator.enough(self.inputs_for(nodes), name, self.rate)
            if outcome.status in ("invalid", "failed"):
                raise InputError([Problem(name, outcome.reason, "; ".join(outcome.remedies))])
            self.known[nodes] = outcome
        return self.known[nodes]

    def does(self, outcome: Outcome) -> bool:
        """Whether an outcome reaches the rate."""
        return outcome.tokens_per_s is not None and outcome.tokens_per_s >= self.rate

    def below(self, high: int) -> int:
        """The largest number known that does not do, of those below ``high``; 0 if none is."""
        return max((n for n, o in self.known.items() if n < high and not self.does(o)), default=0)

    def bracket(self, nodes: int) -> int:
        """A number of nodes that does, upwards from a first one."""
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

    def first_guess(self) -> int:
        """Nodes by work over peak."""
        return guess_nodes(self.inputs_for(1), self.node, self.rate)

    def guess(self, low: int, high: int) -> int:
        """Between what fails and what does: in proportion to the rates, kept off the ends."""
        below, above = self.known[low].tokens_per_s if low else 0.0, self.known[high].tokens_per_s
        span = high - low
        if below is None or above is None:
            return low + span // 2
        rise = above - below
        share = (self.rate - below) / rise if rise > 0 else 0.5
        step = round(min(0.9, max(0.1, share)) * span)
        return low + min(span - 1, max(1, step))

    def prove(self, high: int) -> None:
        """Ask smaller fleets, where the bound may suffice, as long as something is left open."""
        for turn in range(PROOFS):
            least = self.proven_least()
            open_ = [n for n, o in self.known.items() if least <= n < high and not self.does(o)]
            if not open_:
                return
            lowest = min(open_)
            most = self.known[lowest].most_tokens_per_s
            if most is None:
                return
            # the bound's rate grows with the fleet at most in proportion
            steps = FURTHER if turn == PROOFS - 1 else 1
            nodes = min(lowest - 1, int(lowest * (self.rate / most) ** steps))
            if nodes < least + max(1, int(high * RESOLUTION)):
                return
            self.at(nodes)

    def finish(self, nodes: int) -> None:
        """Plan a fleet that does to the end: what decided it need not be its best plan."""
        name = f"{nodes * self.node.chips:,} × {self.node.name}"
        decided = self.known[nodes]
        best = self.evaluator.enough(self.inputs_for(nodes), name, None)
        bounds = [o.lower_bound_s for o in (decided, best) if o.lower_bound_s is not None]
        if (best.tokens_per_s or 0.0) < (decided.tokens_per_s or 0.0):
            best = decided
        self.known[nodes] = replace(best, lower_bound_s=max(bounds, default=None))

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
