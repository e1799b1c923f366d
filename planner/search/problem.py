"""The optimization problem as the search sees it, and the settings that couple its pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from costmodels.units import PS_PER_S
from planner.costing import CostTables, OptionTable
from planner.graphs.topology import Topology


class Size(NamedTuple):
    """Rows per micro-batch of a pipeline, and chunks per stage (more than one: interleaved)."""

    rows: int
    chunks: int = 1


@dataclass(frozen=True, slots=True)
class Setting:
    """What all pipelines of a plan have in common.

    ``replicas`` is the inclusive interval of replica counts. ``windows[c]`` is the interval of
    layers that class c may hold; an empty interval keeps the class idle. Where the order of the
    vendors along the pipelines is fixed, ``ranks[c]`` is the place of class c in it: activations
    never go to a lower rank. ``chunks``: that of all pipelines per stage, if it is fixed; with
    several, windows count layers as if the chunks of a stage lay side by side.
    """

    replicas: tuple[int, int]
    windows: tuple[tuple[int, int], ...]
    ranks: tuple[int, ...] = ()
    chunks: int | None = None

    def meet(self, one: int, other: int) -> bool:
        """Whether two classes may hold the same layer, and so have to sum its gradients."""
        (a, b), (c, d) = self.windows[one], self.windows[other]
        return max(a, c) < min(b, d)

    def describe(self) -> str:
        """Short text for logs and certificates."""
        lo, hi = self.replicas
        count = f"{lo} replicas" if lo == hi else f"{lo} to {hi} replicas"
        if self.chunks is not None and self.chunks > 1:
            count += f" of {self.chunks} chunks per stage"
        if len(set(self.windows)) == 1:
            return count
        return f"{count}, layers per class {', '.join(f'{a}–{b}' for a, b in self.windows)}"


def largest_share(global_batch: int, setting: Setting) -> int:
    """Rows that the busiest pipeline of any plan of the setting has at least."""
    return -(-global_batch // setting.replicas[1])


@dataclass(frozen=True)
class Problem:
    """The optimization problem as the search sees it: tables, fleet and the batch to place."""

    tables: CostTables
    topology: Topology
    policies: tuple[int, ...]
    global_batch: int
    max_stages: int
    islands: tuple[int, ...] | None = None
    """Islands of each class that may be used; None: all."""
    chunks: tuple[int, ...] = ()
    """Numbers of chunks per stage that interleaved pipelines may have."""

    @cached_property
    def known(self) -> dict[object, Any]:
        """Tables of stages that settings share, by what they depend on (``space.build_space``)."""
        return {}

    @cached_property
    def packing_rows(self) -> tuple[tuple[int, int, int], ...]:
        """Rows ``(class, n, capacity)``: chips in groups of at least n of one class.

        Sizes that divide one another pack into equal islands exactly when, for every size n, the
        chips in groups of size ≥ n do not exceed islands · ⌊g/n⌋ · n. Rows that say nothing
        beyond a finer one are dropped. Groups larger than an island take whole ones, any of them:
        there the same holds of all chips of the class together.
        """
        rows = []
        for cls in self.topology.classes:
            last = None
            for group in sorted(
                {t.option.chips for t in self.tables.tables if t.option.class_index == cls.index}
            ):
                islands = self.usable_islands(cls.index)
                if group > cls.size:
                    capacity = islands * cls.size // group * group
                else:
                    capacity = islands * (cls.size // group) * group
                if capacity != last:
                    rows.append((cls.index, group, capacity))
                last = capacity
        return tuple(rows)

    def usable_islands(self, class_index: int) -> int:
        """How many islands of a class may be used."""
        cls = self.topology.classes[class_index]
        return cls.count if self.islands is None else self.islands[class_index]

    def chips_of(self, classes: Sequence[int] | None) -> int:
        """Chips of these classes that may be used; None: of all."""
        every = (c for c in self.topology.classes if classes is None or c.index in classes)
        return sum(self.usable_islands(c.index) * c.size for c in every)

    @cached_property
    def most_pipelines(self) -> int:
        """More pipelines than this would leave one without a stage or without a row."""
        smallest: dict[int, int] = {}
        for class_index, group, capacity in self.packing_rows:  # smallest groups first
            smallest.setdefault(class_index, capacity // group)
        return max(1, min(sum(smallest.values()), self.global_batch))

    def rows_of(self, class_index: int, chips: int) -> list[int]:
        """Packing rows that a group of ``chips`` of a class counts in."""
        rows = enumerate(self.packing_rows)
        return [k for k, (c, group, _) in rows if c == class_index and group <= chips]

    @cached_property
    def chip_seconds(self) -> NDArray[np.float64]:
        """``[class, layer]``: least chip-seconds per row of a layer on a class; inf if none may."""
        out = np.full((len(self.topology.classes), self.tables.layers), np.inf)
        ways = list(self.policies)
        for table in self.tables.tables:
            o = table.option
            least = (table.forward_ps[ways] + table.backward_ps[ways]).min(axis=0)
            each = np.where(table.barred, np.inf, least * (o.chips / o.rows / PS_PER_S))
            out[o.class_index] = np.minimum(out[o.class_index], each)
        return out

    @cached_property
    def micro_batch_rows(self) -> tuple[int, ...]:
        """Micro-batch sizes that some option has."""
        return tuple(sorted({t.option.rows for t in self.tables.tables}))

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes that pipelines may have."""
        return tuple(Size(r, v) for r in self.micro_batch_rows for v in (1, *self.chunks))

    def sizes_of(self, setting: Setting) -> tuple[Size, ...]:
        """Sizes that pipelines of a setting may have."""
        return tuple(s for s in self.sizes if setting.chunks in (None, s.chunks))


def over_network(topology: Topology, source: OptionTable, target: OptionTable) -> bool:
    """Whether a placement must expect what two stages exchange to leave the island."""
    a = topology.classes[source.option.class_index]
    return source.option.class_index != target.option.class_index or a.count > 1
