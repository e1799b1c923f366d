"""Host lists as Slurm writes them, and names joined for a cluster file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.importers.hosts import HostListError, expand, joined, matching
from planner.inputs.cluster_spec import NodeSpec


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a", ["a"]),
        ("a,b1", ["a", "b1"]),
        ("dev[0-2]", ["dev0", "dev1", "dev2"]),
        ("n[1-2,7],x", ["n1", "n2", "n7", "x"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("r[1-2]n[1-2]-ib", ["r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib"]),
    ],
)
def test_expands(text, hosts):
    assert expand(text) == hosts


@pytest.mark.parametrize("text", ["", "a,", ",a", "a[1-", "a]1", "a[x]", "a[3-1]", "a[1-2", "a[]"])
def test_says_what_is_wrong(text):
    with pytest.raises(HostListError):
        expand(text)


def test_refuses_a_list_without_end():
    with pytest.raises(HostListError, match="too far"):
        expand("n[0-99999999]")


def test_matches_lists_and_patterns():
    hosts = ["w-0", "w-1", "x-1"]
    assert matching("w-[0-5]", hosts) == ["w-0", "w-1"]
    assert matching("*-1", hosts) == ["w-1", "x-1"]


def test_joins_neighbours():
    assert joined(["n1", "n2", "n3", "m", "n5"]) == [
        {"name_prefix": "n", "first_index": 1, "count": 3},
        {"name": "m"},
        {"name": "n5"},
    ]


def test_keeps_leading_zeros():
    assert joined(["n008", "n009", "n010", "n011"]) == [
        {"name_prefix": "n00", "first_index": 8, "count": 2},
        {"name_prefix": "n0", "first_index": 10, "count": 2},
    ]


names = st.tuples(
    st.sampled_from(["a", "b-", "c0"]),
    st.one_of(st.just(""), st.integers(0, 120).map(str), st.integers(0, 120).map("{:03}".format)),
).map("".join)


@given(st.lists(names, min_size=1, max_size=20, unique=True))
def test_joined_names_are_the_same_hosts(hosts):
    nodes = [{**entry, "devices": [{"chip": "A100-SXM-80GB"}]} for entry in joined(hosts)]
    named = [name for node in nodes for name in NodeSpec.model_validate(node).host_names]
    assert named == hosts
