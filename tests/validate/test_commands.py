"""``planner validate`` and ``planner calibrate`` as people and scripts meet them."""

import csv
import io
import json

import pytest
from rows import csv_text

from planner.validate.predict import HEADER
from tests.scenarios.terminal import planner

RUNS = [
    {"id": "a", "step_time_s": 5.3},
    {"id": "b", "micro_batch": 2, "step_time_s": 5.1},
    {"id": "c", "micro_batch": 4, "step_time_s": 5.0},
    {"id": "d", "hidden": ""},
    {"id": "e", "peak_mem_GiB": 60},
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "runs.csv"
    path.write_text(csv_text(*RUNS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def calibration(rows):
    path = rows.with_name("mine.json")
    assert planner("calibrate", rows, "-o", path, "--quiet").code == 0
    return path


def test_a_validation_says_how_wrong_it_is_and_what_it_could_not_predict(rows):
    ended = planner("validate", rows)
    assert ended.code == 0
    assert "5 rows · 4 predicted · 3 scored" in ended.text
    assert "hidden is not stated" in ended.text
    assert "by chip A100-80 3" in ended.text


def test_predictions_are_written_one_per_row_in_the_columns_of_the_contract(rows, tmp_path):
    out = tmp_path / "predictions.csv"
    assert planner("validate", rows, "--out", out, "--quiet").code == 0
    lines = list(csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"))))
    assert tuple(lines[0]) == HEADER
    assert [line["id"] for line in lines] == ["a", "b", "c", "d", "e"]
    assert [line["predictable"] for line in lines] == ["yes", "yes", "yes", "no", "yes"]
    assert lines[3]["reason"] == "hidden is not stated"
    assert lines[4]["abs_pct_error"] == ""
    assert float(lines[4]["predicted_peak_memory_gib"]) > 10


def test_predictions_may_go_to_standard_output(rows):
    ended = planner("validate", rows, "--out", "-")
    assert ended.out.splitlines()[0] == ",".join(HEADER)
    assert "rows · 4 predicted" in " ".join(ended.err.split())


def test_scores_are_json_for_programs(rows):
    found = json.loads(planner("validate", rows, "--format", "json").out)
    assert found["scored"] == 3
    assert found["abs_pct_error"]["rows"] == 3
    assert found["not_predictable"] == [{"reason": "hidden is not stated", "ids": ["d"]}]


def test_the_page_lists_the_worst_rows_first(rows, tmp_path):
    page = tmp_path / "page.md"
    assert planner("validate", rows, "--page", page, "--quiet").code == 0
    text = page.read_text(encoding="utf-8")
    assert "| **all** | 3 |" in text
    assert "**Not predictable.**" in text


def test_software_generations_can_be_left_out(rows, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(csv_text({"family": "llm-foundry", "step_time_s": 5}), encoding="utf-8")
    known = json.loads(planner("validate", path, "--format", "json").out)
    mean = json.loads(planner("validate", path, "--no-software", "--format", "json").out)
    assert known["abs_pct_error"]["bias"] != mean["abs_pct_error"]["bias"]


def test_a_file_that_is_no_table_is_one_clear_error(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("model,speed\nx,9\n")
    ended = planner("validate", path)
    assert ended.code == 2
    assert "no column chip" in ended.text
    assert "Traceback" not in ended.text


def test_calibration_shows_the_error_before_and_after(rows):
    ended = planner("calibrate", rows)
    assert ended.code == 0
    assert "before" in ended.text
    assert "after, the same rows" in ended.text
    assert "products: a100-sxm 16" in ended.text


def test_calibration_brings_its_own_rows_closer(rows, calibration):
    found = json.loads(calibration.read_text(encoding="utf-8"))["abs_pct_error"]
    assert found["after"]["mean"] < found["before"]["mean"]
    assert found["after"]["rows"] == 3
    again = json.loads(
        planner("validate", rows, "--calibration", calibration, "--format", "json").out
    )
    assert again["abs_pct_error"]["mean"] == pytest.approx(found["after"]["mean"], rel=2e-3)


def test_the_same_rows_give_the_same_file(rows, calibration, tmp_path):
    again = tmp_path / "again.json"
    planner("calibrate", rows, "-o", again, "--quiet")
    assert again.read_bytes() == calibration.read_bytes()


def test_an_estimate_takes_the_calibration(calibration):
    layout = ["llama-2-7b", "8xA100-SXM-80GB", "zero: 3, micro_batch_rows: 2", "--format", "json"]
    plain = json.loads(planner("estimate", *layout).out)
    mine = json.loads(planner("estimate", *layout, "--calibration", calibration).out)
    assert mine["step_time_s"] != plain["step_time_s"]


def test_a_plan_made_with_a_calibration_verifies_from_its_file_alone(calibration, tmp_path):
    plan = tmp_path / "plan.json"
    made = planner(
        "estimate", "gpt2", "2xA100-SXM-80GB", "tp: 1", "--global-batch", "8", "--calibration",
        calibration, "-o", plan, "--quiet",
    )  # fmt: skip
    assert made.code == 0
    assert planner("check", plan).code == 0


@pytest.mark.parametrize("text", ["{}", "no json", '{"format": "planner-calibration"}'])
def test_another_file_is_no_calibration(tmp_path, text):
    path = tmp_path / "mine.json"
    path.write_text(text)
    ended = planner("estimate", "gpt2", "2xA100-SXM-80GB", "tp: 1", "--calibration", path)
    assert ended.code == 2
    assert "mine.json" in ended.text


def test_rows_without_a_measured_time_teach_nothing(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(csv_text({}))
    ended = planner("calibrate", path)
    assert ended.code == 2
    assert "measured time" in ended.text
