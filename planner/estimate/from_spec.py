"""From the short layout file to a sketch: degrees, layers, devices and micro-batches.

Everything that is wrong is reported at once, with the line that says it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from costmodels.catalog import Catalog
from costmodels.price import WAYS
from planner.baselines import split_evenly
from planner.errors import InputError, Problem
from planner.estimate.devices import Group, carve, classes_in_order, placed
from planner.estimate.sketch import (
    PipelineSketch,
    Sketch,
    StageSketch,
    counted,
    even_batches,
    share_rows,
)
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import IslandClass, Topology
from planner.inputs.job import ResolvedJob
from planner.inputs.layout_spec import LayoutInput
from planner.mesh import StageMesh
from planner.options import tensor_parallel_problem

Intervals = tuple[tuple[int, int], ...]


def sketch_layout(
    layout: LayoutInput, model: ModelGraph, topology: Topology, job: ResolvedJob, catalog: Catalog
) -> Sketch:
    """The layout as pipelines of named devices. Raises InputError with every problem."""
    return _Drawing(layout, model, topology, job, catalog).sketch()


class _Drawing:
    """One pass over a layout; problems are kept until all of it has been read."""

    def __init__(
        self,
        layout: LayoutInput,
        model: ModelGraph,
        topology: Topology,
        job: ResolvedJob,
        catalog: Catalog,
    ) -> None:
        self.layout, self.spec = layout, layout.spec
        self.model, self.topology, self.job, self.catalog = model, topology, job, catalog
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.degrees: tuple[int, ...] = (
            self.spec.tp if isinstance(self.spec.tp, tuple) else (self.spec.tp,) * layout.stages
        )

    def sketch(self) -> Sketch:
        """The whole layout."""
        self._check_degrees()
        intervals = self._intervals()
        groups = self._groups()
        dp = len(groups[0]) if groups else 1
        if dp > self.job.global_batch:
            message = f"{dp} pipelines share a global batch of {self.job.global_batch} rows"
            remedy = f"dp: {self.job.global_batch} at most, or a larger --global-batch"
            self._problem(message, remedy, "dp")
        if self.problems or intervals is None:
            raise InputError(self.problems)
        self._note_defaults()
        named = self.spec.placement is not None
        loads = share_rows(self.job.global_batch, dp, self.spec.micro_batch_rows)
        pipelines = tuple(
            PipelineSketch(
                stages=tuple(
                    StageSketch(
                        where=self.layout.where(*(("placement", s) if named else ("tp",))),
                        first=first,
                        end=end,
                        policies=(WAYS.index(self._policy(s)),) * (end - first),
                        devices=groups[s][d],
                        in_flight=self._in_flight(s),
                        mesh=self._offloaded(s, len(groups[s][d])),
                    )
                    for s, (first, end) in enumerate(intervals)
                ),
                rows=self.spec.micro_batch_rows,
                micro_batches=micro_batches,
                last_rows=last,
                schedule=self.spec.schedule,
            )
            for d, (micro_batches, last) in enumerate(loads)
        )
        return Sketch(
            pipelines=pipelines,
            zero_level=self._zero(),
            notes=tuple(self.notes),
            warnings=tuple(self._batch_warnings(dp)),
            batches=even_batches(self.job.global_batch, dp * self.spec.micro_batch_rows),
        )

    def _problem(self, message: str, remedy: str, *path: str | int) -> None:
        self.problems.append(Problem(self.layout.where(*path), message, remedy))

    # -- degrees and layers -----------------------------------------------------------------

    def _check_degrees(self) -> None:
        """Every tensor-parallel degree divides the model, or the error lists those that do."""
        listed = isinstance(self.spec.tp, tuple)
        for s, tp in enumerate(self.degrees if listed else self.degrees[:1]):
            why = self._why_not(tp)
            if why is None:
                continue
            largest = max(max(c.size for c in self.topology.classes), tp)
            legal = [t for t in range(1, largest + 1) if self._why_not(t) is None]
            remedy = f"one of {', '.join(map(str, legal))}"
            at = ("tp", s) if listed else ("tp",)
            self._problem(f"tp {tp} is not possible: {why}", remedy, *at)

    def _why_not(self, tp: int) -> str | None:
        return tensor_parallel_problem(self.model, tp, self.job.seq_len, self.job.sequence_parallel)

    def _ends(self) -> tuple[int, int]:
        """How many layers before and after the blocks go with the first and the last stage."""
        kinds = [layer.shape.kind for layer in self.model.layers]
        if len(kinds) < 3:
            return 0, 0
        return int(kinds[0] == "embedding"), int(kinds[-1] == "head")

    def _intervals(self) -> Intervals | None:
        """The layers of every stage; None where the layout is wrong about them."""
        layers, stages = len(self.model.layers), self.layout.stages
        before, after = self._ends()
        blocks = layers - before - after
        noun = "blocks" if before or after else "layers"
        given = self.spec.layers_per_stage
        if given is not None and all(isinstance(e, tuple) for e in given):
            return self._as_written([e for e in given if isinstance(e, tuple)])
        if given is None:
            if stages > blocks:
                message = f"{stages} stages, but {self.model.name} has only {blocks} {noun}"
                self._problem(message, f"pp: {blocks} at most", "pp")
                return None
            counts = [b - a for a, b in split_evenly(blocks, stages)]
            if blocks % stages:
                longer = blocks % stages
                self.notes.append(
                    f"{blocks} {noun} do not divide by {stages} stages: {longer} of {counts[0]}, "
                    f"then {stages - longer} of {counts[-1]} (default)"
                )
            elif stages > 1:
                self.notes.append(f"{counts[0]} {noun} on every stage (default)")
        else:
            counts = [e for e in given if isinstance(e, int)]
            if not self._counts_fit(counts, blocks, noun):
                return None
        ends = [before + sum(counts[: s + 1]) for s in range(stages)]
        ends[-1] += after
        return self._non_empty(tuple(zip([0, *ends[:-1]], ends)))

    def _counts_fit(self, counts: Sequence[int], blocks: int, noun: str) -> bool:
        stages = self.layout.stages
        if len(counts) < stages:
            message = "mixes numbers of layers and intervals [first, end)"
            self._problem(message, "write one or the other", "layers_per_stage")
            return False
        if sum(counts) == blocks:
            return True
        rule = (
            " (embedding and head go with the first and the last stage and are not counted)"
            if noun == "blocks"
            else ""
        )
        message = f"sums to {sum(counts)}, but {self.model.name} has {blocks} {noun}{rule}"
        remedy = ""
        if stages <= blocks:
            remedy = f"for example {[b - a for a, b in split_evenly(blocks, stages)]}"
        self._problem(message, remedy, "layers_per_stage")
        return False

    def _as_written(self, intervals: Sequence[tuple[int, int]]) -> Intervals | None:
        """Intervals over all layers, if they cover each layer once."""
        layers, wrong, done = len(self.model.layers), False, 0
        for s, (first, end) in enumerate(intervals):
            if first != done:
                what = "starts at layer 0" if s == 0 else f"follows layer {done - 1}"
                message = f"stage {s + 1} starts at layer {first}, but it {what}"
                self._problem(message, f"[{done}, {max(end, done + 1)}]", "layers_per_stage", s)
                wrong = True
            done = end
        if done != layers:
            message = f"end at layer {done}, but {self.model.name} has {layers} layers"
            remedy = f"embedding and head count here: the last interval ends at {layers}"
            self._problem(message, remedy, "layers_per_stage", len(intervals) - 1)
            wrong = True
        return None if wrong else self._non_empty(tuple(intervals))

    def _non_empty(self, intervals: Intervals) -> Intervals | None:
        empty = [s for s, (first, end) in enumerate(intervals) if first >= end]
        for s in empty:
            message = f"stage {s + 1} holds no layer"
            self._problem(message, "leave the stage out", "layers_per_stage", s)
        return None if empty else intervals

    def _policy(self, s: int) -> str:
        policy = self.spec.recompute
        return policy if isinstance(policy, str) else policy[s]

    def _offloaded(self, s: int, chips: int) -> StageMesh | None:
        """The mesh of a stage that offloads its optimizer; None where tp says it all."""
        asked = self.spec.offload
        asked = asked if isinstance(asked, str) else asked[s]
        return StageMesh(chips, offload=True) if asked == "optimizer" else None

    def _in_flight(self, s: int) -> int | None:
        depth = self.spec.in_flight
        if isinstance(depth, tuple):
            return depth[s]
        return self.layout.stages - s if depth == "classic" else None

    def _zero(self) -> int:
        return int(self.job.zero1) if self.spec.zero is None else self.spec.zero

    # -- devices ----------------------------------------------------------------------------

    def _groups(self) -> list[list[Group]]:
        """Devices by stage and pipeline; problems where they cannot be had."""
        if self.spec.placement is not None:
            return self._placed()
        try:
            classes = classes_in_order(self.layout, self.topology, self.catalog)
        except InputError as error:
            self.problems += error.problems
            return []
        chips = sum(c.chips for c in classes)
        each = sum(self.degrees)
        if self.spec.dp is not None:
            if each * self.spec.dp > chips:
                self._too_many(self.spec.dp, chips)
                return []
            groups = carve(classes, self.degrees, self.spec.dp)
            if not self._complete(groups, self.spec.dp):
                return self._no_room(groups, classes)
            return groups
        for dp in range(min(chips // each, self.job.global_batch), 0, -1):
            groups = carve(classes, self.degrees, dp)
            if self._complete(groups, dp):
                self.notes.append(f"dp {dp}: as many pipelines as the chips allow (default)")
                return groups
        if each > chips:
            self._too_many(1, chips)
            return []
        return self._no_room(carve(classes, self.degrees, 1), classes)

    def _complete(self, groups: Sequence[Sequence[Group]], dp: int) -> bool:
        return len(groups) == self.layout.stages and all(len(g) == dp for g in groups)

    def _equation(self, dp: int) -> str:
        chips = sum(self.degrees) * dp
        if len(set(self.degrees)) == 1:
            return f"tp {self.degrees[0]} × pp {self.layout.stages} × dp {dp} = {chips} chips"
        return f"tp ({' + '.join(map(str, self.degrees))}) × dp {dp} = {chips} chips"

    def _too_many(self, dp: int, chips: int) -> None:
        named = " that chips names" if self.spec.chips is not None else ""
        most = chips // sum(self.degrees)
        remedy = f"dp: {most} at most" if most else "fewer stages or a smaller tp"
        field = "dp" if self.layout.stated("dp") else "tp" if self.layout.stated("tp") else "pp"
        has = f"the cluster has {chips}{named}"
        self._problem(f"{self._equation(dp)}, but {has}", remedy, field)

    def _no_room(
        self, groups: Sequence[Sequence[Group]], classes: Sequence[IslandClass]
    ) -> list[list[Group]]:
        """Chips enough, but not in the right islands."""
        tp, room = self.degrees[len(groups) - 1], sum(map(len, groups))
        dp = self.spec.dp or 1
        sizes = ", ".join(dict.fromkeys(f"{c.count} of {c.size} {c.chip.name}" for c in classes))
        message = (
            f"{self._equation(dp)} do not fit into the islands ({sizes}): after {room} groups "
            f"there is no island with {tp} chips left, nor whole islands that make {tp}"
        )
        self._problem(message, "a tp that divides the islands, or fewer pipelines", "tp")
        return []

    def _placed(self) -> list[list[Group]]:
        groups, problems = placed(self.layout, self.degrees, self.topology)
        self.problems += problems
        if problems:
            return []
        sizes = [sum(map(len, g)) for g in groups]
        dp = self.spec.dp or max(1, sizes[0] // self.degrees[0])
        for s, (size, tp) in enumerate(zip(sizes, self.degrees)):
            if size != tp * dp:
                message = f"stage {s + 1} names {size} devices, but tp {tp} × dp {dp} = {tp * dp}"
                self._problem(message, f"name {tp * dp} devices", "placement", s)
        return [] if self.problems else groups

    # -- batch and defaults -----------------------------------------------------------------

    def _batch_warnings(self, dp: int) -> Iterator[Problem]:
        """Where the batch is not micro-batches × pipelines, the equation and what was done."""
        batch, rows, stated = self.job.global_batch, self.spec.micro_batch_rows, True
        wanted = self.spec.micro_batches
        if wanted is None:
            wanted, stated = max(1, batch // (dp * rows)), False
        product = rows * wanted * dp
        if product == batch:
            return
        factors = counted(rows, "row"), counted(wanted, "micro-batch"), counted(dp, "pipeline")
        equation = f"{' × '.join(factors)} = {product}, not the global batch of {batch}"
        near = even_batches(batch, dp * rows)
        if not near:
            done = f"priced with {counted(batch // (dp * rows), 'micro-batch')} per pipeline"
            remedy = f"micro_batches: {batch // (dp * rows)}, or --global-batch {product}"
        else:
            low, high = batch // dp, -(-batch // dp)
            each = f"{low}" if low == high else f"{low} or {high}"
            partial = ", last micro-batches smaller" if low % rows or high % rows else ""
            done = f"priced with {each} rows per pipeline{partial}; gradients must then be weighted"
            done += " by rows"
            remedy = " or ".join(f"--global-batch {b}" for b in near)
        field = "micro_batches" if stated else "micro_batch_rows"
        yield Problem(self.layout.where(field), f"{equation}: {done}", remedy)

    def _note_defaults(self) -> None:
        """What the layout left open, in its own words."""
        stated = self.layout.stated
        for field, text in (
            ("micro_batch_rows", "1 row per micro-batch"),
            ("schedule", "schedule 1f1b"),
            ("recompute", "no recomputation"),
        ):
            if not stated(field):
                self.notes.append(f"{text} (default)")
        if self.spec.zero is None:
            self.notes.append(f"ZeRO level {self._zero()}, as the search would choose (default)")
        if self.spec.schedule == "1f1b" and not stated("in_flight") and self.layout.stages > 1:
            self.notes.append(
                "micro-batches in flight by the depth rule, as far as memory allows (default); "
                "in_flight: classic holds one per stage from here to the end"
            )
        if len(self.topology.classes) > 1 and not (self.spec.chips or self.spec.placement):
            names = dict.fromkeys(Catalog.alias(c.chip.id) for c in self.topology.classes)
            self.notes.append(f"stages take chips in this order: {', '.join(names)} (default)")
