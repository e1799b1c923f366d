"""Colours that stay apart for colour-blind eyes, all dark enough beside white and dark text."""

from __future__ import annotations

INK = "#1f2933"
MUTED = "#52606d"
GRID = "#e4e7eb"
IDLE = "#eef0f3"

CHIP_TINTS = (
    "#d6e6f5",
    "#fbdfc0",
    "#d5ecd2",
    "#e6d9f0",
    "#cdebe6",
    "#f3e6bd",
    "#f6d6de",
    "#dfe3e8",
)
"""Fill of a kind of chip; dark text is read on each of them."""

CHIP_EDGES = (
    "#2b6cb0",
    "#b8590b",
    "#2f7d32",
    "#6f42a0",
    "#0f766e",
    "#8a6a00",
    "#b0305c",
    "#52606d",
)
"""Edge and swatch of the same kinds."""

OPERATIONS = {
    "forward": "#4c8dca",
    "backward": "#f0a04b",
    "steady": "#dbe4ee",
    "sync": "#c0392b",
    "update": "#6b4c9a",
    "activations": "#1f4e79",
    "gradients": "#a65a00",
}

MEMORY = (
    ("parameters", "weights", "#24507a"),
    ("gradients", "gradients", "#4c8dca"),
    ("optimizer", "optimizer", "#a9cbe8"),
    ("activations", "activations", "#f0a04b"),
    ("logits", "logits", "#c96f1a"),
    ("buffers", "buffers", "#5ba07a"),
    ("context", "context", "#8d99a6"),
    ("fragmentation", "fragmentation", "#cdd3da"),
)
"""Items of a stage's memory: field, word, colour."""

TIME = (
    ("forward", "forward", "#4c8dca"),
    ("tp_comm_forward", "tensor-parallel, forward", "#24507a"),
    ("backward_input", "backward, inputs", "#f0a04b"),
    ("backward_weight", "backward, weights", "#f7cd97"),
    ("recompute", "recomputation", "#8a6a00"),
    ("tp_comm_backward", "tensor-parallel, backward", "#b8590b"),
    ("copy_forward", "activations to the host", "#7f6fb0"),
    ("copy_backward", "activations from the host", "#b5a8d6"),
)
"""Items of a micro-batch's time: field, word, colour."""


def tint(kind: int) -> str:
    """Fill of the kind of chip with this number."""
    return CHIP_TINTS[kind % len(CHIP_TINTS)]


def edge(kind: int) -> str:
    """Edge of the kind of chip with this number."""
    return CHIP_EDGES[kind % len(CHIP_EDGES)]
