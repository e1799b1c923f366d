"""Slurm: one batch file that starts a script per host on exactly the hosts of the plan.

Hosts with different numbers of devices are components of one heterogeneous job. Which rank runs
where stands in the scripts, by host name, so Slurm's own order of hosts does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from planner.errors import ExportError, Problem
from planner.exporters.exporter import Checked, File, Written
from planner.exporters.hostlist import expand, hostlist
from planner.exporters.hosts import Host
from planner.exporters.reference_runtime import (
    RUNTIME,
    RUNTIME_RULES,
    RuntimeRead,
    read_runtime,
    runtime_files,
    runtime_todo,
)
from planner.exporters.rules import Named, Rule, broken_rules, not_equal, rule_texts, unreadable
from planner.exporters.view import View

CAPABILITY = replace(
    RUNTIME,
    target="slurm",
    title="Slurm, with the planner's PyTorch runtime",
    writes="a batch file for the plan's hosts, and the files of torch",
    checked_by_target="not run: sbatch --test-only batch.sh checks the file on your cluster",
    placement="any: hosts by name, all devices of a host are asked for",
)

BATCH = "batch.sh"
GRES = {"NVIDIA": "gpu", "AMD": "gpu", "Huawei": "npu", "Cambricon": "mlu", "Hygon": "dcu"}
"""What a vendor's devices are commonly called in gres.conf."""

_COMPONENT = re.compile(r"^#SBATCH --nodes=(\d+) --nodelist=(\S+) --gres=(\w+):(\d+)", re.M)


@dataclass(frozen=True, slots=True)
class Component:
    """Hosts that ask for the same devices."""

    hosts: tuple[str, ...]
    nodes: int
    kind: str
    devices: int


@dataclass(frozen=True, slots=True)
class Read:
    """The components of the batch file, and the files of the runtime."""

    components: tuple[Component, ...]
    groups: str
    scripts: tuple[str, ...]
    runtime: RuntimeRead

    @property
    def view(self) -> View:
        """The plan."""
        return self.runtime.view


def write(view: View) -> Written:
    """The files of the runtime, and the batch file that starts them."""
    files = (File(BATCH, _batch(view), executable=True), *runtime_files(view))
    run = (
        "sbatch batch.sh --steps 100 --data FILE",
        "SCRIPTS=../megatron/nodes sbatch batch.sh …   # starts another target's scripts instead",
    )
    todo = ("partition, account and time limit: options of sbatch", *runtime_todo(view))
    return Written(files, run, todo, _idle(view))


def check(view: View, files: Mapping[str, str]) -> Checked:
    """Reads the batch file and the files of the runtime back."""
    try:
        components = tuple(
            Component(expand(m[2]), int(m[1]), m[3], int(m[4]))
            for m in _COMPONENT.finditer(files[BATCH])
        )
    except ValueError as error:
        raise unreadable(BATCH, str(error)) from None
    groups = re.search(r"--het-group=(\S+)", files[BATCH])
    scripts = tuple(p[6:-3] for p in files if p.startswith("nodes/"))
    runtime = read_runtime(view, files)
    read = Read(components, groups[1] if groups else "", scripts, runtime)
    problems = broken_rules(OWN_RULES, read, BATCH) + broken_rules(RUNTIME_RULES, runtime, BATCH)
    return Checked(rule_texts(OWN_RULES) + rule_texts(RUNTIME_RULES), problems)


def _batch(view: View) -> str:
    components = _components(view)
    lines = [
        "#!/usr/bin/env bash",
        f"# {view.header}",
        f"#SBATCH --job-name=plan-{view.short_id}",
    ]
    for k, component in enumerate(components):
        if k:
            lines.append("#SBATCH hetjob")
        hosts = f"--nodes={component.nodes} --nodelist={hostlist(component.hosts)}"
        gres = f"--gres={component.kind}:{component.devices}"
        lines.append(f"#SBATCH {hosts} {gres} --ntasks-per-node=1 --exclusive")
    groups = f"--het-group={','.join(map(str, range(len(components))))} "
    srun = f"srun {groups if len(components) > 1 else ''}--kill-on-bad-exit=1"
    lines += [
        "set -euo pipefail",
        'cd "${EXPORT:-$SLURM_SUBMIT_DIR}"',
        "# every host runs its own script, which knows its ranks",
        'export SCRIPTS="${SCRIPTS:-nodes}"',
        f'{srun} bash -c \'exec bash "$SCRIPTS/$SLURMD_NODENAME.sh" "$@"\' bash "$@"',
    ]
    return "\n".join(lines) + "\n"


def _components(view: View) -> tuple[Component, ...]:
    keyed = sorted(((_gres(host), i, host) for i, host in enumerate(view.hosts)), key=_order)
    found = []
    for (kind, devices), group in groupby(keyed, key=lambda entry: entry[0]):
        names = tuple(host.name for _, _, host in group)
        found.append(Component(names, len(names), kind, devices))
    return tuple(found)


def _order(entry: tuple[tuple[str, int], int, Host]) -> tuple[str, int, int]:
    (kind, devices), place, _ = entry
    return kind, -devices, place


def _gres(host: Host) -> tuple[str, int]:
    """All devices of a host, so that their numbers are those of the plan."""
    vendors = {device.chip.vendor for device in host.devices}
    kinds = {GRES.get(vendor, "") for vendor in vendors}
    if len(kinds) > 1 or not all(kinds):
        message = f"no one name in gres.conf is known for {', '.join(sorted(vendors))}"
        problem = Problem(f"host {host.name}", message, "export to torch")
        raise ExportError("", where="by slurm", problems=[problem])
    return kinds.pop(), len(host.devices)


def _idle(view: View) -> tuple[str, ...]:
    used = set(view.used)
    idle = [d.name for host in view.hosts for d in host.devices if d.name not in used]
    if not idle:
        return ()
    return (f"whole hosts are taken, also {len(idle)} devices that the plan does not use",)


def _hosts(r: Read) -> str:
    named = sorted(host for c in r.components for host in c.hosts)
    return not_equal("hosts", named, sorted(host.name for host in r.view.hosts))


def _nodes(r: Read) -> str:
    wrong = [c for c in r.components if c.nodes != len(c.hosts)]
    return f"{wrong[0].nodes} nodes for {len(wrong[0].hosts)} hosts" if wrong else ""


def _devices(r: Read) -> str:
    have = {host.name: len(host.devices) for host in r.view.hosts}
    for component in r.components:
        for host in component.hosts:
            if component.devices != have.get(host, component.devices):
                return f"{host} has {have[host]} devices, {component.devices} are asked for"
    return ""


def _together(r: Read) -> str:
    wanted = ",".join(map(str, range(len(r.components)))) if len(r.components) > 1 else ""
    return not_equal("components that srun starts", r.groups, wanted)


def _scripts(r: Read) -> str:
    missing = [h for c in r.components for h in c.hosts if h not in r.scripts]
    return f"{missing[0]} has no script" if missing else ""


OWN_RULES: tuple[Rule[Read], ...] = (
    Rule("hosts", "the batch file names the plan's hosts, each once", _hosts),
    Rule("nodes", "as many nodes as hosts are asked for", _nodes),
    Rule("devices", "all devices of every host are asked for", _devices),
    Rule("together", "one srun starts all components", _together),
    Rule("scripts", "every host has a script", _scripts),
)

RULES: tuple[Named, ...] = (*OWN_RULES, *RUNTIME_RULES)
