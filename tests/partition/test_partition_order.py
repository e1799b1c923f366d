"""The order along which a graph is cut: a better one is found, and the loss is the true one."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from planner.partition.order import choose_order
from planner.partition.problem import Kind, Node, PartitionProblem, Tensor, load_ps
from tests.partition_cases import EXACT, brute_force

Graph = tuple[list[float], list[tuple[int, int]], list[float]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to six nodes in a topological numbering, with small whole work and traffic."""
    count = draw(st.integers(2, 6))
    pairs = [(u, v) for u in range(count) for v in range(u + 1, count)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=8))
    work = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    traffic = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    return [float(w) for w in work], edges, [float(t) for t in traffic]


def problem_of(graph: Graph, devices: int) -> PartitionProblem:
    work, edges, traffic = graph
    readers = {u: [u, *(v for s, v in edges if s == u)] for u, _ in edges}
    return PartitionProblem(
        "graph",
        (Kind("chip", devices),),
        tuple(Node(str(v), (round(w),)) for v, w in enumerate(work)),
        tuple(Tensor(tuple(pins), (round(traffic[u]),)) for u, pins in readers.items()),
        tuple(edges),
    )


def best_along(problem: PartitionProblem, order: tuple[int, ...]) -> int:
    """The best split of an order into intervals, by trying all."""
    count = len(order)
    values = []
    for stages in range(1, min(problem.devices, count) + 1):
        for cuts in combinations(range(1, count), stages - 1):
            bounds = [0, *cuts, count]
            held = [tuple(sorted(order[a:b])) for a, b in pairwise(bounds)]
            values.append(max(load_ps(problem, 0, nodes) or 0 for nodes in held))
    return min(values)


def loss_of(graph: Graph, order: tuple[int, ...], most: int) -> float:
    ratios = []
    for devices in range(1, most + 1):
        problem = problem_of(graph, devices)
        best = brute_force(problem)
        assert best is not None
        if best:
            ratios.append(best_along(problem, order) / best)
    return max(ratios, default=1.0) - 1.0


@EXACT
@given(graph=graphs())
def test_the_stated_losses_are_those_of_brute_force(graph: Graph) -> None:
    work, edges, _ = graph
    most = min(3, len(work))
    found = choose_order(*graph, stages=most)
    if found is None:
        assert {(v, v + 1) for v in range(len(work) - 1)} <= set(edges)
        return
    place = {v: i for i, v in enumerate(found.order)}
    assert sorted(found.order) == list(range(len(work)))
    assert all(place[u] < place[v] for u, v in edges)
    assert found.exact
    assert found.loss <= found.file_loss + 1e-9
    assert abs(found.loss - loss_of(graph, found.order, most)) < 1e-6
    given = tuple(range(len(work)))
    assert abs(found.file_loss - loss_of(graph, given, most)) < 1e-6


def test_a_chain_has_one_order() -> None:
    assert choose_order([1, 1, 1], [(0, 1), (1, 2)], [1, 1, 0]) is None


def test_two_towers_are_cut_where_both_are_narrow() -> None:
    """Towers a0 a1 and b0 b1, numbered in turns; the first tensor of each is wide.

    In turns, two wide tensors lie open at once; tower by tower, one at a time.
    """
    work = [4.0, 4.0, 4.0, 4.0, 1.0]  # a0 b0 a1 b1 head
    edges = [(0, 2), (1, 3), (2, 4), (3, 4)]
    found = choose_order(work, edges, [4.0, 4.0, 0.0, 0.0, 0.0])
    assert found is not None
    assert found.order == (0, 2, 1, 3, 4)
    assert found.changed
    assert found.loss == 0.0
    # two stages: 9 against 8 + 8, where both wide tensors are paid
    assert found.file_loss > 0.2


def test_too_many_ideals_give_a_bound_instead_of_the_loss() -> None:
    """Four towers of six have 7 ** 4 ideals; the bound is work spread evenly."""
    edges = [(4 * i + t, 4 * (i + 1) + t) for i in range(5) for t in range(4)]
    found = choose_order([1.0] * 24, edges, [0.1] * 24)
    assert found is not None
    assert not found.exact
    assert 0.0 <= found.loss <= found.file_loss
    place = {v: i for i, v in enumerate(found.order)}
    assert all(place[u] < place[v] for u, v in edges)


def test_the_numbering_of_equal_graphs_changes_no_loss() -> None:
    work = [3.0, 1.0, 2.0, 5.0]
    one = choose_order(work, [(0, 2), (1, 3)], [1.0, 2.0, 0.0, 0.0])
    swapped = choose_order([1.0, 3.0, 5.0, 2.0], [(0, 2), (1, 3)], [2.0, 1.0, 0.0, 0.0])
    assert one is not None
    assert swapped is not None
    assert abs(one.loss - swapped.loss) < 1e-9
    assert replace(one, order=(), file_loss=0.0).stages == swapped.stages
