"""Commands that are imported when they are run: help, and every other command, do not wait."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand


class OnDemand(TyperCommand):
    """Stands for a command, or a group of them, in the list of a group.

    ``where`` is ``module:attribute`` of its function or Typer application; ``line`` is what the
    list says of it.
    """

    def __init__(self, name: str, where: str, line: str) -> None:
        super().__init__(name, help=line)
        self.where = where

    def load(self) -> Any:  # noqa: ANN401 - Typer's own
        """The command itself."""
        module, _, attribute = self.where.partition(":")
        found = getattr(import_module(module), attribute)
        alone = typer.Typer(rich_markup_mode="rich")
        if isinstance(found, typer.Typer):
            alone.add_typer(found, name=self.name)
        else:
            alone.command(self.name)(found)
        return typer.main.get_group(alone).commands[self.name or ""]

    def make_context(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Typer's own
        """The context of the command itself: whatever is run or completed goes on there."""
        return self.load().make_context(*args, **kwargs)
