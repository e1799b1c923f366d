"""Measure, plan, run: does the plan's time come true, and is it better than an equal split?

python tests/benchmarks/closed_loop.py [FOLDER] [--slow N] [--steps N] [--batch N]

Two processes of this machine stand for unlike chips: ``cpu-slow`` does all of its work N times.
Both are measured at the same time, since they will train at the same time. Then the planner plans
from the profile, other layouts are priced from it, and every plan is run. Everything goes through
the command line. Prints a table for docs/guides/profile-a-machine.md; never asserts a time.

On a machine that others use as well, times wander by tens of percents between one minute and the
next; the profile and the runs should follow one another closely.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODEL = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": 256,
}
SEQ_LEN = 128

LAYOUTS = {
    "equal split of the batch": "dp: 2, micro_batch_rows: 8",
    "equal split of the layers": "pp: 2, micro_batch_rows: 4, layers_per_stage: [4, 4]",
    "layers 6 : 2": "pp: 2, micro_batch_rows: 4, layers_per_stage: [6, 2]",
}


def main() -> None:
    """The whole loop in one folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--slow", type=int, default=3, help="how often cpu-slow does its work")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32, help="rows per step")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="closed-loop-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MODEL))
    measure(folder, given.slow)
    plans = make_plans(folder, given.batch)
    print(table([run(folder, name, path, given) for name, path in plans.items()]))


def measure(folder: Path, slow: int) -> None:
    """Profile and catalogue records of both chips; the cluster that they make."""
    planner(
        *("profile", str(folder / "config.json"), "--device", "cpu", "--apart"),
        *("--process", "cpu-fast", "--process", f"cpu-slow={slow}"),
        *("--rows", "2,4,8", "--seq-len", str(SEQ_LEN), "--seconds", "1.5", "--quiet"),
        *("-o", str(folder / "profile.json"), "--catalogue", str(folder / "chips.json")),
    )
    records = json.loads((folder / "chips.json").read_text())["chips"]
    links = json.loads((folder / "profile.json").read_text())["links"]
    rate = max(size / seconds for link in links for size, seconds in link["points"])
    port = {"network": "loopback", "bandwidth_one_way": f"{rate / 1e9:.3f} GB/s", "kind": "tcp"}
    nodes = [
        {"name": r["id"], "devices": [{"chip": r["id"], "count": 1}], "nics": [port]}
        for r in records
    ]
    cluster = {"name": "this-machine", "chips": records, "nodes": nodes}
    (folder / "cluster.json").write_text(json.dumps(cluster, indent=1))


def make_plans(folder: Path, batch: int) -> dict[str, Path]:
    """The planner's own plan and the layouts beside it."""
    inputs = [str(folder / "config.json"), str(folder / "cluster.json")]
    more = ["--profile", str(folder / "profile.json"), "--global-batch", str(batch), "--quiet"]
    found = {"planned": folder / "planned.json"}
    planner("plan", *inputs, *more, "-o", str(found["planned"]))
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        found[name] = folder / f"layout-{number}.json"
        planner("estimate", *inputs, layout, *more, "-o", str(found[name]))
    return found


def run(folder: Path, name: str, path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One plan executed: the runtime's own record with the plan's name."""
    answer = planner(
        *("run", str(path), "--local", "--device", "cpu", "--steps", str(given.steps)),
        *("--model", str(folder / "config.json"), "--repeat-work", f"cpu-slow={given.slow}"),
        *("--warmup", "2", "--quiet", "--format", "json"),
    )
    found: dict[str, Any] = json.loads(answer)
    (folder / f"{path.stem}.record.json").write_text(answer)
    return found | {"name": name, "shape": shape(path)}


def shape(path: Path) -> str:
    """``cpu-fast 0-7 x 3 · cpu-slow 0-7 x 1``: layers and micro-batches of every pipeline."""
    plan = json.loads(path.read_text())
    words = []
    for pipeline in plan["pipelines"]:
        stages = ", ".join(
            f"{stage['replicas'][0]['chip']} {stage['layers'][0]}-{stage['layers'][1] - 1}"
            for stage in pipeline["stages"]
        )
        rows = pipeline["micro_batch_rows"]
        words.append(f"{stages}: {pipeline['micro_batches']} × {rows} rows")
    return " · ".join(words)


def table(records: list[dict[str, Any]]) -> str:
    """Predicted and measured step time of every plan."""
    lines = [
        "| plan | what runs where | predicted | measured (least to most) | error |",
        "|---|---|---|---|---|",
    ]
    for record in records:
        times = record["step_time_s"]
        error = times["planned"] / times["measured"] - 1
        lines.append(
            f"| {record['name']} | {record['shape']} | {times['planned']:.3f} s "
            f"| {times['measured']:.3f} s ({times['least']:.3f} to {times['most']:.3f}) "
            f"| {error:+.1%} |"
        )
    return "\n".join(lines)


def planner(*arguments: str) -> str:
    """One command; what it prints on standard output. Ends this program where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "planner", *arguments], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"planner {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
