"""Modules that are named like their one public function, and may be called like it.

``planner.solve`` is a module as soon as anybody has imported it, and the function in the public
interface; making the module callable lets both be true.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType


def make_callable(module: str, function: Callable[..., object]) -> None:
    """Calling the module named ``module`` calls ``function``."""

    class CallableModule(ModuleType):
        """The module with a call."""

        def __call__(self, *args: object, **kwargs: object) -> object:
            return function(*args, **kwargs)

    CallableModule.__doc__ = function.__doc__
    sys.modules[module].__class__ = CallableModule
