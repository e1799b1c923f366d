"""The order along which a graph is cut: a good one is found, and its loss is the true one."""

from __future__ import annotations

from itertools import combinations, pairwise, product

from hypothesis import given
from hypothesis import strategies as st

from planner.partition.order import MICRO_BATCHES_PER_STAGE, choose_order
from tests.partition_cases import EXACT, has_cycle

Graph = tuple[list[float], list[tuple[int, int]], list[float]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to six nodes in a topological numbering, with small whole work and traffic."""
    count = draw(st.integers(2, 6))
    pairs = [(u, v) for u in range(count) for v in range(u + 1, count)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=8))
    work = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    traffic = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    return [float(w) for w in work], edges, [float(t) for t in traffic]


def crossing(graph: Graph, before: set[int]) -> float:
    _, edges, traffic = graph
    return sum(traffic[u] for u in {s for s, v in edges if s in before and v not in before})


def takt(graph: Graph, stages: list[set[int]]) -> float:
    before: set[int] = set()
    worst = 0.0
    for stage in stages:
        worst = max(worst, crossing(graph, before), sum(graph[0][v] for v in stage))
        before |= stage
        worst = max(worst, crossing(graph, before))
    return worst


def least_takt(graph: Graph, count: int) -> float:
    """Over all ways to put the nodes into so many stages that no edge goes back."""
    nodes = len(graph[0])
    best = float("inf")
    for where in product(range(count), repeat=nodes):
        if set(where) == set(range(count)) and all(where[u] <= where[v] for u, v in graph[1]):
            assert not has_cycle({(where[u], where[v]) for u, v in graph[1]})
            stages = [{v for v in range(nodes) if where[v] == s} for s in range(count)]
            best = min(best, takt(graph, stages))
    return best


def splits_along(order: tuple[int, ...], count: int) -> list[list[set[int]]]:
    cuts = combinations(range(1, len(order)), count - 1)
    return [[set(order[a:b]) for a, b in pairwise([0, *c, len(order)])] for c in cuts]


def loss_of(graph: Graph, order: tuple[int, ...], most: int) -> float:
    return max(
        min(takt(graph, s) for s in splits_along(order, n)) / least_takt(graph, n) - 1
        for n in range(2, most + 1)
    )


@EXACT
@given(graph=graphs())
def test_the_stated_losses_are_those_of_brute_force(graph: Graph) -> None:
    work, edges, traffic = graph
    most = min(3, len(work))
    found = choose_order(work, edges, [traffic], stages=most)
    if found is None:
        assert {(v, v + 1) for v in range(len(work) - 1)} <= set(edges)
        return
    place = {v: i for i, v in enumerate(found.order)}
    assert sorted(found.order) == list(range(len(work)))
    assert all(place[u] < place[v] for u, v in edges)
    assert found.exact
    assert abs(found.loss - loss_of(graph, found.order, most)) < 1e-9
    assert abs(found.file_loss - loss_of(graph, tuple(range(len(work))), most)) < 1e-9


def formula_time(graph: Graph, stages: list[set[int]]) -> float:
    before: set[int] = set()
    hops = 0.0
    for stage in stages[:-1]:
        before |= stage
        hops += crossing(graph, before)
    micro_batches = MICRO_BATCHES_PER_STAGE * len(stages)
    return sum(graph[0]) + 2 * hops + (micro_batches - 1) * takt(graph, stages)


@EXACT
@given(graph=graphs())
def test_for_two_stages_no_candidate_does_worse_than_the_order_of_the_file(graph: Graph) -> None:
    """With one number of stages the score is the formula time itself."""
    work, edges, traffic = graph
    found = choose_order(work, edges, [traffic], stages=2)
    if found is not None:
        chosen = min(formula_time(graph, s) for s in splits_along(found.order, 2))
        file = min(formula_time(graph, s) for s in splits_along(tuple(range(len(work))), 2))
        assert chosen <= file * 1.35  # takts between the tried ones are not seen


def test_a_chain_has_one_order() -> None:
    assert choose_order([1, 1, 1], [(0, 1), (1, 2)], [[1, 1, 0]]) is None


def test_two_towers_in_turns_are_put_one_after_the_other() -> None:
    """Towers a0 a1 and b0 b1; the first tensor of each is wide.

    In turns, two wide tensors lie open at once; tower by tower, one at a time.
    """
    work = [4.0, 4.0, 4.0, 4.0, 1.0]  # a0 b0 a1 b1 head
    edges = [(0, 2), (1, 3), (2, 4), (3, 4)]
    found = choose_order(work, edges, [[6.0, 6.0, 0.0, 0.0, 0.0]])
    assert found is not None
    assert found.order == (0, 2, 1, 3, 4)
    assert found.changed
    assert found.loss == 0.0
    # two stages in turns: 12 over the cut where 9 of work are enough
    assert found.file_loss >= 12 / 9 - 1


def test_too_many_ideals_give_a_bound_instead_of_the_loss() -> None:
    """Four towers of six have 7 ** 4 ideals; the bound is work spread evenly."""
    edges = [(4 * i + t, 4 * (i + 1) + t) for i in range(5) for t in range(4)]
    found = choose_order([1.0] * 24, edges, [[0.1] * 24])
    assert found is not None
    assert not found.exact
    assert found.loss >= 0.0
    place = {v: i for i, v in enumerate(found.order)}
    assert all(place[u] < place[v] for u, v in edges)


def test_slow_and_fast_networks_are_both_judged() -> None:
    """The loss is the larger one of both rates."""
    work = [4.0, 4.0, 4.0, 4.0, 1.0]
    edges = [(0, 2), (1, 3), (2, 4), (3, 4)]
    fast = choose_order(work, edges, [[0.1, 0.1, 0.0, 0.0, 0.0]])
    both = choose_order(work, edges, [[0.1, 0.1, 0.0, 0.0, 0.0], [6.0, 6.0, 0.0, 0.0, 0.0]])
    assert fast is not None
    assert both is not None
    assert both.order == (0, 2, 1, 3, 4)
    assert both.file_loss > fast.file_loss
