"""Checkpoints by whole weights: written in parts by all ranks, read back under any plan.

A checkpoint is a folder: ``index.json`` says which weights there are and which file holds which
part, ``part-RANK.pt`` hold the parts. A part is a span of a weight (an interval along one axis of
the *whole* tensor) with the optimizer's state of the same elements. A reader takes from every part
what meets its own cut, so pipelines, stages, tensor parallelism and ZeRO may all be different.

The folder appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from planner.errors import InputError, Problem
from planner.runtime.comm import gather_flat
from planner.runtime.reduction import Piece, padded
from planner.runtime.saved import INDEX
from planner.runtime.shards import Span
from planner.runtime.trainer import Trainer
from planner.runtime.update import Master, Updater
from planner.runtime.weights import Held, view_of

FORMAT = 1
Stored = Callable[[str], Iterator[tuple[Span, dict[str, Tensor]]]]
"""From a weight to its stored spans and their states."""

MASTER = "master"
"""The optimizer's own copy of a weight: fp32 where the weight has 16 bits."""


def save_checkpoint(trainer: Trainer, folder: str | Path, step: int) -> None:
    """Write the state after ``step`` steps. All processes call it, with one shared folder.

    Raises InputError where the folder cannot be written.
    """
    target = Path(folder)
    work = target.with_name(f".{target.name}.tmp")
    rank = trainer.seat.rank
    if rank == 0:
        _prepare(work)
    dist.barrier()
    parts = list(_parts(trainer.engine.updater))
    torch.save([tensors for _, tensors in parts], work / _file(rank))
    listed = [
        {
            "weight": span.weight,
            "axis": span.axis,
            "first": span.first,
            "end": span.end,
            "file": rank,
            "part": number,
        }
        for number, (span, _) in enumerate(parts)
    ]
    gathered: list[Any] = [None] * trainer.engine.world.size
    dist.all_gather_object(gathered, listed)
    if rank == 0:
        shapes = {name: list(shape) for name, shape in _shapes(trainer).items()}
        index = {
            "format": FORMAT,
            "step": step,
            "plan_id": trainer.plan.plan_id,
            "shapes": shapes,
            "optimizer": type(trainer.optimizer).__name__,
            "counters": _counters(trainer.engine.updater),
            "parts": [part for part_list in gathered for part in part_list],
        }
        (work / INDEX).write_text(json.dumps(index), encoding="utf-8")
        _publish(work, target)
    dist.barrier()


def load_checkpoint(trainer: Trainer, folder: str | Path) -> int:
    """Read weights and optimizer state into a trainer of any plan of the same model.

    Returns the number of steps done. Raises InputError for a folder that is no checkpoint, is
    incomplete, or belongs to another model or optimizer.
    """
    source = Path(folder)
    index = _read_index(source)
    _check(trainer, index, source)
    files: dict[int, list[dict[str, Tensor]]] = {}
    by_weight: dict[str, list[Mapping[str, Any]]] = {}
    for part in index["parts"]:
        by_weight.setdefault(part["weight"], []).append(part)

    def stored(weight: str) -> Iterator[tuple[Span, dict[str, Tensor]]]:
        for part in by_weight[weight]:
            if part["file"] not in files:
                path = source / _file(part["file"])
                files[part["file"]] = torch.load(path, mmap=True, weights_only=True)
            span = Span(weight, part["axis"], part["first"], part["end"], 0)
            yield span, files[part["file"]][part["part"]]

    updater = trainer.engine.updater
    for name, held in updater.weights:
        _fill(held.parameter.data, held, stored(name), MASTER)
    _restore_state(updater, stored, index["counters"])
    dist.barrier()
    return int(index["step"])


def _parts(updater: Updater) -> Iterator[tuple[Span, dict[str, Tensor]]]:
    """This rank's share of all spans, each with the states of its elements."""
    by_name = {m.name: m for m in updater.masters if m.held is not None}
    by_piece = {id(m.piece): m for m in updater.masters if m.piece is not None}
    for piece in updater.pieces:
        if piece.bucket.zero:
            yield from _sharded_parts(piece, by_piece[id(piece)], updater)
            continue
        for number, span in enumerate(piece.spans):
            if number % piece.group.size == piece.member:
                master = by_name[span.weight]
                yield (
                    span,
                    {
                        key: _cut(tensor, master.held, span)
                        for key, tensor in _states(master, updater).items()
                    },
                )


def _sharded_parts(
    piece: Piece, master: Master, updater: Updater
) -> Iterator[tuple[Span, dict[str, Tensor]]]:
    """Parts of a flat piece are gathered first, because a span may lie in two members' parts."""
    whole = {
        key: gather_flat(tensor, piece.group).cpu()
        for key, tensor in _states(master, updater).items()
    }
    at = 0
    for number, span in enumerate(piece.spans):
        if number % piece.group.size == piece.member:
            shape = updater.weights.views(span, gradient=False).shape
            yield (
                span,
                {
                    key: flat[at : at + span.numel].view(shape).clone()
                    for key, flat in whole.items()
                },
            )
        at += span.numel


def _states(master: Master, updater: Updater) -> dict[str, Tensor]:
    """The optimizer's copy and its states that have one value per element, in a fixed order."""
    kept = updater.optimizer.state.get(master.tensor, {})
    states = {
        key: value
        for key, value in kept.items()
        if isinstance(value, Tensor) and value.shape == master.tensor.shape and value.ndim
    }
    return {MASTER: master.tensor.detach()} | {key: states[key] for key in sorted(states)}


