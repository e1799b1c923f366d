"""What every exporter gives: a declaration, files, and a check of its own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from planner.errors import Problem
from planner.exporters.capability import Capability
from planner.exporters.rules import Named
from planner.exporters.view import View


@dataclass(frozen=True, slots=True)
class File:
    """One file of an export. ``path`` is relative, with forward slashes."""

    path: str
    text: str
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What an exporter made of a plan.

    ``differences`` are what the target will do otherwise than the plan says, each as one
    sentence; ``todo`` is what the plan does not know and the user must add; ``run`` is how to
    start it, one line per entry.
    """

    files: tuple[File, ...]
    run: tuple[str, ...]
    todo: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """What reading the files back showed: the rules that were tried, and those that broke."""

    rules: tuple[str, ...]
    problems: tuple[Problem, ...]


class Exporter(Protocol):
    """One consumer of plans. Every module of ``planner.exporters.targets`` is one."""

    CAPABILITY: Capability

    @property
    def RULES(self) -> Sequence[Named]:
        """What :meth:`check` tries."""

    def write(self, view: View) -> Written:
        """The files for a plan that :data:`CAPABILITY` allows; nothing is written to disk."""

    def check(self, view: View, files: Mapping[str, str]) -> Checked:
        """Reads the text of its files back, by path, and tries every rule of the target."""
