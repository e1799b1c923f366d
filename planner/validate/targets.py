"""What was measured in a row: which figure is the target, and the memory beside it.

The target is the step time or the rate; a derived one only where neither was measured, and it says
so. TFLOP/s and utilisation are never a target: their definitions differ by source.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.validate.fields import Unstated, number
from planner.validate.table import Row


@dataclass(frozen=True, slots=True)
class Target:
    """Measured seconds per step and tokens per second and chip, and where they come from.

    ``basis`` names the column; "" where nothing was measured. ``peak_gib`` is measured memory,
    ``out_of_memory`` says that the run did not fit.
    """

    step_s: float | None
    rate: float | None
    basis: str
    peak_gib: float | None
    out_of_memory: bool

    @property
    def derived(self) -> bool:
        """Whether the target is arithmetic on something else that was measured."""
        return self.basis.startswith("derived")


_STEP = ("step_time_s", "derived_step_time_s")
_RATE = ("tokens_per_s_per_chip", "derived_tokens_per_s_per_chip")


def target_of(row: Row, tokens: int, chips: int) -> Target:
    """The target of a row that trains ``tokens`` per step on ``chips``.

    Raises Unstated where a measured cell is no positive number.
    """
    values = {name: _positive(row, name) for name in (*_STEP, *_RATE)}
    step = rate = None
    basis = next((n for n in (_STEP[0], _RATE[0], _RATE[1], _STEP[1]) if values[n]), "")
    if basis in _STEP:
        step = values[basis]
        rate = tokens / step / chips if step else None
    elif basis:
        rate = values[basis]
        step = tokens / rate / chips if rate else None
    return Target(
        step_s=step,
        rate=rate,
        basis=basis,
        peak_gib=_positive(row, "peak_mem_GiB"),
        out_of_memory="oom" in row["metric_other"].lower().split(),
    )


def _positive(row: Row, column: str) -> float | None:
    value = number(row, column)
    if value is not None and not 0 < value < float("inf"):
        raise Unstated(f"{column} {row[column]!r} is not above zero")
    return value