def _counters(updater: Updater) -> dict[str, float]:
    """States that are one number for all elements, such as the number of updates."""
    found: dict[str, float] = {}
    for master in updater.masters:
        for key, value in updater.optimizer.state.get(master.tensor, {}).items():
            if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
                found[key] = float(value)
    return found


def _restore_state(
    updater: Updater,
    stored: Stored,
    counters: Mapping[str, float],
) -> None:
    for master in updater.masters:
        keys = _stored_keys(master, stored)
        template = {key: torch.zeros_like(master.tensor) for key in keys}
        if master.held is not None:
            for key in keys:
                _fill(template[key], master.held, stored(master.name), key)
        elif master.piece is not None:
            for key in keys:
                template[key] = _fill_flat(master, updater, stored, key)
        master.tensor.data.copy_(template.pop(MASTER))
        if template or counters:
            state = updater.optimizer.state[master.tensor]
            state.update(template)
            for key, value in counters.items():
                where = counter_device(updater.optimizer, master.tensor)
                state[key] = torch.tensor(value, dtype=torch.float32, device=where)


def counter_device(optimizer: torch.optim.Optimizer, master: Tensor) -> torch.device:
    """Where an optimizer wants the number of updates: fused and captured ones count on the
    device, others on the processor."""
    counts = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    return master.device if counts else torch.device("cpu")


def _stored_keys(master: Master, stored: Stored) -> list[str]:
    weight = master.name if master.piece is None else master.piece.spans[0].weight
    _, tensors = next(iter(stored(weight)))
    return list(tensors)


def _fill(
    target: Tensor, held: Held, stored: Iterator[tuple[Span, dict[str, Tensor]]], key: str
) -> None:
    """Copy into a tensor that is laid out like the rank's cut whatever stored spans meet it."""
    cut = held.cut
    if not cut.shape:
        target.view(1).copy_(next(stored)[1][key].view(1))
        return
    pieces = cut.pieces if cut.axis is not None else ((0, cut.shape[0]),)
    axis = cut.axis or 0
    for span, tensors in stored:
        offset = 0
        for first, end in pieces:
            _copy_meeting(
                target.narrow(axis, offset, end - first), (axis, first, end), span, tensors[key]
            )
            offset += end - first


def _copy_meeting(target: Tensor, place: tuple[int, int, int], span: Span, source: Tensor) -> None:
    """``target`` is the interval ``place`` of a weight, ``source`` the interval of ``span``."""
    axis, first, end = place
    if axis == span.axis:
        low, high = max(first, span.first), min(end, span.end)
        if low < high:
            part = source.narrow(axis, low - span.first, high - low)
            target.narrow(axis, low - first, high - low).copy_(part)
        return
    part = source.narrow(axis, first, end - first)
    target.narrow(span.axis, span.first, span.end - span.first).copy_(part)


def _fill_flat(master: Master, updater: Updater, stored: Stored, key: str) -> Tensor:
    """This member's part of a sharded piece."""
    piece = master.piece
    if piece is None:
        raise ValueError("only sharded pieces are flat")
    parts = []
    for span in piece.spans:
        held = updater.weights.held[span.weight]
        buffer = torch.zeros_like(held.parameter, dtype=master.tensor.dtype)
        _fill(buffer, held, stored(span.weight), key)
        parts.append(view_of(buffer, held.cut, span).reshape(-1))
    return padded(piece, torch.cat(parts))[piece.owned].clone()


def _cut(tensor: Tensor, held: Held | None, span: Span) -> Tensor:
    if held is None:
        raise ValueError("only whole local weights are cut")
    return view_of(tensor, held.cut, span).detach().cpu().clone()


def _shapes(trainer: Trainer) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights of the model."""
    model = trainer.engine.frame.model
    found = {}
    for layer in range(len(model.names)):
        cuts = model.cuts(layer, 1, 0, split=False)
        for inner, weight in model.weights(layer).items():
            found[weight] = cuts[inner].shape
    return found


def _check(trainer: Trainer, index: Mapping[str, Any], source: Path) -> None:
    mine = {name: list(shape) for name, shape in _shapes(trainer).items()}
    if index["shapes"] != mine:
        different = sorted(
            name
            for name in {*mine, *index["shapes"]}
            if mine.get(name) != index["shapes"].get(name)
        )
        message = f"belongs to another model: {different[0]} differs ({len(different)} in all)"
        raise InputError([Problem(str(source), message, "give the model of the checkpoint")])
    kind = type(trainer.optimizer).__name__
    if index["optimizer"] != kind:
        message = f"was written with {index['optimizer']}, this job uses {kind}"
        raise InputError([Problem(str(source), message, "use the same optimizer")])


def _read_index(source: Path) -> dict[str, Any]:
    path = source / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"is no checkpoint: {error}"
        raise InputError([Problem(str(source), message, "give a folder that was saved")]) from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        message = "has another format of checkpoint"
        raise InputError([Problem(str(path), message, "save it again with this version")])
    files: Sequence[int] = sorted({part["file"] for part in index["parts"]})
    missing = [_file(f) for f in files if not (source / _file(f)).is_file()]
    if missing:
        message = f"lacks {', '.join(missing[:3])}"
        remedy = "copy the parts of all nodes into one folder"
        raise InputError([Problem(str(source), message, remedy)])
    return index


def _prepare(work: Path) -> None:
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    except OSError as error:
        message = f"cannot be written: {error.strerror}"
        raise InputError([Problem(str(work), message, "name another folder")]) from None


def _publish(work: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    os.replace(work, target)


def _file(rank: int) -> str:
    return f"part-{rank:05d}.pt"
