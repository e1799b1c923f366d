"""What cannot fit: exit 3, the binding device, GiB short per device, remedies that were checked."""

import json
import re
import shlex
from dataclasses import dataclass
from functools import cache

import pytest

from tests.scenarios.terminal import Ended, planner


@cache
def refused(*line: str) -> Ended:
    """Asks for a plan, and for the error as JSON."""
    return planner("plan", *line, "--format", "json")


@dataclass(frozen=True)
class TooMuch:
    """A command line without a plan, and the chip that binds."""

    name: str
    line: tuple[str, ...]
    chip: str


CASES = [
    TooMuch("Llama-3-8B on one A100-40", ("llama-3-8b", "1xA100-SXM-40GB"), "A100"),
    TooMuch("Llama-3-70B on one node of A100", ("llama-3-70b", "8xA100-SXM-80GB"), "A100"),
    TooMuch(
        "S2: Llama-3-8B on six gaming cards",
        ("llama-3-8b", "four-4090-two-3090", "s2-full-fine-tune-8b"),
        "RTX",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_it_is_proven_infeasible(case):
    ended = refused(*case.line)
    assert (ended.code, ended.error["code"]) == (3, "infeasible")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_error_names_the_binding_device_and_the_shortfall(case):
    message = refused(*case.line).error["message"]
    assert re.search(rf"[0-9.]+ GiB are missing per device \(binding: [^)]*{case.chip}", message)


def test_nothing_is_written_and_nobody_sees_a_trace(tmp_path):
    ended = planner("plan", *CASES[0].line, "-o", tmp_path / "plan.json")
    assert (ended.code, list(tmp_path.iterdir())) == (3, [])
    assert "Traceback" not in ended.err


def test_sharing_is_told_from_replication():
    """People add up the memory of their cards; what is replicated does not add up."""
    assert "do not add up to one pool" in refused(*CASES[2].line).error["message"]


def test_the_shortfall_of_s2_is_a_knife_edge():
    """tp 2 x pp 3, split 10/13/9 with full recomputation, peaks near 22 GiB plus context."""
    message = refused(*CASES[2].line).error["message"]
    (short,) = re.findall(r"([0-9.]+) GiB are missing", message)
    assert float(short) < 2


def test_the_shortfall_is_what_is_missing():
    """One A100-40: 16 bytes for 8.03e9 parameters are 119.7 GiB, of which it has 39.6 − 3.5."""
    message = refused(*CASES[0].line).error["message"]
    (short,) = re.findall(r"([0-9.]+) GiB are missing", message)
    assert 119.7 - 36.1 < float(short) < 119.7 - 36.1 + 16


def test_a_remedy_is_offered_and_works():
    """What the message says to try is tried: it must end with a plan."""
    line = ("llama-2-7b", "2xA100-SXM-40GB", "--global-batch", "8")
    error = refused(*line).error
    assert error["code"] == "infeasible"
    flags = [r.split(": ")[0] for r in error["remedies"] if r.startswith("--set ")]
    assert flags
    for flag in flags:
        assert planner("plan", *line, *shlex.split(flag), "-q").code == 0


def test_a_limit_of_time_is_no_proof():
    """Exit 4 says nothing about feasibility, and JSON says so too."""
    ended = planner("plan", "llama-3-70b", "mixed-128", "--time-limit", "0", "--format", "json")
    assert ended.code in (0, 4)
    assert ended.code == 0 or json.loads(ended.out)["error"]["code"] == "limit_reached"
