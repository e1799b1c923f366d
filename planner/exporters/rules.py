"""Rules of a target that its files must keep, each with a name that its test breaks it by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from planner.errors import ExportError, Problem

T = TypeVar("T")


class Named(Protocol):
    """A rule as the reference shows it."""

    @property
    def name(self) -> str:
        """How its problem and its test call it."""

    @property
    def text(self) -> str:
        """What holds, in words."""


@dataclass(frozen=True, slots=True)
class Rule(Generic[T]):
    """``broken`` gives what is wrong with the files as they were read back, or "" if it holds."""

    name: str
    text: str
    broken: Callable[[T], str]


def broken_rules(rules: Sequence[Rule[T]], read: T, where: str) -> tuple[Problem, ...]:
    """A problem for every rule that does not hold."""
    return tuple(
        Problem(f"{where} ({rule.name})", message)
        for rule in rules
        if (message := rule.broken(read))
    )


def rule_texts(rules: Sequence[Rule[T]]) -> tuple[str, ...]:
    """The rules in words, for the report and the reference."""
    return tuple(rule.text for rule in rules)


def unreadable(path: str, why: str) -> ExportError:
    """Our own file cannot be read back: nothing may be written."""
    return ExportError(f"{path} cannot be read back: {why}", where=path)


def not_equal(what: str, found: object, planned: object) -> str:
    """A message when the files say something else than the plan."""
    return "" if found == planned else f"{what}: the files say {found}, the plan {planned}"


def not_divisible(what: str, value: int, by: str, divisor: int) -> str:
    """A message when ``divisor`` does not divide ``value``."""
    if divisor > 0 and value % divisor == 0:
        return ""
    return f"{what} {value} does not divide by {by} {divisor}"


def first(messages: Iterator[str]) -> str:
    """The first message that is not empty."""
    return next((m for m in messages if m), "")
