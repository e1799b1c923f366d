"""The scripts under the real torchrun: unequal hosts, ranks by node, devices by their number."""

import os
import socket
import subprocess
import sys
from pathlib import Path

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_torchrun_numbers_unequal_hosts_as_the_plan_says(tmp_path):
    require("torch")
    plan = laid_out(
        "tp: 2, pp: 3, dp: 1, in_flight: classic, placement: [node1/0-1, node0/2-3, node0/0-1]",
        cluster="1x4xA100-SXM-80GB + 1x2xA100-SXM-80GB @ 100Gb/s",
    )
    folder = write(plan, "megatron", tmp_path / "export")
    (tmp_path / "pretrain_gpt.py").write_text(SAY)
    (tmp_path / "heard").mkdir()
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "TORCHRUN": str(Path(sys.executable).with_name("torchrun")),
        "MEGATRON": str(tmp_path),
        "HEARD": str(tmp_path / "heard"),
        "OMP_NUM_THREADS": "1",
    }
    hosts = [
        subprocess.Popen(
            ["bash", str(folder / "nodes" / f"{host}.sh")],
            env={**common, "HOST": host},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in ("node0", "node1")
    ]
    ended = [host.communicate(timeout=240)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], ended
    heard = [(tmp_path / "heard" / str(rank)).read_text() for rank in range(6)]
    table = [
        line.split()
        for line in (folder / "ranks.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert heard == [f"{rank} {device} 6" for rank, _, device, _ in table]
    assert [device for _, _, device, _ in table][:2] == ["node1/0", "node1/1"]
