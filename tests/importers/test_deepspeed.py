"""DeepSpeed hostfiles to a cluster; counts that disagree are shown and not reconciled silently."""

from __future__ import annotations

import pytest

from planner.errors import InputError
from planner.importers.deepspeed import import_deepspeed
from tests.importers.samples import CATALOG, loaded

HOSTS = "# ours\nworker-1 slots=4  # old\nworker-2 slots=8\nworker-3 slots=8\n"
GIVEN = {"chips": ["A100-SXM-80GB"], "network": "100Gb/s"}


def run(text, **options):
    return import_deepspeed(text, "hostfile", CATALOG, **options)


def says(text, **options):
    with pytest.raises(InputError) as caught:
        run(text, **options)
    return str(caught.value)


def test_hosts_keep_their_own_number_of_chips(tmp_path):
    made = run(HOSTS, **GIVEN)
    spec = loaded(made, tmp_path).spec
    found = {name: n.chips_per_host for n in spec.nodes for name in n.host_names}
    assert found == {"worker-1": 4, "worker-2": 8, "worker-3": 8}


def test_hosts_may_have_different_chips(tmp_path):
    chips = ["A100-SXM-80GB", "worker-1=V100-SXM2-32GB"]
    spec = loaded(run(HOSTS, chips=chips, network="100Gb/s"), tmp_path).spec
    assert spec.nodes[0].devices[0].chip == "nvidia-v100-sxm2-32gb"


def test_asks_for_chip_and_network_at_once():
    text = says(HOSTS)
    assert "--chip" in text
    assert "--network" in text


def test_a_single_host_needs_no_network():
    assert "nics" not in run("a slots=8", chips=["A100-SXM-80GB"]).data["nodes"][0]


def test_include_and_exclude_choose_as_deepspeed_does(tmp_path):
    made = run(HOSTS, **GIVEN, include="worker-2@worker-1:1,3")
    found = {n["name"]: n["devices"][0]["count"] for n in made.data["nodes"]}
    assert found == {"worker-2": 8, "worker-1": 2}
    assert "device i is slot [1, 3]" in " ".join(made.open)
    out = run(HOSTS, **GIVEN, exclude="worker-2@worker-1:0")
    assert sum(n["devices"][0]["count"] for n in out.data["nodes"]) == 3 + 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no host"),
        ("a", "'a' is not HOST slots=N"),
        ("a slots=many", "is not HOST slots=N"),
        ("a slots=4 b", "is not HOST slots=N"),
        ("a slots=0", "a has no slot"),
        ("a slots=4\nb slots=2\na slots=8", "hostfile:1 and hostfile:3: the host a is given twice"),
        ("a slots=4\na.cluster.local slots=4", "one host under two names"),
    ],
)
def test_a_broken_file_is_named_with_its_lines(text, message):
    assert message in says(text, **GIVEN)


def test_addresses_are_not_taken_for_one_host(tmp_path):
    spec = loaded(run("10.0.0.1 slots=8\n10.0.1.1 slots=8", **GIVEN), tmp_path).spec
    assert [h for n in spec.nodes for h in n.host_names] == ["10.0.0.1", "10.0.1.1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": "worker-9"}, "'worker-9' is not a host of hostfile"),
        ({"include": "worker-1:4"}, "worker-1 has no slot '4': its slots are 0 … 3"),
        ({"include": "worker-1", "exclude": "worker-2"}, "takes one of them"),
        ({"exclude": "worker-1@worker-2@worker-3"}, "leaves no slot"),
        ({"world_size": 24}, "20 slots (worker-1 4, worker-2 8, worker-3 8), not 24"),
        ({"chips": ["A100"]}, "fits 4 chips"),
    ],
)
def test_counts_and_options_that_disagree_are_shown(options, message):
    assert message in says(HOSTS, **{**GIVEN, **options})


def test_a_name_that_no_cluster_file_can_hold_is_an_input_error():
    assert "name" in says("höst! slots=8", chips=["A100-SXM-80GB"])
