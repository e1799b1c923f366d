"""The drawing of the cluster: networks, switches, hosts and chips, each chip with its stage."""

from __future__ import annotations

from costmodels.catalog.names import short_name
from planner.inputs.cluster_spec import NetworkSpec, SwitchSpec
from planner.inputs.quantities import describe_bandwidth
from planner.plan import Plan
from planner.report.format import device_list, plural
from planner.report.html.head import inside
from planner.report.html.palette import edge, tint
from planner.report.html.tags import Html, tag
from planner.report.html.view import View, shortened
from planner.report.placement import HostKind, IslandSeats, Placement, Rack, ports

MOST_CARDS = 36
"""Kinds of hosts that are drawn in a rack; the others are counted."""

WIRE = 7
"""Pixels from one wire to the next."""

ROW_SPACE = 14
"""Pixels between two rows of hosts, as in the style sheet."""

NETWORK_COLOURS = ("#1f2933", "#0b7285", "#a61e4d", "#5f3dc4", "#846358", "#2b8a3e")


def topology(view: View, placed: Placement) -> Html:
    """Networks above, hosts below; hosts that look alike are drawn once."""
    colours = {
        n.name: NETWORK_COLOURS[i % len(NETWORK_COLOURS)] for i, n in enumerate(placed.networks)
    }
    hosts = sum(len(kind.hosts) for kind in placed.kinds)
    return tag(
        "div",
        _legend(view),
        [_network(n, colours[n.name], placed, hosts) for n in placed.networks],
        tag("div", [_rack(view, rack, placed, colours) for rack in placed.racks], class_="racks"),
        class_="topology",
    )


def _legend(view: View) -> Html:
    known = [
        tag(
            "span",
            tag("span", class_="swatch", style=f"background:{tint(n)};border-color:{edge(n)}"),
            f"{short_name(chip)}",
        )
        for chip, n in view.kinds.items()
    ]
    if view.plan.unused_devices:
        known.append(tag("span", tag("span", class_="swatch idle"), "idle"))
    text = "the number on a chip is its stage"
    if len(view.groups) > 1:
        text = "a chip shows its pipeline (letter) and stage (number)"
    return tag("p", known, tag("span", text, class_="note"), class_="legend")


def _network(network: NetworkSpec, colour: str, placed: Placement, hosts: int) -> Html:
    joined = placed.hosts_on.get(network.name, 0)
    who = "joins all nodes" if joined == hosts and hosts > 1 else f"joins {plural(joined, 'node')}"
    kind = network.kind or "tcp (assumed)"
    levels = (
        "one switch that does not block"
        if not network.switches
        else plural(len(network.switches), "switch", "switches")
    )
    upper = [s for s in network.switches if not s.uplinks]
    tops = f", above them {_names([s.name for s in upper])}" if network.switches and upper else ""
    return tag(
        "div",
        tag("b", network.name),
        f" {kind} · {levels}{tops} · {who}",
        class_="network",
        style=f"border-color:{colour}",
    )


def _rack(view: View, rack: Rack, placed: Placement, colours: dict[str, str]) -> Html:
    shown = rack.kinds[:MOST_CARDS]
    wired = {n for k, _ in rack.kinds for n in ports(placed.kinds[k].node)}
    wires = {name: colour for name, colour in colours.items() if name in wired}
    cards = [_card(view, placed.kinds[k], n, len(rack.switches), wires) for k, n in shown]
    rest = rack.kinds[MOST_CARDS:]
    if rest:
        nodes = sum(n for _, n in rest)
        text = f"{plural(nodes, 'node')} more in {plural(len(rest), 'other arrangement')}"
        cards.append(tag("div", tag("div", text, class_="card note"), class_="cell"))
    body = tag("div", _buses(wires), tag("div", cards, class_="cards"), class_="wired")
    if not rack.switches:
        return tag("div", body, class_="rack bare")
    return tag("div", tag("div", _switches(rack.switches), class_="switch"), body, class_="rack")


def _switches(switches: tuple[SwitchSpec, ...]) -> str:
    """Equal leaf switches, and the way up from each of them."""
    text = _names([s.name for s in switches])
    if len(switches) > 1:
        text += f" ({len(switches):,} equal switches; one is drawn)"
    ways = []
    for uplink in switches[0].uplinks:
        rate = uplink.bandwidth_one_way
        each = f" of {describe_bandwidth(rate)}" if rate is not None else ""
        ways.append(f"{plural(uplink.count, 'uplink')}{each} to {uplink.to}")
    if switches[0].oversubscription is not None:
        ways.append(f"{switches[0].oversubscription:g} : 1 oversubscribed")
    return " · ".join([text, *ways])


