"""Machine code for the inner loops of the search (numba): what is compiled, how it is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound=NamedTuple)


def compiled(function: F) -> F:
    """Machine code of the function and of all that it calls, kept for later runs if it can be.

    It holds no lock of the interpreter, and divides by zero as numpy does. What it calls must be in
    its own file: whether kept code is up to date is told by that file alone.
    """
    try:
        made: F = numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # no folder to keep it in
        made = numba.njit(function, nogil=True, error_model="numpy")
    return made


def compiled_part(function: F) -> F:
    """The function as a part of compiled ones, which Python itself does not call."""
    unwrapped: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    made: F = numba.njit(function, nogil=True, error_model="numpy", **unwrapped)
    return made


def contiguous(tables: T) -> T:
    """Tables with all their arrays contiguous: compiled functions know one layout of each."""
    whole: dict[str, Any] = {
        name: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
        for name, value in tables._asdict().items()
    }
    return tables._replace(**whole)
