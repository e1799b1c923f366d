"""Runs that this project measured on one H100, which constants are fitted to, and on one H200,
which no fit has seen."""

from importlib.resources import files

import pytest
from rows import row

from planner.validate import predict_table, read_table, validation_of
from planner.validate.fields import precision
from planner.validate.stacks import stack_of


def validated(name):
    table = read_table(str(files("costmodels") / "data" / "rows" / name))
    return table, validation_of(table, predict_table(table))


@pytest.fixture(scope="module")
def h100():
    return validated("h100_one_card.csv")


def test_every_run_of_the_card_is_predicted(h100):
    table, found = h100
    assert found.predicted == len(table.rows) == 138


def test_plain_steps_in_sixteen_bits_are_within_a_tenth(h100):
    _, found = h100
    plain = found.groups["family"]["pytorch-eager"]
    assert plain.rows >= 90
    assert plain.median < 7
    assert abs(plain.bias) < 4


def test_the_models_measured_last_are_no_worse(h100):
    _, found = h100
    last = [
        p.abs_pct_error
        for p in found.predictions
        if p.row.id.startswith("h100b") and p.abs_pct_error is not None
    ]
    assert len(last) == 32
    assert sorted(last)[16] < 7


def test_memory_of_the_card_is_within_a_fifth(h100):
    _, found = h100
    errors = [abs(p.memory_error) for p in found.predictions if p.memory_error is not None]
    assert sum(e < 0.2 for e in errors) > 0.9 * len(errors)


def test_the_other_card_is_as_good():
    table, found = validated("h200_one_card.csv")
    assert found.predicted == len(table.rows) == 44
    assert found.overall.median < 6


@pytest.mark.parametrize(
    ("family", "name", "flash"),
    [
        ("pytorch-eager", "pytorch-eager", True),
        ("pytorch-eager-unfused", "pytorch-unfused", False),
        ("pytorch-compiled", "pytorch-compiled", True),
        ("planner-run", "planner-run", True),
    ],
)
def test_plain_runtimes_do_not_pad(family, name, flash):
    found = stack_of(row(family=family))
    assert (found.name, found.flash, found.pads) == (name, flash, False)


def test_tf32_has_its_own_rate_and_the_state_of_fp32():
    found = precision(row(precision="TF32, all state FP32"))
    assert (found.job, found.recipe) == ("tf32", "32")
