"""The same tasks on a real Ray cluster of this machine; left out where Ray is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.errors import InputError
from planner.whatif.pool import ATTEMPTS, Lost
from planner.whatif.ray_pool import run_on_ray
from tests.pool_work import square, square_or_die

ray = pytest.importorskip("ray", reason="needs the extra [ray]")

pytestmark = [
    # Ray's own: sockets and files that it leaves to its shutdown, and what it deprecates
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one node with two CPUs, as `ray start --head --num-cpus 2` makes it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20},
    )
    yield cluster.address
    cluster.shutdown()


def test_tasks_run_on_the_cluster_of_the_address(address: str) -> None:
    results: dict[int, Any] = {}
    tasks = [{"number": n, "sleep_s": 0.005} for n in range(300)]
    run_on_ray(square, tasks, address=address, on_result=results.__setitem__)
    assert {n: r["value"] for n, r in results.items()} == {n: n * n for n in range(300)}
    assert len({r["worker"] for r in results.values()}) >= 2
    assert not ray.is_initialized()


def test_killed_workers_lose_nothing_and_a_killer_is_given_up(address: str, tmp_path: Path) -> None:
    results: dict[int, Any] = {}
    deaths = {3: 1, 5: ATTEMPTS - 1, 7: ATTEMPTS + 5}
    tasks = [{"number": n, "folder": str(tmp_path), "deaths": deaths.get(n, 0)} for n in range(12)]
    run_on_ray(square_or_die, tasks, address=address, on_result=results.__setitem__)
    assert len(results) == 12
    assert {n for n, r in results.items() if isinstance(r, Lost)} == {7}
    assert all(r["value"] == n * n for n, r in results.items() if n != 7)


def test_a_cluster_that_does_not_answer_is_the_users_mistake() -> None:
    with pytest.raises(InputError) as caught:
        run_on_ray(square, [], address="not an address", on_result=lambda _, __: None)
    assert "no Ray cluster answers" in str(caught.value)
