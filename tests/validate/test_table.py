"""Reading a CSV file of measured runs: all problems at once, rows kept as written."""

import pytest
from rows import csv_text

from planner.errors import InputError
from planner.validate.table import parse_table, read_table


def problems(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_table(text, "rows.csv")
    return list(map(str, caught.value.problems))


def test_absent_columns_are_empty_cells():
    found = parse_table("chip,chip_count\nA100-80,8\n", "rows.csv")
    assert found.rows[0]["model"] == ""
    assert found.rows[0].id == "line-2"


def test_unknown_columns_are_named_and_left_alone():
    found = parse_table("chip,chip_count,colour\nA100-80,8,blue\n", "rows.csv")
    assert found.rows[0]["colour"] == "blue"
    assert found.notes == ("columns that nothing is known about: colour",)


def test_a_file_without_chips_is_another_file():
    found = problems("model,chips\nx,8\n")
    assert any("no column chip_count" in p for p in found)
    assert any("no column chip" in p for p in found)


def test_every_problem_is_told_with_its_line():
    text = "id,chip,chip_count\na,A100-80,8,9\nb,A100-80,8\nb,A100-80,8\n"
    found = problems(text)
    assert any("rows.csv:2" in p and "4 cells" in p for p in found)
    assert any("rows.csv:4" in p and "already on line 3" in p for p in found)


@pytest.mark.parametrize("text", ["", "\n\n", "chip,chip_count\n"])
def test_empty_files_are_errors(text):
    assert problems(text)


def test_columns_that_are_there_twice_are_an_error():
    assert "twice" in problems("chip,chip_count,chip\nA100-80,8,A100-80\n")[0]


def test_a_missing_file_is_told_plainly(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.csv")


def test_a_file_that_is_no_text_is_told_plainly(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"chip,chip_count\n\xff\xfe\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_table(path)


def test_quoted_cells_may_hold_commas_and_a_byte_order_mark_is_ignored(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('\ufeffchip,chip_count,notes\nA100-80,8,"a, b"\n', encoding="utf-8")
    assert read_table(path).rows[0]["notes"] == "a, b"


def test_order_of_rows_is_kept():
    found = parse_table(csv_text({"id": "b"}, {"id": "a"}), "rows.csv")
    assert [r.id for r in found.rows] == ["b", "a"]
