"""The public stage-partition instances: optima proved by two methods that share no code."""

from __future__ import annotations

import pytest

from planner.partition.check import check_solution
from planner.partition.solve import Limits, partition
from tests.conformance.instances import (
    BERT3,
    BERT3_TRAINING,
    BERT24,
    GNMT,
    GNMT_TRAINING,
    PS_PER_MS,
    RESNET50_TRAINING,
    read_instance,
)

PUBLISHED_MS = {
    BERT24: 17.7899,
    GNMT: 32.9107,
    GNMT_TRAINING: 107.0044,
    BERT3: 27.9186,
    BERT3_TRAINING: 65.3031,
    RESNET50_TRAINING: 263.035,
}
"""Least largest loads over the stated accelerators and no CPU core."""

ONE_MORE_MS = {
    BERT24: 14.393,
    GNMT: 32.036,
    GNMT_TRAINING: 89.815,
    RESNET50_TRAINING: 255.1944,
}
"""The same where the CPU core counts as one more accelerator."""


INTERLEAVED_MS = {
    BERT24: 17.71471875,
    GNMT: 31.687310548,
    GNMT_TRAINING: 88.462242192,
    BERT3: 21.908376106,
    BERT3_TRAINING: 54.207399193,
    RESNET50_TRAINING: 263.035288601,
}
"""Least largest loads where stages may be interleaved; only for the last it is no better."""

SLOW = (GNMT, RESNET50_TRAINING)
"""Interleaved instances that take several seconds."""


def interleaved_cases() -> list[object]:
    marks = {name: [pytest.mark.slow] if name in SLOW else [] for name in INTERLEAVED_MS}
    return [pytest.param(name, marks=marks[name]) for name in INTERLEAVED_MS]


@pytest.mark.parametrize(
    ("mirrored", "limits"),
    [(True, Limits()), (False, Limits(ideals=0))],
    ids=["dynamic program", "cp-sat"],
)
@pytest.mark.parametrize("name", PUBLISHED_MS)
def test_proves_the_published_optimum(name: str, mirrored: bool, limits: Limits) -> None:
    problem = read_instance(name, mirrored=mirrored)
    solution = partition(problem, limits)
    assert check_solution(problem, solution) == []
    assert solution.certificate.status == "optimal"
    assert solution.certificate.objective_ps / PS_PER_MS == pytest.approx(
        PUBLISHED_MS[name], abs=0.0006 if name == RESNET50_TRAINING else 0.00006
    )


@pytest.mark.parametrize("name", ONE_MORE_MS)
def test_a_cpu_core_that_counts_as_an_accelerator(name: str) -> None:
    given = read_instance(name, mirrored=True)
    problem = read_instance(name, mirrored=True, accelerators=given.devices + 1)
    solution = partition(problem)
    assert check_solution(problem, solution) == []
    assert solution.certificate.status == "optimal"
    assert solution.certificate.objective_ps / PS_PER_MS == pytest.approx(
        ONE_MORE_MS[name], abs=0.0006
    )


@pytest.mark.parametrize("name", interleaved_cases())
def test_proves_the_optimum_of_interleaved_stages(name: str) -> None:
    problem = read_instance(name, interleaved=True)
    solution = partition(problem)
    assert check_solution(problem, solution) == []
    assert solution.certificate.status == "optimal"
    assert solution.certificate.objective_ps / PS_PER_MS == pytest.approx(INTERLEAVED_MS[name])
    assert INTERLEAVED_MS[name] <= PUBLISHED_MS[name] + 0.0006
