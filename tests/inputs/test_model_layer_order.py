"""Layer graphs are put into the order that promises the shortest steps, and say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.inputs.layer_order import MAX_LAYERS
from planner.inputs.model import load_model, model_from_resolved
from planner.inputs.overrides import parse_overrides

TOWERS = """
name: towers
layers:
  - {name: a.0, forward_flops_per_row: 4e12, parameters: 1, activation_bytes_per_row: 1}
  - {name: b.0, forward_flops_per_row: 4e12, parameters: 1, activation_bytes_per_row: 1}
  - {name: a.1, forward_flops_per_row: 4e12, parameters: 1, activation_bytes_per_row: 1}
  - {name: b.1, forward_flops_per_row: 4e12, parameters: 1, activation_bytes_per_row: 1}
  - {name: head, forward_flops_per_row: 1e12, parameters: 1, activation_bytes_per_row: 1}
edges:
  - {from: a.0, to: a.1, elements_per_row: 500_000_000}
  - {from: b.0, to: b.1, elements_per_row: 500_000_000}
  - {from: a.1, to: head, elements_per_row: 1}
  - {from: b.1, to: head, elements_per_row: 1}
"""


@pytest.fixture
def towers(tmp_path: Path) -> Path:
    path = tmp_path / "towers.yaml"
    path.write_text(TOWERS)
    return path


def test_towers_in_turns_are_put_one_after_the_other(towers: Path) -> None:
    model = load_model(towers)
    assert [layer.name for layer in model.graph.layers] == ["a.0", "a.1", "b.0", "b.1", "head"]
    assert all(e.source < e.target for e in model.graph.edges)
    assert len(model.notes) == 1
    assert model.notes[0].startswith("layers are cut along another order than the file's; ")
    assert "no split of the graph into 2 to 5 equal stages has a shorter takt" in model.notes[0]


def test_keep_order_keeps_the_order_of_the_file(towers: Path) -> None:
    model = load_model(towers, parse_overrides(["model.keep_order=true"]))
    assert [layer.name for layer in model.graph.layers] == ["a.0", "b.0", "a.1", "b.1", "head"]
    assert "cut along" not in " ".join(model.notes)


def test_a_resolved_model_keeps_the_order_that_was_chosen(towers: Path) -> None:
    model = load_model(towers)
    again = model_from_resolved(json.loads(json.dumps(model.resolved)))
    assert again == model.graph


def test_clip_says_what_its_order_may_lose() -> None:
    model = load_model("clip-vit-l14")
    said = next(note for note in model.notes if "cut along" in note)
    assert "the order of the file; the takt of 2 to 8 equal stages is at most 20.3% above" in said
    assert "(proved over 406 cuts)" in said
    assert len({layer.name for layer in model.graph.layers}) == 41


@pytest.mark.parametrize("name", ["t5-v1.1-base", "unet-256"])
def test_nothing_is_said_where_there_is_only_one_order(name: str) -> None:
    assert not any("cut along" in note for note in load_model(name).notes)


def test_the_skip_connections_of_a_u_net_cross_its_bottom() -> None:
    graph = load_model("unet-256").graph
    bottom = [layer.name for layer in graph.layers].index("bottom.conv2")
    skipped = sum(64 * 2**d * (256 >> d) ** 2 for d in range(4))
    direct = 1024 * 16**2
    assert graph.boundary_bytes(bottom, 1, 1, 2) == 2 * (skipped + direct)


def test_very_long_graphs_keep_their_order_and_say_why(tmp_path: Path) -> None:
    count = MAX_LAYERS + 1
    figures = "forward_flops_per_row: 1, parameters: 1, activation_bytes_per_row: 1"
    lines = ["name: long", "layers:"]
    lines += [f"  - {{name: n{i}, {figures}}}" for i in range(count)]
    lines += ["edges:"]
    lines += [f"  - {{from: n0, to: n{i}, elements_per_row: 1}}" for i in range(1, count)]
    path = tmp_path / "long.yaml"
    path.write_text("\n".join(lines))
    model = load_model(path)
    assert [layer.name for layer in model.graph.layers] == [f"n{i}" for i in range(count)]
    assert "more than 400 to compare" in model.notes[0]
