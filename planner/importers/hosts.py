"""Lists of hosts as Slurm writes them (``node[1-3,7]``), and equal hosts joined again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import product

from planner.inputs.document import JsonValue

MOST_HOSTS = 1_000_000
"""A list that stands for more is a mistake in one of its ranges."""

_PART = re.compile(r"[^,\[\]]*(?:\[[^\[\]]*\][^,\[\]]*)*")
_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d+)")


class HostListError(ValueError):
    """The text is not a list of hosts; the message says where it breaks."""


def expand(text: str) -> list[str]:
    """``n[1-3,7]`` as n1 n2 n3 n7, ``a[01-02]b,c`` as a01b a02b c; raises HostListError."""
    found: list[str] = []
    position = 0
    while position <= len(text):
        match = _PART.match(text, position)
        part = match[0] if match else ""
        if not part:
            raise HostListError(f"nothing stands at letter {position + 1} of {text!r}")
        found += _hosts(part)
        position += len(part)
        if position == len(text):
            return found
        if text[position] != ",":
            raise HostListError(f"{text[position]!r} at letter {position + 1} of {text!r}")
        position += 1
        if len(found) > MOST_HOSTS:
            raise HostListError(f"{text!r} stands for more than {MOST_HOSTS:,} hosts")
    raise HostListError(f"{text!r} ends with a comma")


def _hosts(part: str) -> list[str]:
    pieces = re.split(r"(\[[^\]]*\])", part)
    choices = [
        list(_numbers(p[1:-1], part)) if p.startswith("[") else [p] for p in pieces if p != ""
    ]
    return ["".join(choice) for choice in product(*choices)]


def _numbers(ranges: str, part: str) -> Iterator[str]:
    for text in ranges.split(","):
        first, dash, last = text.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise HostListError(f"{text!r} in {part!r} is not a number or a range")
        begin, end = int(first), int(last) if dash else int(first)
        if end < begin or end - begin > MOST_HOSTS:
            raise HostListError(f"the range {text!r} in {part!r} runs backwards or too far")
        for number in range(begin, end + 1):
            yield str(number).zfill(len(first))


def matching(pattern: str, hosts: Sequence[str]) -> list[str]:
    """The hosts that a list or a shell pattern (``worker-*``) names; raises HostListError."""
    if "*" in pattern or "?" in pattern:
        return [host for host in hosts if fnmatchcase(host, pattern)]
    wanted = set(expand(pattern))
    return [host for host in hosts if host in wanted]


def joined(hosts: Sequence[str]) -> list[dict[str, JsonValue]]:
    """Names of nodes as a cluster file gives them: a name, or a prefix and a running number."""
    runs: list[tuple[str, int, int, str]] = []
    for host in hosts:
        match = _NUMBERED.fullmatch(host)
        stem, number = (match["stem"], match["number"]) if match else ("", "")
        zeros = len(number) - len(number.lstrip("0")) if number else 0
        if zeros == len(number) > 0:
            zeros -= 1  # a bare 0 is a number, not padding
        prefix = stem + number[:zeros]
        value = int(number[zeros:]) if number else -1
        if runs and prefix and value >= 0:
            last, first, count, _ = runs[-1]
            if last == prefix and value == first + count and str(value) == number[zeros:]:
                runs[-1] = (last, first, count + 1, runs[-1][3])
                continue
        runs.append((prefix if value >= 0 else "", value, 1, host))
    return [
        {"name": host}
        if count == 1 or not prefix
        else {"name_prefix": prefix, "first_index": first, "count": count}
        for prefix, first, count, host in runs
    ]
