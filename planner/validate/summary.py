"""Everything that a validation found, ready to be written down in any form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from planner.validate.predict import Prediction
from planner.validate.score import (
    ErrorSummary,
    MemorySummary,
    Ranking,
    by_group,
    memory_summary,
    ranking,
    summarise,
)


@dataclass(frozen=True)
class Validation:
    """Scores of a table of rows. ``groups`` are errors by chip, family and precision."""

    source: str
    predictions: tuple[Prediction, ...]
    overall: ErrorSummary | None
    groups: dict[str, dict[str, ErrorSummary]]
    ranking: Ranking | None
    memory: MemorySummary | None
    reasons: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]

    @property
    def scored(self) -> int:
        """Rows with a prediction and a target."""
        return sum(p.error is not None for p in self.predictions)

    @property
    def predicted(self) -> int:
        """Rows with a prediction."""
        return sum(p.predictable for p in self.predictions)

    @property
    def derived(self) -> int:
        """Scored rows whose target is arithmetic on another measurement."""
        return sum(
            p.error is not None and p.target is not None and p.target.derived
            for p in self.predictions
        )

    def as_json(self) -> dict[str, Any]:
        """The scores as plain JSON."""
        return {
            "source": self.source,
            "rows": len(self.predictions),
            "predicted": self.predicted,
            "scored": self.scored,
            "scored_against_derived_targets": self.derived,
            "abs_pct_error": _json(self.overall),
            "groups": {
                kind: {name: _json(e) for name, e in found.items()}
                for kind, found in self.groups.items()
            },
            "ranking": None if self.ranking is None else asdict(self.ranking),
            "memory": None if self.memory is None else asdict(self.memory),
            "not_predictable": [{"reason": r, "ids": list(ids)} for r, ids in self.reasons],
            "notes": list(self.notes),
        }


def _json(summary: ErrorSummary | None) -> dict[str, Any] | None:
    return None if summary is None else asdict(summary)


GROUPS = {
    "chip": lambda p: p.row["chip"],
    "family": lambda p: p.row["family"] or "(no family)",
    "precision": lambda p: p.case.recipe if p.case else "",
    "software": lambda p: p.case.stack.name if p.case else "",
}
"""How rows are grouped in a report."""


def validation(
    source: str, predictions: Sequence[Prediction], notes: Sequence[str] = ()
) -> Validation:
    """Score predictions and collect the reasons of the rows that have none."""
    reasons: dict[str, list[str]] = {}
    for p in predictions:
        if not p.predictable:
            reasons.setdefault(p.reason, []).append(p.row.id)
    order = Counter({reason: len(ids) for reason, ids in reasons.items()}).most_common()
    return Validation(
        source=source,
        predictions=tuple(predictions),
        overall=summarise(p.error for p in predictions if p.error is not None),
        groups={kind: by_group(predictions, key) for kind, key in GROUPS.items()},
        ranking=ranking(predictions),
        memory=memory_summary(predictions),
        reasons=tuple((reason, tuple(reasons[reason])) for reason, _ in order),
        notes=tuple(notes),
    )


def worst_first(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Scored rows, the largest absolute error first; ties in the order of their ids."""
    scored = [p for p in predictions if p.abs_pct_error is not None]
    return sorted(scored, key=lambda p: (-(p.abs_pct_error or 0.0), p.row.id))
