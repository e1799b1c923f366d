"""The command line as people and scripts meet it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from planner.cli import main
from planner.commands.output import write_file, write_text
from planner.commands.plan import gates, stop_on_interrupt
from planner.commands.progress import progress_text
from planner.errors import InfeasibleError, InputError, NoPlanFound
from planner.plan import Plan
from tests.example_plan import example_plan

ROOT = Path(__file__).resolve().parents[1]
TINY = ["gpt2", "2xA100-SXM-40GB", "--global-batch", "8", "--seq-len", "1024"]


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> dict[str, object]:
        return json.loads(self.out)["error"]


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process."""

    def run_(*arguments: str | Path) -> Ended:
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run_


def shell(
    *arguments: str | Path, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m planner`` in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return subprocess.run(
        [sys.executable, "-m", "planner", *map(str, arguments)],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small plan that the program made."""
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    assert main(["plan", *TINY, "-o", str(path), "--quiet"]) == 0
    return path


# --- plan -------------------------------------------------------------------------------------


def test_plan_says_what_it_understood_before_the_plan(run):
    ended = run("plan", *TINY)
    assert ended.code == 0
    assert ended.out.index("124,439,808 parameters") < ended.out.index("step time")
    assert "8 rows of 1,024 tokens" in ended.out
    assert "A100-SXM-40GB" in ended.out


def test_plan_to_standard_output_is_json_and_nothing_else(run, plan_file):
    ended = run("plan", *TINY, "-o", "-")
    assert ended.code == 0
    assert ended.out == plan_file.read_text(encoding="utf-8")
    assert "step time" in ended.err


def test_plan_as_json_prints_the_plan(run, plan_file):
    ended = run("plan", *TINY, "--format", "json")
    assert ended.out == plan_file.read_text(encoding="utf-8")


def test_a_quiet_plan_says_nothing(run, tmp_path):
    ended = run("plan", *TINY, "-q", "-o", tmp_path / "p.json")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_a_set_has_the_last_word_over_the_short_option(run):
    ended = run("plan", *TINY, "--set", "job.global_batch=4", "--format", "json")
    assert json.loads(ended.out)["inputs"]["job"]["resolved"]["global_batch"] == 4


def test_a_forbidden_technique_leaves_the_job(run):
    ended = run("plan", *TINY, "--forbid", "tensor-parallel", "--format", "json")
    plan = json.loads(ended.out)
    assert plan["inputs"]["job"]["resolved"]["tensor_parallel"] is False
    assert all(
        len(r["devices"]) == 1
        for p in plan["pipelines"]
        for s in p["stages"]
        for r in s["replicas"]
    )


def test_a_forbidden_technique_with_a_typo_names_the_nearest(run):
    ended = run("plan", *TINY, "--forbid", "zero-1", "--forbid", "magic")
    assert ended.code == 2
    assert "did you mean zero1?" in ended.err
    assert "magic" in ended.err


def test_a_gate_that_fails_exits_6_and_keeps_the_plan(run, tmp_path):
    ended = run("plan", *TINY, "--min-mfu", "0.999", "-o", tmp_path / "p.json")
    assert ended.code == 6
    assert (tmp_path / "p.json").is_file()
    assert "--min-mfu" in ended.err


def test_a_failed_gate_is_a_json_error_object(run):
    ended = run("plan", *TINY, "--max-step-time", "0.000001", "--format", "json")
    assert ended.code == 6
    assert ended.error["code"] == "gate_failed"
    assert set(ended.error) == {"code", "message", "where", "remedies"}


def test_gates_that_hold_say_nothing():
    assert gates(example_plan(), max_step_time=13.0, min_mfu=0.4) is None


def test_both_gates_are_named_when_both_fail():
    failed = gates(example_plan(), max_step_time=1.0, min_mfu=0.9)
    assert failed is not None
    assert "--max-step-time" in failed.message
    assert "--min-mfu" in failed.message


def test_all_inputs_are_checked_at_once(run):
    ended = run("plan", "lama-2-13b", "8xA100", "--precision", "bf17")
    assert ended.code == 2
    assert "did you mean llama-2-13b" in ended.err
    assert "A100-SXM-80GB" in ended.err
    assert "bf17" in ended.err
    assert "Traceback" not in ended.err


def test_input_errors_as_json_list_every_problem(run):
    ended = run("plan", "lama-2-13b", "8xA100", "--format", "json")
    assert ended.code == 2
    assert ended.error["code"] == "invalid_input"
    assert len(ended.error["problems"]) >= 2
    assert ended.err == ""


def test_an_unwritable_place_is_found_before_the_search(run, tmp_path):
    ended = run("plan", *TINY, "-o", tmp_path / "no" / "such" / "p.json")
    assert ended.code == 2
    assert ended.out == ""
    assert "cannot be written" in ended.err


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (
            InfeasibleError("4.2 GiB short", where="v100-0/0", remedies=["--set a=b"]),
            3,
            "infeasible",
        ),
        (NoPlanFound("out of time"), 4, "limit_reached"),
    ],
)
def test_what_the_solver_finds_out_has_its_exit_code(run, monkeypatch, error, code, name):
    def fail(*_: object, **__: object) -> Plan:
        raise error

    monkeypatch.setattr("planner.solve.solve", fail)
    text = run("plan", *TINY)
    assert text.code == code
    assert error.message in text.err
    assert all(remedy in text.err for remedy in error.remedies)
    assert run("plan", *TINY, "--format", "json").error["code"] == name


def test_a_bug_exits_1_with_one_line_and_a_way_to_the_trace(run, monkeypatch):
    def fail(*_: object, **__: object) -> Plan:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("planner.solve.solve", fail)
    ended = run("plan", *TINY, "-q")
    assert ended.code == 1
    assert "ZeroDivisionError" in ended.err
    assert "PLANNER_TRACEBACK=1" in ended.err
    assert "Traceback" not in ended.err
    monkeypatch.setenv("PLANNER_TRACEBACK", "1")
    assert "Traceback" in run("plan", *TINY, "-q").err


def test_the_log_holds_what_a_clock_says(run, tmp_path):
    run("plan", *TINY, "-q", "--log", tmp_path / "log.jsonl", "-o", tmp_path / "p.json")
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "done"
    assert all("elapsed_s" in e for e in events)
    assert "elapsed" not in (tmp_path / "p.json").read_text()


def test_an_old_plan_as_hint_is_read_and_checked(run, plan_file, tmp_path):
    assert run("plan", *TINY, "-q", "--hint", plan_file).code == 0
    edited = tmp_path / "edited.json"
    edited.write_text(plan_file.read_text().replace('"seed": 0', '"seed": 7'))
    ended = run("plan", *TINY, "-q", "--hint", edited)
    assert ended.code == 2
    assert "is not the hash of the content" in ended.err


def test_the_first_interrupt_asks_and_the_second_ends():
    with stop_on_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_after_the_integer_program_still_gives_the_plan(tmp_path):
    script = (
        "import signal, sys, planner.solve as s; from planner.cli import main; check = s.verify\n"
        "def interrupted(plan): signal.raise_signal(signal.SIGINT); return check(plan)\n"
        "s.verify = interrupted\n"
        f"sys.exit(main(['plan', *{TINY!r}, '-q', '-o', {str(tmp_path / 'p.json')!r}]))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert ended.returncode == 0
    assert (tmp_path / "p.json").is_file()


def test_an_interrupt_outside_the_search_ends_with_130(run, monkeypatch, plan_file):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("planner.commands.show.read_plan", stop)
    assert run("show", plan_file).code == 130


# --- show, simulate, check --------------------------------------------------------------------


def test_show_draws_what_plan_printed(run, plan_file):
    shown = run("show", plan_file).out
    planned = run("plan", *TINY).out
    assert shown == planned


def test_show_as_json_is_the_file(run, plan_file):
    assert run("show", plan_file, "--format", "json").out == plan_file.read_text()


def test_simulate_agrees_with_the_plan(run, plan_file):
    ended = run("simulate", plan_file, "--format", "json")
    answer = json.loads(ended.out)
    assert answer["simulated_step_time_s"] == pytest.approx(
        json.loads(plan_file.read_text())["estimate"]["simulated_step_time_s"]
    )
    assert "as planned" in run("simulate", plan_file).out


def test_simulate_writes_a_trace_with_one_track_per_device(run, plan_file, tmp_path):
    trace = tmp_path / "trace.json"
    assert run("simulate", plan_file, "--trace", trace, "--all").code == 0
    events = json.loads(trace.read_text())["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    devices = {
        d
        for p in json.loads(plan_file.read_text())["pipelines"]
        for s in p["stages"]
        for r in s["replicas"]
        for d in r["devices"]
    }
    assert all(any(name.startswith(device) for name in names) for device in devices)


def test_check_recognises_every_kind_of_file(run, plan_file, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("global_batch: 64\n")
    layout = tmp_path / "layout.yaml"
    layout.write_text("tp: 8\npp: 4\n")
    ended = run("check", "llama-2-7b", "8xA100-SXM-80GB", job, layout, plan_file)
    assert ended.code == 0
    for kind in ("model", "cluster", "job", "layout", "plan"):
        assert kind in ended.out
    assert "verified from scratch" in ended.out


def test_check_reports_the_problems_of_all_files_at_once(run, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("global_batch: many\nprecison: fp16\n")
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("nodes:\n  - name: a\n    devices:\n      - chip: A100\n")
    ended = run("check", job, cluster)
    assert ended.code == 2
    assert f"{job}:1: global_batch" in ended.err
    assert "precision" in ended.err
    assert "A100-SXM-80GB" in ended.err


def test_check_as_json_is_one_object(run, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("global_batch: 0\n")
    ended = run("check", job, "--format", "json")
    assert ended.code == 2
    assert ended.error["problems"][0]["where"].startswith(str(job))
    good = json.loads(run("check", "llama-2-7b", "--format", "json").out)
    assert good["files"][0]["ok"] is True


def test_check_holds_a_model_against_the_cluster_beside_it(run, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("precision: bf16\n")
    ended = run("check", "llama-2-7b", "8xV100-SXM2-32GB", job)
    assert ended.code == 2
    assert "V100" in ended.err
    assert "bf16" in ended.err


def test_check_refuses_a_file_that_is_nothing_known(run, tmp_path):
    stray = tmp_path / "stray.yaml"
    stray.write_text("colour: blue\n")
    ended = run("check", stray)
    assert ended.code == 2
    assert "not recognised" in ended.err


def test_check_rejects_a_plan_that_was_edited(run, plan_file, tmp_path):
    edited = tmp_path / "edited.json"
    plan = json.loads(plan_file.read_text())
    plan["estimate"]["mfu"] = 0.99
    edited.write_text(json.dumps(plan))
    ended = run("check", edited)
    assert ended.code == 2
    assert "mfu" in ended.err


def test_check_against_the_same_inputs_passes(run, plan_file):
    ended = run(
        "check", plan_file, "--against", *TINY[:2],
        "--set", "job.global_batch=8", "--set", "job.seq_len=1024",
    )  # fmt: skip
    assert (ended.code, "made for these inputs" in ended.out) == (0, True)


def test_check_against_another_job_exits_5(run, plan_file):
    ended = run("check", plan_file, "--against", *TINY[:2], "--set", "job.global_batch=16")
    assert ended.code == 5
    assert "another job" in ended.err
    as_json = run("check", plan_file, "--against", *TINY[:2], "--format", "json")
    assert as_json.error["code"] == "stale_plan"


def test_a_plan_of_another_schema_version_is_named(run, plan_file, tmp_path):
    newer = tmp_path / "newer.json"
    newer.write_text(plan_file.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    ended = run("show", newer)
    assert ended.code == 2
    assert "schema version 9" in ended.err


def test_a_broken_plan_names_the_line(run, plan_file, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text(plan_file.read_text().replace('"in_flight": ', '"in_flight": "x", "was": '))
    ended = run("show", broken)
    assert ended.code == 2
    assert "broken.json:" in ended.err


def test_a_missing_plan_is_no_crash(run):
    ended = run("show", "nowhere.json")
    assert ended.code == 2
    assert "no such file" in ended.err


# --- chips and schema -------------------------------------------------------------------------


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


# --- the border -------------------------------------------------------------------------------


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


def test_help_and_checks_do_not_load_the_solver():
    script = (
        "import sys; from planner.cli import main; "
        "main(['check', 'llama-2-7b', '8xA100-SXM-80GB']); main(['--help']); "
        "sys.exit('ortools' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False
    )
    assert ended.returncode == 0


def test_no_escape_sequences_where_no_colour_is_wanted(plan_file):
    ended = shell("show", plan_file, NO_COLOR="1", FORCE_COLOR="1")
    assert ended.returncode == 0
    assert "\x1b" not in ended.stdout


def test_colours_only_on_request_in_a_pipe(plan_file):
    assert "\x1b" not in shell("show", plan_file).stdout
    assert "\x1b" in shell("show", plan_file, FORCE_COLOR="1").stdout


def test_a_terminal_without_utf8_gets_ascii(plan_file):
    ended = shell("show", plan_file, PYTHONIOENCODING="ascii")
    assert ended.returncode == 0
    assert ended.stdout.isascii()
    assert "?" not in ended.stdout


def test_json_is_utf8_whatever_the_terminal_speaks(plan_file):
    ended = shell("show", plan_file, "--format", "json", PYTHONIOENCODING="ascii")
    assert json.loads(ended.stdout) == json.loads(plan_file.read_text(encoding="utf-8"))


def test_a_reader_that_goes_away_is_no_bug(plan_file):
    command = f"{sys.executable} -m planner show {plan_file} --format json | head -c 10"
    ended = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""


def test_it_works_from_another_folder(tmp_path):
    ended = shell("check", "llama-3-8b", "s1-a100-v100", cwd=tmp_path)
    assert ended.returncode == 0
    assert "8,030,261,248" in ended.stdout


def test_no_user_mistake_shows_a_trace(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    for line in (
        ["plan", "bad.json", "8xA100-SXM-80GB"],
        ["plan", "gpt2", "2080 * 24090 * 2"],
        ["check", "bad.json"],
        ["show", "bad.json"],
        ["simulate", "bad.json"],
    ):
        ended = shell(*line, cwd=tmp_path)
        assert ended.returncode == 2, line
        assert "Traceback" not in ended.stderr


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "plan.json"
    target.write_text("old")

    def half(file) -> None:
        file.write("half of the new")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_file(str(target), half)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_written_file_keeps_its_mode(tmp_path):
    target = tmp_path / "plan.json"
    target.write_text("old")
    target.chmod(0o600)
    write_text(str(target), "new")
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_link_is_followed_and_not_replaced(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    write_text(str(link), "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_text(str(pipe), "through")
    reader.join(timeout=10)
    assert found == ["through"]
    assert pipe.is_fifo()


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        write_text(str(tmp_path), "x")


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
