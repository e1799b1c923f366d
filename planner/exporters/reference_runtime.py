"""Launch files for the planner's own PyTorch runtime, which runs every class of plan.

Used by every target that starts it: by hand (``torch``), through Slurm or Kubernetes.

Ranks follow the hosts in the order in which the plan first names them, and the devices of a host
by their number, as the runtime counts them. So ``torchrun`` always starts them, and the runtime
finds each rank's device by its number: the scripts hide none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.errors import InputError
from planner.exporters.capability import Capability, Floor
from planner.exporters.exporter import File
from planner.exporters.placement import counted
from planner.exporters.ranks import launch_of
from planner.exporters.rules import Rule, not_equal, unreadable
from planner.exporters.scripts import Program, hostfile, node_scripts, rank_table
from planner.exporters.view import View
from planner.plan import Plan

PLAN = "plan.json"

RUNTIME = Capability(
    target="torch",
    title="the planner's PyTorch runtime (torch 2.13)",
    writes="the plan, a torchrun script per host, the host list",
    plan_classes=("rectangular", "staged", "asymmetric"),
    schedules=("1f1b", "gpipe", "interleaved"),
    recompute=("none", "selective", "full"),
    recompute_shape="per layer",
    zero=(0, 1),
    precisions=("bf16", "fp16", "fp32"),
    optimizers=("adam", "adamw", "sgd"),
    gradient_bytes=(2, 4),
    families=None,
    vendors=None,
    floor=Floor(
        (7, 0),
        "torch 2.13",
        "older chips have no 16-bit matrix units, and PyTorch is dropping its builds for them",
    ),
    checked_by_target="planner run reads the same plan and refuses what it cannot run",
    placement="any: ranks are the plan's devices, host by host",
    mixed_vendors=True,
    keeps_depth=True,
)


@dataclass(frozen=True, slots=True)
class RuntimeRead:
    """The plan and the processes per host as they were read back."""

    plan: Plan
    hosts: tuple[tuple[str, int], ...]
    view: View


def runtime_files(view: View) -> tuple[File, ...]:
    """The plan itself, and one script per host that starts ``planner run`` on it."""
    launch = launch_of(view, seated(view))
    program = Program(words=("-m", "planner", "run", PLAN, '"$@"'), chooses=False)
    return (
        File(PLAN, view.plan.to_json()),
        *node_scripts(view, launch, program),
        hostfile(view, launch),
        rank_table(view, launch),
    )


def runtime_todo(view: View) -> tuple[str, ...]:
    """What ``planner run`` still has to be told."""
    model = "--model package.module:function that returns the blocks: the plan has a layer graph"
    if view.model.is_decoder:
        model = "--model config.json for what a plan does not keep, such as rope_theta"
    return ("--data FILE of tokens; without it they are random", model)


def read_runtime(view: View, files: Mapping[str, str]) -> RuntimeRead:
    """Reads the plan back, and counts the processes of every host. ExportError if it cannot."""
    try:
        plan = Plan.model_validate_json(files[PLAN])
        return RuntimeRead(plan, counted(files), view)
    except (ValueError, InputError) as error:
        raise unreadable(PLAN, str(error).splitlines()[0]) from None


def seated(view: View) -> tuple[str, ...]:
    """Devices by rank: hosts as the plan first names them, the devices of each by number."""
    hosts = list(dict.fromkeys(device.rpartition("/")[0] for device in view.used))
    order = {host: place for place, host in enumerate(hosts)}

    def key(device: str) -> tuple[int, int]:
        host, _, number = device.rpartition("/")
        return order[host], int(number)

    return tuple(sorted(view.used, key=key))


def _plan(r: RuntimeRead) -> str:
    if r.plan.plan_id != r.plan.content_hash():
        return "the plan was changed: its id is not the hash of its content"
    return not_equal("plan", r.plan.plan_id[:12], r.view.short_id)


def _hosts(r: RuntimeRead) -> str:
    ranks: dict[str, int] = {}
    for device in seated(r.view):
        host = device.rpartition("/")[0]
        ranks[host] = ranks.get(host, 0) + 1
    return not_equal("processes by host", r.hosts, tuple(ranks.items()))


RUNTIME_RULES: tuple[Rule[RuntimeRead], ...] = (
    Rule("plan", "the plan is the same, to its hash", _plan),
    Rule("hosts", "hosts come in the runtime's order, with one process per device", _hosts),
)
