"""Layer-graph files: any acyclic graph becomes layers in order and tensors across cuts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InputError
from planner.graphs.model_graph import ModelGraph
from planner.inputs.document import Document
from planner.inputs.layer_graph import layer_graph_resolved, read_layer_graph
from planner.inputs.model import load_model, model_from_resolved, model_json_schema


def layer(name: str, **changes: Any) -> dict[str, Any]:
    figures = {"forward_flops_per_row": 100.0, "parameters": 10, "activation_bytes_per_row": 4}
    return {"name": name, **figures, **changes}


def edge(source: str, target: str, per_token: int = 8, per_row: int = 0) -> dict[str, Any]:
    sizes = {"elements_per_token": per_token, "elements_per_row": per_row}
    return {"from": source, "to": target, **sizes}


def spec(called: str, *edges: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "g",
        "tokens_per_row": 16,
        "layers": [layer(n) for n in called.split()],
        "edges": list(edges),
        **changes,
    }


def build(data: dict[str, Any]) -> ModelGraph:
    return read_layer_graph(Document("g.yaml", data))[1]


def names(graph: ModelGraph) -> list[str]:
    return [x.name for x in graph.layers]


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        build(data)
    return str(caught.value)


def test_layers_come_in_topological_order_and_ties_follow_the_file() -> None:
    graph = build(spec("d c b a", edge("a", "d"), edge("b", "d"), edge("c", "a")))
    assert names(graph) == ["c", "b", "a", "d"]


def test_a_tensor_with_many_readers_crosses_each_cut_once() -> None:
    graph = build(spec("enc d0 d1", edge("enc", "d0"), edge("enc", "d1"), edge("d0", "d1", 2)))
    crossing = [graph.boundary_bytes(cut, 1, 16, 2) for cut in (1, 2)]
    assert crossing == [16 * 8 * 2, 16 * (8 + 2) * 2]


def test_sizes_per_row_do_not_grow_with_the_sequence() -> None:
    graph = build(spec("a b", edge("a", "b", 0, 5)))
    assert graph.boundary_bytes(1, 3, 1000, 2) == 3 * 5 * 2


def test_the_width_of_a_layer_is_its_input_for_one_token() -> None:
    graph = build(spec("a b c", edge("a", "c", 8), edge("b", "c", 0, 40)))
    assert graph.layers[2].shape.hidden == 8 + 3


def test_rows_are_one_token_when_nothing_else_is_said() -> None:
    data = spec("a")
    data.pop("tokens_per_row")
    assert build(data).max_seq_len == 1


def test_a_whole_float_is_a_count() -> None:
    data = spec("a", layers=[layer("a", parameters=24e6)])
    assert build(data).parameters == 24_000_000


def test_the_shipped_encoder_decoder_sends_two_tensors_across_its_middle() -> None:
    graph = load_model("t5-v1.1-base").graph
    first_decoder = names(graph).index("decoder.block.0")
    assert graph.boundary_bytes(first_decoder, 1, 512, 2) == 2 * 512 * 768 * 2


def test_a_cycle_is_named_layer_by_layer() -> None:
    said = refused(spec("a b c d", edge("a", "b"), edge("b", "c"), edge("c", "b", 8)))
    assert "the layers form a cycle: b -> c -> b" in said


def test_a_layer_that_feeds_itself_is_a_cycle() -> None:
    assert "cycle: a -> a" in refused(spec("a", edge("a", "a")))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (spec("a a"), "layers[1].name: 'a' is already used"),
        (spec("encoder b", edge("encodr", "b")), "edges[0].from: no layer 'encodr'"),
        (spec("a b"), "'b' is not connected to 'a'"),
        (spec("a b", edge("a", "b", 0)), "edges[0]: carries nothing"),
        (spec("a b", edge("a", "b"), edge("a", "b")), "'a' to 'b' is given twice"),
        (spec("a b c", edge("a", "b"), edge("a", "c", 9)), "'a' has another edge of a different"),
        (spec(""), "layers: Tuple should have at least 1 item"),
        (spec("a", layers=[layer("a", parameters=-1)]), "-1 should be greater than or equal to 0"),
        (spec("a", layers=[layer("a", parameters=1.5)]), "1.5 should be a whole number"),
        (spec("a", layers=[layer("a", parameters=True)]), "true should be a number"),
        (spec("a", layers=[layer("a", parametres=1)]), "did you mean parameters?"),
        (spec("a", layers=[layer("")]), "should have at least 1 character"),
        (spec("a", tokens_per_row=0), "0 should be greater than or equal to 1"),
    ],
)
def test_refuses_a_graph_that_cannot_be(data: dict[str, Any], said: str) -> None:
    assert said in refused(data)


def test_all_wrong_edges_come_at_once() -> None:
    assert refused(spec("a b", edge("x", "b"), edge("a", "y"))).count("no layer") == 2


def test_problems_of_a_file_carry_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("name: g\nlayers:\n  - name: a\n    parameters: many\n")
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert f"{path}:4: layers[0].parameters: 'many' should be a whole number" in str(caught.value)


def test_a_file_that_is_no_model_says_what_a_model_is(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("nodes: []\n")
    with pytest.raises(InputError, match=r"neither a Hugging Face config\.json"):
        load_model(tmp_path / "x.yaml")


def test_the_schema_names_its_units() -> None:
    schema = model_json_schema()
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    text = json.dumps(definitions["GraphLayer"])
    assert "forward_flops_per_row" in text
    assert "activation_bytes_per_row" in text


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Connected acyclic graphs whose file order is shuffled."""
    count = draw(st.integers(1, 8))
    order = draw(st.permutations(range(count)))
    sizes = [draw(st.integers(1, 5)) for _ in range(count)]
    pairs = {(draw(st.integers(0, j - 1)), j) for j in range(1, count)}
    if count > 1:
        ends = st.integers(0, count - 1)
        more = draw(st.lists(st.tuples(ends, ends), max_size=6))
        pairs |= {(min(p), max(p)) for p in more if p[0] != p[1]}
    edges = [edge(f"n{i}", f"n{j}", sizes[i], i) for i, j in sorted(pairs)]
    layers = [layer(f"n{i}", parameters=i) for i in order]
    return {
        "name": "g",
        "tokens_per_row": draw(st.integers(1, 4)),
        "layers": layers,
        "edges": draw(st.permutations(edges)),
    }


