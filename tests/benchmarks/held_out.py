"""How wrong the cost model is on runs that it has not seen: the figures of docs/validation.md.

    python tests/benchmarks/held_out.py              # one fit, groups left out along its tangent
    python tests/benchmarks/held_out.py --refit 3    # fitted anew for each third of the rows

Everything that a fit may move (constants of the formulas, shares of chips, paces of software) is
fitted to the other rows alone. Rows are never split within a model of a family. Not a test: a fit
takes minutes.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from costmodels.calibration import constant_names, fit  # noqa: E402 - after the path is set
from costmodels.constants import judged_constants  # noqa: E402
from costmodels.fitted import Calibration  # noqa: E402
from costmodels.step import price_step  # noqa: E402
from costmodels.unknowns import Measured  # noqa: E402
from planner.validate import Prediction, predict_table, read_table  # noqa: E402
from planner.validate.calibrate import origin, thinned_rows, unknown_runtime_memory  # noqa: E402
from planner.validate.predict import setting_of  # noqa: E402
from planner.validate.score import by_group, ranking, summarise  # noqa: E402

ROWS = ROOT / "costmodels" / "data" / "rows"
TABLES = (
    "published_runs.csv",
    "vtrain_single_node.csv",
    "vtrain_multi_node.csv",
    "h100_one_card.csv",
)
UNSEEN = ("h200_one_card.csv", "h100_experts_one_card.csv", "h200_experts_one_card.csv")
"""Rows that no fit sees."""

Key = Callable[[Prediction], str]
Refit = Callable[[frozenset[int], bool], Calibration]


def family(p: Prediction) -> str:
    """Where a row comes from."""
    return origin(p.row)


def model(p: Prediction) -> str:
    """A model of a family."""
    return f"{family(p)} {p.row['model']}"


def source(p: Prediction) -> str:
    """The family, the two tables of vTrain being one."""
    return "vtrain" if family(p).startswith("vtrain") else family(p)


def measured(p: Prediction) -> Measured | None:
    """A row that a fit can use."""
    if p.case is None or p.target is None or p.target.step_s is None:
        return None
    return Measured(p.case.run, setting_of(p.case), p.target.step_s, family(p))


def main() -> None:
    """Print errors of rows left out, by split and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refit", type=int, default=0, metavar="K", help="fit K times anew")
    folds = parser.parse_args().refit
    tables = [read_table(str(ROWS / name)) for name in TABLES]
    scored = [p for t in tables for p in predict_table(t) if p.error is not None]
    kept = [p for p, _ in thinned_rows([(p, family(p)) for p in scored], family)]
    rows = [row for p in kept if (row := measured(p)) is not None]
    if folds:
        for name, key in (("model", model), ("family", source)):
            report(f"by {name}, {folds} fits", scored, partial(_parts, kept, rows, key, folds))
        return
    found = fit(rows, Calibration(judged_constants()), constants=constant_names())
    _unseen(found.calibration)
    tangent = found.tangent
    without: Refit = lambda left, software: tangent.without(left, software=software)  # noqa: E731
    for name, key in (("model", model), ("family", family), ("source", source)):
        report(f"by {name}", scored, partial(_one_by_one, kept, key, without))
    _memory(scored)


Split = Callable[[Sequence[Prediction], bool], Iterable[tuple[list[Prediction], Calibration]]]


def report(name: str, scored: Sequence[Prediction], split: Split) -> None:
    """Errors of all rows, each predicted by the fit that has not seen it."""
    for software in (True, False):
        found = [
            _again(p, calibration, software)
            for left, calibration in split(scored, software)
            for p in left
        ]
        print(f"left out {name}, software {'known' if software else 'unknown'}")
        own = ("vtrain-single", "vtrain-multi", "one-card")
        published = [p for p in found if family(p) not in own]
        groups = {"all rows": found, "published": published}
        for table in own:
            groups[table] = [p for p in found if family(p) == table]
        for group, members in groups.items():
            summary = summarise(p.error for p in members if p.error is not None)
            if summary is not None:
                print(
                    f"  {group:<22}{summary.rows:>5} rows  median {summary.median:5.1f}  mean "
                    f"{summary.mean:5.1f}  p90 {summary.p90:5.1f}  bias {summary.bias:+5.1f} %"
                )
        order = ranking(published)
        if order is not None:
            print(
                f"  sweeps                {order.sweeps:>5}       rank correlation "
                f"{order.rank_correlation:.2f}, {order.pairs:.0f} % of the pairs, "
                f"{order.regret:.1f} % lost"
            )
        if not name.startswith("by model"):
            for group, summary in by_group(published, family).items():
                print(
                    f"    {group:<22}{summary.rows:>5}  {summary.median:5.1f} {summary.mean:5.1f} "
                    f"{summary.p90:5.1f} {summary.bias:+6.1f}"
                )
        sys.stdout.flush()


def _one_by_one(
    kept: Sequence[Prediction], key: Key, refit: Refit, scored: Sequence[Prediction], software: bool
) -> Iterable[tuple[list[Prediction], Calibration]]:
    """One group left out at a time."""
    for group in sorted({key(p) for p in scored}):
        left = frozenset(i for i, p in enumerate(kept) if key(p) == group)
        yield [p for p in scored if key(p) == group], refit(left, software)


def _parts(
    kept: Sequence[Prediction],
    rows: Sequence[Measured],
    key: Key,
    count: int,
    scored: Sequence[Prediction],
    software: bool,
) -> Iterable[tuple[list[Prediction], Calibration]]:
    """Every count-th group left out together, everything fitted anew to the others."""
    groups = sorted({key(p) for p in scored})
    for part in range(count):
        out = set(groups[part::count])
        used = [row for p, row in zip(kept, rows, strict=True) if key(p) not in out]
        found = fit(
            used, Calibration(judged_constants()), constants=constant_names(), software=software
        )
        yield [p for p in scored if key(p) in out], found.calibration


def _again(p: Prediction, calibration: Calibration, software: bool) -> Prediction:
    """The row predicted by another calibration."""
    assert p.case is not None
    run = calibration.run(p.case.run, setting_of(p.case), pace=software)
    seconds = price_step(run, calibration.constants).step_s
    rate = run.tokens / seconds / run.chips
    return replace(p, step_s=seconds, tokens_per_s_per_chip=rate)


def _unseen(calibration: Calibration) -> None:
    """Rows of a card that no fit sees, and whose kin some do."""
    for name in UNSEEN:
        rows = [p for p in predict_table(read_table(str(ROWS / name))) if p.error is not None]
        for software in (True, False):
            errors = [_again(p, calibration, software).error for p in rows]
            summary = summarise(error for error in errors if error is not None)
            assert summary is not None
            print(
                f"{name}, software {'known' if software else 'unknown'}: {summary.rows} rows  "
                f"median {summary.median:.1f}  mean {summary.mean:.1f}  p90 {summary.p90:.1f}  "
                f"bias {summary.bias:+.1f} %"
            )


def _memory(scored: Sequence[Prediction]) -> None:
    """Peaks without knowledge of the runtime's own workspace."""
    summary = summarise(-e for e in unknown_runtime_memory(scored))
    if summary is not None:
        near = [abs(math.expm1(-e)) <= 0.2 for e in unknown_runtime_memory(scored)]
        print(
            f"memory, runtime unknown: {summary.rows} rows, median {summary.median:.1f} %, "
            f"{100 * sum(near) / len(near):.0f} % within 20 %"
        )


if __name__ == "__main__":
    main()
