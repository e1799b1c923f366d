"""How many prices a core computes in a second. Not a test.

    python tests/benchmarks/prices.py

``layers``: one layer at a time, no two alike (:func:`costmodels.price.price_layer`). ``steps``: a
whole uniform run (:func:`costmodels.step.price_step`). ``stages``: every stage of every option in
the tables of the search: time and memory of an interval of layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from costmodels.catalog import load_catalog
from costmodels.collectives import Links
from costmodels.memory import adam_state
from costmodels.price import LayerConfig, price_layer
from costmodels.step import Run, price_step
from planner import load_cluster, load_job, load_model
from planner.inputs.overrides import parse_overrides
from planner.search.problem import Setting
from planner.search.space import build_space
from planner.solve import prepare

CHIP = load_catalog().get("H100-SXM-80GB")
FABRIC = CHIP.fabric or CHIP.host_fabric
FLEET = "64x8xH100-SXM-80GB + 64x8xA100-SXM-80GB + 64x8xV100-SXM2-32GB @ 800Gb/s:ib"


def layers() -> int:
    """Blocks of Llama 3 70B at lengths and degrees that differ."""
    shape = load_model("llama-3-70b").graph.layers[1].shape
    count = 0
    for length in range(1024, 8192, 16):
        for tp in (1, 2, 4, 8):
            config = LayerConfig(1, length, tp, "bf16", sequence_parallel=True, flash=True)
            price_layer(shape, CHIP, FABRIC, config)
            count += 1
    return count


def steps() -> int:
    """Llama 3 8B on 64 chips with micro-batches that differ."""
    graph = load_model("llama-3-8b").graph
    shapes = tuple(layer.shape for layer in graph.layers)
    run = Run(
        layers=shapes,
        cuts=(0, 9, 17, 25, len(shapes)),
        chip=CHIP,
        links=Links(FABRIC, 8, 40e9, 10e-6),
        seq_len=4096,
        precision="bf16",
        state=adam_state("bf16"),
        tp=2,
        dp=8,
        zero=1,
        shard=8,
    )
    count = 0
    for length in range(512, 8192, 16):
        price_step(replace(run, seq_len=length, micro_batches=32), exact=False)
        count += 1
    return count


def stages() -> int:
    """Tables of GPT-3 on three kinds of chips."""
    job = load_job(None, parse_overrides(["job.seq_len=2048", "job.global_batch=1536"]))
    problem = prepare(load_model("gpt3-175b"), load_cluster(FLEET, None), job).problem
    length = problem.tables.layers
    setting = Setting((1, 64), ((0, length),) * len(problem.topology.classes))
    count = 0
    for rows in problem.micro_batch_rows:
        space = build_space(problem, setting, rows, optimistic=False)
        count += len(space.options) * len(problem.policies) * length * (length + 1) // 2
    return count


def main() -> None:
    """Print prices per second of processor time."""
    for name, work in (("layers", layers), ("steps", steps), ("stages", stages)):
        print(f"{name:<8}{_rate(work):>14,.0f} /s")


def _rate(work: Callable[[], int]) -> float:
    start = time.process_time()
    count = work()
    return count / (time.process_time() - start)


if __name__ == "__main__":
    main()
