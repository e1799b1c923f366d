"""The border of the program: usage, terminals, other folders, mistakes, help."""

import json
import subprocess
import sys

import pytest

from planner.cli import commands
from planner.commands.progress import progress_text
from tests.command_line import ROOT, shell


@pytest.mark.parametrize("line", [["plan"], ["plan", "a", "b", "--gapp", "1"], ["nonsense"]])
def test_usage_errors_exit_2_with_a_pointer_to_help(run, line):
    ended = run(*line)
    assert ended.code == 2
    assert "--help" in ended.err
    assert ended.out == ""


def test_usage_errors_are_json_where_json_was_asked_for(run):
    ended = run("plan", "--format", "json")
    assert ended.code == 2
    assert ended.error["code"] == "usage"


def test_an_option_that_does_not_exist_yet_is_not_offered(run):
    assert "--max-cost" not in run("plan", "--help").out


def test_the_list_of_commands_says_what_each_says_of_itself():
    for name, command in commands().commands.items():
        first, *_ = command.load().help.split("\n\n")
        assert command.help == " ".join(first.split()), name


def test_help_loads_no_command():
    script = (
        "import sys; from planner.cli import main; main(['--help']); main(['plan', '--help']); "
        "sys.exit(any(m in sys.modules for m in ('planner.commands.run', 'planner.inputs.job')))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False
    )
    assert ended.returncode == 0


def test_help_checks_and_predictions_do_not_load_the_solver():
    script = (
        "import sys; from planner.cli import main; "
        "main(['check', 'llama-2-7b', '8xA100-SXM-80GB']); main(['--help']); "
        "main(['validate', 'costmodels/data/rows/h200_one_card.csv']); "
        "sys.exit('ortools' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False
    )
    assert ended.returncode == 0


def test_no_escape_sequences_where_no_colour_is_wanted(tiny_plan):
    ended = shell("show", tiny_plan, NO_COLOR="1", FORCE_COLOR="1")
    assert ended.returncode == 0
    assert "\x1b" not in ended.stdout


def test_colours_only_on_request_in_a_pipe(run, tiny_plan, monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    assert "\x1b" not in run("show", tiny_plan).out
    assert "\x1b" in shell("show", tiny_plan, FORCE_COLOR="1").stdout


def test_a_terminal_without_utf8_gets_ascii(tiny_plan):
    ended = shell("show", tiny_plan, PYTHONIOENCODING="ascii")
    assert ended.returncode == 0
    assert ended.stdout.isascii()
    assert "?" not in ended.stdout


def test_json_is_utf8_whatever_the_terminal_speaks(tiny_plan):
    ended = shell("show", tiny_plan, "--format", "json", PYTHONIOENCODING="ascii")
    assert json.loads(ended.stdout) == json.loads(tiny_plan.read_text(encoding="utf-8"))


def test_a_reader_that_goes_away_is_no_bug(tiny_plan):
    command = f"{sys.executable} -m planner show {tiny_plan} --format json | head -c 10"
    ended = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""


def test_it_works_from_another_folder(tmp_path):
    ended = shell("check", "llama-3-8b", "s1-a100-v100", cwd=tmp_path)
    assert ended.returncode == 0
    assert "8,030,261,248" in ended.stdout


@pytest.mark.parametrize(
    "line",
    [
        ["plan", "bad.json", "8xA100-SXM-80GB"],
        ["plan", "gpt2", "2080 * 24090 * 2"],
        ["check", "bad.json"],
        ["show", "bad.json"],
        ["simulate", "bad.json"],
    ],
)
def test_no_user_mistake_shows_a_trace(run, tmp_path, monkeypatch, line):
    (tmp_path / "bad.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    ended = run(*line)
    assert ended.code == 2
    assert "Traceback" not in ended.out + ended.err


def test_nor_does_a_process_of_its_own(tmp_path):
    ended = shell("show", "nowhere.json", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr


def test_progress_says_how_far_it_is():
    text = progress_text("searching", 12.43, 12.31, "")
    assert text == "searching · best 12.43 s · bound 12.31 s · gap 0.97 %"
    assert progress_text("reading", None, None, "") == "reading"


def test_completion_knows_models_clusters_chips_and_techniques():
    from planner.commands import options

    assert "llama-2-13b" in options.complete_model("llama-2")
    assert "s1-a100-v100" in options.complete_cluster("s1")
    assert "A100-SXM-80GB" in options.complete_chip("a100-s")
    assert "zero1" in options.complete_technique("z")
    assert "plan" in options.complete_schema("p")


def test_the_generated_reference_is_what_the_program_says():
    ended = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
