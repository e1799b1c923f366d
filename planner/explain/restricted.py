"""The best plan of a part of the space: the search with some of its options taken away.

The certificate of such a plan is about that part: its bound says that nothing in it is faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from costmodels.price import WAYS
from planner.costing import CostTables, build_tables
from planner.dominance import without_dominated
from planner.errors import InfeasibleError, NoPlanFound
from planner.options import OptionSet
from planner.plan import Plan
from planner.solve import Context, SolveParams, solve_context


@dataclass(frozen=True, slots=True)
class Restriction:
    """What every stage must have; None leaves a decision free.

    ``tp_on`` restricts the degree on one kind of chip (a catalogue id) alone.
    """

    tp: int | None = None
    tp_on: str | None = None
    recompute: str | None = None
    cp: int | None = None
    ep: int | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is restricted."""
        return (self.tp, self.recompute, self.cp, self.ep) == (None,) * 4


def restricted_options(context: Context, restriction: Restriction) -> OptionSet:
    """The options that obey the restriction, numbered anew."""
    classes = context.topology.classes
    kept = [
        o
        for o in context.options.options
        if (
            restriction.tp is None
            or o.tp == restriction.tp
            or restriction.tp_on not in (None, classes[o.class_index].chip.id)
        )
        and restriction.cp in (None, o.mesh.cp)
        and restriction.ep in (None, o.mesh.ep)
    ]
    policies = context.options.policies
    if restriction.recompute is not None:
        wanted = WAYS.index(restriction.recompute)
        policies = tuple(p for p in policies if p == wanted)
    numbered = tuple(replace(o, index=n) for n, o in enumerate(kept))
    return replace(context.options, options=numbered, policies=policies)


def solve_restricted(
    context: Context,
    restriction: Restriction,
    params: SolveParams,
    interrupted: Callable[[], bool] = lambda: False,
) -> Plan | None:
    """The best plan of the options that are left; None where none was found.

    The same steps as :func:`planner.solve`, over fewer options.
    """
    options = restricted_options(context, restriction)
    if not options.options or not options.policies:
        return None
    problem = replace(context.problem, tables=_tables(context, options), policies=options.policies)
    narrowed = replace(context, options=options, problem=problem)

    try:
        return solve_context(narrowed, params, interrupted=interrupted)
    except (InfeasibleError, NoPlanFound):
        return None


def _tables(context: Context, options: OptionSet) -> CostTables:
    """Tables of the options. Single chips, which the search counts in, stay but hold no layer."""
    kept = {(o.class_index, o.mesh, o.rows) for o in options.options}
    counted = [
        o
        for o in context.options.options
        if o.chips == 1 or (o.class_index, o.mesh, o.rows) in kept
    ]
    numbered = tuple(replace(o, index=n) for n, o in enumerate(counted))
    tables = build_tables(
        context.model.graph, context.topology, context.job, replace(options, options=numbered)
    )
    tables = without_dominated(tables, options.policies)
    blocked = tuple(
        t
        if (t.option.class_index, t.option.mesh, t.option.rows) in kept
        else replace(t, barred=np.ones_like(t.barred))
        for t in tables.tables
    )
    return replace(tables, tables=blocked)
