"""A second process computes the same, and whatever becomes of it, the result arrives."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from planner.aside import Aside, _start
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.solve import SolveParams, solve


def scaled(shared: int, interrupted: Callable[[], bool], factor: int) -> int:
    """Shared times a factor."""
    assert not interrupted()
    return shared * factor


def process_id(shared: int, interrupted: Callable[[], bool]) -> int:
    """Which process computes."""
    return os.getpid()


def deadly(shared: int, interrupted: Callable[[], bool], parent: int) -> str:
    """Ends every process but the parent."""
    if os.getpid() != parent:
        os._exit(9)
    return "here"


def failing(shared: int, interrupted: Callable[[], bool]) -> int:
    """A computation that has no result anywhere."""
    raise ZeroDivisionError


def endless(shared: int, interrupted: Callable[[], bool], parent: int) -> str:
    """Runs for ever in another process."""
    while os.getpid() != parent:
        pass
    return "here"


@pytest.mark.parametrize("processes", [1, 2])
def test_answers_are_those_of_the_functions_in_any_order_of_asking(processes):
    with Aside(7, processes=processes) as aside:
        answers = [aside.ask(scaled, k) for k in range(5)]
        assert [a.get() for a in reversed(answers)] == [28, 21, 14, 7, 0]
        assert answers[3].get() == 21


def test_work_begins_in_another_process_only_where_there_are_two():
    with Aside(0, processes=2) as aside:
        assert aside.ask(process_id).get() != os.getpid()
        assert aside.ask(process_id, now=False).get() == os.getpid()
    with Aside(0, processes=1) as aside:
        assert aside.ask(process_id).get() == os.getpid()


def test_a_process_that_dies_costs_nothing_but_time():
    with Aside(3, processes=2) as aside:
        first, second = aside.ask(deadly, os.getpid()), aside.ask(scaled, 2)
        assert (first.get(), second.get()) == ("here", 6)
        assert aside.ask(scaled, 5).get() == 15


def test_what_cannot_be_sent_is_done_here():
    with Aside(lambda: 3, processes=2) as aside:
        assert aside.ask(process_id).get() == os.getpid()


def test_an_error_is_raised_where_the_result_is_asked_for():
    with Aside(0, processes=2) as aside:
        answer = aside.ask(failing)
        with pytest.raises(ZeroDivisionError):
            answer.get()


def test_an_interrupted_wait_ends_the_other_process():
    asked: list[bool] = []

    def interrupted() -> bool:
        asked.append(True)
        return len(asked) > 2

    with Aside(0, processes=2, interrupted=interrupted) as aside:
        assert aside.ask(endless, os.getpid()).get() == "here"


def test_what_lies_in_the_current_directory_is_not_imported(monkeypatch, tmp_path: Path):
    for name in ("queue", "pickle", "planner"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    with Aside(0, processes=2) as aside:
        assert aside.ask(process_id).get() != os.getpid()
    assert not (tmp_path / "ran").exists()


def test_the_other_process_ends_with_the_program_even_in_the_middle_of_its_work():
    process = _start()
    assert process is not None
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(pickle.dumps(0) + pickle.dumps((endless, (os.getpid(),))))
    process.stdin.close()  # as when the program is killed
    assert process.wait(timeout=60) == 0
    process.stdout.close()


def test_a_plan_has_the_same_bytes_with_one_process_and_with_two():
    changes = parse_overrides(["job.seq_len=1024", "job.global_batch=64"])
    texts = []
    for processes in (1, 2):
        loaded = (
            load_model("gpt2", changes),
            load_cluster("8xA100-SXM-80GB + 8xV100-SXM2-32GB @ 100Gb/s", None, changes),
            load_job(None, changes),
        )
        texts.append(solve(*loaded, params=SolveParams(gap=0.2, processes=processes)).to_json())
    assert texts[0] == texts[1]
