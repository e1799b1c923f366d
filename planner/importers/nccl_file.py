"""What a topology file of NCCL says about a host: its cards, PCIe links, NVLinks and ports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from costmodels.units import GB
from planner.errors import InputError, Problem
from planner.importers.imported import refuse

CARDS = ("0x0302", "0x0300")
"""PCI classes of 3D and VGA controllers."""

PORTS = {"0x0207": "ib", "0x0200": None}
"""PCI classes of InfiniBand and Ethernet controllers; an Ethernet port may be RoCE or TCP."""

NVSWITCH = "0x0680"

_RATE = re.compile(r"(?P<rate>\d+(?:\.\d+)?) ?GT/s")


@dataclass(frozen=True, slots=True)
class Card:
    """One card: where it hangs, its PCI identity, and its links by the bus id of their target."""

    bus: str
    identity: str
    pcie: float | None
    links: tuple[tuple[str, int, bool], ...]
    """Target, count, whether the target is a switch."""


@dataclass(frozen=True, slots=True)
class Port:
    """One network port: name, kind or None, Gb/s or None."""

    name: str
    kind: str | None
    gbit_per_s: float | None


@dataclass(frozen=True, slots=True)
class Host:
    """What the file says about the host. ``uplinks`` in bytes/s: PCIe switches to processors."""

    cards: tuple[Card, ...]
    ports: tuple[Port, ...]
    uplinks: float | None


def read_host(text: str, source: str) -> Host:
    """The devices of the file, in its order. Raises InputError where it is not such a file."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        message = f"is not valid XML: {error}"
        raise InputError([Problem(source, message, "give the file as NCCL reads it")]) from None
    if root.tag != "system":
        message = f"starts with <{root.tag}>, not with <system>"
        raise InputError([Problem(source, message, "give a topology file of NCCL")])
    _check_numbers(root, source)
    cards = tuple(_card(pci) for pci in root.iter("pci") if _is(pci, CARDS))
    if not cards:
        message = "holds no card: no <pci> of class 0x0302 or 0x0300"
        raise InputError([Problem(source, message, "give the topology of a host with GPUs")])
    uplinks = [_pcie(pci) for cpu in root.iter("cpu") for pci in cpu.findall("pci") if _leads(pci)]
    total = sum(u for u in uplinks if u is not None) if all(uplinks) else None
    order = {card.bus: n for n, card in enumerate(cards)}
    ranked = sorted(root.iter("pci"), key=_rank)
    by_rank = [pci.get("busid", "") for pci in ranked if pci.get("busid", "") in order]
    return Host(
        tuple(cards[order[bus]] for bus in dict.fromkeys(by_rank)), tuple(_ports(root)), total
    )


def _check_numbers(root: ElementTree.Element, source: str) -> None:
    """Raise InputError for every attribute that should be a number and is none."""
    wanted = {"gpu": ("dev",), "nvlink": ("count",), "net": ("speed",)}
    problems = []
    for element in root.iter():
        for key in wanted.get(element.tag, ()):
            value = element.get(key, "0") or "0"
            if not re.fullmatch(r"\d{1,9}(\.\d+)?", value) or (key != "speed" and "." in value):
                message = f"<{element.tag} {key}={value!r}> is not a number"
                problems.append(Problem(source, message, "give the file as NCCL wrote it"))
    refuse(problems)


def _rank(pci: ElementTree.Element) -> int:
    gpu = pci.find("gpu")
    return int(gpu.get("dev", "0")) if gpu is not None else 0


def _is(pci: ElementTree.Element, classes: Sequence[str]) -> bool:
    return pci.get("class", "")[:6].lower() in classes


def _leads(pci: ElementTree.Element) -> bool:
    """Whether a card hangs on it, or it is one."""
    return _is(pci, CARDS) or any(_is(p, CARDS) for p in pci.iter("pci"))


def _card(pci: ElementTree.Element) -> Card:
    gpu = pci.find("gpu")
    links = gpu.findall("nvlink") if gpu is not None else []
    return Card(
        bus=pci.get("busid", ""),
        identity=f"{pci.get('vendor', '')}:{pci.get('device', '')}".replace("0x", "").lower(),
        pcie=_pcie(pci),
        links=tuple(
            (
                link.get("target", ""),
                int(link.get("count", "0")),
                link.get("tclass", "")[:6].lower() == NVSWITCH,
            )
            for link in links
        ),
    )


def _pcie(pci: ElementTree.Element) -> float | None:
    """Bytes/s one way of the link above a device: lanes times rate, less the line code."""
    match = _RATE.match(pci.get("link_speed", ""))
    width = pci.get("link_width", "")
    if match is None or not width.isdigit() or int(width) == 0:
        return None
    rate = float(match["rate"])
    code = 0.8 if rate <= 5 else 128 / 130  # 8b/10b up to generation 2, then 128b/130b
    return int(width) * rate * code / 8 * GB


def _ports(root: ElementTree.Element) -> Iterator[Port]:
    """Ports by name where the file names them, else network controllers by their class."""
    nets = [net for net in root.iter("net") if net.get("keep", "1") != "0"]
    for net in nets:
        speed = float(net.get("speed", "0") or 0)  # Mb/s
        yield Port(net.get("name", ""), None, speed / 1000 if speed > 0 else None)
    if not nets:
        for pci in root.iter("pci"):
            if _is(pci, tuple(PORTS)):
                yield Port(pci.get("busid", ""), PORTS[pci.get("class", "")[:6].lower()], None)
