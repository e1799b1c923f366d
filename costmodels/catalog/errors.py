"""What can be wrong with a chip's name or with a user's own chip file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class UnknownChip(LookupError):
    """No chip has this name; ``candidates`` are the nearest names, best first."""

    def __init__(self, name: str, candidates: Sequence[str]) -> None:
        self.name = name
        self.candidates = tuple(candidates)
        hint = f"; near: {', '.join(self.candidates)}" if self.candidates else ""
        super().__init__(f"no chip is called {name!r}{hint}")


class AmbiguousChip(LookupError):
    """A name fits several chips; ``candidates`` are all of them."""

    def __init__(self, name: str, candidates: Sequence[str]) -> None:
        self.name = name
        self.candidates = tuple(candidates)
        super().__init__(f"{name!r} fits several chips: {', '.join(self.candidates)}")


@dataclass(frozen=True, slots=True)
class CatalogProblem:
    """One thing that is wrong with a chip record: where, what, and what to try."""

    where: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}"
        return f"{text} ({self.remedy})" if self.remedy else text


class CatalogError(ValueError):
    """Chip records that cannot be used; carries every problem at once."""

    def __init__(self, problems: Sequence[CatalogProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))
