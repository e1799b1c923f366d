"""The software generation that a run used: an efficiency belongs to a chip *and* a generation.

A generation is recognised by words of the row that describe the run (family, source, precision,
notes), in the order of the table. What a generation could not do yet (fused attention, reducing
gradients behind the backward pass) follows from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from planner.validate.table import Row


@dataclass(frozen=True, slots=True)
class Stack:
    """A software generation. ``pattern`` is looked for in what the row says of itself."""

    name: str
    pattern: str
    flash: bool = True
    overlap: bool = True
    gradient_bytes: int = 4
    balanced: bool = False
    """Whether routers were forced to spread tokens evenly."""
    shards_optimizer: bool = False
    """Whether the optimizer is sharded where the source does not speak of it."""
    tuned: bool = False
    """Whether runs are vendors' tuned recipes: where these do not say what they recompute, it is
    the little that costs no time."""
    attention: str = "fa2"
    """Generation of the fused attention kernel: fa2, or te (cuDNN and FlashAttention 3)."""
    slow_host: bool = False
    """Whether the runtime issues every kernel from Python, one by one."""
    fused_softmax: bool = True
    """Whether unfused attention at least has a fused softmax kernel."""
    early_stop: bool = False
    """Whether full recomputation ends at the last tensor that is read (PyTorch's checkpoints)."""


STACKS = (
    Stack(
        "megatron-bridge-25.09",
        r"container 25\.0?9",
        balanced=True,
        attention="te",
        shards_optimizer=True,
        tuned=True,
    ),
    Stack(
        "megatron-bridge-25.11",
        r"container 25\.1[0-2]",
        balanced=True,
        attention="te",
        shards_optimizer=True,
        tuned=True,
    ),
    Stack(
        "megatron-bridge-26.02",
        r"container 26\.0?[1-3]\b",
        balanced=True,
        attention="te",
        shards_optimizer=True,
        tuned=True,
    ),
    Stack(
        "megatron-bridge-26.04",
        r"container 26\.0?[45]\b",
        balanced=True,
        attention="te",
        shards_optimizer=True,
        tuned=True,
    ),
    Stack(
        "megatron-bridge-26.06",
        r"container 26\.(0?[6-9]|1[0-2])\b",
        balanced=True,
        attention="te",
        shards_optimizer=True,
        tuned=True,
    ),
    Stack(
        "mlperf-5",
        r"mlperf-?v?5|training_results_v5",
        attention="te",
        shards_optimizer=True,
        tuned=True,
    ),
    Stack(
        "mlperf-4",
        r"mlperf-?v?4|training_results_v4",
        attention="te",
        shards_optimizer=True,
        tuned=True,
    ),
    Stack(
        "nemo-24",
        r"nemo[- ]?24|nemo-longseq|nemo24",
        attention="te",
        shards_optimizer=True,
        tuned=True,
    ),
    Stack("nemo-25", r"\bnemo\b", gradient_bytes=2, attention="te", shards_optimizer=True, tuned=True),
    Stack("sailor", r"sailor", False, False, 2, slow_host=True, fused_softmax=False),
    Stack("paddle", r"paddle", shards_optimizer=True),
    Stack("deepspeed-2023", r"flagperf.*deepspeed", shards_optimizer=True),
    Stack("megatron-deepspeed", r"megatron-deepspeed|bloom|vtrain", False, False, 2, slow_host=True),
    Stack("megatron-2021", r"megatron-sc21|korthikanti|sc21", False, False, 4),
    Stack("llm-foundry", r"llm-?foundry|mosaicml", early_stop=True),
    Stack("torchtitan", r"torchtitan", early_stop=True),
    Stack("maxtext", r"maxtext|tpu-recipes|tpu-ironwood|jax", gradient_bytes=4),
    Stack("modellink", r"modellink|mindspeed|ascend"),
    Stack("neuron", r"neuron|trn1|trn2"),
    Stack("internevo", r"internevo|internlm"),
    Stack("nanotron", r"nanotron|playbook|ultrascale"),
    Stack("deepspeed", r"deepspeed", shards_optimizer=True),
    Stack("megatron-core", r"megatron|flagscale|flagperf|mcore", shards_optimizer=True),
    Stack("fsdp", r"fsdp", early_stop=True),
)
"""Every generation that is told apart, the most particular first."""

UNKNOWN = Stack("unknown", "")
"""Runs of no known generation: the chip's own mean applies."""


def stack_of(row: Row) -> Stack:
    """The generation of a row."""
    words = ("family", "source", "precision", "address", "notes")
    text = " ".join(row[word] for word in words).lower()
    return next((s for s in STACKS if re.search(s.pattern, text)), UNKNOWN)
