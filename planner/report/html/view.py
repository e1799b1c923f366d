"""What all sections of a page share: the plan, its groups, the names of its chips and stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.plan import Plan, Replica, Stage
from planner.report.format import intervals, plural, short_chip_names
from planner.report.groups import PipelineGroup, StageGroup, pipeline_groups


@dataclass(frozen=True)
class View:
    """A plan and how it is spoken of. Make it with :func:`view_of`."""

    plan: Plan
    groups: tuple[PipelineGroup, ...]
    kinds: Mapping[str, int]
    """A number for each kind of chip of the plan: its colour."""
    names: Mapping[str, str]
    """The shortest name of each kind that tells it from the others."""

    def label(self, group: int, stage: int) -> str:
        """``B3`` for stage 3 of the second group; ``3`` where there is only one group."""
        return f"{self.letter(group)}{stage + 1}"

    def letter(self, group: int) -> str:
        """``A``, ``B``, … ``Z``, ``AA``; empty where there is only one group."""
        return _letters(group) if len(self.groups) > 1 else ""

    def chips(self, stage: Stage) -> str:
        """``4 × V100 tp4``, equal replicas joined."""
        return " + ".join(
            f"{n} × ({text})" if n > 1 else text for text, n in self._replicas(stage).items()
        )

    def kind(self, stage: Stage) -> int:
        """The number of the stage's first kind of chip."""
        return self.kinds[stage.replicas[0].chip]

    def stage_name(self, group: int, stage: StageGroup) -> str:
        """``B3 · 4 × V100 tp4 · layers 27–33``."""
        layers = intervals(stage.first.parts)
        word = "layer" if stage.first.layer_count == 1 else "layers"
        start = self.label(group, stage.number - 1)
        head = start if self.letter(group) else f"stage {start}"
        return f"{head} · {self.chips(stage.first)} · {word} {layers}"

    def group_name(self, group: int) -> str:
        """``A: 16 equal pipelines of 32 chips``."""
        found = self.groups[group]
        count = len(found.numbers)
        head = f"{self.letter(group)}: " if self.letter(group) else ""
        many = f"{count:,} equal pipelines" if count > 1 else "one pipeline"
        text = f"{many} of {plural(found.chips, 'chip')}"
        return head + text if head else text[:1].upper() + text[1:]

    def _replicas(self, stage: Stage) -> dict[str, int]:
        found: dict[str, int] = {}
        unequal = len({r.rows for r in stage.replicas}) > 1
        for replica in stage.replicas:
            text = f"{len(replica.devices)} × {self.names[replica.chip]}{_mesh(replica)}"
            if unequal:
                text += f" ({plural(replica.rows, 'row')})"
            found[text] = found.get(text, 0) + 1
        return found


def view_of(plan: Plan) -> View:
    """Groups and names, made once for all sections."""
    chips = {r.chip for p in plan.pipelines for s in p.stages for r in s.replicas}
    kinds = {chip: n for n, chip in enumerate(sorted(chips))}
    return View(plan, pipeline_groups(plan), kinds, short_chip_names(kinds))


def recompute_words(stage: Stage) -> str:
    """The policy; where layers differ, on how many of them each holds."""
    counts: dict[str, int] = {}
    for part in stage.recompute:
        counts[part.policy] = counts.get(part.policy, 0) + part.layers[1] - part.layers[0]
    if len(counts) == 1:
        return next(iter(counts))
    total = stage.layer_count
    return ", ".join(f"{n}/{total} {policy}" for policy, n in counts.items() if policy != "none")


def shortened(text: str, most: int) -> str:
    """The text, its end replaced by an ellipsis where it is too long."""
    return text if len(text) <= most else text[: most - 1].rstrip(" ,·") + "…"


def _mesh(replica: Replica) -> str:
    degrees = (
        ("cp", replica.mesh.context_parallel),
        ("dp", replica.mesh.data_parallel),
        ("ep", replica.mesh.expert_parallel),
        ("tp", replica.mesh.tensor_parallel),
    )
    named = "".join(f" {short}{degree}" for short, degree in degrees if degree > 1)
    memory = replica.memory_bytes
    hosted = " offload" if memory.host and not memory.optimizer else ""
    return named + (" zero3" if replica.mesh.zero3 else "") + hosted


def _letters(number: int) -> str:
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("A") + rest) + text
    return text
