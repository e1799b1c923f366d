"""What the Trace Event Format and its viewers demand of a trace.

From the format's public description ("Trace Event Format", catapult) and from what Perfetto does
with events that break it: times are read as floating point microseconds and cut to nanoseconds,
slices of one track must nest, a slice that overlaps its predecessor is dropped
(google/perfetto issues 4280 and 5012).
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

Event = dict[str, Any]

META = {
    "process_name": "name",
    "thread_name": "name",
    "process_labels": "labels",
    "process_sort_index": "sort_index",
    "thread_sort_index": "sort_index",
}
"""Metadata events and the argument that each of them carries."""


def problems_of(text: str) -> list[str]:
    """Everything that is wrong with a trace, in words; empty if a viewer shows all of it."""
    trace = json.loads(text, parse_constant=lambda value: f"not JSON: {value}")
    if not isinstance(trace, dict) or not isinstance(trace.get("traceEvents"), list):
        return ["no list of traceEvents"]
    found = [] if trace.get("displayTimeUnit") in ("ms", "ns") else ["displayTimeUnit is unknown"]
    events: list[Event] = trace["traceEvents"]
    found += [f"{problem}: {event}" for event in events for problem in _fields(event)]
    if found:
        return found
    return [*_nesting(events), *_flows(events), *_names(events)]


def viewed_ns(microseconds: float) -> int:
    """A time as Perfetto reads it."""
    return int(microseconds * 1000.0)


def _fields(event: Event) -> list[str]:
    phase = event.get("ph")
    found = [f"{key} is no whole number" for key in ("pid", "tid") if not _whole(event.get(key))]
    if not isinstance(event.get("name"), str) or not event["name"]:
        found.append("has no name")
    if phase == "M":
        key = META.get(event.get("name", ""))
        kind = int if key == "sort_index" else str
        if key is None or not isinstance(event.get("args", {}).get(key), kind):
            found.append("metadata without its argument")
        return found
    if phase not in ("X", "C", "s", "t", "f"):
        return [*found, f"phase {phase!r}"]
    if not _number(event.get("ts")):
        found.append("has no time")
    if phase == "X" and not _number(event.get("dur")):
        found.append("has no duration")
    if phase in ("X", "s", "t", "f") and not event.get("cat"):
        found.append("has no category")
    if phase in ("s", "t", "f") and not isinstance(event.get("id"), int):
        found.append("a flow without an id")
    if phase == "f" and event.get("bp") != "e":
        found.append("does not bind to the slice that encloses it")
    if phase == "C" and not (event.get("args") and all(map(_number, event["args"].values()))):
        found.append("a counter without numbers")
    return found


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _slices(events: list[Event]) -> dict[tuple[int, int], list[tuple[int, int, str]]]:
    """Start, end and name in nanoseconds by track, in order of the start."""
    tracks = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            start = viewed_ns(e["ts"])
            tracks[e["pid"], e["tid"]].append((start, start + viewed_ns(e["dur"]), e["name"]))
    return {track: sorted(slices) for track, slices in tracks.items()}


def _nesting(events: list[Event]) -> list[str]:
    found = []
    for track, slices in _slices(events).items():
        open_: list[tuple[int, int, str]] = []
        for piece in slices:
            while open_ and open_[-1][1] <= piece[0]:
                open_.pop()
            if open_ and piece[1] > open_[-1][1]:
                found.append(f"track {track}: {piece} overlaps {open_[-1]}")
            open_.append(piece)
    return found


def _flows(events: list[Event]) -> list[str]:
    tracks = _slices(events)
    chains = defaultdict(list)
    for e in events:
        if e["ph"] in ("s", "t", "f"):
            chains[e["id"]].append(e)
    found = []
    for identity, chain in chains.items():
        phases = "".join(e["ph"] for e in chain)
        if phases[:1] != "s" or phases[-1:] != "f" or set(phases[1:-1]) - {"t"}:
            found.append(f"flow {identity} goes {phases}")
        if len({(e["name"], e["cat"]) for e in chain}) > 1:
            found.append(f"flow {identity} changes its name")
        times = [e["ts"] for e in chain]
        if times != sorted(times):
            found.append(f"flow {identity} leads back in time")
        for e in chain:
            at = viewed_ns(e["ts"])
            slices = tracks.get((e["pid"], e["tid"]), [])
            if not any(start <= at <= end for start, end, _ in slices):
                found.append(f"flow {identity} starts or ends in no slice: {e}")
    return found


def _names(events: list[Event]) -> list[str]:
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    used = {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"}
    return [f"track {track} has no name" for track in sorted(used - named)]
