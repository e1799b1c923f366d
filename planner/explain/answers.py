"""Why not something else: illegal, does not fit, or slower, by how much and through which term."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from planner.errors import InputError
from planner.estimate import Shortfall, estimate_sketch, sketch_of
from planner.explain.adjacent import compared, neighbours
from planner.explain.restricted import Restriction, solve_restricted
from planner.explain.rules import broken_rules
from planner.explain.shapes import shapes
from planner.explain.wish import Changed, Chips, Degrees, Given, Wish
from planner.plan import Plan
from planner.scenario.apply import apply_all
from planner.scenario.changes import Change, SetField, SetNodes, SetTechnique
from planner.scenario.chips import chip_in
from planner.scenario.inputs import PlanInputs
from planner.solve import Context, prepare
from planner.terms import Terms, bottleneck, used_chips
from planner.whatif.evaluation import Effort, Planned, glance_inputs, plan_inputs

Verdict = Literal["as planned", "illegal", "does not fit", "slower", "faster", "equal", "not found"]


@dataclass(frozen=True)
class WhyNot:
    """The answer to one wish.

    ``plan`` is the best that was found to grant it (where it does not fit: the one that lacks
    least). ``lower_bound_s`` is proven: nothing that grants the wish has a shorter formula time.
    ``how`` says what was done to find out. ``rules`` are ``(rule, what is legal)``. ``beyond``:
    what the wish changes about the job or the cluster, so that the plan's search could not grant
    it.
    """

    wish: str
    verdict: Verdict
    how: str
    reason: str = ""
    rules: tuple[tuple[str, str], ...] = ()
    plan: Plan | None = None
    shortfalls: tuple[Shortfall, ...] = ()
    lower_bound_s: float | None = None
    own_terms: Terms | None = None
    terms: Terms | None = None
    remedies: tuple[str, ...] = ()
    beyond: str = ""

    @property
    def deciding_term(self) -> tuple[str, float] | None:
        """The term that grows most, and by how many seconds; None where there is none to tell."""
        if self.own_terms is None or self.terms is None:
            return None
        other = dict(self.terms.items())
        grown = [(name, other[name] - own) for name, own in self.own_terms.items()]
        return max(grown, key=lambda pair: pair[1])


@dataclass(frozen=True)
class _Candidate:
    """A plan that grants the wish, and what it lacks."""

    plan: Plan
    shortfalls: tuple[Shortfall, ...]

    @property
    def lacking(self) -> int:
        """Bytes that the worst stage lacks; 0 where everything fits."""
        return max((s.peak - s.usable for s in self.shortfalls), default=0)


def why_not(
    inputs: PlanInputs,
    plan: Plan,
    wish: Wish,
    effort: Effort | None = None,
    *,
    search: bool = True,
    context: Context | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> WhyNot:
    """Why the plan is not as wished.

    Without ``search`` layouts are only priced (its own neighbours, rectangular ones), which takes
    seconds and proves nothing. Raises InputError for chips that the cluster does not have.
    """
    known = context or prepare(inputs.model, inputs.cluster, inputs.job, inputs.profile)
    asked = _Asked(inputs, plan, known, effort or Effort(), search, interrupted)
    match wish:
        case Degrees():
            return _degrees(asked, wish)
        case Chips():
            return _chips(asked, wish)
        case Changed():
            return _changed(asked, wish)
        case Given():
            return _given(asked, wish)


@dataclass(frozen=True)
class _Asked:
    """Everything that an answer needs."""

    inputs: PlanInputs
    plan: Plan
    context: Context
    effort: Effort
    search: bool
    interrupted: Callable[[], bool]


# -- decisions of the plan --------------------------------------------------------------------


def _degrees(asked: _Asked, wish: Degrees) -> WhyNot:
    broken = broken_rules(asked.context, wish)
    if broken:
        rules = tuple((b.rule, b.valid) for b in broken)
        return WhyNot(wish.text, "illegal", "checked against the rules", rules=rules)
    if grants(asked.plan, wish, asked.context):
        return WhyNot(wish.text, "as planned", "read from the plan")
    asked, beyond = _allowing(asked, wish)
    candidates = list(_priced_candidates(asked, wish))
    reasons = [c for c in candidates if isinstance(c, str)]
    found = [c for c in candidates if isinstance(c, _Candidate)]
    how = "priced by itself" if len(found) == 1 else f"the best of {len(found)} layouts priced"
    bound = None
    if asked.search:
        searched = _searched(asked, wish, anew=bool(beyond))
        if searched is not None:
            certificate = searched.certificate
            bound = certificate.lower_bound_s or None if certificate else None
            how = f"searched, and {len(found)} {'layout' if len(found) == 1 else 'layouts'} priced"
            if grants(searched, wish, asked.context):
                found.append(_Candidate(searched, ()))
    return replace(_judged(asked, wish.text, found, how, bound, reasons), beyond=beyond)


def _allowing(asked: _Asked, wish: Degrees) -> tuple[_Asked, str]:
    """The same question of a job that tries what is wished for, and what that changes about it."""
    if wish.schedule != "interleaved" or asked.context.job.interleaved:
        return asked, ""
    change = SetField("job", ("techniques", "interleaved"), True, "true")
    changed = apply_all(asked.inputs, [change])
    context = prepare(changed.model, changed.cluster, changed.job, changed.profile)
    return replace(asked, inputs=changed, context=context), change.text


def grants(plan: Plan, wish: Degrees, context: Context) -> bool:
    """Whether a plan has everything that is wished for."""
    only = chip_in(context.cluster, wish.tp_on) if wish.tp_on else None
    stages = [s for p in plan.pipelines for s in p.stages]
    replicas = [r for s in stages for r in s.replicas]
    degrees = {r.mesh.tensor_parallel for r in replicas if only in (None, r.chip)}
    policies = {part.policy for s in stages for part in s.recompute}
    context_degrees = {r.mesh.context_parallel for r in replicas}
    expert_degrees = {r.mesh.expert_parallel for r in replicas}
    return all(
        (
            wish.tp is None or degrees == {wish.tp},
            wish.cp is None or context_degrees == {wish.cp},
            wish.ep is None or expert_degrees == {wish.ep},
            wish.pp is None or {len(p.stages) for p in plan.pipelines} == {wish.pp},
            wish.dp is None or len(plan.pipelines) == wish.dp,
            wish.rows is None or {p.micro_batch_rows for p in plan.pipelines} == {wish.rows},
            wish.recompute is None or policies == {wish.recompute},
            wish.zero is None or {s.zero.level for s in stages} == {wish.zero},
            wish.schedule is None or {p.schedule for p in plan.pipelines} == {wish.schedule},
        )
    )


def _priced_candidates(asked: _Asked, wish: Degrees) -> Iterator[_Candidate | str]:
    """Neighbours of the plan and rectangular layouts that grant the wish, or why they cannot."""
    for neighbour in neighbours(asked.context, asked.plan):
        if neighbour.plan is not None and grants(neighbour.plan, wish, asked.context):
            yield _Candidate(neighbour.plan, neighbour.shortfalls)
    if wish.tp_on is not None or max(wish.cp or 1, wish.ep or 1) > 1:
        return  # a rectangular layout has one tensor-parallel degree for all, and nothing else
    if wish.schedule == "interleaved":
        return  # they have their layers in a row
    for shaped in shapes(asked.context, wish):
        if shaped.estimated is None:
            yield shaped.reason
        else:
            yield _Candidate(shaped.estimated.plan, shaped.estimated.shortfalls)


def _searched(asked: _Asked, wish: Degrees, *, anew: bool) -> Plan | None:
    """The best plan of the space that the wish implies; None where it implies none, or has none.

    ``anew``: the job is another one than the plan's.
    """
    changes: list[Change] = []
    if wish.rows is not None:
        changes.append(SetField("job", ("micro_batch_rows",), [wish.rows], f"[{wish.rows}]"))
    if wish.pp is not None:
        changes.append(SetField("job", ("max_pipeline_stages",), wish.pp, str(wish.pp)))
    if wish.zero == 0:
        changes.append(SetTechnique("zero1", allowed=False))
    if wish.schedule == "1f1b" and asked.context.job.interleaved:
        changes.append(SetTechnique("interleaved", allowed=False))
    only = chip_in(asked.inputs.cluster, wish.tp_on) if wish.tp_on else None
    restriction = Restriction(wish.tp, only, wish.recompute, wish.cp, wish.ep)
    if not (changes or anew or not restriction.empty) or wish.schedule == "gpipe":
        return None
    context = asked.context
    if changes:
        changed = apply_all(asked.inputs, changes)
        context = prepare(changed.model, changed.cluster, changed.job, changed.profile)
    return solve_restricted(context, restriction, asked.effort.params(), asked.interrupted)


# -- chips, jobs, layouts ---------------------------------------------------------------------


def _chips(asked: _Asked, wish: Chips) -> WhyNot:
    used, have = used_chips(asked.plan), asked.inputs.chip_counts
    if wish.what == "all":
        if used == have or sum(used.values()) == sum(have.values()):
            return WhyNot(wish.text, "as planned", "read from the plan")
        return _replanned(asked, wish.text, [(SetTechnique("idle_chips", allowed=False),)])
    chip = chip_in(asked.inputs.cluster, wish.chip)
    if wish.what == "without":
        if chip not in used:
            return WhyNot(wish.text, "as planned", "read from the plan")
        if len(have) == 1:
            rule = ("these are all the chips that there are", "another kind of chip")
            return WhyNot(wish.text, "illegal", "checked against the rules", rules=(rule,))
        return _replanned(asked, wish.text, [(SetNodes(chip, 0),)])
    if chip in used:
        reason = f"{used[chip]} of {have[chip]} are in use"
        return WhyNot(wish.text, "as planned", "read from the plan", reason=reason)
    refused = _no_option(asked.context, chip)
    if refused is not None:
        return WhyNot(wish.text, "illegal", "checked against the rules", rules=(refused,))
    spec = asked.inputs.cluster.spec
    nodes = sum(n.count for n in spec.nodes if any(g.chip == chip for g in n.devices))
    every = SetTechnique("idle_chips", allowed=False)
    tried: list[tuple[Change, ...]] = [
        (SetNodes(chip, count), every) for count in dict.fromkeys((1, nodes))
    ]
    return _replanned(asked, wish.text, tried)


def _no_option(context: Context, chip: str) -> tuple[str, str] | None:
    """The rule that keeps a kind of chip out of every plan; None where it can be used."""
    classes = [c.index for c in context.topology.classes if c.chip.id == chip]
    if any(o.class_index in classes for o in context.options.options):
        return None
    reasons = [r.reason for r in context.options.rejected]
    return (reasons[0] if reasons else "no legal way to run the layers on it", "another chip")


def _planned(asked: _Asked, changed: PlanInputs) -> Planned:
    """The best plan of changed inputs; without a search, a rectangular one and a simple bound."""
    if asked.search:
        return plan_inputs(changed, asked.effort, interrupted=asked.interrupted)
    return glance_inputs(changed, asked.effort)


def _how(asked: _Asked) -> str:
    return "searched" if asked.search else "not searched: the best rectangular layout priced"


def _replanned(asked: _Asked, text: str, tried: Iterable[tuple[Change, ...]]) -> WhyNot:
    """Plan with changed inputs, the best of several ways."""
    found: list[_Candidate] = []
    reasons: list[str] = []
    bounds: list[float] = []
    remedies: list[str] = []
    words = []
    for changes in tried:
        words.append("; ".join(change.text for change in changes))
        try:
            changed = apply_all(asked.inputs, changes)
        except InputError as error:
            reasons += [p.message for p in error.problems]
            continue
        planned = _planned(asked, changed)
        if planned.plan is None:
            reasons.append(planned.outcome.reason)
            remedies += planned.outcome.remedies
            continue
        found.append(_Candidate(planned.plan, ()))
        if planned.outcome.lower_bound_s:
            bounds.append(planned.outcome.lower_bound_s)
    how = f"{_how(asked)} with " + ", and with ".join(words)
    bound = min(bounds) if bounds and len(words) == len(bounds) == 1 else None
    return _judged(asked, text, found, how, bound, reasons, tuple(dict.fromkeys(remedies)))


def _changed(asked: _Asked, wish: Changed) -> WhyNot:
    changed = apply_all(asked.inputs, wish.changes)
    if changed.digest == asked.inputs.digest:
        return WhyNot(wish.text, "as planned", "read from the plan")
    planned = _planned(asked, changed)
    if planned.outcome.status == "invalid":
        rule = (planned.outcome.reason, "; ".join(planned.outcome.remedies))
        return WhyNot(wish.text, "illegal", "checked against the rules", rules=(rule,))
    found = [_Candidate(planned.plan, ())] if planned.plan else []
    answer = _judged(
        asked,
        wish.text,
        found,
        _how(asked),
        planned.outcome.lower_bound_s or None,
        [planned.outcome.reason],
        planned.outcome.remedies,
    )
    return replace(answer, beyond="; ".join(change.text for change in wish.changes))


def _given(asked: _Asked, wish: Given) -> WhyNot:
    try:
        sketch = sketch_of(asked.context, wish.layout)
        found = estimate_sketch(asked.context, sketch, name=wish.layout.name)
    except InputError as error:
        rules = tuple((p.message, p.remedy) for p in error.problems)
        return WhyNot(wish.text, "illegal", "checked against the rules", rules=rules)
    candidate = _Candidate(found.plan, found.shortfalls)
    remedies = tuple(a.change for a in found.plan.alternatives) if found.shortfalls else ()
    return _judged(asked, wish.text, [candidate], "priced by itself", None, [], remedies)


# -- the answer -------------------------------------------------------------------------------


def _judged(
    asked: _Asked,
    text: str,
    found: list[_Candidate],
    how: str,
    bound: float | None,
    reasons: list[str],
    remedies: tuple[str, ...] = (),
) -> WhyNot:
    """The verdict on the best candidate: the fastest that fits, else the one that lacks least."""
    fitting = [c for c in found if not c.shortfalls]
    if not found:
        reason = "; ".join(dict.fromkeys(r for r in reasons if r))
        lacking = "does not fit" in reason or "GiB" in reason
        verdict: Verdict = "does not fit" if lacking else "not found"
        return WhyNot(text, verdict, how, reason=reason, lower_bound_s=bound, remedies=remedies)
    best = min(
        fitting or found,
        key=lambda c: (c.lacking, -c.plan.estimate.tokens_per_s, c.plan.plan_id),
    )
    if not fitting:
        verdict = "does not fit"
    else:
        own, other = asked.plan.estimate, best.plan.estimate
        # per token: a wish may change the batch
        verdict = compared(1 / own.tokens_per_s, 1 / other.tokens_per_s)
    return WhyNot(
        text,
        verdict,
        how,
        plan=best.plan,
        shortfalls=best.shortfalls,
        lower_bound_s=bound,
        own_terms=bottleneck(asked.plan).terms,
        terms=bottleneck(best.plan).terms,
        remedies=remedies or _fitting(best.plan),
    )


def _fitting(plan: Plan) -> tuple[str, ...]:
    """Changes that were priced and make a layout fit."""
    return tuple(a.change for a in plan.alternatives) if plan.certificate is None else ()


__all__ = ["Verdict", "WhyNot", "grants", "why_not"]
