"""What a profile may say, and what is said about one that is wrong."""

import json

import pytest

from planner.errors import InputError
from planner.inputs.document import Document
from planner.inputs.profile import (
    check_layers,
    job_for_profile,
    load_profile,
    looks_like_profile,
    parse_profile,
)
from tests.profile_inputs import LINK, document, job, model, profile, row, rows


def problems(value):
    with pytest.raises(InputError) as error:
        parse_profile(Document("profile.json", value), "p")
    return [(p.where, p.message, p.remedy) for p in error.value.problems]


def changed(**fields):
    return document(chips=[{"chip": "A100-SXM-80GB", "rows": [{**rows()[0], **fields}]}])


def test_a_good_profile_is_read(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(document(links=[LINK])))
    found = load_profile(file)
    assert found.name == "mine"
    assert found.spec.seq_len == 512
    assert len(found.spec.chips[0].rows) == 12


def test_a_shipped_profile_is_found_by_name():
    assert len(load_profile("opt-350m-sailor").spec.chips) == 7


def test_a_name_that_nothing_has_is_an_error_with_the_nearest():
    with pytest.raises(InputError, match="did you mean opt-350m-sailor"):
        load_profile("opt-350m-sailer")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("forward_s", -1.0, "greater than or equal to 0"),
        ("backward_s", float("nan"), "finite"),
        ("tensor_parallel", 0, "greater than or equal to 1"),
        ("activation_bytes", 1.5, "whole number"),
        ("layer", [3, 3], "holds no layer"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(field, value, words):
    ((where, message, _),) = problems(changed(**{field: value}))
    assert f"chips[0].rows[0].{field}" in where
    assert words in message


def test_an_unknown_key_is_named_with_the_nearest_known_one():
    ((where, message, remedy),) = problems(changed(forward_ms=1.0))
    assert "chips[0].rows[0].forward_ms" in where
    assert message == "unknown key"
    assert "forward_s" in remedy


def test_every_problem_is_reported_at_once():
    bad = document(seq_len=0, precision="fp12", chips=[{"chip": "", "rows": []}])
    assert len(problems(bad)) == 4


def test_a_layer_that_is_measured_twice_is_named():
    twice = [*rows(), row(1, 1, 1, 0.1, 0.1)]
    ((where, message, _),) = problems(document(chips=[{"chip": "a", "rows": twice}]))
    assert "rows[12]" in where
    assert message == "layer 1 was given by rows[0] already"


def test_a_hole_among_numbered_layers_is_named():
    holed = [row(0, 1, 1, 0.1, 0.1), row(2, 1, 1, 0.1, 0.1)]
    ((_, message, _),) = problems(document(chips=[{"chip": "a", "rows": holed}]))
    assert message == "a at tp=1, 1 rows lacks layer 1 of 3"


def test_link_points_must_increase():
    ((where, message, _),) = problems(document(links=[{**LINK, "points": [[2, 0.1], [1, 0.2]]}]))
    assert "links[0].points[1]" in where
    assert "1 bytes in 0.2 s after 2 bytes in 0.1 s" in message


def test_a_link_that_stands_twice_is_named():
    ((where, message, _),) = problems(document(links=[LINK, LINK]))
    assert "links[1]" in where
    assert message == "the same link as links[0]"


def test_layers_are_checked_against_the_model():
    assert check_layers(profile(), model().graph) == []
    short = profile(chips=[{"chip": "a", "rows": [row([0, 2], 1, 1, 0.1, 0.1)]}])
    (problem,) = check_layers(short, model().graph)
    assert "no measurement of layer 2 (layer2)" in problem.message
    long = profile(chips=[{"chip": "a", "rows": [row([0, 5], 1, 1, 0.1, 0.1)]}])
    (problem,) = check_layers(long, model().graph)
    assert problem.message == "4 is no layer"
    named = profile(chips=[{"chip": "a", "rows": [row("head", 1, 1, 0.1, 0.1)]}])
    (problem,) = check_layers(named, model().graph)
    assert problem.message == "'head' is no layer"


def test_a_job_takes_what_it_leaves_open_from_the_profile():
    found, notes = job_for_profile(job(), "three", profile().spec)
    assert (found.spec.seq_len, found.spec.precision) == (512, "bf16")
    assert found.spec.micro_batch_rows == (1, 2, 4)
    assert not found.spec.techniques.sequence_parallel
    assert len(notes) == 4


def test_rows_beyond_the_batch_are_not_tried():
    found, _ = job_for_profile(job(global_batch=3), "three", profile().spec)
    assert found.spec.micro_batch_rows == (1, 2)


def test_a_job_that_contradicts_the_profile_is_refused_with_the_flag_that_helps():
    with pytest.raises(InputError) as error:
        job_for_profile(job(seq_len=1024, precision="fp16"), "three", profile().spec)
    assert [p.where for p in error.value.problems] == ["job: seq_len", "job: precision"]
    assert "--set job.seq_len=512" in error.value.problems[0].remedy


def test_profiles_are_told_from_chip_files():
    assert looks_like_profile(document())
    assert not looks_like_profile({"chips": [{"id": "x"}]})
    assert not looks_like_profile([])
