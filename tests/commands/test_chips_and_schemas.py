"""What ships with the program, on the command line."""

import json


def test_chips_show_gives_the_source_of_every_figure(run):
    ended = run("chips", "show", "910B3-64GB", "--format", "json")
    record = json.loads(ended.out)["record"]
    assert record["sources"]["bf16_tflops"]


def test_an_ambiguous_chip_lists_its_variants(run):
    ended = run("chips", "show", "A100")
    assert ended.code == 2
    assert "A100-SXM-40GB" in ended.err


def test_chips_list_filters_by_text(run):
    listed = json.loads(run("chips", "list", "v100", "--format", "json").out)
    assert {c["alias"] for c in listed} >= {"V100-SXM2-16GB", "V100-SXM2-32GB"}
    assert all("100" in c["alias"] for c in listed)


def test_a_sparse_rate_in_an_own_chip_is_refused(run, tmp_path):
    own = tmp_path / "chips.json"
    own.write_text(
        json.dumps({"chips": [{"id": "my-h100", "inherit": "H100-SXM-80GB", "bf16_tflops": 1979}]})
    )
    ended = run("chips", "check", own)
    assert ended.code == 2
    assert "989" in ended.err


def test_schemas_are_json_schemas(run):
    for name in json.loads(run("schema", "--format", "json").out):
        assert json.loads(run("schema", name).out)["type"] == "object"


def test_an_unknown_schema_names_the_nearest(run):
    ended = run("schema", "plann")
    assert ended.code == 2
    assert "did you mean plan?" in ended.err
