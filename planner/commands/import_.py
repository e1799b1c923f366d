"""``planner import FORMAT FILE``: cluster, layout and job files from what people have."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.text import Text

from costmodels.catalog import load_catalog
from planner.commands.import_options import (
    ChipOption,
    FileArgument,
    NameOption,
    NetworkOption,
    NodesOption,
    NvlinkRateOption,
    OutputOption,
    OversubscriptionOption,
    UplinkOption,
)
from planner.commands.options import FormatOption, complete_file
from planner.commands.output import STDOUT, Format, check_writable, show, write_text
from planner.errors import InputError, Problem
from planner.importers.imported import Imported
from planner.inputs.reading import parse_document, read_text

imports = typer.Typer(
    help="Make cluster, layout and job files from what you have: nvidia-smi, NCCL, Slurm, "
    "Kubernetes, DeepSpeed, Megatron-LM. What a format cannot say is asked for.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@imports.command("nvidia-smi")
def nvidia_smi(
    file: FileArgument,
    chip: ChipOption = None,
    nodes: NodesOption = 1,
    name: NameOption = "node",
    network: NetworkOption = None,
    nic: Annotated[
        list[str] | None,
        typer.Option(metavar="PORT", help="Only this port is on the network. Repeatable."),
    ] = None,
    nvlink_rate: NvlinkRateOption = None,
    output: OutputOption = STDOUT,
    format_: FormatOption = Format.text,
) -> None:
    """A cluster of hosts from the matrix of nvidia-smi topo -m.

    planner import nvidia-smi topo.txt --chip A100-SXM-80GB --nodes 4 --network 200Gb/s:ib
    """
    from planner.importers.nvidia_smi import import_nvidia_smi

    check_writable(output)
    text, source = read_source(file)
    result = import_nvidia_smi(
        text,
        source,
        load_catalog(),
        chip=chip,
        nodes=nodes,
        name=name,
        network=network,
        nics=nic or (),
        nvlink_rate=nvlink_rate,
    )
    answer(result, output, format_)


@imports.command("nccl")
def nccl(
    file: FileArgument,
    chip: ChipOption = None,
    nodes: NodesOption = 1,
    name: NameOption = "node",
    network: NetworkOption = None,
    nvlink_pairs: Annotated[
        str | None,
        typer.Option(
            metavar="PAIRS",
            help="Cards that an NVLink bridge joins, such as 0-1,2-3, where the file's links lead "
            "nowhere; none where there is none.",
        ),
    ] = None,
    nvlink_rate: NvlinkRateOption = None,
    output: OutputOption = STDOUT,
    format_: FormatOption = Format.text,
) -> None:
    """A cluster of hosts from NCCL's topology XML.

    planner import nccl topo.xml --chip H100-SXM-80GB --nodes 4 --network 400Gb/s
    """
    from planner.importers.nccl import import_nccl

    check_writable(output)
    text, source = read_source(file)
    result = import_nccl(
        text,
        source,
        load_catalog(),
        chip=chip,
        nodes=nodes,
        name=name,
        network=network,
        nvlink_pairs=nvlink_pairs,
        nvlink_rate=nvlink_rate,
    )
    answer(result, output, format_)


@imports.command("slurm")
def slurm(
    file: FileArgument,
    devices: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[HOSTS=]COUNTxCHIP",
            help="What a host holds, such as 8xA100-SXM-80GB or node[0-3]=8xV100-SXM2-32GB. "
            "Repeatable.",
        ),
    ] = None,
    network: NetworkOption = None,
    uplink: UplinkOption = None,
    oversubscription: OversubscriptionOption = None,
    output: OutputOption = STDOUT,
    format_: FormatOption = Format.text,
) -> None:
    """A cluster from Slurm's topology.conf (plugins tree and block).

    planner import slurm topology.conf --devices 8xH100-SXM-80GB --network 8x400Gb/s:ib
    --oversubscription 2
    """
    from planner.importers.slurm import import_slurm

    check_writable(output)
    text, source = read_source(file)
    result = import_slurm(
        text,
        source,
        load_catalog(),
        devices=devices or (),
        network=network,
        uplink=uplink,
        oversubscription=oversubscription,
    )
    answer(result, output, format_)


@imports.command("kubernetes")
def kubernetes(
    file: FileArgument,
    chip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRODUCT=NAME",
            help="Which chip a product of the labels is, where its name does not say. Repeatable.",
        ),
    ] = None,
    nodes: NodesOption = 1,
    name: NameOption = "node",
    network: NetworkOption = None,
    uplink: UplinkOption = None,
    oversubscription: OversubscriptionOption = None,
    output: OutputOption = STDOUT,
    format_: FormatOption = Format.text,
) -> None:
    """A cluster from the labels of Kubernetes nodes.

    planner import kubernetes nodes.json --network 8x400Gb/s:ib

    The file holds what kubectl get nodes -o json prints, one node, or the labels of one node.
    """
    from planner.importers.kubernetes import import_kubernetes

    check_writable(output)
    text, source = read_source(file)
    document = parse_document(text, source, is_json=text.lstrip().startswith("{"))
    result = import_kubernetes(
        document,
        load_catalog(),
        chips=chip or (),
        nodes=nodes,
        name=name,
        network=network,
        uplink=uplink,
        oversubscription=oversubscription,
    )
    answer(result, output, format_)


@imports.command("deepspeed")
def deepspeed(
    file: FileArgument,
    chip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[HOSTS=]NAME",
            help="Which chip the slots are, for all hosts or for some (worker-[0-3]=…). "
            "Repeatable.",
        ),
    ] = None,
    network: NetworkOption = None,
    include: Annotated[
        str | None,
        typer.Option(metavar="HOSTS", help="As DeepSpeed's: worker-0@worker-1:0,2."),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(metavar="HOSTS", help="As DeepSpeed's: worker-0@worker-1:0,2."),
    ] = None,
    world_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Refuse the file unless it has this many slots."),
    ] = None,
    output: OutputOption = STDOUT,
    format_: FormatOption = Format.text,
) -> None:
    """A cluster from a DeepSpeed hostfile.

    planner import deepspeed hostfile --chip A100-SXM-80GB --network 4x200Gb/s:ib
    """
    from planner.importers.deepspeed import import_deepspeed

    check_writable(output)
    text, source = read_source(file)
    result = import_deepspeed(
        text,
        source,
        load_catalog(),
        chips=chip or (),
        network=network,
        include=include,
        exclude=exclude,
        world_size=world_size,
    )
    answer(result, output, format_)


@imports.command("megatron")
def megatron(
    file: FileArgument,
    var: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A variable of the script. Repeatable."),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="FLAG", help="Leave this argument out. Repeatable."),
    ] = None,
    output: OutputOption = STDOUT,
    job: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write the job (batch, sequence length, precision) here.",
            autocompletion=complete_file,
        ),
    ] = None,
    format_: FormatOption = Format.text,
) -> None:
    """A layout and a job from Megatron-LM arguments or the script that holds them.

    planner import megatron train.sh -o layout.yaml --job job.yaml
    """
    from planner.importers.megatron import import_megatron

    check_writable(output)
    check_writable(job)
    text, source = read_source(file)
    layout, made = import_megatron(text, source, variables=var or (), drop=drop or ())
    if job is None:
        says = ", ".join(f"--set job.{key}={value}" for key, value in made.data.items())
        show(Text(f"the job: add --job FILE, or give {says}", style="dim"), to_stderr=True)
    else:
        write(made, job, format_)
    answer(layout, output, format_)


def read_source(name: str) -> tuple[str, str]:
    """A file's text, or that of standard input, and what problems call it."""
    if name != STDOUT:
        return read_text(name), name
    try:
        return sys.stdin.read(), "standard input"
    except UnicodeDecodeError:
        raise InputError([Problem("standard input", "is not UTF-8 text")]) from None


def answer(result: Imported, output: str, format_: Format) -> None:
    """Write the document, and beside it say where it is and what nobody said."""
    write(result, output, format_)
    for note in result.open:
        show(Text(f"note: {note}", style="yellow"), to_stderr=True, wrap=False)
    if output != STDOUT:
        text = f"wrote {output}; planner check {output} checks it again"
        show(Text(text, style="dim"), to_stderr=True)


def write(result: Imported, output: str, format_: Format) -> None:
    """YAML with its comments, or bare JSON."""
    if format_ is Format.text:
        write_text(output, result.to_yaml())
    else:
        write_text(output, json.dumps(result.data, indent=1, ensure_ascii=False) + "\n")
