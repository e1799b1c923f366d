"""``planner run``: processes, measurements, checkpoints, and what happens when one dies."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from planner.cli import main
from planner.errors import InputError, Problem
from planner.plan import Plan, seal
from planner.runtime.launch import cause
from planner.runtime.saved import latest
from planner.runtime.seats import seating
from planner.runtime.worker import failure_of
from tests.runtime.conftest import needs_torch, run_python
from tests.runtime.run_plans import P, S, run_plan

NAMES = [f"layer{k}" for k in range(6)]
BLOCKS = "tests.runtime.small_blocks"
TINY = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 37,
    "max_position_embeddings": 64,
}


def two_stages() -> Plan:
    """Two devices, one after the other."""
    return run_plan([P([S((0, 3)), S((3, 6))], 2)], NAMES)


def two_replicas() -> Plan:
    """The same batch on two devices beside one another."""
    return run_plan([P([S((0, 6))], 1)] * 2, NAMES, zero=1)


def written(plan: Plan, folder: Path) -> str:
    path = folder / f"{plan.plan_id[:8]}.json"
    path.write_text(plan.to_json())
    return str(path)


@needs_torch
def test_runs_locally_and_goes_on_under_another_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four steps under one plan end as two of them and two more under another plan do."""
    common = ["--local", "--device", "cpu", "--format", "json", "--quiet", "--precision", "fp64"]
    model = ["--model", f"{BLOCKS}:blocks"]
    saved = tmp_path / "saved"

    def losses(plan: Plan, *more: str) -> list[float]:
        assert main(["run", written(plan, tmp_path), *common, *model, *more]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["step_time_s"]["planned"] == plan.estimate.step_time_s
        assert record["step_time_s"]["measured"] > 0
        assert [d["rank"] for d in record["devices"]] == [0, 1]
        assert all(d["peak_memory_bytes"] > 0 for d in record["devices"])
        assert all(d["forward_s"] > 0 for d in record["devices"])
        return [step["loss"] for step in record["steps"]]

    keeping = ["--checkpoint", str(saved), "--checkpoint-every", "2"]
    straight = losses(two_stages(), "--steps", "4", *keeping)
    assert sorted(p.name for p in saved.iterdir()) == ["step-00000002", "step-00000004"]
    assert latest(saved).name == "step-00000004"
    again = losses(two_replicas(), "--steps", "2", "--resume", str(saved / "step-00000002"))
    assert again == pytest.approx(straight[2:], rel=1e-12)
    assert straight[3] < straight[0]


@needs_torch
def test_names_the_rank_that_was_killed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The other rank only loses contact; the message is about the one that died."""
    plan = written(two_stages(), tmp_path)
    arguments = ["--local", "--device", "cpu", "--steps", "50", "--model", f"{BLOCKS}:dies"]
    assert main(["run", plan, *arguments, "--quiet"]) == 7
    said = capfd.readouterr().err
    assert "rank 1 (host0/1, pipeline 0, stage 1) was ended by signal 9" in said
    assert "Traceback" not in said


@needs_torch
def test_under_torchrun_rank_zero_reports(tmp_path: Path) -> None:
    """One process per device, started by PyTorch's own launcher; tokens come from a file."""
    tokens = tmp_path / "tokens.npy"
    np.save(tokens, np.arange(500) % 37)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "planner", "run", written(two_replicas(), tmp_path), "--device", "cpu"]
    more = ["--steps", "2", "--model", f"{BLOCKS}:blocks", "--data", str(tokens)]
    done = run_python(*launch, *words, *more, "--format", "json", limit_s=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(json.loads(done.stdout)["steps"]) == 2
    assert "step 2/2 · loss" in done.stderr


def test_names_the_rank_whose_own_error_it_was() -> None:
    """Not the rank that lost contact because of it, and killed processes before all others."""
    seats = [str(seat) for seat in seating(two_stages()).seats]
    lost = failure_of(0, RuntimeError("Connection closed by peer"))
    own = failure_of(1, ValueError("the dog ate the batch"))
    said = cause(seats, {0: 7, 1: 7}, {0: lost, 1: own})
    assert said.exit_code == 7
    assert str(said) == "rank 1 (host0/1, pipeline 0, stage 1): ValueError: the dog ate the batch"
    assert "rank 0" in str(cause(seats, {0: -9, 1: 7}, {0: None, 1: own}))


def test_a_mistake_in_the_inputs_stays_one() -> None:
    """Found by a process, it ends with the same code as if the command had found it."""
    mistake = failure_of(0, InputError([Problem("model", "has 5 layers", "give the plan's")]))
    assert cause(["rank 0", "rank 1"], {0: 2, 1: 7}, {0: mistake, 1: None}).exit_code == 2


def test_a_lost_connection_is_a_consequence() -> None:
    """The words of the backend, not of the model."""
    lost = failure_of(0, RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:1"))
    own = failure_of(0, RuntimeError("shapes do not match"))
    assert (lost.consequence, own.consequence) == (True, False)
    assert own.message == "RuntimeError: shapes do not match"


def test_says_what_to_install_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything else works without PyTorch; this command names the extra."""
    monkeypatch.setattr(
        "planner.runtime.find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    plan = written(two_stages(), tmp_path)
    assert main(["run", plan, "--local", "--model", f"{BLOCKS}:blocks"]) == 2
    assert "pip install 'planner[torch]'" in capsys.readouterr().err


def test_reading_plans_does_not_load_torch(tmp_path: Path) -> None:
    """The command line imports the runtime's plain parts only."""
    script = "import planner.cli, sys; sys.exit('torch' in sys.modules)"
    assert run_python("-c", script).returncode == 0, sys.executable


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "2 devices, this is one process"),
        (["--local", "--data", "nowhere.npy"], "there is no file nowhere.npy"),
        (["--local", "--resume", "nowhere"], "nowhere: holds no checkpoint"),
        (["gpt2", "1xA100-SXM-40GB"], "has no meaning here"),
        (["gpt2", "--against"], "needs MODEL CLUSTER [JOB]"),
        (["--local", "--model", "gpt2"], "is not the plan's model"),
    ],
)
def test_mistakes_end_with_code_2(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any process is started."""
    from planner.inputs.document import Document
    from planner.inputs.hf_config import read_hf

    resolved = read_hf(Document("tiny", TINY), TINY).resolved  # type: ignore[arg-type]
    plan = run_plan([P([S((0, 3)), S((3, 6))], 2)], NAMES, model=resolved)
    assert main(["run", written(plan, tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_plan_for_other_inputs_is_stale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 5, before any process is started."""
    arguments = [written(two_stages(), tmp_path), "gpt2", "1xA100-SXM-40GB", "--against"]
    assert main(["run", *arguments]) == 5
    assert "another model" in capsys.readouterr().err


def test_refuses_plans_that_say_nothing_possible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer that no stage runs, and a device that would be two processes."""
    body = run_plan([P([S((0, 3)), S((3, 5))], 2)], NAMES).model_dump(mode="json")
    body["pipelines"][0]["stages"][1]["replicas"][0]["devices"] = ["host0/0"]
    path = tmp_path / "plan.json"
    path.write_text(seal(Plan.model_validate(body)).to_json())
    assert main(["run", str(path), "--local"]) == 2
    said = capsys.readouterr().err
    assert "ends at layer 5, but the model has 6 layers" in said
    assert "host0/0 is used 2 times" in said


def test_refuses_by_name_what_it_does_not_execute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ZeRO level 3 and a layer without a policy."""
    body = two_stages().model_dump(mode="json")
    stages = body["pipelines"][0]["stages"]
    stages[0]["zero"]["level"] = 3
    stages[1]["recompute"] = [{"layers": [3, 5], "policy": "none"}]
    path = tmp_path / "plan.json"
    path.write_text(seal(Plan.model_validate(body)).to_json())
    assert main(["run", str(path), "--local"]) == 2
    said = capsys.readouterr().err
    assert "cannot run ZeRO level 3" in said
    assert "layer 5 without a recomputation policy" in said
