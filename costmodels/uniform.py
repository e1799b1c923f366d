"""The price of a uniform run: its step time, its range, and the memory of its stages.

A layout with one set of degrees for all stages is priced as one pipeline of all layers, whatever
techniques it uses: context and expert parallelism, interleaving, every ZeRO level and FSDP.
``planner estimate`` and ``planner validate`` both come here.
"""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.confidence import step_range
from costmodels.constants import Constants
from costmodels.footprint import Footprint, Workspace, run_footprint
from costmodels.step import Run, StepPrice, price_step


@dataclass(frozen=True, slots=True)
class UniformPrice:
    """Seconds by cause and bytes by cause of a uniform run.

    ``range_s`` is where four of five such runs should lie, by the validated error of the chip.
    """

    run: Run
    step: StepPrice
    footprint: Footprint
    range_s: tuple[float, float]

    @property
    def step_s(self) -> float:
        """Seconds of one optimizer step."""
        return self.step.step_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of the whole job."""
        return self.run.tokens / self.step_s


def price_uniform(
    run: Run, constants: Constants | None = None, workspace: Workspace | None = None
) -> UniformPrice:
    """Price a run; ``workspace`` is the memory of its runtime where that is known.

    ValueError or LookupError where the run cannot exist on its chips and links.
    """
    step = price_step(run, constants)
    moe = any(shape.is_moe for shape in run.layers)
    return UniformPrice(
        run=run,
        step=step,
        footprint=run_footprint(run, step.stages, workspace=workspace),
        range_s=step_range(step.step_s, [run.chip], run.precision, experts=moe),
    )
