"""Layers per stage, from the ways in which Megatron-LM writes them.

``--pipeline-model-parallel-layout "Et*3|t*4|t*4L"`` (E embedding, t block, L loss, m multi-token
prediction), ``--decoder-first/last-pipeline-num-layers``, the ``account-for`` switches, or an equal
split of ``--num-layers``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from planner.inputs.document import JsonValue

if TYPE_CHECKING:
    from planner.importers.megatron import Flags

LAYOUT = "pipeline-model-parallel-layout"
ENDS = ("decoder-first-pipeline-num-layers", "decoder-last-pipeline-num-layers")
ACCOUNTS = ("account-for-embedding-in-pipeline-split", "account-for-loss-in-pipeline-split")

_TERM = re.compile(r"(?P<letter>[EtmL])(?:\*(?P<times>\d+))?|\((?P<group>[^()|]*)\)\*(?P<many>\d+)")


def stages_of(flags: Flags, pp: int) -> JsonValue | None:
    """Blocks per stage; None where an equal split says the same. Problems go to ``flags``."""
    ways = [name for name in (LAYOUT, *ENDS, *ACCOUNTS) if flags.has(name)]
    if LAYOUT in ways and len(ways) > 1:
        flags.wrong(ways[1], f"cannot stand beside --{LAYOUT}", "keep one of them")
        return None
    if LAYOUT in ways:
        return _by_layout(flags, pp)
    layers = flags.number("num-layers")
    if layers is None:
        if pp > 1 and not flags.has("num-layers"):
            flags.wrong("num-layers", "is missing", "add it: the stages' layers follow from it")
        return None
    if set(ways) & set(ENDS):
        return _by_ends(flags, pp, layers)
    extra = [int(flags.has(name)) for name in ACCOUNTS]
    whole = layers + sum(extra)
    if whole % pp:
        what = f"{layers} layers" + (f" and {sum(extra)} for the ends" if sum(extra) else "")
        message = f"{what} do not divide by {pp} stages: Megatron refuses them or trains fewer"
        remedy = f"say how they are split: --{LAYOUT}, or --{ENDS[0]} and --{ENDS[1]}"
        flags.wrong("num-layers", message, remedy)
        return None
    if not sum(extra):
        return None
    counts = [whole // pp] * pp
    counts[0] -= extra[0]
    counts[-1] -= extra[1]
    return list(counts)


def _by_ends(flags: Flags, pp: int, layers: int) -> JsonValue | None:
    first, last = (flags.number(name) for name in ENDS)
    inner = pp - (first is not None) - (last is not None)
    rest = layers - (first or 0) - (last or 0)
    if inner < 0 or rest < 0 or (inner == 0 and rest) or (inner and rest % inner):
        name = ENDS[0] if first is not None else ENDS[1]
        message = f"leaves {rest} of {layers} layers to {max(inner, 0)} stages, not equally many"
        flags.wrong(name, message, f"say all of them: --{LAYOUT}")
        return None
    counts: list[JsonValue] = [rest // inner] * inner if inner else []
    if first is not None:
        counts.insert(0, first)
    if last is not None:
        counts.append(last)
    return counts


def _by_layout(flags: Flags, pp: int) -> JsonValue | None:
    text = (flags.text(LAYOUT) or "").replace(",", "").replace(" ", "")
    parts = [_letters(flags, part) for part in text.split("|")]
    if any(part is None for part in parts):
        return None
    stages = [part for part in parts if part is not None]
    whole = "".join(stages)
    if "m" in whole:
        message = "layers for multi-token prediction (m) are not priced by this planner"
        flags.wrong(LAYOUT, message, "write the layout without m")
        return None
    if not re.fullmatch(r"Et*L", whole):
        message = "does not start with one E and end with one L"
        flags.wrong(LAYOUT, message, "write for example Et*3|t*4|t*4L")
        return None
    blocks = whole.count("t")
    layers = flags.number("num-layers")
    if layers is not None and layers != blocks:
        message = f"has {blocks} blocks, --num-layers says {layers}"
        flags.wrong(LAYOUT, message, "make them agree")
        return None
    if len(stages) != pp:
        message = f"has {len(stages)} parts for {pp} stages"
        remedy = "one part per stage: interleaved parts are not priced by this planner"
        flags.wrong(LAYOUT, message, remedy)
        return None
    return [stage.count("t") for stage in stages]


def _letters(flags: Flags, part: str) -> str | None:
    """One part with its repetitions written out."""
    found, position = "", 0
    while position < len(part):
        match = _TERM.match(part, position)
        if match is None:
            message = f"{part[position:]!r} is no part of a layout"
            flags.wrong(LAYOUT, message, "letters E, t, m, L, *N for repetitions, | between stages")
            return None
        if match["letter"]:
            found += match["letter"] * int(match["times"] or 1)
        else:
            inner = _letters(flags, match["group"])
            if inner is None:
                return None
            found += inner * int(match["many"])
        position = match.end()
    return found
