"""A calibration: the constants and the efficiencies under which runs are priced."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from costmodels.catalog.efficiencies import Efficiencies, Setting, shipped_efficiencies
from costmodels.constants import Constants, shipped_constants
from costmodels.step import Run


@dataclass(frozen=True)
class Calibration:
    """Constants of the formulas, and efficiencies of chips and software."""

    constants: Constants
    efficiencies: Efficiencies = field(default_factory=Efficiencies)

    def run(self, run: Run, setting: Setting, *, pace: bool = True) -> Run:
        """The run on its calibrated chip; ``pace`` False leaves software generations out."""
        found = self.efficiencies
        factor = found.software_pace(run.chip, setting) if pace else 1.0
        return replace(run, chip=found.chip(run.chip, setting), pace=factor)


@lru_cache(maxsize=1)
def shipped_calibration() -> Calibration:
    """The calibration as fitted to the shipped rows."""
    return Calibration(shipped_constants(), shipped_efficiencies())
