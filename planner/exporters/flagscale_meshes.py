"""FlagScale's meshes: consecutive stages with equal degrees on equal chips, and their hosts.

Processes are numbered host by host, then sorted by the position of their host's device type;
meshes take them in order, each tensor parallel first, then replicas, then stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from costmodels.catalog import Catalog
from planner.errors import ExportError, Problem
from planner.exporters.grid import GridStage
from planner.exporters.ranks import Launch, launch_of, numberings
from planner.exporters.view import View


@dataclass(frozen=True, slots=True)
class Mesh:
    """Consecutive stages with equal degrees on equal chips; ``kind`` is the device type."""

    first: int
    stages: tuple[GridStage, ...]
    kind: str

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """FlagScale's five numbers: tp, cp, ep, dp, pp."""
        s = self.stages[0]
        return s.tensor_parallel, s.context_parallel, 1, s.data_parallel, len(self.stages)


def mesh_list(view: View) -> tuple[Mesh, ...]:
    """Stages grouped into meshes. ExportError where replicas of a stage are unlike chips."""
    groups: list[list[GridStage]] = []
    starts: list[int] = []
    for s, stage in enumerate(view.even_grid.stages):
        if len(stage.chips) > 1:
            message = f"the replicas of stage {s} are {', '.join(map(Catalog.alias, stage.chips))}"
            remedy = "plan with --set job.plan_class=staged"
            problem = Problem("unlike chips in one stage", message, remedy)
            raise ExportError("", where="by flagscale", problems=[problem])
        if groups and _alike(groups[-1][0], stage):
            groups[-1].append(stage)
        else:
            groups.append([stage])
            starts.append(s)
    kinds = _kinds([Catalog.alias(g[0].chips[0]) for g in groups])
    return tuple(Mesh(s, tuple(g), kind) for s, g, kind in zip(starts, groups, kinds))


def mesh_launch(view: View, meshes: tuple[Mesh, ...]) -> Launch:
    """Hosts in the order of their ranks. ExportError where FlagScale cannot number them so."""
    orders = numberings(view, view.even_grid)
    launches = (launch_of(view, _devices(meshes, replicas)) for replicas in orders)
    fits = next((launch for launch in launches if launch.torchrun), None)
    launch = fits or launch_of(view, _devices(meshes, range(view.even_grid.dp)))
    problems = []
    if not launch.torchrun:
        message = "the ranks of a host would not follow one another (tensor parallel, replica, "
        message += "stage within each mesh)"
        problems.append(Problem("placement", message, "export to torch, which takes any placement"))
    for host, own in host_kinds(launch, meshes).items():
        if len(own) > 1:
            message = f"{host} holds stages of {' and '.join(own)}; a host has one device type"
            remedy = "describe its devices as two nodes, or export to torch"
            problems.append(Problem("placement", message, remedy))
    if problems:
        raise ExportError("", where="by flagscale", problems=problems)
    return launch


def _devices(meshes: tuple[Mesh, ...], replicas: Sequence[int]) -> list[str]:
    """Devices by rank: meshes in order, in each stage after stage, replicas as numbered."""
    return [
        device
        for mesh in meshes
        for stage in mesh.stages
        for d in (replicas if stage.data_parallel == len(replicas) else range(stage.data_parallel))
        for device in stage.devices[d]
    ]


def _alike(a: GridStage, b: GridStage) -> bool:
    return (a.tensor_parallel, a.data_parallel, a.rows, a.chips) == (
        b.tensor_parallel,
        b.data_parallel,
        b.rows,
        b.chips,
    )


def _kinds(names: list[str]) -> list[str]:
    """A device type per mesh: the chip, numbered where it comes again after another one."""
    found: list[str] = []
    for i, name in enumerate(names):
        if i and names[i - 1] == name:
            found.append(found[-1])
        elif name in names[:i]:
            found.append(f"{name}-{i}")
        else:
            found.append(name)
    return found


def host_kinds(launch: Launch, meshes: tuple[Mesh, ...]) -> dict[str, tuple[str, ...]]:
    """Device types that each host would need, in the order of the hosts."""
    kind = {
        device: mesh.kind
        for mesh in meshes
        for stage in mesh.stages
        for replica in stage.devices
        for device in replica
    }
    return {h.host.name: tuple(dict.fromkeys(kind[d] for d in h.devices)) for h in launch.hosts}
