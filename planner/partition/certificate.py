"""What was found and what is proved about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from planner.partition.problem import Partition


class Status(StrEnum):
    """``optimal``: nothing better exists; ``feasible``: a limit stopped the proof."""

    optimal = "optimal"
    feasible = "feasible"


@dataclass(frozen=True, slots=True)
class Certificate:
    """Objective and proven lower bound of the problem as it was given, in picoseconds.

    ``methods`` says in order what was done and what each step gave; ``work`` is what the
    deterministic limits count, by method.
    """

    status: Status
    objective_ps: int
    lower_bound_ps: int
    methods: tuple[str, ...]
    work: tuple[tuple[str, float], ...] = ()

    @property
    def gap(self) -> float:
        """How far the objective can be above the optimum, as a share of the objective."""
        if not self.objective_ps:
            return 0.0
        return (self.objective_ps - self.lower_bound_ps) / self.objective_ps


@dataclass(frozen=True, slots=True)
class Solution:
    """A partition with its certificate."""

    partition: Partition
    certificate: Certificate
