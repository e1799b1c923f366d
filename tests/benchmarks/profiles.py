"""Measured runs against predictions from profiles, and plans against published planners'.

    python tests/benchmarks/profiles.py measured   # the 12 runs, worst first
    python tests/benchmarks/profiles.py planners   # instances of OPT-350, judged as Sailor judges

Not a test: the second part searches fleets of up to 256 chips.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

INSTANCES: dict[str, tuple[str, int, str]] = {
    "32 A100-40 + 96 V100-16": (
        "sailor-a100-v100",
        1024,
        "Sailor 0.170, AMP 0.132, FlashFlex 0.118",
    ),
    "64 A100-40": ("16x4xA100-SXM-40GB @ 50Gb/s", 1024, "Sailor 0.2355"),
    "64 A100-40 + 64 V100-16": (
        "16x4xA100-SXM-40GB + 16x4xV100-SXM2-16GB @ 50Gb/s",
        1024,
        "Sailor 0.2172",
    ),
    "128 A100-40 + 128 V100-16": (
        "32x4xA100-SXM-40GB + 32x4xV100-SXM2-16GB @ 50Gb/s",
        1024,
        "Sailor leaves half of it idle",
    ),
    "8 RTX3090 + 24 RTX2080 + 16 Titan RTX": ("sailor-mixed", 288, ""),
    "64 GH200": ("sailor-gh200", 1024, ""),
}


def measured() -> None:
    """Every measured run: from profiles, from formulas, and by Sailor's own formula."""
    from planner.inputs.cluster import load_cluster
    from planner.inputs.job import load_job
    from planner.inputs.model import load_model
    from planner.inputs.profile import load_profile, profile_from_resolved
    from planner.resolve import resolve_inputs
    from tests.measured_runs import mean_error, predict_all
    from tests.sailor_judge import Judge, group_of_run, measured_runs

    runs = {run["name"]: run for run in measured_runs()["runs"]}
    profile = load_profile("opt-350m-sailor")
    model, job = load_model("opt-350-gpt2"), load_job(None)
    for family, cluster in (("mixed", "sailor-mixed"), ("gh200", "sailor-gh200")):
        found = resolve_inputs(model, load_cluster(cluster, None), job, profile).profile
        judge = Judge(profile_from_resolved(found.resolved if found is not None else {}))
        formulas = {p.name: p for p in predict_all(family, profile=False)}
        rows = predict_all(family)
        print(
            f"{family:<14}{'measured s':>11}{'profile s':>11}{'error':>8}{'formulas':>10}"
            f"{'Sailor':>8}{'memory GB':>11}{'profile':>9}{'error':>7}"
        )
        theirs = {}
        for row in rows:
            theirs[row.name] = judge.step_s([group_of_run(runs[row.name])]) / row.measured_s - 1
            print(
                f"{row.name:<14}{row.measured_s:>11.3f}{row.step_s:>11.3f}{row.error:>8.1%}"
                f"{formulas[row.name].error:>10.1%}{theirs[row.name]:>8.1%}"
                f"{row.measured_bytes / 1e9:>11.2f}{row.peak_bytes / 1e9:>9.2f}"
                f"{row.memory_error:>7.0%}"
            )
        other = sum(map(abs, theirs.values())) / len(theirs)
        print(
            f"mean absolute error: profile {mean_error(rows):.1%}, formulas "
            f"{mean_error(list(formulas.values())):.1%}, Sailor's formula {other:.1%}\n"
        )


def planners(names: list[str]) -> None:
    """Plans of the instances at the default settings, without baselines."""
    from planner.inputs.cluster import load_cluster
    from planner.inputs.job import load_job
    from planner.inputs.model import load_model
    from planner.inputs.overrides import parse_overrides
    from planner.inputs.profile import load_profile, profile_from_resolved
    from planner.solve import SolveParams, solve
    from tests.sailor_judge import judge

    print(f"{'instance':<38}{'step s':>8}{'gap':>7}{'judged it/s':>13}{'seconds':>9}  published")
    for name, (cluster, batch, published) in INSTANCES.items():
        if names and name not in names:
            continue
        start = time.perf_counter()
        plan = solve(
            load_model("opt-350-gpt2"),
            load_cluster(cluster, None),
            load_job(None, parse_overrides([f"job.global_batch={batch}"])),
            profile=load_profile("opt-350m-sailor"),
            params=SolveParams(gap=0.3, baselines=False, simulate=False),
        )
        record, certificate = plan.inputs.profile, plan.certificate
        speed = judge(plan, profile_from_resolved(record.resolved if record is not None else {}))
        print(
            f"{name:<38}{plan.estimate.step_time_s:>8.3f}"
            f"{certificate.gap if certificate is not None else 1:>7.1%}{speed:>13.4f}"
            f"{time.perf_counter() - start:>9.0f}  {published}",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["planners"]:
        planners(sys.argv[2:])
    else:
        measured()
