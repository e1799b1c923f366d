"""An operator-graph file: nodes with times of their own, tensors, and the devices to use.

    name: two-branches
    devices:
      - {name: fast, count: 2, memory_bytes: 8_000_000_000, bandwidth_bytes_per_s: 20e9}
    nodes:
      - {name: left, time_s: 0.004, memory_bytes: 1_000_000}
      - {name: right, time_s: {fast: 0.005}}
      - {name: left.backward, time_s: 0.008, with: left}
    tensors:
      - {from: left, to: [join], bytes: 4_000_000}

For graphs whose times are known: measured operators, traces, the output of another tool. Layers
whose times follow from their work are a layer graph. A node that goes ``with`` another one is on
its device whatever happens, and its own tensors demand no order: backward passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from planner.errors import InputError, Problem
from planner.inputs.document import DataPath, Document, JsonValue
from planner.inputs.problems import field_error, nearest, problems_from_validation
from planner.partition.problem import (
    PS_PER_S,
    Kind,
    Node,
    Objective,
    PartitionProblem,
    Tensor,
    check_problem,
)

MAX_DEVICES = 64
"""One copy of a graph on more devices than this is a job for ``planner plan``."""


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise field_error("should be a number")
    return value


_Seconds = Annotated[float, BeforeValidator(_number), Field(ge=0, le=9000)]
_Bytes = Annotated[int, BeforeValidator(_number), Field(ge=0, le=10**18)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GraphDevice(_Strict):
    """A kind of device and how many there are."""

    name: str = Field(min_length=1)
    count: Annotated[int, BeforeValidator(_number)] = Field(ge=1, le=MAX_DEVICES)
    memory_bytes: _Bytes | None = Field(default=None, description="Of one device; none: no limit.")
    bandwidth_bytes_per_s: float | None = Field(
        default=None, gt=0, le=1e18, description="Of one device, for tensors given in bytes."
    )
    latency_s: _Seconds = Field(default=0.0, description="Of one transfer given in bytes.")


class GraphNode(_Strict):
    """An operator or layer, with everything that one micro-batch makes it do."""

    name: str = Field(min_length=1)
    time_s: _Seconds | dict[str, _Seconds] = Field(
        description="On any device, or by kind; it cannot run on kinds that are left out."
    )
    memory_bytes: _Bytes = 0
    together: str | None = Field(
        default=None, alias="with", description="The node on whose device it has to be."
    )


class GraphTensor(_Strict):
    """What a node makes, and who reads it. It is paid once by every device that it leaves or
    enters, however many readers it has there.
    """

    source: str = Field(alias="from")
    targets: tuple[str, ...] = Field(alias="to", min_length=1)
    bytes: _Bytes | None = None
    time_s: _Seconds | dict[str, _Seconds] | None = Field(
        default=None, description="Of one transfer out of or into a device, instead of bytes."
    )


class OperatorGraph(_Strict):
    """A graph and the devices on which it is to be put."""

    name: str = Field(min_length=1)
    devices: tuple[GraphDevice, ...] = Field(min_length=1, max_length=8)
    nodes: tuple[GraphNode, ...] = Field(min_length=1, max_length=20_000)
    tensors: tuple[GraphTensor, ...] = ()


def read_operator_graph(document: Document) -> OperatorGraph:
    """A checked operator graph. Raises InputError with all problems."""
    try:
        graph = OperatorGraph.model_validate(document.data)
    except ValidationError as error:
        raise InputError(problems_from_validation(error, document, OperatorGraph)) from None
    problems = [*_names(graph, document), *_times(graph, document), *_tensors(graph, document)]
    if not problems:
        problems = [*_cycle(graph, document)]
    if not problems and sum(d.count for d in graph.devices) > MAX_DEVICES:
        message = f"more than {MAX_DEVICES} devices"
        problems = [Problem(document.where(("devices",)), message, "give those of one pipeline")]
    if problems:
        raise InputError(problems)
    return graph


def looks_like_operator_graph(data: JsonValue) -> bool:
    """Whether a file is meant as an operator graph, right or wrong."""
    return isinstance(data, dict) and "nodes" in data and bool(data.keys() & {"devices", "tensors"})


def partition_problem(
    graph: OperatorGraph,
    *,
    interleaved: bool = False,
    objective: Objective = Objective.max_load,
) -> PartitionProblem:
    """The problem of a checked graph, in whole picoseconds. InputError where they overflow."""
    index = {node.name: v for v, node in enumerate(graph.nodes)}
    follows = [node.together is not None for node in graph.nodes]
    order = {
        (index[t.source], index[target])
        for t in graph.tensors
        for target in t.targets
        if not follows[index[t.source]] and not follows[index[target]]
    }
    problem = PartitionProblem(
        name=graph.name,
        kinds=tuple(Kind(d.name, d.count, d.memory_bytes) for d in graph.devices),
        nodes=tuple(
            Node(n.name, tuple(_ps(n.time_s, d) for d in graph.devices), n.memory_bytes)
            for n in graph.nodes
        ),
        tensors=tuple(
            Tensor(
                tuple(index[name] for name in dict.fromkeys((t.source, *t.targets))),
                tuple(_cost_ps(t, d) for d in graph.devices),
            )
            for t in graph.tensors
        ),
        order=tuple(sorted(order)),
        colocated=tuple((index[n.together], v) for v, n in enumerate(graph.nodes) if n.together),
        interleaved=interleaved,
        objective=objective,
    )
    check_problem(problem)
    return problem


def _ps(time: float | dict[str, float], device: GraphDevice) -> int | None:
    seconds = time.get(device.name) if isinstance(time, dict) else time
    return None if seconds is None else round(seconds * PS_PER_S)


def _cost_ps(tensor: GraphTensor, device: GraphDevice) -> int:
    if tensor.time_s is not None:
        return _ps(tensor.time_s, device) or 0
    if not tensor.bytes or device.bandwidth_bytes_per_s is None:
        return 0
    return round((tensor.bytes / device.bandwidth_bytes_per_s + device.latency_s) * PS_PER_S)


def _names(graph: OperatorGraph, document: Document) -> Iterator[Problem]:
    """Names that are there twice, and nodes that go with nobody."""
    named = {"devices": [d.name for d in graph.devices], "nodes": [n.name for n in graph.nodes]}
    for field, names in named.items():
        seen: Counter[str] = Counter()
        for i, name in enumerate(names):
            seen[name] += 1
            if seen[name] == 2:
                where = document.where((field, i, "name"))
                yield Problem(where, f"'{name}' is given twice", "names are unique")
    nodes = {node.name for node in graph.nodes}
    for i, node in enumerate(graph.nodes):
        if node.together is not None and node.together not in nodes:
            yield _unknown(document, ("nodes", i, "with"), "node", node.together, nodes)


def _times(graph: OperatorGraph, document: Document) -> Iterator[Problem]:
    """Kinds of device that are not there."""
    known = {device.name for device in graph.devices}
    for i, node in enumerate(graph.nodes):
        if isinstance(node.time_s, dict):
            at: DataPath = ("nodes", i, "time_s")
            if not node.time_s:
                yield Problem(document.where(at), "names no device", "give a time")
            for name in node.time_s.keys() - known:
                yield _unknown(document, (*at, name), "kind of device", name, known)


def _tensors(graph: OperatorGraph, document: Document) -> Iterator[Problem]:
    """Ends that are not there, sizes that are missing or given twice."""
    nodes = {node.name for node in graph.nodes}
    kinds = {device.name for device in graph.devices}
    slow = [d.name for d in graph.devices if d.bandwidth_bytes_per_s is None]
    for i, tensor in enumerate(graph.tensors):
        where: DataPath = ("tensors", i)
        if tensor.source not in nodes:
            yield _unknown(document, (*where, "from"), "node", tensor.source, nodes)
        for k, target in enumerate(tensor.targets):
            if target not in nodes:
                yield _unknown(document, (*where, "to", k), "node", target, nodes)
            elif target == tensor.source:
                message = f"'{target}' reads its own output"
                yield Problem(document.where((*where, "to", k)), message, "leave it out")
        if (tensor.bytes is None) == (tensor.time_s is None):
            message = "needs its size" if tensor.bytes is None else "has a size and a time"
            yield Problem(document.where(where), message, "give either bytes or time_s")
        elif tensor.bytes is not None and slow:
            message = f"is given in bytes, but {', '.join(slow)} has no bandwidth_bytes_per_s"
            yield Problem(document.where(where), message, "give it, or time_s")
        elif isinstance(tensor.time_s, dict) and tensor.time_s.keys() != kinds:
            message = f"gives times for {', '.join(sorted(tensor.time_s)) or 'nothing'}"
            remedy = f"give one for each of {', '.join(sorted(kinds))}"
            yield Problem(document.where((*where, "time_s")), message, remedy)


def _cycle(graph: OperatorGraph, document: Document) -> Iterator[Problem]:
    import networkx as nx  # loaded where an operator graph is read

    found: nx.DiGraph = nx.DiGraph()
    follows = {node.name for node in graph.nodes if node.together is not None}
    found.add_edges_from(
        (t.source, target)
        for t in graph.tensors
        for target in t.targets
        if t.source not in follows and target not in follows
    )
    try:
        cycle = nx.find_cycle(found)
    except nx.NetworkXNoCycle:
        return
    walk = [edge[0] for edge in cycle]
    message = f"the nodes form a cycle: {' -> '.join([*walk, walk[0]])}"
    remedy = "remove one of these tensors, or let a backward node go with its forward node"
    yield Problem(document.where(("tensors",)), message, remedy)


def _unknown(document: Document, path: DataPath, what: str, name: str, known: set[str]) -> Problem:
    close = nearest(name, known)
    remedy = f"did you mean {close[0]}?" if close else f"name a {what} of this file"
    return Problem(document.where(path), f"no {what} '{name}'", remedy)
