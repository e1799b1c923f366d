"""Time, proven gap and memory of the search over fleets of growing size. Not a test.

    python tests/benchmarks/search.py              # all instances, one after the other
    python tests/benchmarks/search.py mixed-128 s6 # some of them

Every instance runs in a process of its own, so that the peak memory is its own. Times depend on
the machine; the last column compares them with the first instance of the run.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FLEETS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "mixed-16": (
        "llama-2-13b",
        "8xA100-SXM-80GB + 8xV100-SXM2-32GB @ 100Gb/s:ib",
        ("job.seq_len=4096", "job.global_batch=256"),
    ),
    "s1-24": ("llama-2-13b", "s1-a100-v100", ("job.seq_len=4096",)),
    "mixed-64": (
        "llama-3-70b",
        "4x8xA100-SXM-80GB + 4x8xA100-SXM-40GB @ 800Gb/s:ib",
        ("job.seq_len=4096",),
    ),
    "mixed-128": ("llama-3-70b", "mixed-128", ("job.seq_len=8192",)),
    "three-kinds-192": (
        "llama-3-70b",
        "8x8xH100-SXM-80GB + 8x8xA100-SXM-80GB + 8x8xV100-SXM2-32GB @ 800Gb/s:ib",
        ("job.seq_len=4096",),
    ),
    "mixed-1024": (
        "llama-3-70b",
        "64x8xA100-SXM-80GB + 64x8xV100-SXM2-32GB @ 800Gb/s:ib",
        ("job.seq_len=4096", "job.global_batch=2048"),
    ),
    "s6-1536": (
        "llama-3-70b",
        "s6-a800-910b3",
        ("job.seq_len=8192", "job.global_batch=2048"),
    ),
    "six-kinds-3072": (
        "llama-3-70b",
        "64x8xH100-SXM-80GB + 64x8xH800-SXM-80GB + 64x8xA100-SXM-80GB + 64x8xA800-SXM-80GB + "
        "64x8xA100-SXM-40GB + 64x8xV100-SXM2-32GB @ 800Gb/s:ib",
        ("job.seq_len=4096", "job.global_batch=4096"),
    ),
    "gpt3-22528": (
        "gpt3-175b",
        "gpt3-22528",
        (
            "job.seq_len=2048",
            "job.global_batch=3072",
            "cluster.cross_vendor_collectives=cpu-staged",
        ),
    ),
    "gpt3-22528-rows": (
        "gpt3-175b",
        "gpt3-22528",
        (
            "job.seq_len=2048",
            "job.global_batch=24576",
            "cluster.cross_vendor_collectives=cpu-staged",
        ),
    ),
}


def measure(name: str) -> dict[str, object]:
    """Search one instance in this process."""
    sys.path.insert(0, str(ROOT))
    from planner.inputs.cluster import load_cluster
    from planner.inputs.job import load_job
    from planner.inputs.model import load_model
    from planner.inputs.overrides import parse_overrides
    from planner.search.engine import Progress
    from planner.solve import SolveParams, solve

    model, cluster, settings = FLEETS[name]
    changes = parse_overrides(settings)
    loaded = (
        load_model(model, changes),
        load_cluster(cluster, None, changes),
        load_job(None, changes),
    )
    start = time.perf_counter()
    first: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.best_s is not None and not first:
            first.append(time.perf_counter() - start)

    plan = solve(
        *loaded, params=SolveParams(baselines=False, simulate=False, processes=2), progress=watch
    )
    certificate = plan.certificate
    return {
        "seconds": time.perf_counter() - start,
        "first_plan_s": first[0] if first else None,
        "step_s": plan.estimate.step_time_s,
        "gap": certificate.gap if certificate else None,
        "status": certificate.status if certificate else "",
        "pipelines": len(plan.pipelines),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main(names: list[str]) -> None:
    """Print a line per instance."""
    print(
        f"{'instance':<18}{'first plan s':>13}{'proof s':>9}{'gap %':>8}{'step s':>10}"
        f"{'MiB':>7}{'ratio':>7}  status"
    )
    unit = None
    for name in names or list(FLEETS):
        ended = subprocess.run(
            [sys.executable, __file__, "--one", name], capture_output=True, text=True, check=False
        )
        if ended.returncode:
            print(f"{name:<18}failed: {ended.stderr.strip().splitlines()[-1]}")
            continue
        row = json.loads(ended.stdout)
        unit = unit or row["seconds"]
        print(
            f"{name:<18}{row['first_plan_s']:>13.1f}{row['seconds']:>9.1f}"
            f"{100 * row['gap']:>8.2f}{row['step_s']:>10.3f}{row['peak_mib']:>7.0f}"
            f"{row['seconds'] / unit:>7.1f}  {row['status']}",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main(sys.argv[1:])
