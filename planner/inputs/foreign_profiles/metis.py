"""The layout of Metis (ATC'24): one file ``DeviceType.GPU_tpT_bsB.json`` per way of running.

    {"model": {"model_name", "num_layers", "parameters": {"parameters_per_layer_bytes": [...]}},
     "execution_time": {"layer_compute_total_ms": [...], "forward_backward_time_ms",
                        "optimizer_time_ms", ...},
     "execution_memory": {"layer_memory_total_mb": [...]}}

What it does not say is assumed and noted: a third of a layer's time is its forward pass; what the
passes took beyond their layers (the loss) belongs to the last layer; the optimizer's step divides
by weights; a layer's memory is its weights, gradients, Adam state and activations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costmodels.memory import StateBytes, adam_state
from costmodels.units import MIB, bytes_of
from planner.errors import InputError, Problem
from planner.inputs.foreign_profiles import Imported, Wanted, chip_rows
from planner.inputs.profile_spec import ProfileSpec, RowSpec

FORWARD_SHARE = 1 / 3
"""Forward over forward and backward: the backward pass multiplies twice as much."""

NAME = re.compile(r"DeviceType\.(?P<chip>.+)_tp(?P<tp>\d+)_bs(?P<rows>\d+)\.json")


@dataclass(frozen=True, slots=True)
class _Way:
    """One file: what was measured, per layer, in seconds and bytes."""

    chip: str
    tp: int
    rows: int
    model: str
    seconds: tuple[float, ...]
    optimizer_s: float
    parameters: tuple[int, ...]
    memory: tuple[int, ...]


def read_metis(root: Path, wanted: Wanted) -> Imported:
    """The profile in a folder of such files. Raises InputError with every problem found."""
    problems: list[Problem] = []
    for option, value in (("--seq-len", wanted.seq_len), ("--precision", wanted.precision)):
        if value is None:
            problems.append(Problem(str(root), "the files do not state it", f"give {option}"))
    ways: list[_Way] = []
    for file in sorted(root.glob("DeviceType.*.json")):
        match = NAME.fullmatch(file.name)
        if match is None:
            remedy = "DeviceType.GPU_tpT_bsB.json"
            problems.append(Problem(str(file), "its name does not say what was measured", remedy))
            continue
        try:
            ways.append(_way(file, match["chip"], int(match["tp"]), int(match["rows"])))
        except InputError as error:
            problems += error.problems
    if problems or wanted.seq_len is None or wanted.precision is None:
        raise InputError(problems)
    state = adam_state(wanted.precision)
    size = bytes_of(wanted.precision)
    chips = []
    for chip in sorted({way.chip for way in ways}):
        rows = [
            row
            for way in sorted(ways, key=lambda w: (w.rows, w.tp))
            if way.chip == chip
            for row in _rows(way, state, size)
        ]
        chips.append(chip_rows(wanted.chips.get(chip, chip), rows))
    spec = ProfileSpec(
        model=ways[0].model,
        source=f"files DeviceType.*_tp*_bs*.json of {root.name}",
        seq_len=wanted.seq_len,
        precision=wanted.precision,
        chips=tuple(chips),
    )
    return Imported(
        spec,
        (
            "forward: a third of each layer's time, backward: two thirds",
            "what forward and backward took beyond the layers is the last layer's",
            f"activations: a layer's memory less {state.total} bytes of Adam state per parameter",
            "tensor parallel without sequence parallelism: the layout cannot say otherwise",
        ),
    )


def _rows(way: _Way, state: StateBytes, size: int) -> list[RowSpec]:
    total = max(1, sum(way.parameters))
    return [
        RowSpec(
            layer=index,
            tensor_parallel=way.tp,
            micro_batch_rows=way.rows,
            forward_s=seconds * FORWARD_SHARE,
            backward_s=seconds * (1 - FORWARD_SHARE),
            update_s=way.optimizer_s * weights / total,
            activation_bytes=max(0, memory - weights // size * state.total),
            parameter_bytes=weights,
        )
        for index, (seconds, weights, memory) in enumerate(
            zip(way.seconds, way.parameters, way.memory, strict=True)
        )
    ]


def _way(file: Path, chip: str, tp: int, rows: int) -> _Way:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError([Problem(str(file), f"cannot be read: {error.strerror}")]) from None
    except ValueError as error:
        raise InputError([Problem(str(file), f"is not JSON: {error}")]) from None
    problems: list[Problem] = []
    model = _part(data, "model", file, problems)
    times = _part(data, "execution_time", file, problems)
    memory = _part(data, "execution_memory", file, problems)
    weights = _part(model, "parameters", file, problems)
    seconds = _numbers(times, "layer_compute_total_ms", file, problems)
    parameters = _numbers(weights, "parameters_per_layer_bytes", file, problems)
    megabytes = _numbers(memory, "layer_memory_total_mb", file, problems)
    lengths = {len(seconds), len(parameters), len(megabytes)}
    if not problems and len(lengths) > 1:
        message = (
            f"has {len(seconds)} times, {len(parameters)} weights and {len(megabytes)} memory "
            "figures"
        )
        problems.append(Problem(str(file), message, "one of each for every layer"))
    if problems:
        raise InputError(problems)
    beyond = float(times.get("forward_backward_time_ms") or 0.0) - sum(seconds)
    spent = [*seconds[:-1], seconds[-1] + max(0.0, beyond)]
    return _Way(
        chip,
        tp,
        rows,
        str(model.get("model_name", "")),
        tuple(ms / 1e3 for ms in spent),
        float(times.get("optimizer_time_ms") or 0.0) / 1e3,
        tuple(int(b) for b in parameters),
        tuple(int(mb * MIB) for mb in megabytes),
    )


def _part(
    data: Mapping[str, Any], key: str, file: Path, problems: list[Problem]
) -> Mapping[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    if isinstance(value, dict):
        return value
    problems.append(Problem(f"{file}: {key}", "is missing", "see the layout's guide"))
    return {}


def _numbers(
    data: Mapping[str, Any], key: str, file: Path, problems: list[Problem]
) -> Sequence[float]:
    value = data.get(key)
    if isinstance(value, list) and value and all(isinstance(v, (int, float)) for v in value):
        return value
    if data:
        problems.append(Problem(f"{file}: {key}", "is no list of numbers", "one for every layer"))
    return []
