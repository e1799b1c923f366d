"""Outcomes kept on disk by what decides them: an interrupted sweep goes on where it was.

The key is a hash of the inputs, the effort and the planner's own code: another version of the
planner, or an edited one, finds nothing of the old one's.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from planner.plan import digest
from planner.scenario.inputs import PlanInputs
from planner.whatif.evaluation import Effort
from planner.whatif.outcome import Outcome, outcome_from_json

KEPT = ("planned", "infeasible", "invalid")
"""Outcomes that would come again. What a limit stopped, or a bug, is tried anew."""


class OutcomeCache:
    """A folder with one small JSON file per outcome, each written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Outcome | None:
        """The outcome of a key; None where there is none, or only a damaged file."""
        try:
            value = json.loads(self._path(key).read_text(encoding="utf-8"))
            return outcome_from_json(value)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def put(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome if it is one that would come again. OSError where it cannot be."""
        if outcome.status not in KEPT:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(outcome.as_json()), encoding="utf-8")
        os.replace(temporary, path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def key_of(inputs: PlanInputs, effort: Effort, *, rate: str = "") -> str:
    """The key of one scenario's outcome; of whether it reaches a rate, if one is given."""
    key = {"inputs": inputs.digest, "effort": effort.as_json(), "code": fingerprint()}
    return digest({**key, "rate": rate} if rate else key)


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """SHA-256 of the planner's own source and data files."""
    sha = hashlib.sha256()
    for package in ("costmodels", "planner"):
        spec = find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(root).rglob("*")):
                if path.suffix in (".py", ".json"):
                    sha.update(str(path.relative_to(root)).encode())
                    sha.update(path.read_bytes())
    return sha.hexdigest()


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/planner/whatif``, by default below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "planner" / "whatif"