@given(graphs())
def test_the_resolved_values_rebuild_the_same_graph(data: dict[str, Any]) -> None:
    ordered, graph = read_layer_graph(Document("g", data))
    resolved = json.loads(json.dumps(layer_graph_resolved(ordered)))
    assert model_from_resolved(resolved) == graph


@given(graphs())
def test_every_edge_goes_forward(data: dict[str, Any]) -> None:
    assert all(e.source < e.target for e in build(data).edges)


@given(graphs(), st.randoms(use_true_random=False))
def test_the_order_of_edges_in_the_file_has_no_meaning(data: dict[str, Any], random: Any) -> None:
    shuffled = list(data["edges"])
    random.shuffle(shuffled)
    assert build({**data, "edges": shuffled}) == build(data)


@given(graphs(), st.integers(1, 3))
def test_a_cut_carries_each_tensor_that_is_still_needed(data: dict[str, Any], rows: int) -> None:
    graph = build(data)
    place = {n: i for i, n in enumerate(names(graph))}
    for cut in range(1, len(graph.layers)):
        needed = {
            e["from"]: e["elements_per_token"] * 7 + e["elements_per_row"]
            for e in data["edges"]
            if place[e["from"]] < cut <= place[e["to"]]
        }
        assert graph.boundary_bytes(cut, rows, 7, 2) == rows * 2 * sum(needed.values())
