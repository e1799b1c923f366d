"""What is minimised beside the step time: money or energy per token, under a throughput floor.

Both are a *rate* of the chips in use times the step time: their price in USD/s, or their power in
W. Idle chips cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from costmodels.catalog import Catalog
from costmodels.units import PS_PER_S, S_PER_HOUR
from planner.errors import InputError, Problem
from planner.inputs.cluster import ClusterInput
from planner.inputs.constraints import Constraints, resolved_chips
from planner.inputs.job_spec import JobSpec

Kind = Literal["cost", "energy"]

Unit = Literal["usd_per_million_tokens", "joules_per_token"]

UNITS: dict[Kind, Unit] = {"cost": "usd_per_million_tokens", "energy": "joules_per_token"}
"""What the value of a plan is stated in."""

MILLION = 10**6
GIVEN = "given"
"""Source of a figure that the user gave."""


@dataclass(frozen=True, slots=True)
class ChipRate:
    """Rate of one chip of a kind (a catalogue id): USD per hour or watts, and where from."""

    chip: str
    figure: float
    source: str


@dataclass(frozen=True, slots=True)
class Goal:
    """The objective: ``latest_ps`` is the longest step time that counts (picoseconds)."""

    kind: Kind
    rates: tuple[ChipRate, ...]
    latest_ps: int

    def per_second(self, chip: str) -> float:
        """USD or joules per second of one chip. LookupError for a chip without a rate."""
        for rate in self.rates:
            if rate.chip == chip:
                return rate.figure / S_PER_HOUR if self.kind == "cost" else rate.figure
        raise LookupError(f"no rate of {chip}")

    def rate(self, chips: Mapping[str, int]) -> float:
        """USD or joules per second of so many chips by kind, added in the order of their names."""
        return sum(self.per_second(chip) * n for chip, n in sorted(chips.items()))

    def value(self, product: float, tokens: int) -> float:
        """The value in :data:`UNITS` of a step of so many seconds times rate."""
        return product / tokens * (MILLION if self.kind == "cost" else 1)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_json` restores it."""
        return {**asdict(self), "rates": [asdict(rate) for rate in self.rates]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Goal:
        """The goal of :meth:`as_json`. TypeError, KeyError or ValueError if it is none."""
        if value["kind"] not in UNITS:
            raise ValueError(f"no objective is called {value['kind']!r}")
        rates = tuple(
            ChipRate(str(r["chip"]), float(r["figure"]), str(r["source"])) for r in value["rates"]
        )
        return cls(value["kind"], rates, int(value["latest_ps"]))


def goal_of(
    spec: JobSpec, cluster: ClusterInput, constraints: Constraints, seq_len: int
) -> Goal | None:
    """The job's objective where it is not the step time.

    Raises InputError for chips that may be used and have no price (power), and for prices of chips
    that the cluster does not have.
    """
    if spec.objective == "step_time":
        return None
    field = "prices_usd_per_hour" if spec.objective == "cost" else "power_watt"
    given: dict[str, float] = {}
    problems: list[Problem] = []
    for name, figure in getattr(spec, field).items():
        for chip in resolved_chips([name], cluster, f"job: {field}", problems):
            given[chip] = figure
    rates = []
    for chip in _usable(cluster, constraints):
        known = ChipRate(chip, given[chip], GIVEN) if chip in given else None
        known = known or _catalogue(spec.objective, chip, cluster)
        if known is None:
            problems.append(_missing(spec.objective, chip))
        else:
            rates.append(known)
    if problems:
        raise InputError(problems)
    limits = [] if spec.max_step_time_s is None else [spec.max_step_time_s]
    if spec.min_tokens_per_s is not None:
        limits.append(spec.global_batch * seq_len / spec.min_tokens_per_s)
    return Goal(spec.objective, tuple(rates), round(min(limits) * PS_PER_S))


def _usable(cluster: ClusterInput, constraints: Constraints) -> list[str]:
    """Kinds of chip that the job may use."""
    found = {
        group.chip
        for node in cluster.spec.nodes
        for group in node.devices
        if any(constraints.forbids(host, group.chip) is None for host in node.host_names)
    }
    return sorted(found)


def _catalogue(kind: Kind, chip: str, cluster: ClusterInput) -> ChipRate | None:
    field = "price_usd_per_hour" if kind == "cost" else "tdp_w"
    record = cluster.catalog.record(chip)
    value, sources = record.get(field), record.get("sources")
    if not isinstance(value, int | float) or value <= 0:
        return None
    source = str(sources[field]) if isinstance(sources, Mapping) and field in sources else ""
    return ChipRate(chip, float(value), f"catalogue: {source}" if source else "catalogue")


def _missing(kind: Kind, chip: str) -> Problem:
    name = Catalog.alias(chip)
    if kind == "cost":
        remedy = f"--price {name}=USD_PER_HOUR, or job.prices_usd_per_hour; or --forbid-chip {name}"
        return Problem("job: objective", f"nobody knows the price of {name}", remedy)
    remedy = f"--power {name}=WATT, or job.power_watt; or --forbid-chip {name}"
    return Problem("job: objective", f"nobody knows the power of {name}", remedy)
