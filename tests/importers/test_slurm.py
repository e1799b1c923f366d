"""Slurm's topology.conf to a cluster."""

from __future__ import annotations

import pytest

from planner.errors import InputError
from planner.importers.slurm import import_slurm
from tests.importers.samples import CATALOG, loaded, sample

TREE = sample("slurm_topology_tree.conf")
BLOCK = sample("slurm_topology_block.conf")
GIVEN = {"devices": ["8xA100-SXM-80GB"], "network": "4x200Gb/s:ib"}


def run(text, **options):
    return import_slurm(text, "topology.conf", CATALOG, **options)


def says(text, **options):
    with pytest.raises(InputError) as caught:
        run(text, **options)
    return str(caught.value)


def test_asks_for_everything_that_the_file_does_not_say_at_once():
    text = says(TREE)
    assert "--devices" in text
    assert "--network" in text
    assert "--uplink" in text


def test_a_tree_keeps_its_switches(tmp_path):
    spec = loaded(run(TREE, **GIVEN, oversubscription=2.0), tmp_path).spec
    assert (spec.hosts, spec.device_count) == (18, 144)
    assert [s.name for s in spec.networks[0].switches] == ["s0", "s1", "s2", "s3"]
    assert [s.uplinks[0].to for s in spec.networks[0].switches[:3]] == ["s3"] * 3
    leaf = {name: n.nics[0].switch for n in spec.nodes for name in n.host_names}
    assert (leaf["dev5"], leaf["dev6"], leaf["dev17"]) == ("s0", "s1", "s2")


def test_blocks_are_joined_by_one_switch(tmp_path):
    made = run(BLOCK, **GIVEN, uplink="16x400Gb/s")
    spec = loaded(made, tmp_path).spec
    assert spec.hosts == 64
    up = spec.networks[0].switches[0].uplinks[0]
    assert (up.to, up.count, up.bandwidth_one_way) == ("spine", 16, 50 * 10**9)
    assert "spine" in " ".join(made.open)
    assert "BlockSizes" in " ".join(made.open)


def test_hosts_may_hold_different_chips(tmp_path):
    devices = ["8xA100-SXM-80GB", "dev[0-2,9]=8xV100-SXM2-32GB + 1xT4-16GB"]
    made = run(TREE, devices=devices, network="100Gb/s", oversubscription=1.0)
    spec = loaded(made, tmp_path).spec
    chips = {name: [g.chip for g in n.devices] for n in spec.nodes for name in n.host_names}
    assert chips["dev9"] == ["nvidia-v100-sxm2-32gb", "nvidia-t4-16gb"]
    assert chips["dev10"] == ["nvidia-a100-sxm-80gb"]


def test_comments_continued_lines_and_letter_case_are_slurms():
    text = "# x\nswitchname=top \\\n  SWITCHES=a,b\nSwitchName=a Nodes=n1 LinkSpeed=9\n"
    made = run(text + "SwitchName=b nodes=n2\n", **GIVEN, oversubscription=1.0)
    assert "LinkSpeed" in " ".join(made.open)


def test_one_switch_needs_no_uplink():
    made = run("SwitchName=s Nodes=n[1-4]", **GIVEN)
    assert made.data["networks"][0]["switches"] == [{"name": "s"}]
    assert "one switch" in says("SwitchName=s Nodes=n[1-4]", **GIVEN, uplink="1x400Gb/s")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no switch"),
        ("SwitchName=a Nodes=n[1-", "topology.conf:1: '[' at letter 2"),
        ("SwitchName=a", "neither nodes nor switches"),
        ("SwitchNme=a Nodes=n1", "no line of topology.conf"),
        ("SwitchName=a Nodes=n1 Colour=red", "unknown key Colour"),
        (
            "SwitchName=a Nodes=n1\nSwitchName=a Nodes=n2",
            "topology.conf:1 and topology.conf:2: a s",
        ),
        ("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n[1-2]", "the host n1 hangs on a and on b"),
        ("SwitchName=t Switches=a,b\nSwitchName=a Nodes=n1", "names the switch b"),
        ("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n2", "nothing joins a and b"),
    ],
)
def test_a_broken_file_is_named_with_its_line(text, message):
    assert message in says(text, **GIVEN, oversubscription=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": ["x=8xA100-SXM-80GB"]}, "no host of the file is called x"),
        ({"devices": ["8xA100"]}, "fits 4 chips"),
        ({"devices": ["eight"]}, "is not COUNTxCHIP"),
        ({"devices": ["8xA100-SXM-80GB", "8xV100-SXM2-32GB"]}, "2 times for all hosts"),
        ({"uplink": "400"}, "no unit"),
        ({"uplink": "4x400Gb/s", "oversubscription": 2.0}, "both of the options"),
    ],
)
def test_wrong_options_are_named(options, message):
    assert message in says(TREE, **{**GIVEN, **options})
