"""The scripts under the real torchrun: unequal hosts, ranks by node, devices by their number."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.exporters.laid_out import laid_out
from tests.exporters.real_target import require, write

SAY = """
import os
local = int(os.environ["LOCAL_RANK"])
number = os.environ["CUDA_VISIBLE_DEVICES"].split(",")[local]
line = f"{os.environ['RANK']} {os.environ['HOST']}/{number} {os.environ['WORLD_SIZE']}"
with open(os.path.join(os.environ["HEARD"], os.environ["RANK"]), "w") as file:
    file.write(line)
"""


TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, hosts: Sequence[str], words: Sequence[str] = (), **env: str) -> list[str]:
    """What every host's script printed; all run at once on this machine and must succeed."""
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "TORCHRUN": str(Path(sys.executable).with_name("torchrun")),
        "OMP_NUM_THREADS": "1",
        **env,
    }
    started = [
        subprocess.Popen(
            ["bash", str(folder / "nodes" / f"{host}.sh"), *words],
            env={**common, "HOST": host},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in hosts
    ]
    ended = [process.communicate(timeout=480) for process in started]
    assert not any(process.returncode for process in started), [error for _, error in ended]
    return [out for out, _ in ended]


def rank_lines(folder: Path) -> list[list[str]]:
    """Rank, host, device and chip of every process."""
    lines = (folder / "ranks.txt").read_text().splitlines()
    return [line.split() for line in lines if not line.startswith("#")]


def test_torchrun_numbers_unequal_hosts_as_the_plan_says(tmp_path):
    require("torch")
    plan = laid_out(
        "tp: 2, pp: 3, dp: 1, in_flight: classic, placement: [node1/0-1, node0/2-3, node0/0-1]",
        cluster="1x4xA100-SXM-80GB + 1x2xA100-SXM-80GB @ 100Gb/s",
    )
    folder = write(plan, "megatron", tmp_path / "export")
    (tmp_path / "pretrain_gpt.py").write_text(SAY)
    (tmp_path / "heard").mkdir()
    start(folder, ("node0", "node1"), MEGATRON=str(tmp_path), HEARD=str(tmp_path / "heard"))
    heard = [(tmp_path / "heard" / str(rank)).read_text() for rank in range(6)]
    table = rank_lines(folder)
    assert heard == [f"{rank} {device} 6" for rank, _, device, _ in table]
    assert [device for _, _, device, _ in table][:2] == ["node1/0", "node1/1"]


def test_the_exported_scripts_train_with_the_planners_own_runtime(tmp_path):
    """Two hosts with 2 and 1 devices, tensor-parallel degrees 2 and 1, on processors."""
    pytest.importorskip("planner.runtime.seats")
    require("torch")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY))
    plan = laid_out(
        "tp: [2, 1], pp: 2, dp: 1, layers_per_stage: [3, 2]",
        "job.global_batch=2",
        "job.seq_len=32",
        model=str(config),
        cluster="1x2xA100-SXM-80GB + 1x1xA100-SXM-80GB @ 100Gb/s",
    )
    folder = write(plan, "torch", tmp_path / "export")
    words = (
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--steps",
        "1",
        "--warmup",
        "0",
        "--format",
        "json",
    )
    first, second = start(folder, ("node0", "node1"), words)
    ran = [[str(seen["rank"]), seen["device"]] for seen in json.loads(first)["devices"]]
    assert ran == [[rank, device] for rank, _, device, _ in rank_lines(folder)]
    assert not second
