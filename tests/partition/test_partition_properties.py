"""What must hold of any solution, and what the independent check has to find."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InfeasibleError, InputError
from planner.partition.certificate import Certificate, Solution, Status
from planner.partition.check import check_partition, check_solution
from planner.partition.heuristic import first_partition, sampled_ideals
from planner.partition.lattice import all_ideals
from planner.partition.problem import (
    Kind,
    Node,
    Partition,
    PartitionProblem,
    Stage,
    Tensor,
    check_problem,
)
from planner.partition.reduce import reduce_problem
from planner.partition.solve import Limits, partition
from tests.partition_cases import EXACT, brute_force, problems, with_more_devices

QUICK = Limits(moves=100)


def value(problem: PartitionProblem, limits: Limits = QUICK) -> int | None:
    try:
        return partition(problem, limits).certificate.objective_ps
    except InfeasibleError:
        return None


def at_most(one: int | None, other: int | None) -> bool:
    """Whether the first is no worse; None is the worst."""
    return other is None or (one is not None and one <= other)


@EXACT
@given(problem=problems())
def test_one_more_device_is_never_worse(problem: PartitionProblem) -> None:
    assert at_most(value(with_more_devices(problem)), value(problem))


@EXACT
@given(problem=problems())
def test_more_memory_is_never_worse(problem: PartitionProblem) -> None:
    kinds = tuple(replace(k, memory_bytes=None) for k in problem.kinds)
    assert at_most(value(replace(problem, kinds=kinds)), value(problem))


@EXACT
@given(problem=problems())
def test_interleaved_stages_are_never_worse(problem: PartitionProblem) -> None:
    assert at_most(value(replace(problem, interleaved=True)), value(problem))


@EXACT
@given(problem=problems(), factor=st.integers(2, 1000))
def test_all_times_longer_by_a_factor_make_the_objective_so(
    problem: PartitionProblem, factor: int
) -> None:
    def scaled(times: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(None if t is None else t * factor for t in times)

    slower = replace(
        problem,
        nodes=tuple(replace(n, time_ps=scaled(n.time_ps)) for n in problem.nodes),
        tensors=tuple(
            replace(t, cost_ps=tuple(c * factor for c in t.cost_ps)) for t in problem.tensors
        ),
    )
    before = value(problem)
    assert value(slower) == (None if before is None else before * factor)


@EXACT
@given(problem=problems(), data=st.data())
def test_the_numbering_of_the_nodes_changes_nothing(
    problem: PartitionProblem, data: st.DataObject
) -> None:
    count = len(problem.nodes)
    place = data.draw(st.permutations(range(count)))
    old = {new: v for v, new in enumerate(place)}
    renamed = replace(
        problem,
        nodes=tuple(problem.nodes[old[new]] for new in range(count)),
        tensors=tuple(replace(t, pins=tuple(place[v] for v in t.pins)) for t in problem.tensors),
        order=tuple((place[u], place[v]) for u, v in problem.order),
        colocated=tuple(tuple(place[v] for v in group) for group in problem.colocated),
    )
    assert value(renamed) == value(problem)


@EXACT
@given(problem=problems(max_nodes=7), width=st.integers(1, 3))
def test_sampled_ideals_are_ideals_and_reach_everything(
    problem: PartitionProblem, width: int
) -> None:
    reduced = reduce_problem(problem).problem
    every = all_ideals(reduced, 1000)
    assert every is not None
    sampled = sampled_ideals(reduced, width)
    assert set(sampled) <= set(every)
    assert sampled[0] == 0
    assert sampled[-1] == every[-1]
    assert sampled == sorted(sampled, key=int.bit_count)


@EXACT
@given(problem=problems())
def test_a_first_partition_keeps_to_the_rules(problem: PartitionProblem) -> None:
    reduced = reduce_problem(problem).problem
    found, _ = first_partition(reduced)
    best = brute_force(problem)
    if found is not None:
        assert check_partition(reduced, found) == []
        assert best is not None
        assert found.objective_ps(problem.objective) >= best


@pytest.fixture
def chain() -> PartitionProblem:
    """Three nodes in a row on two devices: 3 | 1 + 2 with a tensor of 1 across the cut."""
    return PartitionProblem(
        "chain",
        (Kind("device", 2, 5),),
        tuple(Node(f"n{v}", (t,), 2) for v, t in enumerate((3, 1, 2))),
        (Tensor((0, 1), (1,)), Tensor((1, 2), (1,))),
        ((0, 1), (1, 2)),
    )


GOOD = Partition((Stage(0, (0,), 4), Stage(0, (1, 2), 4)))


def test_a_partition_worked_by_hand_is_right(chain: PartitionProblem) -> None:
    assert check_partition(chain, GOOD) == []
    assert partition(chain).partition == GOOD


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((Stage(0, (0,), 4), Stage(0, (1,), 3)), "node n2 is in 0 stages"),
        ((Stage(0, (0, 1), 5), Stage(0, (1, 2), 4)), "node n1 is in 2 stages"),
        ((Stage(0, (0,), 4), Stage(0, (1, 2), 4), Stage(0, (), 0)), "stage 2 is empty"),
        ((Stage(0, (0,), 4), Stage(0, (1,), 3), Stage(0, (2,), 3)), "3 devices of kind device"),
        ((Stage(0, (1, 2), 4), Stage(0, (0,), 4)), "n1 (stage 0) comes before n0 (stage 1)"),
        ((Stage(0, (0, 1, 2), 6),), "needs 6 bytes, a device has 5"),
        ((Stage(0, (0,), 3), Stage(0, (1, 2), 4)), "stage 0 has a load of 4 ps, not 3 ps"),
        ((Stage(1, (0,), 4), Stage(0, (1, 2), 4)), "there is no kind of device 1"),
    ],
)
def test_the_check_finds_what_is_wrong(
    chain: PartitionProblem, stages: tuple[Stage, ...], said: str
) -> None:
    assert any(said in problem for problem in check_partition(chain, Partition(stages)))


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        (Certificate(Status.optimal, 5, 4, ()), "the objective is 4 ps, not 5 ps"),
        (Certificate(Status.optimal, 4, 5, ()), "the lower bound is above the objective"),
        (Certificate(Status.optimal, 4, 3, ()), "called optimal with a gap of 0.25"),
    ],
)
def test_the_check_reads_the_certificate(
    chain: PartitionProblem, certificate: Certificate, said: str
) -> None:
    assert said in " ".join(check_solution(chain, Solution(GOOD, certificate)))


def test_a_limit_leaves_a_partition_with_an_honest_gap() -> None:
    """Too large for both exact methods: sampled ideals, and work spread evenly as the bound."""
    count = 31
    rows = [(v, v + 1) for v in range(count - 1)]
    problem = PartitionProblem(
        "long",
        (Kind("device", 3),),
        tuple(Node(f"n{v}", (7,)) for v in range(count)),
        tuple(Tensor(row, (2,)) for row in rows),
        tuple(rows),
    )
    solution = partition(problem, Limits(ideals=10, cells=10))
    assert check_solution(problem, solution) == []
    assert solution.certificate.status == "feasible"
    assert solution.certificate.lower_bound_ps == 73  # 217 over three, rounded up
    assert 0.0 < solution.certificate.gap < 1.0
    exact = partition(problem)
    assert exact.certificate.status == "optimal"
    assert exact.certificate.objective_ps <= solution.certificate.objective_ps
    assert exact.certificate.lower_bound_ps >= 73


def test_a_graph_too_large_for_anything_is_refused_with_a_remedy(chain: PartitionProblem) -> None:
    with pytest.raises(InputError, match="join operators into layers"):
        partition(chain, Limits(nodes=2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nodes": ()}, "has no nodes"),
        ({"kinds": ()}, "has no devices"),
        ({"nodes": (Node("n", (1, 2)),)}, "2 times for 1 kinds"),
        ({"nodes": (Node("n", (None,)),)}, "runs on no kind"),
        ({"nodes": (Node("n", (-1,)),)}, "a negative time"),
        ({"tensors": (Tensor((0, 9), (1,)),)}, "names a node that is not there"),
        ({"tensors": (Tensor((0, 1), (-1,)),)}, "a negative cost"),
        ({"nodes": (Node("n", (2**60,)),) * 3}, "give the times of one micro-batch"),
    ],
)
def test_meaningless_problems_are_refused(
    chain: PartitionProblem, change: dict[str, object], said: str
) -> None:
    changed = replace(replace(chain, tensors=(), order=()), **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        check_problem(changed)
