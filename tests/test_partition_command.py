"""``planner partition`` and the file that it writes, as people and scripts meet them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.inputs.document import Document
from planner.inputs.model import load_model
from planner.partition_file import parse_partition, verify_partition

GRAPH = """
name: two-branches
devices:
  - {name: fast, count: 2, memory_bytes: 8_000_000}
  - {name: slow, count: 1}
nodes:
  - {name: stem, time_s: {fast: 0.002, slow: 0.004}}
  - {name: left, time_s: {fast: 0.004, slow: 0.009}, memory_bytes: 1_000_000}
  - {name: right, time_s: {fast: 0.005}}
  - {name: join, time_s: 0.003}
  - {name: left.backward, time_s: {fast: 0.008, slow: 0.02}, with: left}
tensors:
  - {from: stem, to: [left, right], time_s: 0.0002}
  - {from: left, to: [join], time_s: 0.0002}
  - {from: right, to: [join], time_s: 0.0002}
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.yaml"
    path.write_text(GRAPH)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def answer(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    code, out, err = run(capsys, "partition", *arguments, "--format", "json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    assert verify_partition(parse_partition(Document("out", found))) == []
    return found


def test_an_operator_graph_is_split_over_its_devices(
    graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The left branch fills one fast device: 12 ms and both of its tensors."""
    found = answer(capsys, graph)
    assert found["certificate"]["status"] == "optimal"
    assert found["certificate"]["objective_s"] == pytest.approx(0.0124)
    by_node = {n: s["device"] for s in found["stages"] for n in s["nodes"]}
    assert by_node["left"] == by_node["left.backward"] == "fast"
    assert by_node["right"] == "fast"


def test_the_same_input_gives_the_same_bytes(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file in files:
        assert run(capsys, "partition", graph, "--interleaved", "-q", "-o", file)[0] == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_model_is_priced_on_the_chips_of_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = "2xA100-SXM-80GB + 2xV100-SXM2-32GB @ 100Gb/s"
    found = answer(capsys, "clip-vit-l14", cluster)
    assert found["certificate"]["status"] == "optimal"
    assert {s["device"] for s in found["stages"]} == {"A100-SXM-80GB", "V100-SXM2-32GB"}
    held = [n for s in found["stages"] for n in s["nodes"]]
    assert sorted(held) == sorted(x.name for x in load_model("clip-vit-l14").graph.layers)
    free = answer(capsys, "clip-vit-l14", cluster, "--interleaved")
    assert free["certificate"]["objective_s"] <= found["certificate"]["objective_s"]


def test_check_verifies_a_partition_and_finds_a_change(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "partition.json"
    assert run(capsys, "partition", graph, "-q", "-o", file)[0] == 0
    assert "largest load  12.4 ms" in run(capsys, "show", file)[1]
    assert run(capsys, "show", file, "--format", "json")[1] == file.read_text()
    code, out, _ = run(capsys, "check", file, graph)
    assert code == 0
    assert "verified from scratch" in out
    assert "5 nodes, 3 tensors" in out
    data = json.loads(file.read_text())
    data["stages"][0]["nodes"], data["stages"][1]["nodes"] = (
        data["stages"][1]["nodes"],
        data["stages"][0]["nodes"],
    )
    file.write_text(json.dumps(data))
    code, _, err = run(capsys, "check", file)
    assert code == 2
    assert "comes before" in err or "has a load of" in err


def test_memory_decides_how_much_is_recomputed(capsys: pytest.CaptureFixture[str]) -> None:
    """One copy of a 7B model in training does not fit on two 40 GB chips whatever is recomputed."""
    code, _, err = run(capsys, "partition", "llama-2-7b", "2xA100-SXM-40GB")
    assert code == 3
    assert "do not fit" in err
    found = answer(capsys, "llama-2-7b", "4xA100-SXM-40GB", "--set", "job.seq_len=4096")
    assert any("recomputation" in line for line in found["assumptions"])
    room = {d["name"]: d["memory_bytes"] for d in found["graph"]["devices"]}
    assert all(s["memory_bytes"] <= room[s["device"]] for s in found["stages"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gpt2",), "a model needs a CLUSTER"),
        (("gpt2", "dgx-a100-x16"), "128 chips; one copy of a graph is put on 64 at most"),
    ],
)
def test_mistakes_end_with_2_and_say_what_to_try(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "partition", *arguments)
    assert code == 2
    assert said in err
    assert out == ""


def test_an_operator_graph_takes_no_cluster(
    graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "partition", graph, "2xA100-SXM-80GB")
    assert code == 2
    assert "names its own devices" in err


def test_total_load_is_the_time_of_one_micro_batch(
    graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, graph, "--objective", "total-load")
    assert found["certificate"]["objective_s"] == pytest.approx(0.022)  # all on one fast device
    assert len(found["stages"]) == 1


def test_a_report_has_stages_and_proof(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "partition", graph)
    assert code == 0
    assert "largest load  12.4 ms" in out
    assert "optimal: no partition onto these devices is better" in out
