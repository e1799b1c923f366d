"""What ``--model`` names: a ``config.json`` with all its keys, or a function that makes blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planner.inputs.overrides import Override, apply_overrides
from planner.inputs.reading import read_document
from planner.inputs.resources import fixture


def is_function(given: str) -> bool:
    """Whether it is ``package.module:function`` and not a file."""
    return ":" in given and not Path(given).exists()


def raw_config(given: str, overrides: Sequence[Override]) -> dict[str, Any]:
    """All keys of a ``config.json``, also those that the planner does not read.

    ``given`` is a file, a folder with one, or a shipped name. Raises InputError.
    """
    path = Path(given)
    shipped = fixture("models", given) if not path.is_file() else None
    if shipped is not None:
        path = shipped
    elif path.is_dir():
        path = path / "config.json"
    document = read_document(path)
    changes = [o for o in overrides if o.root == "model"]
    if changes:
        document = apply_overrides(document, changes, "model")
    data = document.data
    return dict(data) if isinstance(data, dict) else {}
