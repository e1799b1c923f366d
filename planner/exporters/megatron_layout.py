"""Megatron's ``--pipeline-model-parallel-layout``: which layers are on which stage.

A layout of k times as many parts as stages is interleaved: part v · pp + p is chunk v of stage p.

Grammar (megatron/core/transformer/pipeline_parallel_layer_layout.py): ``E`` embedding, ``t``
decoder layer, ``m`` multi-token prediction, ``L`` loss, ``|`` between stages, ``x*n`` and
``(...)*n`` for repetition, commas ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from planner.exporters.view import View, block_counts

_REPEATED = re.compile(r"\(([^()]*)\)\*(\d+)|([EtmL])\*(\d+)")


def layout_text(view: View) -> str:
    """The layout of a plan: the embedding first, the loss last; a part per stage or chunk."""
    parts = ["t*" + str(n) if n > 1 else "t" * n for n in block_counts(view)]
    parts[0] = "E" + parts[0]
    parts[-1] += "L"
    return "|".join(parts)


def parse_layout(text: str) -> tuple[str, ...]:
    """Stages as strings of E, t, m and L. ValueError for anything else."""
    flat = text.replace(",", "").replace(" ", "")
    while match := _REPEATED.search(flat):
        what, times = (match[1], match[2]) if match[2] else (match[3], match[4])
        flat = flat[: match.start()] + what * int(times) + flat[match.end() :]
    stray = sorted(set(flat) - set("EtmL|"))
    if stray:
        raise ValueError(f"{stray[0]!r} is no part of a layout")
    return tuple(flat.split("|"))


def broken_layout(stages: Sequence[str], layers: int, pp: int) -> str:
    """What Megatron would refuse, or "": E first, L last, every layer once, whole rounds."""
    flat = "".join(stages)
    if flat.count("E") != 1 or not flat.startswith("E"):
        return "the embedding must come first, exactly once"
    if flat.count("L") != 1 or not flat.endswith("L"):
        return "the loss must come last, exactly once"
    if flat.count("t") != layers:
        return f"the layout holds {flat.count('t')} layers, the model has {layers}"
    if len(stages) % pp:
        return f"{len(stages)} parts do not divide by {pp} pipeline stages"
    return ""


def layout_counts(stages: Sequence[str]) -> tuple[int, ...]:
    """Decoder layers per stage, or per chunk."""
    return tuple(stage.count("t") for stage in stages)
