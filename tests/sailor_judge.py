"""The step time that Sailor's simulator would give a plan, restated from its source.

Sailor (SOSP'25) compares planners by this formula, on layer times and fitted network rates:

    step      = max over pipelines of (Σ_s c_s + Σ_s h_s + (m − 1) · max_s (c_s + h_s) + update)
                + synchronisation
    c_s       = forward and backward of the slowest replica of stage s, layer by layer
    h_s       = exchanges of stage s: sends to the next and to the previous stage, as listed in
                `_exchanges` (the first stage of at most three counts one transfer, not two)
    transfer  = bytes / rate(bytes) of n processes on each side, n the tensor-parallel degree,
                bytes the whole boundary tensor in fp32
    sync      = slowest ring over the replicas of some layers, 2(n − 1) · time(bytes / n) in pieces
                of at most 500 MB, bytes the weights over the least degree (at most 4)

Restated from eth-easl/sailor @cf2c8e3 (MIT, ETH Zurich), runtime_simulator.py. There every
pipeline runs equally many micro-batches of one size; here each runs its own, which is the same
where they are equal. Where pipelines cut the layers differently, the ring of a stage is the sum
over the runs of layers that all its partners hold whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.inputs.profile_spec import ProfileSpec
from planner.plan import Plan

BUCKET = 500_000_000
FLOAT = 4

Coefficients = Sequence[float]


@dataclass(frozen=True)
class JudgedReplica:
    chip: str
    tp: int
    first: int
    end: int


@dataclass(frozen=True)
class JudgedPipeline:
    """One chain of replicas; ``peers[s]`` are the chips and degrees that share stage s's layers."""

    stages: tuple[JudgedReplica, ...]
    rows: int
    micro_batches: int


class Judge:
    """Layer times by chip, degree, rows; rates in GB/s as polynomials in log2 of the MB."""

    def __init__(self, spec: ProfileSpec, rates: Mapping[str, Coefficients]) -> None:
        self.times: dict[tuple[str, int, int, int], tuple[float, float]] = {}
        self.updates: dict[tuple[str, int, int], float] = {}
        self.weights: dict[int, float] = {}
        self.activations: dict[int, float] = {}
        for chip in spec.chips:
            for row in chip.rows:
                layers = range(*row.layer) if isinstance(row.layer, tuple) else [int(row.layer)]
                key = (chip.chip.lower(), row.tensor_parallel, row.micro_batch_rows)
                total = self.updates.get(key, 0.0)
                self.updates[key] = total + row.update_s * len(layers)
                for layer in layers:
                    self.times[(*key, layer)] = (row.forward_s, row.backward_s)
                    if row.tensor_parallel == 1:
                        self.weights[layer] = float(row.parameter_bytes)
        self.rates = rates

    def transfer_s(self, bytes_: float, source: str, target: str, count: int) -> float:
        rate = self.rates[f"{source}>{target}@{count}"]
        x = _log2(bytes_ / 1e6)
        value = 0.0
        for c in rate:
            value = value * x + c
        return bytes_ / 1e9 / value

    def ring_s(self, bytes_: float, members: Sequence[str]) -> float:
        """The slowest link between neighbours in the order given paces the whole ring."""
        n, worst = len(members), 0.0
        if n < 2:
            return 0.0
        for a, b in zip(members, members[1:]):
            total, left = 0.0, bytes_
            while left > 0:
                piece = min(left, BUCKET)
                total += 2 * (n - 1) * self.transfer_s(piece / n, a, b, 1)
                left -= piece
            worst = max(worst, total)
        return worst

    def compute_s(self, replica: JudgedReplica, rows: int) -> float:
        key = (replica.chip, replica.tp, rows)
        return sum(sum(self.times[(*key, k)]) for k in range(replica.first, replica.end))

    def exchanges_s(self, stages: Sequence[JudgedReplica], rows: int, width: int) -> list[float]:
        size, count = float(width * rows * FLOAT), len(stages)
        out = []
        for s, stage in enumerate(stages):
            down = up = 0.0
            if s + 1 < count:
                other = stages[s + 1]
                down = self.transfer_s(size, stage.chip, other.chip, min(stage.tp, other.tp))
            if s > 0:
                other = stages[s - 1]
                up = self.transfer_s(size, stage.chip, other.chip, min(stage.tp, other.tp))
            if 0 < s < count - 1:
                out.append(down + up)
            elif s == count - 1:
                out.append(2 * up)
            else:
                out.append(down if count <= 3 else 2 * down)
        return out

    def step_s(self, pipelines: Sequence[JudgedPipeline], width: int) -> float:
        """``width``: elements of a boundary tensor per row."""
        slowest = 0.0
        for pipe in pipelines:
            busy = [self.compute_s(stage, pipe.rows) for stage in pipe.stages]
            wait = self.exchanges_s(pipe.stages, pipe.rows, width)
            pace = max(c + h for c, h in zip(busy, wait))
            update = max(self.updates[s.chip, s.tp, pipe.rows] for s in pipe.stages)
            total = sum(busy) + sum(wait) + (pipe.micro_batches - 1) * pace + update
            slowest = max(slowest, total)
        return slowest + self.sync_s(pipelines)

    def sync_s(self, pipelines: Sequence[JudgedPipeline]) -> float:
        cuts = sorted({s.first for p in pipelines for s in p.stages} | {len(self.weights)})
        runs: dict[tuple[int, int], float] = {}
        for first, end in zip(cuts, cuts[1:]):
            holders = [s for p in pipelines for s in p.stages if s.first <= first and s.end >= end]
            degree = min([4, *(h.tp for h in holders)])
            size = sum(self.weights[k] for k in range(first, end)) / degree
            runs[first, end] = self.ring_s(size, [h.chip for h in holders])
        return max(
            sum(t for (a, b), t in runs.items() if stage.first <= a and b <= stage.end)
            for p in pipelines
            for stage in p.stages
        )


def pipelines_of(plan: Plan) -> list[JudgedPipeline]:
    """A plan's pipelines as the formula takes them; a short last micro-batch counts as whole."""
    return [
        JudgedPipeline(
            tuple(
                JudgedReplica(r.chip, r.mesh.tensor_parallel, *s.layers)
                for s in p.stages
                for r in s.replicas[:1]
            ),
            p.micro_batch_rows,
            p.micro_batches,
        )
        for p in plan.pipelines
    ]


def pipelines_of_sailor(plan: Mapping[str, object], names: Mapping[str, str]) -> list[JudgedPipeline]:
    """A plan in Sailor's own format: its replicas as pipelines with equal micro-batches."""
    (pipe,) = plan["pipeline_list"]  # type: ignore[misc]
    dp, rows = pipe["dp"][0], plan["mbs"]
    micro_batches = -(-plan["gbs"] // (rows * dp))  # type: ignore[operator]
    return [
        JudgedPipeline(
            tuple(
                JudgedReplica(
                    names[replicas[d][0][0][0]], replicas[d][1], layers[0], layers[-1] + 1
                )
                for layers, replicas in zip(pipe["layers_per_stage"], pipe["tmp_per_stage"])
            ),
            rows,  # type: ignore[arg-type]
            micro_batches,
        )
        for d in range(dp)
    ]


def _log2(x: float) -> float:
    import math

    return math.log2(x)
