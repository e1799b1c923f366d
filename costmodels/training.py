"""What of a layer is trained: all of it, nothing, or low-rank adapters beside frozen matrices.

LoRA (Hu et al. 2021) adds to a frozen matrix W [in, out] the product of A [in, r] and B [r, out];
only A and B have gradients and optimizer state. The frozen matrix still passes the gradient of its
input on, so a step does two thirds of its products; a layer before the first trained one needs no
backward pass at all and keeps nothing for it.

Beside a column-parallel matrix A is whole on every device and B is divided; beside a row-parallel
one A is divided and B is whole, as adapters in Megatron-LM are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from costmodels.shapes import LayerShape, Matmul, Split

Mode = Literal["full", "lora", "frozen", "forward"]
Targets = Literal["attention", "mlp", "all"]


@dataclass(frozen=True, slots=True)
class Training:
    """How one layer takes part in the training.

    ``frozen`` passes gradients on and has none of its own; ``forward`` lies before every trained
    layer and runs no backward pass. ``rank`` and ``targets`` belong to ``lora``.
    """

    mode: Mode = "full"
    rank: int = 0
    targets: Targets = "all"


FULL = Training()


def adapters(shape: LayerShape, training: Training) -> tuple[Matmul, ...]:
    """The low-rank matrices of a layer; only blocks have any."""
    if training.mode != "lora" or shape.kind != "block":
        return ()
    parts = shape.anatomy
    chosen = {
        "attention": parts.attention,
        "mlp": parts.mlp,
        "all": (*parts.attention, *parts.mlp),
    }[training.targets]
    rank = training.rank
    out: list[Matmul] = []
    for m in chosen:
        down, up = _SPLITS[m.split]
        experts = (m.experts, m.active_experts)
        out.append(Matmul(f"{m.name} A", m.inputs, rank, down, *experts))
        out.append(Matmul(f"{m.name} B", rank, m.outputs, up, *experts))
    return tuple(out)


_SPLITS: dict[Split, tuple[Split, Split]] = {
    "column": ("replicated", "column"),
    "row": ("row", "replicated"),
    "replicated": ("replicated", "replicated"),
}
