"""The models, clusters, jobs, layouts and profiles that ship with the planner, found by name.

In an installed wheel they lie in ``planner/fixtures/``, in a checkout in the repository's
top-level ``fixtures/``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

FixtureKind = Literal["models", "clusters", "jobs", "layouts", "profiles"]

SUFFIXES = (".json", ".yaml", ".yml")


@cache
def _root() -> Path | None:
    package = Path(__file__).resolve().parents[1]
    if (package / "fixtures").is_dir():
        return package / "fixtures"
    checkout = package.parent
    # Beside an installed package "fixtures" could belong to anybody; a checkout has both.
    if (checkout / "fixtures").is_dir() and (checkout / "pyproject.toml").is_file():
        return checkout / "fixtures"
    return None


def _files(kind: FixtureKind) -> dict[str, Path]:
    root = _root()
    folder = root / kind if root else None
    if folder is None or not folder.is_dir():
        return {}
    return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix in SUFFIXES}


def fixture(kind: FixtureKind, name: str) -> Path | None:
    """The shipped file called ``name`` (without its suffix, in any case), or None."""
    return _files(kind).get(name.lower())


def fixture_names(kind: FixtureKind) -> tuple[str, ...]:
    """All shipped names of one kind, sorted."""
    return tuple(sorted(_files(kind)))
