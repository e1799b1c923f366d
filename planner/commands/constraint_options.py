"""Options that rule plans out: chips, nodes, layers on chips, degrees, the class of plan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from planner.commands.options import complete_chip, repeatable
from planner.errors import Problem

if TYPE_CHECKING:
    from planner.inputs.document import JsonValue
    from planner.inputs.overrides import Override

ForbidChipOption = Annotated[
    list[str] | None,
    repeatable(
        "--forbid-chip",
        "CHIP",
        "A kind of chip of the cluster that this job must not use.",
        autocompletion=complete_chip,
    ),
]
ForbidNodeOption = Annotated[
    list[str] | None,
    repeatable("--forbid-node", "NODE", "A node of the cluster that this job must not use."),
]
PinOption = Annotated[
    list[str] | None,
    repeatable(
        "--pin",
        "FIRST:END=CHIP",
        "Layers FIRST up to, without, END lie on these kinds of chip alone "
        "(0:4=A100-SXM-80GB,H100-SXM-80GB), or on none of them (0:4!=V100-SXM2-32GB).",
    ),
]
MaxTensorParallelOption = Annotated[
    int | None,
    typer.Option(min=1, max=1024, metavar="N", help="No stage has a larger tensor-parallel group."),
]
MaxStagesOption = Annotated[
    int | None,
    typer.Option(min=1, max=1024, metavar="N", help="No pipeline has more stages."),
]
PlanClassOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The most general class of plan: rectangular (stock runtimes), staged, asymmetric.",
    ),
]

PriceOption = Annotated[
    list[str] | None,
    repeatable(
        "--price",
        "CHIP=USD",
        "USD per chip and hour for --objective cost, over the catalogue's.",
    ),
]
PowerOption = Annotated[
    list[str] | None,
    repeatable("--power", "CHIP=W", "Watts per chip for --objective energy, over the rated power."),
]
FloorOption = Annotated[
    float | None,
    typer.Option(
        "--min-tokens-per-s",
        metavar="RATE",
        help="With --objective cost or energy: plans that train less, whole job, do not count.",
    ),
]

_PIN = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*(!?=)\s*(.+?)\s*")


@dataclass(frozen=True, slots=True)
class GivenConstraints:
    """The options as they were given."""

    forbid_chip: Sequence[str] | None = None
    forbid_node: Sequence[str] | None = None
    pin: Sequence[str] | None = None
    max_tensor_parallel: int | None = None
    max_stages: int | None = None
    plan_class: str | None = None
    price: Sequence[str] | None = None
    power: Sequence[str] | None = None
    min_tokens_per_s: float | None = None


def constraint_overrides(given: GivenConstraints, problems: list[Problem]) -> list[Override]:
    """The options as fields of the job; what cannot be read goes to ``problems``."""
    from planner.inputs.overrides import Override

    pins: list[JsonValue] = []
    for text in given.pin or ():
        match = _PIN.fullmatch(text)
        if match is None:
            remedy = "write --pin 0:4=A100-SXM-80GB, or 0:4!=V100-SXM2-32GB to keep them off"
            problems.append(Problem(f"--pin {text}", "is not FIRST:END=CHIP", remedy))
            continue
        first, end, sign, names = match.groups()
        chips: list[JsonValue] = [name.strip() for name in names.split(",")]
        layers: list[JsonValue] = [int(first), int(end)]
        pins.append({"layers": layers, "only_on" if sign == "=" else "never_on": chips})
    fields: dict[str, JsonValue] = {
        "forbidden_chips": list(given.forbid_chip or ()) or None,
        "forbidden_nodes": list(given.forbid_node or ()) or None,
        "pinned_layers": pins or None,
        "max_tensor_parallel": given.max_tensor_parallel,
        "max_pipeline_stages": given.max_stages,
        "plan_class": given.plan_class,
        "min_tokens_per_s": given.min_tokens_per_s,
    }
    found = [
        Override("job", (name,), value=value, text=f"job.{name}={value}")
        for name, value in fields.items()
        if value is not None
    ]
    found += _figures("price", "prices_usd_per_hour", given.price, problems)
    return found + _figures("power", "power_watt", given.power, problems)


def _figures(
    flag: str, field: str, texts: Sequence[str] | None, problems: list[Problem]
) -> list[Override]:
    """``CHIP=FIGURE`` options, each an entry of a field of the job."""
    from planner.inputs.overrides import Override

    found = []
    for text in texts or ():
        chip, equals, figure = (part.strip() for part in text.partition("="))
        try:
            value = float(figure)
        except ValueError:
            value = 0.0
        if not equals or not chip or not 0 < value < float("inf"):
            message = "is not CHIP=FIGURE with a figure above 0"
            problems.append(Problem(f"--{flag} {text}", message, f"--{flag} V100-SXM2-32GB=0.8"))
            continue
        shown = f"job.{field}.{chip}={value}"
        found.append(Override("job", (field, chip), value=value, text=shown))
    return found
