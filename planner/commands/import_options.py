"""Arguments and options that the commands of ``planner import`` share."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.commands.options import complete_chip, complete_file

FileArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="The file; - is standard input.", autocompletion=complete_file
    ),
]
OutputOption = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write the result here; - is standard output.",
        autocompletion=complete_file,
    ),
]
ChipOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Which chip the cards are.", autocompletion=complete_chip),
]
NodesOption = Annotated[
    int, typer.Option(min=1, max=1_000_000, metavar="N", help="How many equal hosts there are.")
]
NameOption = Annotated[
    str, typer.Option(metavar="NAME", help="What the host is called, or the start of the names.")
]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        metavar="[PORTSx]RATE[:KIND]",
        help="The network ports of a node: rate of one port, one way, such as 8x200Gb/s:ib.",
    ),
]
UplinkOption = Annotated[
    str | None,
    typer.Option(
        metavar="[CABLESx]RATE",
        help="The way up from every switch that has one above it, such as 16x400Gb/s.",
    ),
]
OversubscriptionOption = Annotated[
    float | None,
    typer.Option(
        min=1.0,
        max=100.0,
        metavar="RATIO",
        help="In place of --uplink: what the hosts below can send to what the uplinks carry.",
    ),
]
NvlinkRateOption = Annotated[
    str | None,
    typer.Option(metavar="RATE", help="What one NVLink carries one way, such as '25 GB/s'."),
]
