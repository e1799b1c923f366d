"""How many of another chip do what so many of one do, which term makes the difference, and what
would have to be assumed for a number that somebody claims.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from costmodels.units import PS_PER_S
from planner.errors import InfeasibleError, InputError, Problem
from planner.inputs.job import JobInput
from planner.inputs.model import ModelInput
from planner.plan import Plan
from planner.scenario.apply import apply_all
from planner.scenario.changes import Change, ScaleLink, ScaleMemory, ScaleSpeed
from planner.scenario.inputs import PlanInputs
from planner.solve import prepare
from planner.terms import Terms
from planner.whatif.deciding import rectangle
from planner.whatif.evaluation import Planned
from planner.whatif.evaluator import Evaluator
from planner.whatif.fleet import NodeType, fleet_of
from planner.whatif.outcome import Outcome
from planner.whatif.pricing import Kept, kept
from planner.whatif.sizing import Sized, least_nodes, rectangular_nodes

LEAST_FACTOR = 1 / 64
"""An assumption that does not suffice at this share of the catalogue's figure is given up."""

ROUNDS = 6
"""Shares of one assumption that are searched for a plan at most."""

PRECISION = 0.05
"""Relative precision of the share that a claim needs."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """One figure of the new chips, or several together, taken at a share of the catalogue's."""

    name: str
    links: tuple[str, ...] = ()
    speed: bool = False
    memory: bool = False

    def changes(self, chip: str, factor: float) -> tuple[Change, ...]:
        """The figures at ``factor`` times their catalogue value."""
        found: list[Change] = [ScaleLink(link.replace("CHIP", chip), factor) for link in self.links]
        if self.speed:
            found.append(ScaleSpeed(chip, factor))
        if self.memory:
            found.append(ScaleMemory(chip, factor))
        return tuple(found)


ASSUMPTIONS = (
    Assumption("a slower network between nodes", links=("network",)),
    Assumption("slower links between the chips of a node", links=("fabric:CHIP",)),
    Assumption("slower links everywhere", links=("network", "fabric:CHIP")),
    Assumption("slower computing", speed=True),
    Assumption("less memory", memory=True),
)
"""What is tried, one at a time. A fabric is left out for chips that have none."""


@dataclass(frozen=True, slots=True)
class Holds:
    """When a claim holds: at ``share`` of the catalogue's figures; None: not even at 1/64.

    Above ``share`` a plan was found that is fast enough, so that fewer chips than claimed suffice.
    Below it none was found; ``proven``: there is none.
    """

    assumption: Assumption
    share: float | None
    reason: str = ""
    proven: bool = False


@dataclass(frozen=True)
class Replacement:
    """The answer. ``same_count`` is as many of the new chips as there were of the old.

    ``claims`` is set where a number was claimed.
    """

    old: NodeType
    old_chips: int
    old_outcome: Outcome
    new: Sized
    same_count: Outcome | None
    claim: int | None
    claims: tuple[Holds, ...]

    @property
    def ratio(self) -> float:
        """New chips per old chip."""
        return self.new.chips / self.old_chips

    @property
    def differences(self) -> tuple[tuple[str, float], ...]:
        """Seconds per step by term, new less old at the same count, the largest first."""
        if self.same_count is None or self.same_count.terms is None:
            return ()
        old: Terms | None = self.old_outcome.terms
        if old is None:
            return ()
        known = dict(old.items())
        pairs = [(name, value - known[name]) for name, value in self.same_count.terms.items()]
        return tuple(sorted(pairs, key=lambda pair: -abs(pair[1])))


