"""``--set``: one value by its path, with the nearest match where the path leads nowhere."""

import pytest

from planner.errors import InputError
from planner.inputs.cluster_spec import ClusterSpec
from planner.inputs.document import Document
from planner.inputs.job_spec import JobSpec
from planner.inputs.overrides import apply_overrides, parse_overrides

CLUSTER = Document(
    "c.yaml",
    {
        "nodes": [
            {"name": "fast", "devices": [{"chip": "A100-SXM-80GB", "count": 8}]},
            {"name": "slow", "devices": [{"chip": "V100-SXM2-32GB", "count": 8}]},
        ]
    },
)


def changed(*texts, document=CLUSTER, root="cluster", schema=ClusterSpec):
    return apply_overrides(document, parse_overrides(texts), root, schema).data


def refusal(*texts, **kwargs):
    with pytest.raises(InputError) as caught:
        changed(*texts, **kwargs)
    return caught.value.problems


def test_values_are_typed_as_in_a_file():
    job = changed(
        "job.global_batch=256",
        "job.precision=fp16",
        "job.micro_batch_rows=[1, 2]",
        "job.techniques.zero1=false",
        document=Document("job", {}),
        root="job",
        schema=JobSpec,
    )
    assert job == {
        "global_batch": 256,
        "precision": "fp16",
        "micro_batch_rows": [1, 2],
        "techniques": {"zero1": False},
    }


@pytest.mark.parametrize("path", ["nodes.1", "nodes[1]", "nodes.slow"])
def test_list_items_go_by_number_or_by_name(path):
    data = changed(f"cluster.{path}.devices.0.count=4")
    assert [n["devices"][0]["count"] for n in data["nodes"]] == [8, 4]


def test_fields_that_the_file_leaves_out_can_be_set():
    assert (
        changed("cluster.cross_vendor_collectives=cpu-staged")["cross_vendor_collectives"]
        == "cpu-staged"
    )


def test_other_inputs_are_left_alone():
    assert changed("job.seq_len=1024") == CLUSTER.data


def test_the_file_itself_is_not_changed():
    changed("cluster.nodes.0.devices.0.count=1")
    assert CLUSTER.data["nodes"][0]["devices"][0]["count"] == 8


def test_an_unknown_field_names_the_nearest():
    (problem,) = refusal("cluster.cross_vendor_colectives=none")
    assert problem.where == "--set cluster.cross_vendor_colectives=none"
    assert problem.remedy == "did you mean cross_vendor_collectives?"


def test_an_unknown_item_names_the_nearest():
    (problem,) = refusal("cluster.nodes.slwo.count=3")
    assert problem.message == "nodes has no item 'slwo'"
    assert problem.remedy == "did you mean slow?"


def test_an_item_beyond_the_list_is_an_error():
    (problem,) = refusal("cluster.nodes.7.count=3")
    assert problem.message == "nodes has no item '7'"


def test_all_wrong_paths_are_reported_at_once():
    assert len(refusal("cluster.nmae=x", "cluster.nodes.0.cuont=2")) == 2


def test_an_unknown_input_names_the_nearest():
    with pytest.raises(InputError, match="did you mean job"):
        parse_overrides(["jobs.seq_len=1"])


@pytest.mark.parametrize("text", ["job.seq_len", "seq_len=4", "=3"])
def test_text_that_assigns_nothing_is_an_error(text):
    with pytest.raises(InputError, match="not an assignment"):
        parse_overrides([text])


def test_without_a_schema_only_known_keys_can_be_changed():
    config = Document("config.json", {"hidden_size": 8})
    (problem,) = refusal("model.hiden_size=16", document=config, root="model", schema=None)
    assert problem.remedy == "did you mean hidden_size?"
