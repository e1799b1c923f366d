"""The step time that Sailor's simulator would give a plan, restated from its source.

Sailor (SOSP'25) compares planners by this formula, on layer times and fitted network rates:

    step      = max over groups of (Σ_s c_s + Σ_s h_s + (m − 1) · max_s (c_s + h_s) + update) + sync
    c_s       = forward and backward of the slowest replica of stage s, layer by layer
    h_s       = exchanges of stage s over the slowest pair of replicas: a middle stage sends down
                and up, the last one up twice, the first one down twice (once in at most 3 stages)
    transfer  = bytes / rate(bytes) of n processes on each side, n the tensor-parallel degree;
                bytes are the whole boundary tensor in fp32
    sync      = the slowest ring, 2(n − 1) · time(bytes / n) in pieces of at most 500 MB, with
                bytes the stage's weights over the least degree in it (counted up to 4)

Restated from eth-easl/sailor @cf2c8e3 (MIT, ETH Zurich), runtime_simulator.py. A group is what
Sailor calls a pipeline: replicas of equal cuts and equal micro-batches. There all groups run
equally many micro-batches; here each runs its own, the same where there is one group. Rings run
over all replicas of some layers, whichever group they are in; a stage that others cut further
waits for the rings of all its parts, one after the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from planner.inputs.profile_spec import ProfileSpec
from planner.plan import Plan

BUCKET = 500_000_000
RUNS = Path(__file__).parents[1] / "fixtures" / "measured" / "sailor-runs.json"
BOUNDARY_BYTES_PER_ROW = 2048 * 1024 * 4

Holder = tuple[str, int]
"""A chip and the tensor-parallel degree of a replica."""


@dataclass(frozen=True)
class JudgedGroup:
    """Replicas of equal cuts; ``replicas[d][s]`` holds stage s of the d-th."""

    cuts: tuple[tuple[int, int], ...]
    replicas: tuple[tuple[Holder, ...], ...]
    rows: int
    micro_batches: int


class Judge:
    """Layer times of a profile whose chips are catalogue ids, and the fitted rates."""

    def __init__(self, spec: ProfileSpec) -> None:
        self.rates: dict[str, list[float]] = measured_runs()["rates"]
        self.times: dict[tuple[str, int, int, int], tuple[float, float]] = {}
        self.weights: dict[int, float] = {}
        for chip in spec.chips:
            for row in chip.rows:
                layers = range(*row.layer) if isinstance(row.layer, tuple) else [int(row.layer)]
                for layer in layers:
                    key = (chip.chip, row.tensor_parallel, row.micro_batch_rows, layer)
                    self.times[key] = (row.forward_s, row.backward_s)
                    if row.tensor_parallel == 1:
                        self.weights[layer] = float(row.parameter_bytes)

    def step_s(self, groups: Sequence[JudgedGroup]) -> float:
        return max(map(self.group_s, groups)) + self.sync_s(groups)

    def group_s(self, group: JudgedGroup) -> float:
        """Without the optimizer step: it is under 10 ms of seconds."""
        busy = [
            max(self.compute_s(*r[s], group.rows, cut) for r in group.replicas)
            for s, cut in enumerate(group.cuts)
        ]
        wait = self.exchanges_s(group)
        pace = max(c + h for c, h in zip(busy, wait))
        return sum(busy) + sum(wait) + (group.micro_batches - 1) * pace

    def compute_s(self, chip: str, tp: int, rows: int, cut: tuple[int, int]) -> float:
        return sum(sum(self.times[chip, tp, rows, layer]) for layer in range(*cut))

    def exchanges_s(self, group: JudgedGroup) -> list[float]:
        size, last = float(BOUNDARY_BYTES_PER_ROW * group.rows), len(group.cuts) - 1
        out = []
        for s in range(last + 1):
            down = up = 0.0
            for replica in group.replicas:
                if s < last:
                    down = max(down, self.transfer_s(size, replica[s], replica[s + 1]))
                if s > 0:
                    up = max(up, self.transfer_s(size, replica[s], replica[s - 1]))
            if 0 < s < last:
                out.append(down + up)
            elif s == last:
                out.append(2 * up)
            else:
                out.append(down if last < 3 else 2 * down)
        return out

    def transfer_s(self, bytes_: float, source: Holder, target: Holder) -> float:
        (a, n), (b, k) = source, target
        x, rate = math.log2(bytes_ / 1e6), 0.0
        for c in self.rates[f"{a}@{n}>{b}@{k}"]:
            rate = rate * x + c
        return bytes_ / 1e9 / rate

    def sync_s(self, groups: Sequence[JudgedGroup]) -> float:
        stages = [(cut, r[s]) for g in groups for r in g.replicas for s, cut in enumerate(g.cuts)]
        edges = sorted({first for (first, _), _ in stages} | {len(self.weights)})
        rings = {}
        for first, end in pairwise(edges):
            holders = [h for cut, h in stages if cut[0] <= first and end <= cut[1]]
            size = sum(self.weights[k] for k in range(first, end))
            rings[first, end] = self.ring_s(size / min([4, *(tp for _, tp in holders)]), holders)
        return max(
            sum(t for (first, end), t in rings.items() if cut[0] <= first and end <= cut[1])
            for cut, _ in stages
        )

    def ring_s(self, bytes_: float, holders: Sequence[Holder]) -> float:
        """Neighbours talk with one process on each side; the slowest pair paces the ring."""
        chips = sorted(chip for chip, _ in holders)
        n, pairs = len(chips), dict.fromkeys(pairwise(chips))
        pieces = [BUCKET] * int(bytes_ // BUCKET) + [bytes_ % BUCKET]
        return max(
            (
                sum(2 * (n - 1) * self.transfer_s(p / n, (a, 1), (b, 1)) for p in pieces if p)
                for a, b in pairs
            ),
            default=0.0,
        )


def groups_of(plan: Plan) -> list[JudgedGroup]:
    """A plan's pipelines by equal cuts and micro-batches; a short last micro-batch counts whole."""
    found: dict[tuple[Any, ...], list[tuple[Holder, ...]]] = {}
    for p in plan.pipelines:
        key = (tuple(s.layers for s in p.stages), p.micro_batch_rows, p.micro_batches)
        holders = tuple((r.chip, r.mesh.tensor_parallel) for s in p.stages for r in s.replicas)
        found.setdefault(key, []).append(holders)
    return [
        JudgedGroup(cuts, tuple(replicas), rows, m) for (cuts, rows, m), replicas in found.items()
    ]


def group_of_run(run: dict[str, Any]) -> JudgedGroup:
    """A measured run of ``fixtures/measured/sailor-runs.json``."""
    stages = run["stages"]
    dp = len(stages[0]["replicas"])
    return JudgedGroup(
        tuple((s["layers"][0], s["layers"][1]) for s in stages),
        tuple(tuple((s["replicas"][d][0], s["replicas"][d][1]) for s in stages) for d in range(dp)),
        run["micro_batch_rows"],
        -(-run["global_batch"] // (run["micro_batch_rows"] * dp)),
    )


def measured_runs() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RUNS.read_text(encoding="utf-8"))
    return found


def judge(plan: Plan, spec: ProfileSpec) -> float:
    """Iterations per second of a plan, by Sailor's simulator."""
    return 1 / Judge(spec).step_s(groups_of(plan))
