"""The tool that runs the pages' commands: what it finds, keeps, rewrites and refuses."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load():
    spec = importlib.util.spec_from_file_location("examples", ROOT / "docs" / "examples.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["examples"] = module
    spec.loader.exec_module(module)
    return module


examples = _load()

PAGE = """\
# A page

<!-- setup
echo hidden > secret.txt
-->

<!-- file: input.txt -->

```yaml
alpha: 1
beta: 2
```

```text
$ cat secret.txt input.txt
hidden
alpha: 0
beta: 2
$ printf 'one\\n' && \\
    printf 'two  \\n\\n'
```

Prose between.

<!-- not run: needs a GPU -->
```text
$ nvidia-smi
GPU 0
```

<!-- exits 3 -->
```text
$ echo problem >&2; exit 3
```

```sh
planner plan shown without output
```
"""

TRUE_PAGE = PAGE.replace("alpha: 0", "alpha: 1").replace(
    "'two  \\n\\n'\n", "'two  \\n\\n'\none\ntwo\n"
).replace("exit 3\n", "exit 3\nproblem\n")  # fmt: skip


def test_commands_run_in_order_in_one_folder_and_their_output_is_rewritten(tmp_path):
    assert examples.run_page(PAGE, tmp_path) == TRUE_PAGE
    assert (tmp_path / "input.txt").read_text() == "alpha: 1\nbeta: 2\n"


def test_a_true_page_stays_as_it_is(tmp_path):
    assert examples.run_page(TRUE_PAGE, tmp_path) == TRUE_PAGE


def test_blocks_are_found_with_their_lines():
    blocks = list(examples.blocks_of(PAGE.splitlines()))
    assert [bool(b.setup) for b in blocks] == [True, False, False, False]
    assert blocks[1].file == "input.txt"
    first, second = blocks[2].shown
    assert PAGE.splitlines()[first.line - 1] == "$ cat secret.txt input.txt"
    assert first.output == ("hidden", "alpha: 0", "beta: 2")
    assert second.command == ("$ printf 'one\\n' && \\", "    printf 'two  \\n\\n'")
    assert blocks[3].exits == 3


def _failure(page, folder):
    with pytest.raises(examples.ExampleFailed) as caught:
        examples.run_page(page, folder)
    return caught.value


@pytest.mark.parametrize(
    ("page", "line", "said"),
    [
        ("text\n\n```text\n$ true\n$ echo why; exit 4\n```\n", 5, "exits with 4: echo why"),
        ("<!-- exits 2 -->\n```text\n$ true\n```\n", 2, "no command exits with 2"),
        ("```text\n$ false | tail -1\n```\n", 2, "exits with 1"),
        ("```text\n$ true\n", 1, "not closed"),
        ("<!-- setup\nexit 9\n-->\n", 1, "exits with 9"),
    ],
)
def test_what_fails_is_named_with_its_line(tmp_path, page, line, said):
    failure = _failure(page, tmp_path)
    assert failure.line == line
    assert said in str(failure)


OUTPUT = ["head", "a  12 s  ███", "b  13 s", "c  14 s", "tail 5"]


@pytest.mark.parametrize(
    ("shown", "agrees"),
    [
        (["head", "…"], True),
        (["…", "tail 5"], True),
        (["head", "[...]", "c  14 s", "tail 5"], True),
        (["…", "b  13 s", "…"], True),
        (["head", "…", "tail 5", "…"], True),
        (["head"], False),
        (["…", "c  14 s"], False),
        (["a  12 s  ███", "…"], False),
        (["…", "c  14 s", "…", "b  13 s", "…"], False),
        (["head", "  …"], False),
    ],
)
def test_a_cut_matches_any_lines(shown, agrees):
    assert examples.matches(shown, OUTPUT) is agrees


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (["old"], OUTPUT),
        (["head", "…", "tail 9"], ["head", "…", "tail 5"]),
        (["…", "b   9 s", "c   8 s", "…"], ["…", "b  13 s", "c  14 s", "…"]),
        (["head", "a   7 s  █", "[...]"], ["head", "a  12 s  ███", "[...]"]),
        (["[...]", "a   7 s  █"], ["[...]", *OUTPUT[1:]]),
    ],
)
def test_new_figures_keep_the_cuts(shown, expected):
    assert examples.rewritten(shown, OUTPUT) == tuple(expected)


def test_lines_beside_a_cut_that_are_gone_are_named(tmp_path):
    page = "```text\n$ echo 'quite another thing'\n…\nproof   12 %\n```\n"
    failure = _failure(page, tmp_path)
    assert failure.line == 2
    assert "'proof   12 %'" in str(failure)


def test_check_writes_nothing_and_a_failed_page_stays(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("```text\n$ echo new\nold\n```\n")
    assert examples.main(["--check", str(page)]) == 1
    assert page.read_text() == "```text\n$ echo new\nold\n```\n"
    assert "+new" in capsys.readouterr().err
    assert examples.main([str(page)]) == 0
    assert page.read_text() == "```text\n$ echo new\nnew\n```\n"
    assert examples.main(["--check", str(page)]) == 0
    page.write_text("```text\n$ echo newer\nnew\n$ exit 1\n```\n")
    assert examples.main([str(page)]) == 1
    assert page.read_text() == "```text\n$ echo newer\nnew\n$ exit 1\n```\n"


def test_pictures_that_the_commands_made_are_put_beside_the_page(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "pictures").mkdir()
    page.write_text("![a](pictures/a.png)\n![b](pictures/b.png)\n```text\n$ echo 1 > a.png\n```\n")
    assert examples.main([str(page)]) == 0
    assert (tmp_path / "pictures" / "a.png").read_text() == "1\n"
    assert not (tmp_path / "pictures" / "b.png").exists()


def test_progress_and_the_time_that_it_took_are_left_out(tmp_path):
    said = (
        "planning tp=8 · 125 ms", "4 of 12 scenarios, 1 known already, 96 s left",
        "proving · best 16.91 s · bound 8.514 s · gap 49.6 %",
        "wrote plan.json; planner show plan.json draws it again · 6.129 s", "the answer",
    )  # fmt: skip
    command = "printf '%s\\n' " + " ".join(f"'{line}'" for line in said)
    ran = examples.run_command(command, tmp_path)
    assert ran.lines == ("wrote plan.json; planner show plan.json draws it again", "the answer")
