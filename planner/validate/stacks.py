"""The software generation that a run used: an efficiency belongs to a chip *and* a generation.

A generation is recognised by words of the row that describe the run (family, source, precision,
notes), in the order of the table. What a generation could not do yet (fused attention, reducing
gradients behind the backward pass) follows from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from costmodels.footprint import Workspace
from costmodels.units import GIB
from planner.validate.table import Row


@dataclass(frozen=True, slots=True)
class Stack:
    """A software generation. ``pattern`` is looked for in what the row says of itself."""

    name: str
    pattern: str
    flash: bool = True
    overlap: bool = True
    gradient_bytes: int = 4
    fp16_gradient_bytes: int = 0
    """Bytes of accumulated gradients of fp16 runs where they differ: Megatron-LM turns fp32
    accumulation on for bf16 alone."""
    balanced: bool = False
    """Whether routers were forced to spread tokens evenly."""
    shards_optimizer: bool = False
    """Whether the optimizer is sharded where the source does not speak of it."""
    fitting: bool = False
    """Whether unstated recomputation is the least that fits (the recipe chose it); else none is
    taken, as runtimes recompute nothing unless they are told to."""
    workspace_gib: float = 6.0
    """Context, libraries and communication buffers as runs of this kind report their memory."""
    held_bytes: int = 0
    """Bytes per parameter held beside weights, gradients and optimizer."""
    selective_kept: float = 1.0
    """Share of the activations that "selective" recomputation keeps."""
    attention: str = "fa2"
    """Generation of the fused attention kernel: triton (the first FlashAttention, in Triton), fa2,
    te (cuDNN and FlashAttention 3 in vendors' frameworks), or cudnn (its kernels alone)."""
    once_per_host: bool = False
    """Whether a token crosses to a host once, however many of its experts lie there (DeepEP)."""
    blocking: bool = False
    """Whether a stage waits while activations and gradients pass to it (DeepSpeed's pipeline)."""
    slow_host: bool = False
    """Whether the runtime issues every kernel from Python, one by one."""
    fused_softmax: bool = True
    """Whether unfused attention at least has a fused softmax kernel."""
    pads: bool = True
    """Whether vocabularies and slices are padded, so that matrix units load them at full speed."""
    early_stop: bool = False
    """Whether full recomputation ends at the last tensor that is read (PyTorch's checkpoints)."""
    grouped_experts: bool = False
    """Whether all experts of a chip are multiplied by one kernel."""
    fused_routing: bool = True
    """Whether tokens are copied to experts, and results weighed and summed, by one kernel each."""
    rescaled: bool = False
    """Whether operands of 8 bits are scaled by their own largest elements, looked for each time."""
    equal_heads: bool = False
    """Whether fused attention pads values to the head size of keys (FlashAttention 2's own)."""
    unfused_update: int = 0
    """Bytes per parameter that clipping and casts move beside the fused optimizer."""


PLAIN = Stack(
    "pytorch-eager",
    r"pytorch-eager",
    overlap=False,
    early_stop=True,
    pads=False,
    fp16_gradient_bytes=2,
    workspace_gib=0.8,
    equal_heads=True,
)
"""PyTorch without a framework around it."""

STACKS = (
    Stack(
        "megatron-bridge-25.09",
        r"container 25\.0?9",
        balanced=True,
        once_per_host=True,
        attention="te",
        shards_optimizer=True,
    ),
    Stack(
        "megatron-bridge-25.11",
        r"container 25\.1[0-2]",
        balanced=True,
        once_per_host=True,
        attention="te",
        shards_optimizer=True,
    ),
    Stack(
        "megatron-bridge-26.02",
        r"container 26\.0?[1-3]\b",
        balanced=True,
        once_per_host=True,
        attention="te",
        shards_optimizer=True,
    ),
    Stack(
        "megatron-bridge-26.04",
        r"container 26\.0?[45]\b",
        balanced=True,
        once_per_host=True,
        attention="te",
        shards_optimizer=True,
    ),
    Stack(
        "megatron-bridge-26.06",
        r"container 26\.(0?[6-9]|1[0-2])\b",
        balanced=True,
        once_per_host=True,
        attention="te",
        shards_optimizer=True,
    ),
    Stack(
        "mlperf-5",
        r"mlperf-?v?5|training_results_v5",
        attention="te",
        shards_optimizer=True,
    ),
    Stack(
        "mlperf-4",
        r"mlperf-?v?4|training_results_v4",
        attention="te",
        shards_optimizer=True,
    ),
    Stack(
        "nemo-24",
        r"nemo[- ]?24|nemo-longseq|nemo24",
        attention="te",
        shards_optimizer=True,
    ),
    Stack(
        "nemo-25",
        r"\bnemo\b",
        gradient_bytes=2,
        attention="te",
        shards_optimizer=True,
    ),
    Stack(
        "sailor",
        r"sailor",
        False,
        False,
        2,
        blocking=True,
        slow_host=True,
        fused_softmax=False,
        workspace_gib=3.0,
    ),
    replace(
        PLAIN,
        name="pytorch-unfused",
        pattern=r"pytorch-(eager|compiled)-unfused",
        flash=False,
        fused_softmax=False,
    ),
    replace(PLAIN, name="pytorch-compiled", pattern=r"pytorch-compiled"),
    PLAIN,
    replace(PLAIN, name="planner-run", pattern=r"planner-run", slow_host=True),
    Stack("paddle", r"paddle", shards_optimizer=True, workspace_gib=11.0),
    Stack(
        "deepspeed-2023",
        r"flagperf.*deepspeed",
        gradient_bytes=2,
        shards_optimizer=True,
        workspace_gib=10.0,
    ),
    Stack(
        "bigscience-bf16",
        r"prequel, 02-28",
        False,
        False,
        2,
        blocking=True,
        slow_host=True,
        held_bytes=4,
        workspace_gib=10.0,
    ),
    Stack(
        "megatron-deepspeed",
        r"megatron-deepspeed|bloom|vtrain",
        False,
        False,
        2,
        blocking=True,
        slow_host=True,
        workspace_gib=8.5,
    ),
    Stack("megatron-2021", r"megatron-sc21|korthikanti|sc21", False, False, 4, workspace_gib=0.5),
    # Its configurations say attn_impl: triton.
    Stack("llm-foundry", r"llm-?foundry|mosaicml", early_stop=True, attention="triton"),
    Stack("torchtitan", r"torchtitan", early_stop=True, selective_kept=0.52, workspace_gib=1.5),
    Stack("maxtext", r"maxtext|tpu-recipes|tpu-ironwood|jax", fitting=True),
    Stack("modellink", r"modellink|mindspeed|ascend"),
    Stack("neuron", r"neuron|trn1|trn2", fitting=True),
    Stack("internevo", r"internevo|internlm", held_bytes=12, workspace_gib=1.0),
    Stack("nanotron", r"nanotron|playbook|ultrascale"),
    Stack("deepspeed", r"deepspeed", shards_optimizer=True, workspace_gib=10.0),
    Stack(
        "megatron-core",
        r"megatron|flagscale|flagperf|mcore",
        fp16_gradient_bytes=2,
        shards_optimizer=True,
        workspace_gib=6.0,
    ),
    Stack("fsdp", r"fsdp", early_stop=True),
)
"""Every generation that is told apart, the most particular first."""

_EXPERTS: dict[str, Any] = {"fused_routing": False, "unfused_update": 16}

WAYS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    (r"pytorch-eager.*experts one by one", _EXPERTS),
    (r"pytorch-eager.*experts in one grouped product", _EXPERTS | {"grouped_experts": True}),
    (r"pytorch-compiled.*fp8 products", {"rescaled": True}),
    (r"attention by cudnn", {"attention": "cudnn", "equal_heads": False}),
)
"""What single runs did otherwise than their generation, by words of the row.

Plain PyTorch's update moves 16 bytes per parameter more than one fused kernel: clipping reads and
writes 16-bit gradients (4), they are cast to 32 bits (6, and 2 more for the update to read), and
weights are cast back from their masters (4 more). Dense rows of it were fitted without, so that
the shares of the peak have it in them; of experts on one card it is up to four fifths of a step.
"""

ALLOCATOR_SHARE = 0.1
"""What the allocator loses of everything that comes and goes."""

UNKNOWN = Stack("unknown", "")
"""Runs of no known generation: the chip's own mean applies."""


def workspace_of(stack: Stack) -> Workspace:
    """The memory that a runtime of this generation takes beside the model."""
    return Workspace(
        fixed_bytes=round(stack.workspace_gib * GIB),
        share=ALLOCATOR_SHARE,
        held_per_parameter=stack.held_bytes,
        selective_kept=stack.selective_kept,
    )


def stack_of(row: Row) -> Stack:
    """The generation of a row."""
    words = ("family", "source", "precision", "address", "notes")
    text = " ".join(row[word] for word in words).lower()
    found = next((s for s in STACKS if re.search(s.pattern, text)), UNKNOWN)
    for pattern, facts in WAYS:
        if re.search(pattern, text):
            found = replace(found, **facts)
    return found
