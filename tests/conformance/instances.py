"""Reads the public stage-partition instances beside this file into partition problems.

They come from msr-fiddle/dnn-partitioning at b207b6a (Tarnawski et al., NeurIPS 2020), under the
MIT licence in partition/LICENSE.txt. Their times are milliseconds; `fpga` means any accelerator.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from planner.partition.problem import Kind, Node, PartitionProblem, Tensor

FOLDER = Path(__file__).parent / "partition"
PS_PER_MS = 10**9

BERT24 = "LayerGraphs_bert24_inference"
GNMT = "LayerGraphs_gnmt_inference"
GNMT_TRAINING = "LayerGraphs_gnmt_training"
BERT3 = "OperatorGraphs_bert_l-3_inference"
BERT3_TRAINING = "OperatorGraphs_bert_l-3_training"
RESNET50_TRAINING = "OperatorGraphs_resnet50_training"
NAMES = (BERT24, GNMT, GNMT_TRAINING, BERT3, BERT3_TRAINING, RESNET50_TRAINING)


def read_instance(
    name: str, *, accelerators: int | None = None, mirrored: bool = False, interleaved: bool = False
) -> PartitionProblem:
    """The instance over ``accelerators`` (by default as many as it states) and no CPU core.

    Only forward nodes are ordered; backward nodes follow their class. A class of backward nodes
    alone follows nobody: it may go anywhere, or, ``mirrored``, it is ordered against the direction
    of its own edges, as if its forward nodes existed. The optima are the same.
    """
    data = json.loads((FOLDER / f"{name}.json").read_text())
    number = {node["id"]: i for i, node in enumerate(data["nodes"])}
    backward = [bool(node["isBackwardNode"]) for node in data["nodes"]]
    classes: dict[object, list[int]] = defaultdict(list)
    for i, node in enumerate(data["nodes"]):
        classes[node.get("colorClass", ("own", i))].append(i)
    alone = {v for group in classes.values() if all(backward[v] for v in group) for v in group}
    pins: dict[int, list[int]] = {}
    cost: dict[int, int] = {}
    order: list[tuple[int, int]] = []
    for edge in data["edges"]:
        u, v = number[edge["sourceId"]], number[edge["destId"]]
        pins.setdefault(u, [u]).append(v)
        cost[u] = _ps(edge["cost"])
        if not backward[u] and not backward[v]:
            order.append((u, v))
        elif mirrored and backward[u] and backward[v] and (u in alone or v in alone):
            order.append((v, u))
    count = data["maxFPGAs"] if accelerators is None else accelerators
    return PartitionProblem(
        name=name,
        kinds=(Kind("accelerator", count, int(data["maxSizePerFPGA"])),),
        nodes=tuple(
            Node(
                n.get("name", str(n["id"])),
                (_ps(n["fpgaLatency"]) if n["supportedOnFpga"] else None,),
                int(n["size"]),
            )
            for n in data["nodes"]
        ),
        tensors=tuple(Tensor(tuple(p), (cost[u],)) for u, p in pins.items()),
        order=tuple(order),
        colocated=tuple(tuple(group) for group in classes.values()),
        interleaved=interleaved,
    )


def _ps(milliseconds: float) -> int:
    return round(milliseconds * PS_PER_MS)