def _card(view: View, kind: HostKind, count: int, switches: int, colours: dict[str, str]) -> Html:
    """One host; ``count`` of them hang on one of ``switches`` equal switches."""
    hosts = kind.hosts if switches < 2 else kind.hosts[:count]
    names = _names(list(hosts))
    many = f"× {count:,}" if count > 1 else ""
    card = tag(
        "div",
        tag(
            "div",
            tag("span", shortened(names, 30), title=names),
            tag("b", many) if many else None,
            class_="host",
        ),
        [_island(view, island, devices) for island, devices in zip(kind.islands, kind.devices)],
        tag("div", _ports(kind, colours), class_="ports"),
        class_="card many" if count > 1 else "card",
    )
    lines = [
        tag(
            "span",
            class_="rail",
            style=f"left:{WIRE * n}px;top:{-_above(n, colours)}px;background:{c}",
        )
        for n, c in enumerate(colours.values())
    ]
    return tag("div", lines, card, class_="cell", style=f"padding-left:{WIRE * len(colours) + 8}px")


def _buses(colours: dict[str, str]) -> Html:
    """The networks as lines above the hosts; each host's rails start there."""
    height = _above(0, colours) if colours else 0
    lines = [
        tag("span", class_="bus", style=f"bottom:{_above(n, colours) - 3}px;background:{c}")
        for n, c in enumerate(colours.values())
    ]
    return tag("div", lines, class_="buses", style=f"height:{height}px")


def _above(number: int, colours: dict[str, str]) -> int:
    """Pixels of a bus above the hosts: more than the space between two rows of hosts."""
    return ROW_SPACE + 2 + WIRE * (len(colours) - 1 - number)


def _island(view: View, island: IslandSeats, devices: tuple[str, ...]) -> Html:
    chips = [_chip(view, island, n, devices[n]) for n in range(len(island.seats))]
    words = f"{len(island.seats)} × {short_name(island.cls.chip.id)}"
    if island.cls.size > 1:
        words += f" · {inside(island.cls)}"
    return tag(
        "div",
        tag("div", chips, class_="chips"),
        tag("div", words, class_="fabric"),
        class_="island",
    )


def _chip(view: View, island: IslandSeats, number: int, device: str) -> Html:
    seat = island.seats[number]
    if seat is None:
        return tag("span", "–", class_="chip idle", title=f"{device}: idle")
    label = view.label(seat.group, seat.stage)
    kind = view.kinds[island.cls.chip.id]
    stage = view.groups[seat.group].stages[seat.stage]
    return tag(
        "span",
        label,
        class_="chip",
        style=f"background:{tint(kind)};border-color:{edge(kind)}",
        title=f"{device}: {view.stage_name(seat.group, stage)}",
        data_stage=f"{seat.group}-{seat.stage}",
    )


def _ports(kind: HostKind, colours: dict[str, str]) -> list[Html]:
    found = []
    for network, nics in ports(kind.node).items():
        rates = " + ".join(
            f"{f'{n.count} × ' if n.count > 1 else ''}{describe_bandwidth(n.bandwidth_one_way)}"
            for n in nics
        )
        colour = colours[network]
        # from the card's padding and edge back to the network's own rail
        reach = 13 + 8 + WIRE * (len(colours) - list(colours).index(network))
        tap = tag("span", class_="tap", style=f"width:{reach}px;background:{colour}")
        dot = tag("span", class_="dot", style=f"background:{colour}")
        found.append(tag("div", tap, dot, f"{network} {rates}"))
    return found


def _names(hosts: list[str]) -> str:
    """``a800-[0-127]``: hosts are devices without their number to :func:`device_list`."""
    return device_list([f"{host}/0" for host in hosts]).replace("/0", "")


def idle(plan: Plan) -> Html | None:
    """Chips that do nothing, and why."""
    if not plan.unused_devices:
        return None
    rows = [
        tag(
            "li",
            tag("b", f"{plural(len(unused.devices), 'chip')} "),
            f"{device_list(unused.devices)}: {unused.reason}",
        )
        for unused in plan.unused_devices
    ]
    return tag("div", tag("h3", "Idle"), tag("ul", rows))
