"""The layout of Sailor (SOSP'25): layer times per GPU, bytes per layer, fitted network rates.

    profiles/MODEL/GPU/profile.json   {rows: {tp: {layer: [forward_s, backward_s, update_s]}}}
    llm_info.json                     {MODEL: {tp: {layer: {params_bytes, act_mem_bytes, ...}}}}
    network/multizone_bandwidths_het.json   {zone: {GPU: {n: {zone: {GPU: {n: [[c...], peak]}}}}}}
    network/intra_node_bandwidths.json      {GPU: {n: [[c...], peak]}}
    training_config*.json             {sequence_length, ...}

A rate is a polynomial in log2 of the message in MB (its coefficients from the highest power down),
in GB/s; it is sampled at powers of two. The tool times one optimizer step of a model that it cut
down to the layers that differ, and repeats one block for all others: the step is divided among the
layers that differ by their weights, and the others get their part on top.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodels.units import GB, MIB
from planner.errors import InputError, Problem
from planner.inputs.foreign_profiles import Imported, Wanted, chip_rows
from planner.inputs.job_spec import Precision
from planner.inputs.profile_spec import LinkProfileSpec, ProfileSpec, RowSpec

SIZES = tuple(MIB << n for n in range(11))
"""Messages at which a fitted rate is sampled: 1 MiB to 1 GiB."""

Entry = Mapping[str, Any]


def read_sailor(root: Path, wanted: Wanted) -> Imported:
    """The profile of one model. Raises InputError with what is missing or malformed."""
    model = _model(root, wanted)
    info = _json(root / "llm_info.json").get(model)
    if not isinstance(info, dict):
        message = f"says nothing about {model}"
        raise InputError([Problem(str(root / "llm_info.json"), message, "give its layers' bytes")])
    folders = sorted(p for p in (root / "profiles" / model).iterdir() if p.is_dir())
    problems: list[Problem] = []
    chips = []
    for folder in folders:
        file = folder / "profile.json"
        try:
            rows = list(_rows(_json(file), info, file))
        except InputError as error:
            problems += error.problems
            continue
        chips.append(chip_rows(wanted.chips.get(folder.name, folder.name), rows))
    if problems:
        raise InputError(problems)
    names = [folder.name for folder in folders]
    zone, links = _links(root / "network", names, wanted)
    seq_len = wanted.seq_len or _seq_len(root)
    spec = ProfileSpec(
        model=model,
        source=_source(root),
        seq_len=seq_len,
        precision=wanted.precision or _precision(info),
        transfers="blocking",
        chips=tuple(chips),
        links=tuple(links),
    )
    notes = [
        "transfers between stages block, as in the DeepSpeed engine that this tool measures for",
        "tensor parallel without sequence parallelism: the layout cannot say otherwise",
        "activations and weights: bytes per row of llm_info.json times the rows",
    ]
    if links:
        notes.append(f"links of zone {zone}: fitted rates, sampled from 1 MiB to 1 GiB")
    return Imported(spec, tuple(notes))


def _rows(profile: Entry, info: Entry, file: Path) -> Iterator[RowSpec]:
    for rows in sorted(profile, key=int):
        for tp in sorted(profile[rows], key=int):
            if tp not in info:
                message = f"tp {tp} has no bytes in llm_info.json"
                raise InputError([Problem(str(file), message, "leave it out or add them")])
            yield from _layers(profile[rows][tp], info[tp], int(rows), int(tp), file)


def _layers(times: Entry, info: Entry, rows: int, tp: int, file: Path) -> Iterator[RowSpec]:
    order = sorted(times, key=int)
    if order != sorted(info, key=int)[: len(order)] or any(len(times[k]) != 3 for k in order):
        message = f"rows {rows}, tp {tp}: the layers are not those of llm_info.json"
        raise InputError([Problem(str(file), message, "three times for every layer from 0")])
    weights = {k: int(info[k]["params_bytes"]) for k in order}
    # the blocks after the first of equal times repeat its figures; they were not in the timed step
    timed = [k for n, k in enumerate(order) if n == 0 or times[k] != times[order[n - 1]]]
    share = max(1, sum(weights[k] for k in timed))
    for k in order:
        forward, backward, update = (float(t) for t in times[k])
        yield RowSpec(
            layer=int(k),
            tensor_parallel=tp,
            micro_batch_rows=rows,
            forward_s=forward,
            backward_s=backward,
            update_s=update * weights[k] / share,
            activation_bytes=rows * int(info[k]["act_mem_bytes"]),
            parameter_bytes=weights[k],
        )


def _links(folder: Path, names: Sequence[str], wanted: Wanted) -> tuple[str, list[LinkProfileSpec]]:
    out: list[LinkProfileSpec] = []
    between, inside = (
        folder / "multizone_bandwidths_het.json",
        folder / "intra_node_bandwidths.json",
    )
    if inside.is_file():
        rates = _json(inside)
        for name in names:
            for count in sorted(rates.get(name, {}), key=int):
                link = _link(rates[name][count], name, name, int(count), wanted, "in_node")
                out += [link] if link is not None else []
    if not between.is_file():
        return "", out
    zones = _json(between)
    zone = wanted.zone or next(iter(zones))
    if zone not in zones:
        raise InputError(
            [Problem(str(between), f"has no zone {zone!r}", f"has {', '.join(zones)}")]
        )
    for source in names:
        for count, targets in sorted(zones[zone].get(source, {}).items()):
            for target in names:
                rate = targets.get(zone, {}).get(target, {}).get(count)
                if rate is not None:
                    link = _link(rate, source, target, int(count), wanted, "between_nodes")
                    out += [link] if link is not None else []
    return zone, out


def _link(
    rate: Sequence[Any], source: str, target: str, count: int, wanted: Wanted, where: str
) -> LinkProfileSpec | None:
    """Sampled times of a fitted rate; sizes where the fit fails (rate or time falls) are left out.

    The fitted peak bounds the rate: beyond their measured range polynomials go anywhere.
    """
    coefficients, peak = [float(c) for c in rate[0]], float(rate[1])
    points: list[tuple[int, float]] = []
    for size in SIZES:
        speed = GB * _polynomial(coefficients, math.log2(size / 1e6))
        if speed <= 0:
            continue
        seconds = size / min(speed, peak)
        if not points or seconds > points[-1][1]:
            points.append((size, seconds))
    if not points:
        return None
    return LinkProfileSpec.model_validate(
        {
            "source": wanted.chips.get(source, source),
            "target": wanted.chips.get(target, target),
            "where": where,
            "chips": count,
            "points": points,
        }
    )


def _polynomial(coefficients: Sequence[float], x: float) -> float:
    value = 0.0
    for c in coefficients:
        value = value * x + c
    return value


def _model(root: Path, wanted: Wanted) -> str:
    known = sorted(p.name for p in (root / "profiles").iterdir() if p.is_dir())
    if wanted.model is not None and wanted.model in known:
        return wanted.model
    if wanted.model is None and len(known) == 1:
        return known[0]
    message = "several models" if wanted.model is None else f"no model {wanted.model!r}"
    raise InputError(
        [Problem(str(root / "profiles"), message, f"--model with one of {', '.join(known)}")]
    )


def _precision(info: Entry) -> Precision:
    layer = next(iter(next(iter(info.values())).values()))
    size = int(layer["params_bytes"]) / max(1, int(layer["params_floats"]))
    return "fp32" if size >= 4 else "fp16"


def _seq_len(root: Path) -> int:
    for file in sorted(root.glob("training_config*.json")):
        length = _json(file).get("sequence_length")
        if isinstance(length, int):
            return length
    message = "no training_config*.json states the sequence length"
    raise InputError([Problem(str(root), message, "give --seq-len")])


def _source(root: Path) -> str:
    licence = root / "LICENSE"
    if not licence.is_file():
        return ""
    lines = [t.strip() for t in licence.read_text(encoding="utf-8").splitlines() if t.strip()]
    owner = next((t for t in lines if t.lower().startswith("copyright")), "")
    return f"{lines[0]}. {owner}".strip(". ")


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError([Problem(str(file), f"cannot be read: {error.strerror}")]) from None
    except ValueError as error:
        raise InputError([Problem(str(file), f"is not JSON: {error}")]) from None
    if not isinstance(value, dict):
        raise InputError([Problem(str(file), "is not a JSON object")])
    return value
