"""Runs a script with a stand-in for Triton.

torchtitan imports GPU kernels that reading a configuration never calls, and Triton itself is a
gigabyte. The stand-in accepts every decorator and attribute; PyTorch is loaded before and does
not see it.

    python without_kernels.py check.py
"""

import importlib
import runpy
import sys
import types


class Anything:
    """Whatever a kernel's source asks for while it is imported."""

    def __call__(self, *given, **named):
        return given[0] if len(given) == 1 and not named and callable(given[0]) else self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key):
        return self


class StandIn(types.ModuleType):
    """A module in which every name is there."""

    __path__: list[str] = []  # noqa: RUF012 - Python reads it from the module

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()


sys.modules["triton"] = None
for module in ("torch._inductor.compile_fx", "torch._inductor.runtime.triton_compat"):
    importlib.import_module(module)
for name in ("triton", "triton.language"):
    sys.modules[name] = StandIn(name)
sys.modules["triton"].language = sys.modules["triton.language"]
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
