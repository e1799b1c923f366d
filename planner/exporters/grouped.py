"""What a plan counts on where experts are one grouped product and a target cannot be told so."""

from __future__ import annotations

from collections.abc import Iterator

from planner.exporters.capability import Capability
from planner.exporters.view import View


def grouped_difference(capability: Capability, view: View) -> Iterator[str]:
    """One sentence where the user's own model decides how experts are multiplied."""
    if True in view.grouped_experts and not capability.grouped_experts:
        yield (
            "the plan counts one grouped product for all experts of a chip, which is up to the "
            "model's code here; plan with --forbid grouped_experts to have them priced one by one"
        )
