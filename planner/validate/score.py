"""How good predictions are: error, ranking inside sweeps, memory and what does not fit.

A sweep is the rows of one source, model, chip and count: somebody tried several layouts or batches
of one job. There it matters which one a model would have picked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from costmodels.units import GIB
from planner.validate.predict import Prediction

LEAST_SWEEP = 3
"""Rows below which a sweep says nothing of ranking."""

TIE = 0.005
"""Relative difference of measured rates below which two rows are taken as equal."""


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Absolute errors of some rows, in per cent; ``bias`` is the median signed error."""

    rows: int
    median: float
    mean: float
    p90: float
    bias: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """Ranking inside sweeps: mean rank correlation, ordered pairs and lost speed in per cent."""

    sweeps: int
    rank_correlation: float
    pairs: float
    regret: float


@dataclass(frozen=True, slots=True)
class MemorySummary:
    """Peak memory: errors, rows within 20 %, and who ran out of memory against who was told so."""

    errors: ErrorSummary | None
    within_20: float
    caught: int
    out_of_memory: int
    false_alarms: int
    ran: int


def summarise(errors: Iterable[float]) -> ErrorSummary | None:
    """Summary of logarithmic errors; None without any."""
    logs = list(errors)
    if not logs:
        return None
    signed = [100 * math.expm1(e) for e in logs]
    absolute = sorted(map(abs, signed))
    return ErrorSummary(
        rows=len(logs),
        median=median(absolute),
        mean=fmean(absolute),
        p90=quantile(absolute, 0.9),
        bias=median(signed),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Quantile of sorted values, linear between neighbours."""
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def by_group(
    predictions: Iterable[Prediction], key: Callable[[Prediction], str]
) -> dict[str, ErrorSummary]:
    """Errors per group, groups in the order of their names."""
    groups: dict[str, list[float]] = {}
    for p in predictions:
        if p.error is not None:
            groups.setdefault(key(p), []).append(p.error)
    found = {name: summarise(errors) for name, errors in sorted(groups.items())}
    return {name: summary for name, summary in found.items() if summary is not None}


def sweeps(predictions: Iterable[Prediction]) -> dict[tuple[str, ...], list[Prediction]]:
    """Rows that were measured and predicted, by source, model, chip and count."""
    found: dict[tuple[str, ...], list[Prediction]] = {}
    for p in predictions:
        if p.error is not None:
            key = tuple(p.row[c] for c in ("source", "model", "chip", "chip_count"))
            found.setdefault(key, []).append(p)
    return {k: rows for k, rows in found.items() if len(rows) >= LEAST_SWEEP}


def ranking(predictions: Iterable[Prediction]) -> Ranking | None:
    """Mean over the sweeps; None without any sweep of different rates."""
    correlations, pairs, regrets = [], [], []
    for rows in sweeps(predictions).values():
        measured = [p.target.rate for p in rows if p.target is not None and p.target.rate]
        predicted = [p.tokens_per_s_per_chip or 0.0 for p in rows]
        ordered = _ordered(measured, predicted)
        if ordered is None:
            continue
        correlations.append(_spearman(measured, predicted))
        pairs.append(ordered)
        picked = max(range(len(rows)), key=lambda i: predicted[i])
        regrets.append(1 - measured[picked] / max(measured))
    if not pairs:
        return None
    return Ranking(len(pairs), fmean(correlations), 100 * fmean(pairs), 100 * fmean(regrets))


def _ordered(measured: Sequence[float], predicted: Sequence[float]) -> float | None:
    """Share of the pairs with different measured rates that are predicted in the same order."""
    right = total = 0.0
    for i in range(len(measured)):
        for j in range(i):
            if abs(measured[i] / measured[j] - 1) <= TIE:
                continue
            total += 1
            same = (measured[i] - measured[j]) * (predicted[i] - predicted[j])
            right += 1.0 if same > 0 else 0.5 if same == 0 else 0.0
    return right / total if total else None


def _spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation; 0 where one side is constant."""
    a, b = _ranks(one), _ranks(other)
    ma, mb = fmean(a), fmean(b)
    cov = sum((x - ma) * (y - mb) for x, y in zip(a, b))
    va = sum((x - ma) ** 2 for x in a)
    vb = sum((y - mb) ** 2 for y in b)
    return cov / math.sqrt(va * vb) if va > 0 and vb > 0 else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, ties share their mean."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for k in range(start, end + 1):
            ranks[order[k]] = (start + end) / 2 + 1
        start = end + 1
    return ranks


def _lacked(p: Prediction) -> bool:
    """Whether a run did not fit: labelled so, or a peak was computed that no such chip has."""
    if p.target is None or p.case is None:
        return False
    need = p.target.peak_gib or 0.0
    return p.target.out_of_memory or need * GIB > p.case.run.chip.memory_bytes


def memory_summary(predictions: Iterable[Prediction]) -> MemorySummary | None:
    """Memory errors and the out-of-memory confusion; None where no row speaks of memory."""
    rows = [p for p in predictions if p.target is not None]
    errors = [p.memory_error for p in rows if p.memory_error is not None]
    lost = [p for p in rows if _lacked(p)]
    ran = [p for p in rows if not _lacked(p) and p.memory_error is not None]
    if not errors and not lost:
        return None
    near = sum(abs(math.expm1(e)) <= 0.2 for e in errors)
    return MemorySummary(
        errors=summarise(errors),
        within_20=100 * near / len(errors) if errors else 0.0,
        caught=sum(p.fits is False for p in lost),
        out_of_memory=len(lost),
        false_alarms=sum(p.fits is False for p in ran),
        ran=len(ran),
    )
