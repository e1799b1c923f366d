"""The price of a uniform run: its step time and the memory of its stages.

A layout with one set of degrees for all stages is priced as one pipeline of named layers, whatever
techniques it uses: context and expert parallelism, interleaving, every ZeRO level and FSDP.
``planner estimate`` and ``planner validate`` both come here.
"""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.constants import Constants
from costmodels.footprint import Footprint, Workspace, run_footprint
from costmodels.step import Run, StepPrice, price_step


@dataclass(frozen=True, slots=True)
class UniformPrice:
    """Seconds by cause and bytes by cause of a uniform run."""

    step: StepPrice
    footprint: Footprint

    @property
    def step_s(self) -> float:
        """Seconds of one optimizer step."""
        return self.step.step_s


def price_uniform(
    run: Run, constants: Constants | None = None, workspace: Workspace | None = None
) -> UniformPrice:
    """Price a run; ``workspace`` is the memory of its runtime where that is known.

    ValueError or LookupError where the run cannot exist on its chips and links.
    """
    step = price_step(run, constants)
    return UniformPrice(step, run_footprint(run, step.stages, workspace=workspace))
