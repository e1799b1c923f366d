"""What went wrong, for people and for programs."""

import io

from rich.console import Console

from planner.errors import InfeasibleError, InputError, Problem
from planner.report.problems import error_object, failure


def text_of(error) -> str:
    file = io.StringIO()
    Console(file=file, width=200).print(failure(error))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def test_every_problem_has_its_place_and_its_remedy():
    error = InputError(
        [
            Problem("job.yaml:3: seq_len", "'long' should be a whole number", "write 4096"),
            Problem("cluster.yaml:7: nodes[0].chip", "'A100' fits 4 chips"),
        ]
    )
    assert text_of(error).splitlines() == [
        "error: job.yaml:3: seq_len: 'long' should be a whole number",
        "    try: write 4096",
        "error: cluster.yaml:7: nodes[0].chip: 'A100' fits 4 chips",
        "2 problems",
    ]


def test_square_brackets_are_not_taken_for_markup():
    error = InputError([Problem("nodes[0]", "[bold] is no chip")])
    assert "nodes[0]: [bold] is no chip" in text_of(error)


def test_what_cannot_fit_shows_its_remedies():
    error = InfeasibleError(
        "every chip is 4.2 GiB short",
        where="v100-0/0",
        remedies=["--set job.optimizer=adam8bit", "2 more chips"],
    )
    text = text_of(error)
    assert text.startswith("proven infeasible v100-0/0")
    assert "    try: --set job.optimizer=adam8bit" in text
    assert "    try: 2 more chips" in text


def test_the_json_object_has_the_four_fields():
    body = error_object(InfeasibleError("too big", where="n0/0", remedies=["smaller"]))["error"]
    assert body == {
        "code": "infeasible",
        "message": "too big",
        "where": "n0/0",
        "remedies": ["smaller"],
    }


def test_the_json_object_of_invalid_input_lists_all_problems():
    body = error_object(InputError([Problem("a", "x", "y"), Problem("b", "z")]))["error"]
    assert body["problems"] == [
        {"where": "a", "message": "x", "remedy": "y"},
        {"where": "b", "message": "z", "remedy": ""},
    ]
