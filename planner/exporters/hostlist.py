"""Slurm's host lists: ``dgx-[0-3,7],login`` for dgx-0 … dgx-3, dgx-7 and login."""

from __future__ import annotations

import re
from collections.abc import Sequence

from planner.exporters.ranks import compact

_NUMBERED = re.compile(r"^(.*?)(\d+)$")
_PART = re.compile(r"([^,\[]+)(?:\[([^\]]+)\])?(?:,|$)")


def hostlist(hosts: Sequence[str]) -> str:
    """The shortest list of these hosts; names with leading zeros keep them by standing alone."""
    groups: dict[str, list[int]] = {}
    alone: list[str] = []
    for host in hosts:
        match = _NUMBERED.match(host)
        if match and str(int(match[2])) == match[2]:
            groups.setdefault(match[1], []).append(int(match[2]))
        else:
            alone.append(host)
    parts = []
    for prefix, numbers in groups.items():
        text = compact(sorted(numbers))
        parts.append(f"{prefix}[{text}]" if len(numbers) > 1 else f"{prefix}{text}")
    return ",".join([*parts, *alone])


def expand(text: str) -> tuple[str, ...]:
    """The hosts of a list. ValueError if it is none."""
    found: list[str] = []
    end = 0
    for match in _PART.finditer(text):
        if match.start() != end:
            raise ValueError(f"{text[end : match.start()]!r} is no part of a host list")
        end = match.end()
        if match[2] is None:
            found.append(match[1])
            continue
        for part in match[2].split(","):
            first, _, last = part.partition("-")
            found += [f"{match[1]}{n}" for n in range(int(first), int(last or first) + 1)]
    if end != len(text):
        raise ValueError(f"{text[end:]!r} is no part of a host list")
    return tuple(found)
