"""Layers per stage, from the ways in which Megatron-LM writes them.

``--pipeline-model-parallel-layout "Et*3|t*4|t*4L"`` (E embedding, t block, L loss, m multi-token
prediction), ``--decoder-first/last-pipeline-num-layers``, the ``account-for`` switches, or an equal
split of ``--num-layers``. Stages of several chunks are read where all chunks have equal layers: a
layout file has no others.
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
VIRTUAL = ("num-virtual-stages-per-pipeline-rank", "num-layers-per-virtual-pipeline-stage")

_TERM = re.compile(r"(?P<letter>[EtmL])(?:\*(?P<times>\d+))?|\((?P<group>[^()|]*)\)\*(?P<many>\d+)")


def chunks_of(flags: Flags, pp: int) -> int:
    """Chunks of layers per stage: 1 without interleaving. Problems go to ``flags``."""
    given = [name for name in VIRTUAL if flags.has(name)]
    if len(given) > 1 or (given and flags.has(LAYOUT)):
        other = LAYOUT if flags.has(LAYOUT) else given[0]
        flags.wrong(given[-1], f"cannot stand beside --{other}", "keep one of them")
        return 1
    if flags.has(LAYOUT):
        parts = (flags.text(LAYOUT) or "").count("|") + 1
        return parts // pp if parts % pp == 0 else 1
    if not given:
        return 1
    (name,) = given
    value, layers = flags.number(name), flags.number("num-layers")
    if value is None or layers is None:
        if value is not None and not flags.has("num-layers"):
            flags.wrong("num-layers", "is missing", f"add it: --{name} divides it")
        return 1
    chunks = value if name == VIRTUAL[0] else layers // (pp * value)
    if chunks < 1 or layers % (pp * chunks) or (name == VIRTUAL[1] and layers % (pp * value)):
        message = f"{layers} layers do not divide by {pp} stages with --{name} {value}"
        flags.wrong(name, message, f"a number that they divide by, or --drop {name}")
        return 1
    return chunks


def stages_of(flags: Flags, pp: int, chunks: int = 1) -> JsonValue | None:
    """Blocks per stage; None where an equal split says the same. Problems go to ``flags``."""
    if chunks > 1:
        _equal_chunks(flags, pp)
        return None
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


def _equal_chunks(flags: Flags, pp: int) -> None:
    """Chunks of as many blocks each: with others a layout file could not say which is which."""
    uneven = [name for name in (*ENDS, *ACCOUNTS) if flags.has(name)]
    remedy = "layers that divide by the chunks, or a layout of one part per stage"
    if uneven:
        message = "makes chunks of unequal layers, which a layout file does not hold"
        flags.wrong(uneven[0], message, remedy)
    if not flags.has(LAYOUT):
        return
    counts = _parts(flags)
    if counts is not None and len(set(counts)) > 1:
        listed = ", ".join(map(str, counts))
        message = f"has chunks of {listed} blocks: a layout file holds equal ones"
        flags.wrong(LAYOUT, message, remedy)


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
    counts = _parts(flags)
    if counts is not None and len(counts) != pp:
        message = f"has {len(counts)} parts for {pp} stages"
        flags.wrong(LAYOUT, message, "one part per stage, or as many for every stage")
        return None
    return list(counts) if counts is not None else None


def _parts(flags: Flags) -> tuple[int, ...] | None:
    """Blocks in every part of a layout; None where something is wrong with it."""
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
    return tuple(stage.count("t") for stage in stages)


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