def equal_time(
    model: ModelInput,
    job: JobInput,
    old: NodeType,
    count: int,
    new: NodeType,
    evaluator: Evaluator,
    *,
    claim: int | None = None,
) -> Replacement:
    """The least number of new chips whose step is as short as that of ``count`` old ones.

    Raises InfeasibleError where the old chips have no plan, and as :func:`planner.whatif.sizing`.
    """
    old_nodes = math.ceil(count / old.chips)
    _whole(count, old, old_nodes)
    inputs = PlanInputs(model, fleet_of(old, old_nodes), job)
    base = evaluator.enough(inputs, f"{count:,} × {old.name}", None)
    if base.status in ("invalid", "failed"):
        raise InputError([Problem(f"{count} × {old.name}", base.reason)])
    if base.tokens_per_s is None:
        raise InfeasibleError(
            f"{count:,} × {old.name} have no plan to compare with: {base.reason}",
            remedies=base.remedies,
        )

    def fleet(nodes: int) -> PlanInputs:
        return PlanInputs(model, fleet_of(new, nodes), job)

    same = None
    if count % new.chips == 0:
        same = evaluator.enough(fleet(count // new.chips), f"{count:,} × {new.name}", None)
    found = least_nodes(
        fleet,
        new,
        base.tokens_per_s,
        evaluator,
        first=rectangular_nodes(fleet, new, base.tokens_per_s),
        known={count // new.chips: same} if same is not None else None,
    )
    claims: tuple[Holds, ...] = ()
    if claim is not None:
        inputs = fleet(math.ceil(claim / new.chips))
        claims = tuple(
            holds(inputs, new, assumption, base.tokens_per_s, evaluator)
            for assumption in ASSUMPTIONS
            if new.chip.fabric is not None or "fabric:CHIP" not in assumption.links
        )
    return Replacement(old, count, base, found, same, claim, claims)


def holds(
    inputs: PlanInputs,
    node: NodeType,
    assumption: Assumption,
    rate: float,
    evaluator: Evaluator,
) -> Holds:
    """The share of the catalogue's figures at which this fleet is just as fast as ``rate``.

    Below that share the fleet is slower, so more chips than claimed would be needed; above it,
    fewer. Rectangular layouts, which take no search, bring the share down as far as they are fast
    enough. A little below, plans are searched for; one that is found is priced at ever smaller
    shares; and so on until none is found.
    """

    def at(share: float) -> PlanInputs:
        return apply_all(inputs, assumption.changes(node.chip.id, share))

    def searched(share: float) -> Planned:
        return evaluator.decided(at(share), f"{assumption.name} x{share:.3g}", rate)

    def enough(outcome: Outcome | Kept | None) -> bool:
        speed = outcome.tokens_per_s if outcome is not None else None
        return speed is not None and speed >= rate

    first = searched(1.0)
    if first.plan is None or not enough(first.outcome):
        return Holds(assumption, None, "the claim is too low: so many chips are slower already")
    share = least_share(lambda share: _shaped(at(share), rate), 1.0)
    for _ in range(ROUNDS):
        if share <= LEAST_FACTOR:
            few = round(1 / LEAST_FACTOR)
            return Holds(assumption, None, f"even at 1/{few} so many chips are faster")
        below = share / (1 + PRECISION)
        found = searched(below)
        if found.outcome.status == "infeasible":
            # nothing fits at all below: the claim never holds as an equality
            never = "just above what still fits: it never gets slower than this"
            return Holds(assumption, share, never, proven=True)
        if found.plan is None or not enough(found.outcome):
            most = found.outcome.most_tokens_per_s
            return Holds(assumption, share, proven=most is not None and most < rate)
        share = _last(found.plan, at, enough, below)
    return Holds(assumption, share, f"at most: not looked further down after {ROUNDS} searches")


def _shaped(inputs: PlanInputs, rate: float) -> bool:
    """Whether some rectangular layout trains so many tokens per second."""
    context = prepare(inputs.model, inputs.cluster, inputs.job, inputs.profile)
    target_ps = round(context.job.global_batch * context.job.seq_len / rate * PS_PER_S)
    found = rectangle(context, target_ps)
    return found is not None and found.priced.exact_ps <= target_ps


def least_share(good: Callable[[float], bool], high: float) -> float:
    """The least share from 1/64 on that is good, to a precision, where larger ones are as well.

    ``high`` itself need not be good.
    """
    low = LEAST_FACTOR
    if good(low):
        return low
    while high / low > 1 + PRECISION:
        middle = math.sqrt(low * high)
        if good(middle):
            high = middle
        else:
            low = middle
    return high


def _last(
    plan: Plan,
    at: Callable[[float], PlanInputs],
    enough: Callable[[Kept | None], bool],
    high: float,
) -> float:
    """The least share, to a precision, at which the plan as it stands fits and is fast enough."""

    def good(share: float) -> bool:
        found = kept(plan, at(share))
        return found is not None and found.fits and enough(found)

    return least_share(good, high)


def _whole(count: int, node: NodeType, nodes: int) -> None:
    if nodes * node.chips != count:
        near = sorted({max(1, count // node.chips) * node.chips, nodes * node.chips})
        message = f"{count:,} chips are no whole number of nodes of {node.chips}"
        remedy = f"ask for {' or '.join(f'{n:,}' for n in near)}, or give --chips-per-node"
        raise InputError([Problem("--from", message, remedy)])
