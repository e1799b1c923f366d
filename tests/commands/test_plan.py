"""``planner plan`` as people and scripts meet it."""

import json
import signal
import subprocess
import sys

import pytest

from planner.commands.plan import gates, stop_on_interrupt
from planner.errors import InfeasibleError, NoPlanFound
from planner.plan import Plan
from tests.command_line import ROOT, TINY
from tests.example_plan import example_plan


def test_plan_says_what_it_understood_before_the_plan(run):
    ended = run("plan", *TINY)
    assert ended.code == 0
    assert ended.out.index("124,439,808 parameters") < ended.out.index("step time")
    assert "8 rows of 1,024 tokens" in ended.out
    assert "A100-SXM-40GB" in ended.out


def test_plan_to_standard_output_is_json_and_nothing_else(run, tiny_plan):
    ended = run("plan", *TINY, "-o", "-")
    assert ended.code == 0
    assert ended.out == tiny_plan.read_text(encoding="utf-8")
    assert "step time" in ended.err


def test_plan_as_json_prints_the_plan(run, tiny_plan):
    ended = run("plan", *TINY, "--format", "json")
    assert ended.out == tiny_plan.read_text(encoding="utf-8")


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


def test_a_bound_on_exact_time_is_refused_for_another_objective(run):
    asked = ("--objective", "cost", "--min-tokens-per-s", "1")
    ended = run("plan", *TINY, *asked, "--exact-bound")
    assert ended.code == 2
    assert "--exact-bound" in ended.err
    assert "the objective is cost" in ended.err
    assert "--objective step_time" in ended.err


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


def test_an_old_plan_as_hint_is_read_and_checked(run, tiny_plan, tmp_path):
    assert run("plan", *TINY, "-q", "--hint", tiny_plan).code == 0
    edited = tmp_path / "edited.json"
    edited.write_text(tiny_plan.read_text().replace('"seed": 0', '"seed": 7'))
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


def test_an_interrupt_outside_the_search_ends_with_130(run, monkeypatch, tiny_plan):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("planner.commands.show.read_plan", stop)
    assert run("show", tiny_plan).code == 130
