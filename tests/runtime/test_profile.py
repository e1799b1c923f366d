"""``planner profile``: what is measured, and the files that are made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from costmodels.catalog import load_catalog
from planner.cli import main
from planner.runtime.profile_file import chip_records, problems_with, profile_object
from planner.runtime.profile_request import (
    ChipFound,
    LayerRow,
    LinkFound,
    ProcessSpec,
    ProfileFound,
    ProfileRequest,
    RatePoint,
)
from tests.runtime.conftest import needs_torch

BLOCKS = "tests.runtime.small_blocks:blocks"


def row(first: int, end: int, forward_s: float) -> LayerRow:
    return LayerRow(
        layers=(first, end),
        tensor_parallel=1,
        micro_batch_rows=2,
        forward_s=forward_s,
        backward_s=2 * forward_s,
        update_s=1e-5,
        activation_bytes=1000,
        parameter_bytes=400,
    )


def chip(rank: int, name: str, forward_s: float, repeat: int = 1) -> ChipFound:
    return ChipFound(
        rank=rank,
        host=f"here/{rank}",
        chip=name,
        repeat=repeat,
        name="Processor",
        vendor="Maker",
        torch_device="cpu",
        dist_backend="gloo",
        memory_bytes=8 * 2**30,
        memory_bandwidth=1e10 / repeat,
        products=(
            RatePoint(precision="fp32", size=64, flops=1e10 / repeat),
            RatePoint(precision="fp32", size=128, flops=4e10 / repeat),
        ),
        host_bandwidth=5e9,
        layers=(row(0, 1, forward_s), row(1, 4, forward_s * 3)),
    )


FOUND = ProfileFound(
    chips=(chip(0, "fast", 0.001), chip(1, "fast", 0.003), chip(2, "slow", 0.006, repeat=3)),
    links=(
        LinkFound(
            source="fast",
            target="fast",
            where="in_node",
            chips=1,
            points=((1024, 1e-5), (2**20, 5e-4)),
        ),
    ),
    reductions=(),
    versions={"torch": "2.13.0"},
)
REQUEST = ProfileRequest(
    function=BLOCKS,
    model="blocks",
    processes=(ProcessSpec(chip="fast"),) * 2 + (ProcessSpec(chip="slow", repeat=3),),
    rows=(2,),
    seq_len=8,
)


def test_processes_of_one_chip_become_one_row_per_way() -> None:
    """The median of the processes that measured the same; single layers by their number."""
    found = profile_object(REQUEST, FOUND)
    fast, slow = found["chips"]
    assert (fast["chip"], slow["chip"]) == ("fast", "slow")
    assert [r["layer"] for r in fast["rows"]] == [0, [1, 4]]
    assert fast["rows"][0]["forward_s"] == pytest.approx(0.002)
    assert slow["rows"][1]["backward_s"] == pytest.approx(0.036)
    assert found["links"][0]["points"] == [[1024, 1e-5], [2**20, 5e-4]]


def test_an_earlier_profile_keeps_what_was_not_measured_again() -> None:
    """Chips and links that are new replace the old ones."""
    earlier = {
        "seq_len": 8,
        "precision": "fp32",
        "sequence_parallel": True,
        "chips": [{"chip": "fast", "rows": ["old"]}, {"chip": "other", "rows": ["kept"]}],
        "links": [{"source": "a", "target": "b", "where": "between_nodes", "chips": 1}],
    }
    assert problems_with(earlier, REQUEST) == []
    found = profile_object(REQUEST, FOUND, earlier)
    assert [c["chip"] for c in found["chips"]] == ["fast", "other", "slow"]
    assert found["chips"][0]["rows"] != ["old"]
    assert [(link["source"], link["target"]) for link in found["links"]] == [
        ("a", "b"),
        ("fast", "fast"),
    ]


def test_profiles_at_another_length_do_not_mix() -> None:
    """Rows would be compared that have nothing in common."""
    other = {"seq_len": 16, "precision": "fp32", "sequence_parallel": True}
    assert problems_with(other, REQUEST) == ["seq_len is 16 there, 8 here"]


def test_records_are_chips_that_the_catalogue_takes(tmp_path: Path) -> None:
    """The slowest process of a chip counts, the best product is its peak."""
    path = tmp_path / "chips.json"
    path.write_text(json.dumps(chip_records(FOUND)))
    catalog = load_catalog(path)
    assert catalog.get("fast").peak("fp32") == pytest.approx(4e10)
    assert catalog.get("slow").peak("fp32") == pytest.approx(4e10 / 3, rel=1e-3)
    assert catalog.get("slow").memory_bandwidth == pytest.approx(1e10 / 3, rel=1e-3)
    assert "all work 3 times" in str(catalog.record("slow")["sources"])
    assert main(["chips", "check", str(path)]) == 0


@needs_torch
def test_measures_two_unlike_chips_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every layer of every chip in every way, and the link between them."""
    target, records = tmp_path / "profile.json", tmp_path / "chips.json"
    arguments = ["--process", "fast", "--process", "slow=2", "--apart", "--device", "cpu"]
    ways = ["--rows", "1,2", "--seq-len", "8", "--seconds", "0.01"]
    files = ["-o", str(target), "--catalogue", str(records)]
    assert main(["profile", BLOCKS, *arguments, *ways, *files]) == 0
    said = capsys.readouterr().out
    assert "all work 2 times" in said
    found = json.loads(target.read_text())
    assert [c["chip"] for c in found["chips"]] == ["fast", "slow"]
    for measured in found["chips"]:
        assert [(r["micro_batch_rows"], r["layer"]) for r in measured["rows"]] == [
            (rows, layer) for rows in (1, 2) for layer in range(6)
        ]
        for one in measured["rows"]:
            assert one["forward_s"] > 0
            assert one["backward_s"] > 0
        assert measured["rows"][3]["parameter_bytes"] == 4 * (12 * 20 + 20 + 20 * 12 + 12)
    fast, slow = ({r["layer"]: r for r in c["rows"][6:]} for c in found["chips"])
    assert fast[3]["activation_bytes"] == slow[3]["activation_bytes"] > 0
    assert {(k["source"], k["target"], k["where"]) for k in found["links"]} == {
        ("fast", "slow", "between_nodes"),
        ("slow", "fast", "between_nodes"),
    }
    for link in found["links"]:
        times = [seconds for _, seconds in link["points"]]
        assert times == sorted(set(times))
    assert load_catalog(records).get("slow").torch_device == "cpu"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gpt2", "--process", "fast=no"], "is no chip and number"),
        (["gpt2", "--rows", "1,x"], "is no list of numbers"),
        (["gpt2", "--process", "a", "--chip", "b"], "goes with torchrun"),
        (["t5-v1.1-base"], "is a layer graph, which nothing can run"),
        (["gpt2", "--precision", "fp64"], "fp64 is not profiled"),
    ],
)
def test_mistakes_end_with_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any process is started."""
    assert main(["profile", *arguments]) == 2
    assert said in capsys.readouterr().err
