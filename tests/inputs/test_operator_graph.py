"""Operator-graph files: what they mean, and every mistake at once."""

from __future__ import annotations

from typing import Any

import pytest

from planner.errors import InputError
from planner.inputs.document import Document
from planner.inputs.operator_graph import partition_problem, read_operator_graph
from planner.partition.problem import Kind, Node, PartitionProblem, Tensor


def build(**changes: Any) -> PartitionProblem:
    return partition_problem(read_operator_graph(Document("g.yaml", spec(**changes))))


def refused(**changes: Any) -> str:
    with pytest.raises(InputError) as error:
        build(**changes)
    return str(error.value)


def spec(**changes: Any) -> dict[str, Any]:
    return {
        "name": "g",
        "devices": [
            {"name": "fast", "count": 2, "memory_bytes": 100, "bandwidth_bytes_per_s": 1e6},
            {"name": "slow", "count": 1, "bandwidth_bytes_per_s": 5e5, "latency_s": 0.25},
        ],
        "nodes": [
            {"name": "a", "time_s": {"fast": 1, "slow": 2.5}, "memory_bytes": 7},
            {"name": "b", "time_s": {"fast": 3}},
            {"name": "a.back", "time_s": 4, "with": "a"},
        ],
        "tensors": [
            {"from": "a", "to": ["b", "a.back"], "bytes": 1_000_000},
            {"from": "b", "to": ["a.back"], "time_s": {"fast": 0.5, "slow": 0.75}},
        ],
        **changes,
    }


def test_a_file_becomes_whole_picoseconds_per_kind_of_device() -> None:
    s = 10**12
    assert build() == PartitionProblem(
        name="g",
        kinds=(Kind("fast", 2, 100), Kind("slow", 1, None)),
        nodes=(
            Node("a", (s, 5 * s // 2), 7),
            Node("b", (3 * s, None)),
            Node("a.back", (4 * s, 4 * s)),
        ),
        tensors=(
            Tensor((0, 1, 2), (s, 9 * s // 4)),  # 1 s, and 2 s with a latency of a quarter
            Tensor((1, 2), (s // 2, 3 * s // 4)),
        ),
        order=((0, 1),),
        colocated=((0, 2),),
    )


def test_a_node_that_goes_with_another_demands_no_order() -> None:
    """The backward pass reads b, and is still with a, which comes before b."""
    assert build().order == ((0, 1),)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"devices": []}, "devices"),
        ({"nodes": [{"name": "a", "time_s": {"fats": 1}}], "tensors": []}, "did you mean fast?"),
        ({"nodes": [{"name": "a", "time_s": {}}], "tensors": []}, "names no device"),
        ({"nodes": [{"name": "a", "time_s": 1}] * 2, "tensors": []}, "'a' is given twice"),
        ({"nodes": [{"name": "a", "time_s": 1, "with": "z"}], "tensors": []}, "no node 'z'"),
        ({"nodes": [{"name": "a", "time_s": -1}], "tensors": []}, "nodes[0].time_s"),
        ({"tensors": [{"from": "a", "to": ["c"], "bytes": 1}]}, "no node 'c'"),
        ({"tensors": [{"from": "a", "to": ["a"], "bytes": 1}]}, "reads its own output"),
        ({"tensors": [{"from": "a", "to": ["b"]}]}, "give either bytes or time_s"),
        ({"tensors": [{"from": "a", "to": ["b"], "bytes": 1, "time_s": 1}]}, "a size and a time"),
        ({"tensors": [{"from": "a", "to": ["b"], "time_s": {"fast": 1}}]}, "one for each of"),
        ({"devices": [{"name": "fast", "count": 65}]}, "count"),
        ({"devices": [{"name": n, "count": 60} for n in ("fast", "slow")]}, "has no bandwidth"),
    ],
)
def test_mistakes_say_where_and_what_to_try(changes: dict[str, Any], said: str) -> None:
    assert said in refused(**changes)


def test_a_cycle_is_named_node_by_node() -> None:
    tensors = [{"from": a, "to": [b], "time_s": 1} for a, b in (("a", "b"), ("b", "a"))]
    said = refused(tensors=tensors)
    assert "the nodes form a cycle: a -> b -> a" in said
    assert "let a backward node go with its forward node" in said


def test_too_many_devices_are_a_job_for_the_planner() -> None:
    devices = [{"name": n, "count": 60} for n in ("fast", "slow")]
    tensors = [{"from": "a", "to": ["b"], "time_s": 1}]
    assert "more than 64 devices" in refused(devices=devices, tensors=tensors)
