"""``partition.json``: a partition with its certificate and the graph that it is of.

The graph is in the file, so that a partition is verified from the file alone.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from planner.errors import InputError
from planner.inputs.document import Document, JsonValue
from planner.inputs.operator_graph import OperatorGraph, partition_problem, read_operator_graph
from planner.inputs.problems import problems_from_validation
from planner.partition.certificate import Certificate, Solution, Status
from planner.partition.check import check_solution
from planner.partition.problem import PS_PER_S, Objective, Partition, PartitionProblem, Stage
from planner.version import VERSION


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageRecord(_Record):
    """One device in the order of the stages: ``load_s`` is ``time_s`` plus ``transfer_s``."""

    device: str
    nodes: tuple[str, ...] = Field(min_length=1)
    time_s: float
    transfer_s: float
    load_s: float
    memory_bytes: int


class CertificateRecord(_Record):
    """``lower_bound_s``: no partition of this graph onto these devices has a lower objective."""

    status: Literal["optimal", "feasible"]
    objective_s: float
    lower_bound_s: float
    gap: float
    steps: tuple[str, ...]


class PartitionFile(_Record):
    """A partition as it is written."""

    schema_version: Literal[1] = 1
    planner_version: str = VERSION
    objective: Objective
    interleaved: bool
    stages: tuple[StageRecord, ...] = Field(min_length=1)
    certificate: CertificateRecord
    assumptions: tuple[str, ...] = ()
    graph: OperatorGraph

    def to_json(self) -> str:
        """The file's text."""
        value = self.model_dump(mode="json", by_alias=True)
        value["graph"] = self.graph.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def partition_file(
    graph: OperatorGraph,
    problem: PartitionProblem,
    solution: Solution,
    assumptions: tuple[str, ...] = (),
) -> PartitionFile:
    """What is written for a solution of a graph's problem."""
    certificate = solution.certificate
    return PartitionFile(
        objective=problem.objective,
        interleaved=problem.interleaved,
        stages=tuple(_stage(problem, stage) for stage in solution.partition.stages),
        certificate=CertificateRecord(
            status=certificate.status.value,
            objective_s=certificate.objective_ps / PS_PER_S,
            lower_bound_s=certificate.lower_bound_ps / PS_PER_S,
            gap=certificate.gap,
            steps=certificate.methods,
        ),
        assumptions=assumptions,
        graph=graph,
    )


def _stage(problem: PartitionProblem, stage: Stage) -> StageRecord:
    nodes = [problem.nodes[v] for v in stage.nodes]
    time = sum(node.time_ps[stage.kind] or 0 for node in nodes)
    return StageRecord(
        device=problem.kinds[stage.kind].name,
        nodes=tuple(node.name for node in nodes),
        time_s=time / PS_PER_S,
        transfer_s=(stage.load_ps - time) / PS_PER_S,
        load_s=stage.load_ps / PS_PER_S,
        memory_bytes=sum(node.memory_bytes for node in nodes),
    )


def looks_like_partition(data: JsonValue) -> bool:
    """Whether a file is meant as a partition, right or wrong."""
    return isinstance(data, dict) and {"stages", "graph"} <= data.keys()


def parse_partition(document: Document) -> PartitionFile:
    """The partition in a file. Raises InputError with every problem."""
    try:
        found = PartitionFile.model_validate(document.data)
    except ValidationError as error:
        raise InputError(problems_from_validation(error, document, PartitionFile)) from None
    data: Any = document.data
    read_operator_graph(Document(f"{document.source}: graph", data["graph"]))
    return found


def verify_partition(file: PartitionFile) -> list[str]:
    """Everything that is wrong with it, re-derived from its graph; empty if nothing is."""
    problem = partition_problem(file.graph, interleaved=file.interleaved, objective=file.objective)
    node = {n.name: v for v, n in enumerate(problem.nodes)}
    kind = {k.name: c for c, k in enumerate(problem.kinds)}
    unknown = [n for s in file.stages for n in s.nodes if n not in node]
    unknown += [s.device for s in file.stages if s.device not in kind]
    if unknown:
        return [f"'{name}' is not in the graph" for name in unknown]
    stages = tuple(
        Stage(kind[s.device], tuple(node[n] for n in s.nodes), round(s.load_s * PS_PER_S))
        for s in file.stages
    )
    certificate = Certificate(
        Status(file.certificate.status),
        round(file.certificate.objective_s * PS_PER_S),
        round(file.certificate.lower_bound_s * PS_PER_S),
        file.certificate.steps,
    )
    found = check_solution(problem, Solution(Partition(stages), certificate))
    for s, (stage, record) in enumerate(zip(stages, file.stages)):
        if _stage(problem, stage) != record:
            found.append(f"stage {s}: time_s, transfer_s or memory_bytes is not that of its nodes")
    return found
