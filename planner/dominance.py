"""Meshes that no plan needs, because another one of as many chips is at least as good in every way.

A stage under mesh B may run under A on the same devices when both have equal chips and copies (of
dense weights and of experts), both or neither offload the optimizer (with offload a stage is
smaller but later, so neither is at least as good as the other) and A is, on every layer,

- no slower, forward and backward, under any policy,
- no larger: parameters and experts per device, activations (on devices and hosts), working and
  logits bytes, and the part of a boundary tensor that a device holds.

Then fill, takt and every round trip are no longer, memory admits the same depths, hops, chips and
lanes are the same, and what is summed and updated is no more. Earlier synchronisation can lose what
hid it, backward time of the stages before; the fill has lost as much. So no formula time rises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.costing import CostTables, Ints, OptionTable


def without_dominated(tables: CostTables, policies: Sequence[int]) -> CostTables:
    """The tables that are left. Of equal ones the first stays; tensor parallelism alone always."""
    found = tables.tables
    kept = tuple(
        table
        for n, table in enumerate(found)
        if table.option.mesh.plain
        or not any(
            _dominates(other, table, policies, tables.sequence_parallel)
            and (m < n or not _dominates(table, other, policies, tables.sequence_parallel))
            for m, other in enumerate(found)
            if m != n
        )
    )
    return replace(tables, tables=kept)


def _dominates(
    a: OptionTable, b: OptionTable, policies: Sequence[int], sequence_parallel: bool
) -> bool:
    one, other = a.option, b.option
    alike = (
        (one.class_index, one.rows, one.chips) == (other.class_index, other.rows, other.chips)
        and (one.mesh.dense.copies, one.mesh.expert.copies, one.mesh.zero3, one.mesh.offload)
        == (other.mesh.dense.copies, other.mesh.expert.copies, other.mesh.zero3, other.mesh.offload)
        and one.mesh.boundary_parts(sequence_parallel=sequence_parallel)
        >= other.mesh.boundary_parts(sequence_parallel=sequence_parallel)
    )
    if not alike or a.experts.any() != b.experts.any():
        return False
    chosen = list(policies)
    pairs = (
        (a.forward_ps[chosen], b.forward_ps[chosen]),
        (a.backward_ps[chosen], b.backward_ps[chosen]),
        (a.parameters - a.experts, b.parameters - b.experts),
        (a.experts, b.experts),
        (a.activation_bytes[chosen], b.activation_bytes[chosen]),
        (a.working_bytes[chosen], b.working_bytes[chosen]),
        (a.hosted_bytes[chosen], b.hosted_bytes[chosen]),
        (a.logits_bytes, b.logits_bytes),
    )
    return all(_no_more(*pair) for pair in pairs)


def _no_more(one: Ints, other: Ints) -> bool:
    return bool((one <= other).all())
