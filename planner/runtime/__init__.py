"""The PyTorch reference runtime: executes any plan, however asymmetric.

    from planner.runtime import parallelize

    trainer = parallelize(plan, model)        # on every process, under torchrun
    loss = trainer.step(data, step=0)

The names below need PyTorch (``pip install 'planner[torch]'``, with Hugging Face models
``'planner[hf]'``) and are loaded on first use; ranks, orders and shards are plain Python.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from planner.errors import InputError, Problem

_PUBLIC = {
    "Batches": "planner.runtime.data",
    "Blocks": "planner.runtime.model",
    "Data": "planner.runtime.data",
    "HfCausalLM": "planner.runtime.hf",
    "LayeredModel": "planner.runtime.model",
    "SyntheticTokens": "planner.runtime.data",
    "Trainer": "planner.runtime.trainer",
    "load_checkpoint": "planner.runtime.checkpoint",
    "model_of_config": "planner.runtime.hf",
    "open_tokens": "planner.runtime.data",
    "parallelize": "planner.runtime.trainer",
    "prepare_fsdp": "planner.runtime.fsdp",
    "save_checkpoint": "planner.runtime.checkpoint",
    "seating": "planner.runtime.seats",
    "token_cross_entropy": "planner.runtime.model",
}
_NEEDS_TRANSFORMERS = ("HfCausalLM", "model_of_config")

if TYPE_CHECKING:
    from planner.runtime.checkpoint import load_checkpoint, save_checkpoint
    from planner.runtime.data import Batches, Data, SyntheticTokens, open_tokens
    from planner.runtime.fsdp import prepare_fsdp
    from planner.runtime.hf import HfCausalLM, model_of_config
    from planner.runtime.model import Blocks, LayeredModel, token_cross_entropy
    from planner.runtime.seats import seating
    from planner.runtime.trainer import Trainer, parallelize

__all__ = [
    "Batches",
    "Blocks",
    "Data",
    "HfCausalLM",
    "LayeredModel",
    "SyntheticTokens",
    "Trainer",
    "load_checkpoint",
    "model_of_config",
    "open_tokens",
    "parallelize",
    "prepare_fsdp",
    "save_checkpoint",
    "seating",
    "token_cross_entropy",
]


def require_torch(*, transformers: bool = False) -> None:
    """Raise InputError, saying what to install, where PyTorch (or transformers) is missing."""
    if find_spec("torch") is None:
        message = "PyTorch is not installed"
        raise InputError([Problem("torch", message, "pip install 'planner[torch]'")])
    if transformers and find_spec("transformers") is None:
        message = "transformers is not installed, which Hugging Face models need"
        raise InputError([Problem("transformers", message, "pip install 'planner[hf]'")])


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'planner.runtime' has no attribute {name!r}")
    if name != "seating":
        require_torch(transformers=name in _NEEDS_TRANSFORMERS)
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
