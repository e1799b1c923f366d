"""Shell scripts that start the processes of one host, and what they have in common.

Every target that is started by hand writes ``nodes/HOST.sh``, one per host, so that a job file
(Slurm, Kubernetes) can start any of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from planner.exporters.exporter import File
from planner.exporters.hosts import FIXED_ORDER
from planner.exporters.ranks import HostRanks, Launch, compact
from planner.exporters.view import View

NETWORKS = {"tcp": "Socket", "roce": "IB", "ib": "IB", "efa": "AWS Libfabric"}
"""NCCL_NET for the network that the plan was priced with."""

PORT = 29500


@dataclass(frozen=True, slots=True)
class Program:
    """What every process runs.

    ``words`` go to the interpreter as they are (variables of the shell are allowed), ``exports``
    are environment variables of all hosts, ``needs`` are lines before the start. ``chooses``:
    whether the script hides the devices that the plan does not use; else the program finds its own.
    """

    words: tuple[str, ...]
    chooses: bool = True
    launcher: Literal["torchrun", "paddle"] = "torchrun"
    exports: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()


def node_scripts(view: View, launch: Launch, program: Program) -> tuple[File, ...]:
    """One script per host, in the order of the ranks."""
    return tuple(
        File(f"nodes/{host.host.name}.sh", _script(view, launch, program, node), executable=True)
        for node, host in enumerate(launch.hosts)
    )


def rank_table(view: View, launch: Launch) -> File:
    """``ranks.txt``: rank, host, device of the plan, chip: for people, and for debugging."""
    chips = {name: device.chip.id for name, device in view.devices.items()}
    lines = [f"# {view.header}", "# rank host device chip"]
    lines += [
        f"{rank} {device.rpartition('/')[0]} {device} {chips[device]}"
        for rank, device in enumerate(launch.devices)
    ]
    return File("ranks.txt", "\n".join(lines) + "\n")


def hostfile(view: View, launch: Launch) -> File:
    """Hosts in the order of their ranks, with the processes of each."""
    lines = [f"# {view.header}; in the order of the ranks"]
    lines += [f"{h.host.name} slots={len(h.ranks)}" for h in launch.hosts]
    return File("hostfile", "\n".join(lines) + "\n")


def bash_array(name: str, sections: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A bash array with one comment per section; a line is a flag with its values."""
    lines = [f"{name}=("]
    for comment, entries in sections:
        lines.append(f"  # {comment}")
        lines += [f"  {entry}" for entry in entries]
    return "\n".join([*lines, ")"]) + "\n"


def read_bash_array(text: str, name: str) -> tuple[str, ...]:
    """The words of :func:`bash_array`. ValueError if the text holds no such array."""
    start = f"{name}=("
    if start not in text:
        raise ValueError(f"no array {name}")
    body = text.split(start, 1)[1]
    lexer = shlex.shlex(body, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    for word in lexer:
        if word == ")":
            return tuple(words)
        words.append(word)
    raise ValueError(f"the array {name} does not end")


def _script(view: View, launch: Launch, program: Program, node: int) -> str:
    host = launch.hosts[node]
    first = launch.hosts[0].host.name
    share = f"ranks {compact(host.ranks)} of {launch.world}"
    lines = [
        "#!/usr/bin/env bash",
        f"# {view.header}",
        f"# host {host.host.name} ({node + 1} of {len(launch.hosts)}): {share}",
        "set -euo pipefail",
        'cd "$(dirname "${BASH_SOURCE[0]}")/.."',
        "",
        f'export MASTER_ADDR="${{MASTER_ADDR:-{first}}}" MASTER_PORT="${{MASTER_PORT:-{PORT}}}"',
        *_environment(host, launch, program),
        *(f"export {name}={shlex.quote(value)}" for name, value in program.exports),
        *program.needs,
        "",
    ]
    if program.launcher == "paddle":
        lines += _paddle(launch, program, node)
    elif launch.torchrun:
        lines += _torchrun(launch, program, node)
    else:
        lines += [*_one_by_one(launch, node), *_start_all(program)]
    return "\n".join(lines) + "\n"


def _environment(host: HostRanks, launch: Launch, program: Program) -> Iterator[str]:
    chips = dict.fromkeys(d.chip.name for d in host.host.devices if d.name in host.devices)
    yield f"# {', '.join(chips)}"
    if host.vendor in FIXED_ORDER:
        name, value = FIXED_ORDER[host.vendor]
        yield f"export {name}={value}"
    if host.variable and program.chooses:
        yield f"export {host.variable}={','.join(map(str, host.visible))}"
    network = NETWORKS.get(host.host.network)
    if host.vendor == "NVIDIA" and network and len(launch.hosts) > 1:
        yield f"# the plan counts on {host.host.network}: fail rather than fall back to another"
        yield f'export NCCL_NET="${{NCCL_NET:-{network}}}"'


def _torchrun(launch: Launch, program: Program, node: int) -> Iterator[str]:
    host = launch.hosts[node]
    yield "# a static rendezvous: ranks follow --node-rank, not the order of arrival"
    yield '"${TORCHRUN:-torchrun}" \\'
    yield f"  --nnodes {len(launch.hosts)} --node-rank {node} \\"
    yield f"  --nproc-per-node {len(host.ranks)} \\"
    yield '  --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" \\'
    yield f"  {' '.join(program.words)}"


def _paddle(launch: Launch, program: Program, node: int) -> Iterator[str]:
    host = launch.hosts[node]
    yield "# ranks follow --rank, and the devices of a host the order of --devices"
    yield '"${PYTHON:-python}" -m paddle.distributed.launch \\'
    yield f"  --nnodes {len(launch.hosts)} --rank {node} \\"
    yield f"  --devices {','.join(map(str, host.visible))} \\"
    yield '  --master "$MASTER_ADDR:$MASTER_PORT" \\'
    yield f"  {' '.join(program.words)}"


def _one_by_one(launch: Launch, node: int) -> Iterator[str]:
    host = launch.hosts[node]
    yield "# the ranks of this host do not follow one another, so torchrun cannot number them:"
    yield "# each process is started with its own rank, and all end when one fails"
    yield f"export WORLD_SIZE={launch.world} LOCAL_WORLD_SIZE={len(host.ranks)}"
    yield f"ranks=({' '.join(map(str, host.ranks))})"


def _start_all(program: Program) -> Iterator[str]:
    command = " ".join(program.words)
    yield "pids=()"
    yield "trap 'kill \"${pids[@]}\" 2>/dev/null || true' EXIT"
    yield 'for local_rank in "${!ranks[@]}"; do'
    yield "  RANK=${ranks[$local_rank]} LOCAL_RANK=$local_rank \\"
    yield f'    "${{PYTHON:-python}}" {command} &'
    yield "  pids+=($!)"
    yield "done"
    yield 'for _ in "${pids[@]}"; do'
    yield "  wait -n || exit $?"
    yield "done"
