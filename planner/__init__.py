"""Plan the training of a transformer on a cluster of mixed chips, and prove how good the plan is.

    from planner import load_cluster, load_job, load_model, solve

    plan = solve(load_model("llama-2-13b"), load_cluster("s1-a100-v100"), load_job(None))

The names below are the public interface, and :mod:`planner.whatif` for scenarios; everything else
may change. They are loaded on first use, so that reading and checking files does not wait for the
solver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from planner.version import VERSION as __version__

_PUBLIC = {
    "Explanation": "planner.explain",
    "ExportError": "planner.errors",
    "GateFailed": "planner.errors",
    "InfeasibleError": "planner.errors",
    "InputError": "planner.errors",
    "NoPlanFound": "planner.errors",
    "Plan": "planner.plan",
    "PlanDiff": "planner.diff",
    "PlannerError": "planner.errors",
    "Problem": "planner.errors",
    "Progress": "planner.search.engine",
    "SolveParams": "planner.solve",
    "Timeline": "planner.timeline",
    "WhyNot": "planner.explain",
    "diff": "planner.diff",
    "explain": "planner.explain",
    "export_plan": "planner.exporters",
    "load_cluster": "planner.inputs.cluster",
    "load_job": "planner.inputs.job",
    "load_model": "planner.inputs.model",
    "load_profile": "planner.inputs.profile",
    "prepare": "planner.solve",
    "read_plan": "planner.plan_file",
    "side_by_side": "planner.report.side_by_side",
    "simulate": "planner.simulate",
    "solve": "planner.solve",
    "verify": "planner.verify",
    "why_not": "planner.explain",
}

if TYPE_CHECKING:
    from planner.diff import PlanDiff, diff
    from planner.errors import (
        ExportError,
        GateFailed,
        InfeasibleError,
        InputError,
        NoPlanFound,
        PlannerError,
        Problem,
    )
    from planner.explain import Explanation, WhyNot, explain, why_not
    from planner.exporters import export_plan
    from planner.inputs.cluster import load_cluster
    from planner.inputs.job import load_job
    from planner.inputs.model import load_model
    from planner.inputs.profile import load_profile
    from planner.plan import Plan
    from planner.plan_file import read_plan
    from planner.report.side_by_side import side_by_side
    from planner.search.engine import Progress
    from planner.simulate import simulate
    from planner.solve import SolveParams, prepare, solve
    from planner.timeline import Timeline
    from planner.verify import verify

__all__ = [
    "Explanation",
    "ExportError",
    "GateFailed",
    "InfeasibleError",
    "InputError",
    "NoPlanFound",
    "Plan",
    "PlanDiff",
    "PlannerError",
    "Problem",
    "Progress",
    "SolveParams",
    "Timeline",
    "WhyNot",
    "__version__",
    "diff",
    "explain",
    "export_plan",
    "load_cluster",
    "load_job",
    "load_model",
    "load_profile",
    "prepare",
    "read_plan",
    "side_by_side",
    "simulate",
    "solve",
    "verify",
    "why_not",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'planner' has no attribute {name!r}")
    module = import_module(_PUBLIC[name])
    value = getattr(module, name)
    # `planner.solve`, `planner.simulate`, `planner.verify`, `planner.diff` and `planner.explain`
    # are modules too; importing them puts the module here, the public name is the function
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
