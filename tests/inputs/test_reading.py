"""Files become plain values that know their lines; everything wrong is said at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from planner.errors import InputError
from planner.inputs import reading
from planner.inputs.document import DataPath, Document, render_path, with_value
from planner.inputs.problems import field_error, nearest, problems_from_validation
from planner.inputs.reading import parse_document, parse_value, read_document
from planner.inputs.resources import fixture, fixture_names

scalars = st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(max_size=8)
floats = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | floats,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


class Link(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    rate_gb_per_s: float = Field(gt=0)
    kind: str

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        if value == "carrier-pigeon":
            raise field_error("no such kind", "use tcp or ib")
        return value


class Fleet(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    links: tuple[Link | str, ...]
    memory_gib: int = Field(default=80, gt=0)
    hosts: dict[str, Link] = {}


def problems(text: str, model: type[BaseModel] | None = Fleet) -> list[str]:
    document = parse_document(text, "f.yaml")
    with pytest.raises(ValidationError) as caught:
        Fleet.model_validate(document.data)
    return [str(p) for p in problems_from_validation(caught.value, document, model)]


def message(text: str, *, is_json: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        parse_document(text, "f", is_json=is_json)
    return str(caught.value)


@given(values)
def test_json_reads_as_the_standard_library_does(value: object) -> None:
    text = json.dumps(value, indent=1)
    assert parse_document(text, "f", is_json=True).data == value


@given(values)
def test_json_text_reads_the_same_as_yaml_flow(value: object) -> None:
    text = json.dumps(value)
    assume("\\u" not in text and "\x7f" not in text)  # YAML escapes these differently
    assert parse_document(text, "f").data == value


def test_every_value_of_a_json_file_knows_its_line() -> None:
    document = parse_document('{\n "a": [1,\n  {"b": 2}],\n "c": 3}', "f", is_json=True)
    found = [document.line(p) for p in [("a",), ("a", 1, "b"), ("c",)]]
    assert found == [2, 3, 4]


def test_a_missing_value_is_placed_at_what_encloses_it() -> None:
    document = parse_document("nodes:\n  - chip: T4\n", "f.yaml")
    assert document.where(("nodes", 0, "count")) == "f.yaml:2: nodes[0].count"


def test_yaml_takes_no_for_text_and_exponents_for_numbers() -> None:
    data = parse_document("[no, on, 1e9, 12:30, 010, 1_000, 0x10, '7', ~]", "f").data
    assert data == ["no", "on", 1e9, "12:30", 10, 1000, 16, "7", None]


def test_duplicate_keys_are_all_reported_with_both_lines() -> None:
    assert message("a: 1\nb: 2\na: 3\nb: 4\n").splitlines()[::2] == [
        "f:3: a: the key is given twice, first on line 1",
        "f:4: b: the key is given twice, first on line 2",
    ]


def test_duplicate_keys_in_json_are_an_error() -> None:
    assert "b.c: the key is given twice" in message('{"b": {"c": 1, "c": 1}}', is_json=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("a: [1", "not valid YAML"),
        ("a: .nan", "not a finite number"),
        ("a: 1e999", "not a finite number"),
        ("1: 2", "put the key in quotes"),
        ("--- 1\n--- 2", "second document"),
        ("a: !mine 3", "tag !mine"),
        ("a: !!python/name:os.system", "is not known here"),
        ("a: &x [*x]", "nested deeper"),
        ("a: \x00", "not valid YAML"),
        (f"a: {'9' * 5000}", "too many digits"),
    ],
)
def test_refuses_bad_yaml(text: str, said: str) -> None:
    assert said in message(text)


def test_refuses_yaml_that_aliases_blow_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_VALUES", 10_000)
    rows = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 9)]
    assert "more than 10,000 values" in message("\n".join(rows))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" ", "empty"),
        ('{"a": NaN}', "not a finite number"),
        ('{"a": 1e999}', "not a finite number"),
        ('{"a": 1,}', "Expecting a key"),
        ("[1 2]", "Expecting ',' or ']' in column 4"),
        ('{"a" 1}', "Expecting ':'"),
        ('{"a": 1} x', "after the end"),
        ("[" * 200, "nested deeper"),
        (f"[{'9' * 5000}]", "too many digits"),
        ("{a: 1}", "not valid JSON"),
        ('["\\ud800"]', "half of a surrogate pair"),
    ],
)
def test_refuses_bad_json(text: str, said: str) -> None:
    assert said in message(text, is_json=True)


def test_missing_files_folders_and_binary_files_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    said = []
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "b.json"):
        with pytest.raises(InputError) as caught:
            read_document(path)
        said.append(caught.value.problems[0].message)
    assert said == ["no such file", "is a folder", "is not a text file: byte 0 is not UTF-8"]


def test_a_file_without_suffix_is_json_when_it_starts_like_json(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text('\ufeff{\n\t"a": 1}', encoding="utf-8")
    assert read_document(tmp_path / "plan").data == {"a": 1}


def test_all_problems_of_a_file_come_in_its_order_with_units_and_nearest_keys() -> None:
    text = "memory_gib: 0\nlinks:\n  - rate_gb_per_s: fast\n    knd: tcp\n"
    assert problems(text) == [
        "f.yaml:1: memory_gib: 0 should be greater than 0\n"
        "    try: memory_gib is in GiB (2**30 bytes)",
        "f.yaml:3: links[0].rate_gb_per_s: 'fast' should be a number\n"
        "    try: rate_gb_per_s is in GB/s (1e9 bytes per second)",
        "f.yaml:3: links[0].kind: is missing\n    try: give kind",
        "f.yaml:4: links[0].knd: unknown key\n    try: did you mean kind?",
    ]


def test_unknown_keys_below_free_names_find_the_nearest_key() -> None:
    text = "links: []\nhosts:\n  a: {rate_gb_per_s: 1, kind: ib, kinds: ib}"
    assert problems(text) == ["f.yaml:3: hosts.a.kinds: unknown key\n    try: did you mean kind?"]


def test_an_unknown_key_that_resembles_nothing_lists_the_known_ones() -> None:
    assert problems("links: []\nzzz: 1") == [
        "f.yaml:2: zzz: unknown key\n    try: known keys: hosts, links, memory_gib"
    ]


def test_validators_can_say_what_to_try() -> None:
    text = "links: [{rate_gb_per_s: 1, kind: carrier-pigeon}]"
    assert problems(text) == [
        "f.yaml:1: links[0].kind: 'carrier-pigeon': no such kind\n    try: use tcp or ib"
    ]


def test_values_are_replaced_by_path_without_touching_the_document() -> None:
    document = Document("f", {"nodes": [{"count": 1}, {"count": 2}]})
    changed = with_value(document, ("nodes", 1, "count"), 5)
    assert (changed.data, document.data) == (
        {"nodes": [{"count": 1}, {"count": 5}]},
        {"nodes": [{"count": 1}, {"count": 2}]},
    )


@pytest.mark.parametrize(
    "path", [("nodes", 9, "count"), ("nodes", "count"), ("nodes", 0, "count", "x")]
)
def test_a_path_that_leads_nowhere_is_refused(path: DataPath) -> None:
    with pytest.raises(LookupError):
        with_value(Document("f", {"nodes": [{"count": 1}]}), path, 5)


def test_paths_are_written_as_people_write_them() -> None:
    assert render_path(("nodes", 2, "links", 0, "kind")) == "nodes[2].links[0].kind"


def test_set_values_are_read_like_yaml() -> None:
    assert [parse_value(t) for t in ("4096", "fp16", "[1, 2]", "")] == [4096, "fp16", [1, 2], ""]


def test_nearest_ignores_case() -> None:
    assert nearest("LLAMA-3-8b", ["llama-3-8b", "gpt2"]) == ["llama-3-8b"]


def test_shipped_files_are_found_by_name_in_any_case() -> None:
    found = fixture("models", "Llama-3-8B")
    assert found is not None
    assert found.name == "llama-3-8b.json"


def test_unknown_and_path_like_names_find_no_shipped_file() -> None:
    assert [fixture("models", n) for n in ("nope", "../models/gpt2", "gpt2.json")] == [None] * 3


def test_shipped_names_are_sorted_and_carry_no_suffix() -> None:
    names = fixture_names("models")
    assert list(names) == sorted(names)
    assert "t5-v1.1-base" in names
