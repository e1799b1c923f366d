"""Plans that must train as one process does, by name. The number of processes follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from planner.plan import Plan
from planner.runtime.seats import seating
from tests.runtime.run_plans import P, S, run_plan


@dataclass(frozen=True)
class Case:
    """A model, pipelines, and what else is asked for.

    ``steps`` > 1 follows the reference trajectory. ``ignore`` leaves some targets out. ``repeat``
    does all work three times, which must change nothing. ``saves`` and ``loads`` name a checkpoint
    that is written after two steps, or read to begin with, by a case of fewer processes.
    """

    name: str
    model: str
    pipelines: Sequence[P]
    zero: int = 0
    sequence_parallel: bool = False
    steps: int = 1
    ignore: bool = False
    repeat: bool = False
    saves: str = ""
    loads: str = ""

    @property
    def plan(self) -> Plan:
        return _plan(self.name)

    @property
    def processes(self) -> int:
        return len(seating(self.plan).seats)


LAYERS = {"llama": 6, "tied": 4, "qwen2": 6, "qwen3": 6, "mistral": 6, "gpt2": 5, "blocks": 6}

CASES = (
    # rectangular
    Case("pipeline-of-two", "llama", [P([S((0, 3)), S((3, 6))], 3)]),
    Case("replicas", "llama", [P([S((0, 6))], 2), P([S((0, 6))], 2)]),
    Case("replicas-inside-a-stage", "llama", [P([S((0, 6), [(2, 1), (2, 1)])], 2)]),
    Case("tensor-parallel", "llama", [P([S((0, 6), [(2, 2)])], 2)]),
    Case("sequence-parallel", "llama", [P([S((0, 6), [(2, 2)])], 2)], sequence_parallel=True),
    Case(
        "two-by-two",
        "qwen2",
        [P([S((0, 3), in_flight=2), S((3, 6))], 3) for _ in range(2)],
        steps=5,
    ),
    Case("gpipe", "llama", [P([S((0, 4)), S((4, 6))], 3, schedule="gpipe")]),
    Case("deeper-than-needed", "llama", [P([S((0, 4), in_flight=3), S((4, 6))], 4)]),
    # staged: degrees differ between stages
    Case(
        "staged-narrow-to-wide",
        "qwen3",
        [P([S((0, 2), [(2, 1)]), S((2, 6), [(2, 2)])], 3)],
    ),
    Case(
        "staged-wide-to-narrow-split-sequence",
        "qwen3",
        [P([S((0, 2), [(2, 2)]), S((2, 6), [(2, 1)])], 3)],
        sequence_parallel=True,
    ),
    Case(
        "replicas-meet-a-group",
        "llama",
        [P([S((0, 3), [(1, 1), (1, 1)]), S((3, 6), [(2, 2)])], 3)],
        sequence_parallel=True,
    ),
    Case("one-key-head-on-two-shards", "llama", [P([S((0, 6), [(2, 4)])], 2)], zero=1, steps=3),
    # unequal rows
    Case(
        "unequal-rows",
        "mistral",
        [P([S((0, 2), [(3, 1), (1, 1)]), S((2, 6), [(1, 1), (1, 1), (2, 1)])], 3, last_rows=2)],
    ),
    Case(
        "three-kinds-of-stage",
        "llama",
        [
            P(
                [
                    S((0, 2), [(3, 1), (1, 1)]),
                    S((2, 4), [(4, 2)]),
                    S((4, 6), [(2, 1), (1, 1), (1, 1)]),
                ],
                4,
                last_rows=1,
            )
        ],
        sequence_parallel=True,
        steps=5,
        loads="two-steps",
    ),
    # asymmetric: pipelines differ
    Case(
        "asymmetric",
        "llama",
        [
            P([S((0, 3), [(2, 2)]), S((3, 6), [(2, 1)])], 3, last_rows=1),
            P([S((0, 6), [(2, 1)])], 2),
        ],
        steps=5,
        sequence_parallel=True,
    ),
    Case(
        "three-depths",
        "gpt2",
        [
            P([S((0, 2)), S((2, 3)), S((3, 5))], 4),
            P([S((0, 1), [(2, 1)]), S((1, 5), [(2, 1)])], 2),
            P([S((0, 5), [(1, 1)])], 3),
        ],
    ),
    Case(
        "all-at-once",
        "tied",
        [
            P([S((0, 2), [(2, 4)], recompute="full"), S((2, 4), [(2, 1)])], 3, last_rows=1),
            P([S((0, 1), [(2, 1), (1, 1)]), S((1, 4), [(3, 1)], recompute="selective")], 2),
        ],
        zero=1,
        sequence_parallel=True,
        steps=5,
        saves="two-steps-tied",
    ),
    # recomputation
    Case("full", "llama", [P([S((0, 3), recompute="full"), S((3, 6), recompute="full")], 3)]),
    Case("selective", "gpt2", [P([S((0, 5), [(2, 2)], recompute="selective")], 2)]),
    Case(
        "work-done-three-times",
        "tied",
        [P([S((0, 2), [(2, 2)], recompute="full"), S((2, 4))], 2)],
        repeat=True,
    ),
    # ZeRO level 1
    Case(
        "sharded-optimizer",
        "llama",
        [P([S((0, 3), [(1, 2)]), S((3, 6))], 2), P([S((0, 2)), S((2, 6))], 3)],
        zero=1,
        steps=5,
    ),
    Case(
        "sharded-optimizer-of-four",
        "gpt2",
        [P([S((0, 3), [(2, 1), (1, 1)]), S((3, 5), [(2, 1), (1, 1)])], 2, last_rows=2)] * 2,
        zero=1,
        steps=5,
        saves="two-steps-gpt2",
    ),
    # tied embeddings
    Case("tied-on-one-stage", "tied", [P([S((0, 4), [(2, 2)])], 2)], sequence_parallel=True),
    Case("tied-on-two-stages", "tied", [P([S((0, 2)), S((2, 4))], 3)] * 2, steps=5),
    Case(
        "tied-on-two-degrees",
        "tied",
        [P([S((0, 2), [(2, 2)]), S((2, 4), [(2, 1)])], 4), P([S((0, 4))], 3)],
        steps=5,
        loads="two-steps-tied",
    ),
    # interleaved
    Case(
        "interleaved",
        "llama",
        [
            P(
                [
                    S((0, 5), chunks=((0, 2), (3, 5)), in_flight=6),
                    S((2, 6), chunks=((2, 3), (5, 6)), in_flight=4),
                ],
                5,
                schedule="interleaved",
            )
        ],
    ),
    Case(
        "interleaved-tied-on-one-stage",
        "tied",
        [P([S((0, 4), chunks=((0, 2), (2, 4)), in_flight=4)], 3, schedule="interleaved")] * 2,
    ),
    Case(
        "interleaved-with-degrees",
        "llama",
        [
            P(
                [
                    S((0, 4), [(2, 2)], chunks=((0, 1), (3, 4)), in_flight=9),
                    S((1, 5), [(1, 1), (1, 1)], chunks=((1, 2), (4, 5)), in_flight=7),
                    S((2, 6), [(2, 1)], chunks=((2, 3), (5, 6)), in_flight=5),
                ],
                4,
                last_rows=1,
                schedule="interleaved",
            ),
        ],
        sequence_parallel=True,
    ),
    Case(
        "interleaved-tied-across-stages",
        "tied",
        [
            P(
                [
                    S((0, 3), chunks=((0, 1), (2, 3)), in_flight=5),
                    S((1, 4), chunks=((1, 2), (3, 4)), in_flight=3),
                ],
                4,
                last_rows=1,
                schedule="interleaved",
            )
        ]
        * 2,
        zero=1,
        steps=5,
    ),
    # any list of blocks
    Case("blocks", "blocks", [P([S((0, 2)), S((2, 6))], 3)] * 2, steps=5, ignore=True),
    Case(
        "blocks-that-shard",
        "blocks",
        [
            P([S((0, 3), [(1, 1), (2, 1)]), S((3, 5), [(3, 2)]), S((5, 6), [(3, 1)])], 3),
            P([S((0, 2), [(2, 1)]), S((2, 6), [(1, 1), (1, 1)])], 2, last_rows=1),
        ],
    ),
    Case("unequal-left-out", "llama", [P([S((0, 6), [(2, 1), (1, 1)])], 2)], ignore=True),
    Case(
        "gpt2-on-four",
        "gpt2",
        [P([S((0, 5), [(2, 4)])], 5)],
        sequence_parallel=True,
        steps=5,
        loads="two-steps-gpt2",
    ),
    Case(
        "writes-a-checkpoint",
        "llama",
        [
            P([S((0, 3), [(2, 2)]), S((3, 6), [(2, 2)])], 4, last_rows=1),
            P([S((0, 6), [(1, 2), (1, 2)])], 3),
        ],
        zero=1,
        steps=5,
        saves="two-steps",
    ),
)


@cache
def _plan(name: str) -> Plan:
    case = next(c for c in CASES if c.name == name)
    names = [f"layer{k}" for k in range(LAYERS[case.model])]
    return run_plan(case.pipelines, names, zero=case.zero, sequence_parallel=case.sequence_parallel)
