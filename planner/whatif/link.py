"""The break-even bandwidth of a link: below it another plan is better than the chosen one.

The chosen plan and its rivals are priced at any bandwidth without a search; rivals are the best
plans for a link that is far slower, so that they hardly use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from planner.errors import InfeasibleError
from planner.plan import Plan
from planner.scenario.apply import apply_change
from planner.scenario.changes import ScaleLink
from planner.scenario.inputs import PlanInputs
from planner.scenario.links import link_rate, measured_share
from planner.whatif.evaluation import Effort, Planned, plan_inputs
from planner.whatif.pricing import Kept, kept
from planner.whatif.together import plan_together

SLOW = 1 / 1024
"""The link of the rival: what a plan that avoids it looks like."""

RIVAL_SHARES = (1 / 4, 1 / 16, SLOW)
FAST = 16.0
PRECISION = 0.005
WORTH = 1e-3
"""A rival has to be better by this share: ties are no reason to change a plan."""

CURVE = (1 / 64, 1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Step times at a bandwidth: the chosen plan kept (None: does not fit), and its rival."""

    bytes_per_s: float
    chosen_s: float | None
    rival_s: float | None


@dataclass(frozen=True)
class BreakEven:
    """Where the chosen plan stops being the better one.

    ``break_even_bytes_per_s`` is None where the chosen plan stays best down to 1/1024 of the
    link. ``replanned`` is the search at the break-even, as a check: it may find a third plan that
    is better still, so that the chosen plan loses earlier. ``limit_s`` is the step time with a
    link 16 times as fast: more than that no link brings. ``gain_bytes_per_s`` is where the plan for
    that link (``faster``) overtakes the chosen one; None where none does. All rates are
    nominal; ``measured_share`` is what ports were seen to carry of theirs, None if not measured.
    """

    link: str
    now_bytes_per_s: float
    chosen: Plan
    rival: Plan | None
    break_even_bytes_per_s: float | None
    replanned: Planned | None
    limit_s: float | None
    faster: Plan | None
    gain_bytes_per_s: float | None
    measured_share: float | None
    curve: tuple[CurvePoint, ...]


def break_even_link(
    inputs: PlanInputs,
    link: str,
    effort: Effort | None = None,
    *,
    chosen: Plan | None = None,
    workers: int = 1,
    progress: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> BreakEven:
    """Find the break-even of a link for the chosen plan (by default the best one now).

    ``workers`` searches run at a time.

    Raises InfeasibleError where there is no plan, InputError for a link that is not there.
    """
    now = link_rate(inputs.cluster, link)

    def at(share: float) -> PlanInputs:
        return apply_change(inputs, ScaleLink(link, share))

    def searched(share: float, name: str) -> Planned:
        progress(name)
        return plan_inputs(at(share), effort, interrupted=interrupted)

    if chosen is None:
        first = searched(1.0, "the link as it is")
        if first.plan is None:
            raise InfeasibleError(first.outcome.reason, remedies=first.outcome.remedies)
        chosen = first.plan
    tried = [(f"the link at 1/{round(1 / share)}", at(share)) for share in RIVAL_SHARES]
    tried.append((f"the link at {FAST:g} times", at(FAST)))
    *slower, fast = plan_together(
        tried, effort, workers=workers, progress=progress, interrupted=interrupted
    )
    rivals = [
        found.plan
        for found in slower
        if found is not None and found.plan is not None and found.plan.pipelines != chosen.pipelines
    ]
    meets, rival = _crossing(chosen, rivals, at)
    shown = [rival] if rival is not None else rivals
    faster = fast.plan if fast is not None else None
    gains = _gains(chosen, faster, at)
    if gains is not None and rival is None and faster is not None:
        shown = [faster]  # the link is too slow for the other plan already
    replanned = searched(meets, "the break-even") if meets is not None else None
    return BreakEven(
        link=link,
        now_bytes_per_s=now,
        chosen=chosen,
        rival=rival,
        break_even_bytes_per_s=None if meets is None else meets * now,
        replanned=replanned,
        limit_s=fast.outcome.step_time_s if fast is not None else None,
        faster=faster if gains is not None else None,
        gain_bytes_per_s=None if gains is None else gains * now,
        measured_share=measured_share(inputs.cluster, link),
        curve=tuple(
            CurvePoint(s * now, _time(kept(chosen, at(s))), _fastest(shown, at(s))) for s in CURVE
        ),
    )


def _time(priced: Kept | None) -> float | None:
    return priced.step_time_s if priced is not None and priced.fits else None


def _fastest(plans: list[Plan], inputs: PlanInputs) -> float | None:
    times = [t for t in (_time(kept(p, inputs)) for p in plans) if t is not None]
    return min(times, default=None)


def _crossing(
    chosen: Plan, rivals: list[Plan], at: Callable[[float], PlanInputs]
) -> tuple[float | None, Plan | None]:
    """The largest share of the link at which some rival overtakes the chosen plan."""
    best: tuple[float | None, Plan | None] = (None, None)
    for rival in rivals:
        share = _meets(chosen, rival, at)
        if share is not None and (best[0] is None or share > best[0]):
            best = (share, rival)
    return best


def _gains(chosen: Plan, faster: Plan | None, at: Callable[[float], PlanInputs]) -> float | None:
    """The share above 1 from which the plan for a fast link beats the chosen one."""
    if faster is None or faster.pipelines == chosen.pipelines:
        return None
    share = _bisected(faster, chosen, at, 1.0, FAST)
    # None: as fast today already, within what counts; it leads from here on
    return None if share == FAST else share or 1.0


def _meets(chosen: Plan, rival: Plan, at: Callable[[float], PlanInputs]) -> float | None:
    """The share up to which the rival is faster, 1 at most; None where it never is."""
    return _bisected(chosen, rival, at, SLOW, 1.0)


def _bisected(
    plan: Plan, slower: Plan, at: Callable[[float], PlanInputs], low: float, high: float
) -> float | None:
    """Where ``plan`` overtakes the one for slower links, bisected on a logarithmic scale.

    ``high`` where it does not even there; None where it leads at ``low`` already.
    """

    def behind(share: float) -> bool:
        """Whether the plan for slower links is faster."""
        own, other = _time(kept(plan, at(share))), _time(kept(slower, at(share)))
        return other is not None and (own is None or other < own * (1 - WORTH))

    if behind(high):
        return high
    if not behind(low):
        return None
    while high / low > 1 + PRECISION:
        middle = math.sqrt(low * high)
        if behind(middle):
            low = middle
        else:
            high = middle
    return high
