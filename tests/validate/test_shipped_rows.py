"""The shipped rows under the shipped calibration: nobody is dropped, and errors stay in bounds."""

from dataclasses import replace
from importlib.resources import files

import pytest

from planner.validate import predict_table, read_table, validation_of

EVERY = 3
"""A third of the rows tells the same in a third of the time."""


@pytest.fixture(scope="module")
def table():
    path = files("costmodels") / "data" / "rows" / "published_runs.csv"
    whole = read_table(str(path))
    return replace(whole, rows=whole.rows[::EVERY])


@pytest.fixture(scope="module")
def found(table):
    return validation_of(table, predict_table(table))


def test_every_row_is_predicted_or_says_why_not(table, found):
    assert [p.row.id for p in found.predictions] == [r.id for r in table.rows]
    assert all(p.predictable != bool(p.reason) for p in found.predictions)
    assert found.predicted > 0.85 * len(table.rows)


def test_errors_of_the_fit_stay_in_bounds(found):
    assert found.overall.median < 6
    assert found.overall.mean < 9
    assert found.overall.p90 < 22
    assert abs(found.overall.bias) < 2


def test_chips_are_right_on_average(found):
    for name, summary in found.groups["chip"].items():
        if summary.rows >= 8:
            assert abs(summary.bias) < 12, name


def test_without_software_generations_a_chip_has_one_pace(table):
    known = validation_of(table, predict_table(table)).overall
    mean = validation_of(table, predict_table(table, software=False)).overall
    assert known.mean < mean.mean < 16


def test_sweeps_are_ranked(found):
    assert found.ranking.rank_correlation > 0.6
    assert found.ranking.pairs > 75
    assert found.ranking.regret < 3


def test_memory_is_near_what_was_measured(found):
    assert found.memory.errors.median < 8
    assert found.memory.within_20 > 85
    assert found.memory.false_alarms <= 0.05 * found.memory.ran
