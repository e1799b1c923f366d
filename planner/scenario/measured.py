"""Changes of inputs that were measured: what carries over, and what a profile cannot say.

A profile replaces formulas, so a change that only the formulas read would change nothing without
a word. Such changes are refused here; links and speeds scale what was measured on them.
"""

from __future__ import annotations

from dataclasses import replace

from planner.errors import InputError, Problem
from planner.graphs.measured import meant
from planner.inputs.cluster import ClusterInput
from planner.inputs.profile import ProfileInput
from planner.inputs.profile_spec import LinkProfileSpec
from planner.scenario import changes as c
from planner.scenario.chips import chip_in, chips_of
from planner.scenario.links import links_of, networks_of

_LINK_FIELDS = ("nics", "networks", "fabric", "host_link")


def measured_chips(profile: ProfileInput, cluster: ClusterInput) -> frozenset[str]:
    """Catalogue ids of the cluster's chips whose layers the profile measured."""
    ids = set(chips_of(cluster))
    found = (meant(chip.chip, ids, cluster.catalog) for chip in profile.spec.chips)
    return frozenset(i for i in found if i is not None)


def check_change(profile: ProfileInput, cluster: ClusterInput, change: c.PlanChange) -> None:
    """Raises InputError for a change that a profile contradicts, or would swallow."""
    problem = _problem(profile, cluster, change)
    if problem is not None:
        raise InputError([problem])


def _problem(profile: ProfileInput, cluster: ClusterInput, change: c.PlanChange) -> Problem | None:
    name = profile.name
    match change:
        case c.SetModel():
            return _another_model(name)
        case c.SetField() if change.root == "model":
            return _another_model(name)
        case c.ScaleEfficiency():
            if chip_in(cluster, change.chip) in measured_chips(profile, cluster):
                message = f"its layer times come from the profile {name}, not from an efficiency"
                return Problem("", message, f"write speed {change.chip} x{change.factor:g}")
        case c.SetLink() | c.SetLinkEfficiency():
            if _on(profile, cluster, change.link):
                message = f"the profile {name} holds what was measured on this link"
                return Problem("", message, f"write link {change.link} xFACTOR, which scales that")
        case c.SetField() if change.root == "cluster" and profile.spec.links:
            if any(part in _LINK_FIELDS for part in change.path):
                message = f"the profile {name} holds what was measured on links"
                return Problem("", message, "write link LINK xFACTOR, which scales that")
    return None


def _another_model(name: str) -> Problem:
    message = f"the profile {name} was measured with this model"
    return Problem("", message, "plan the other model with its own --profile, or without one")


def scaled_links(
    profile: ProfileInput, cluster: ClusterInput, link: str, factor: float
) -> ProfileInput:
    """The profile with every message over a link taking ``1/factor`` of its measured time.

    Raises InputError where a profile of several networks would have to tell them apart.
    """
    places = _on(profile, cluster, link)
    if not places:
        return profile
    links = [
        _scaled(link, factor) if n in places else link for n, link in enumerate(profile.spec.links)
    ]
    return replace(profile, spec=profile.spec.model_copy(update={"links": tuple(links)}))


def _on(profile: ProfileInput, cluster: ClusterInput, link: str) -> frozenset[int]:
    """Places of the profile's links that were measured on a link of the cluster."""
    kind, _, name = link.partition(":")
    if kind == "network":
        places = {n for n, li in enumerate(profile.spec.links) if li.where == "between_nodes"}
        if places and name and len(networks_of(cluster)) > 1:
            message = f"the profile {profile.name} does not say which network it was measured on"
            raise InputError([Problem("", message, "write network, for all of them")])
        return frozenset(places)
    chip = chip_in(cluster, name)
    if f"{kind}:{cluster.catalog.alias(chip)}" not in links_of(cluster):
        return frozenset()  # chips of a node talk over their other link
    ids = set(chips_of(cluster))
    return frozenset(
        n
        for n, li in enumerate(profile.spec.links)
        if li.where == "in_node"
        and {meant(end, ids, cluster.catalog) for end in (li.source, li.target)} == {chip}
    )


def _scaled(link: LinkProfileSpec, factor: float) -> LinkProfileSpec:
    points = tuple((size, seconds / factor) for size, seconds in link.points)
    return link.model_copy(update={"points": points})
