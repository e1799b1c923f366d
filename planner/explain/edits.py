"""A plan's neighbours: the same chips, one decision changed.

Every edit makes another sketch, or says why it cannot be made. Depths are left to the depth rule
again, as in the search. Where an edit needs two equal pipelines it pairs them up in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise

from costmodels.price import WAYS
from planner.estimate.sketch import PipelineSketch, Sketch, StageSketch

Pipelines = tuple[PipelineSketch, ...]


@dataclass(frozen=True, slots=True)
class Impossible:
    """An edit that cannot be made, and why."""

    reason: str


def free_depths(sketch: Sketch) -> Sketch:
    """The sketch with every depth left to the depth rule."""
    return replace(
        sketch,
        pipelines=tuple(
            replace(p, stages=tuple(replace(s, in_flight=None) for s in p.stages))
            for p in sketch.pipelines
        ),
    )


def narrower(sketch: Sketch) -> Sketch | Impossible:
    """Half the tensor-parallel degree everywhere, twice as many pipelines."""
    meshes = [s.degrees for p in sketch.pipelines for s in p.stages]
    if all(mesh.chips == 1 for mesh in meshes):
        return Impossible("every stage runs on one chip")
    if any(mesh.tp % 2 for mesh in meshes):
        plain = all(mesh.tensor_alone for mesh in meshes)
        what = "an odd number of chips" if plain else "an odd tensor-parallel degree"
        return Impossible(f"some stage runs on {what}")
    if any(_rows(p) < 2 for p in sketch.pipelines):
        return Impossible("some pipeline has a single row: it cannot be shared")
    out: list[PipelineSketch] = []
    for pipe in sketch.pipelines:
        for half, rows in enumerate(_halves(_rows(pipe))):
            stages = tuple(
                _with_degree(s, _half(s.devices, half), s.degrees.tp // 2) for s in pipe.stages
            )
            out.append(_with_rows(replace(pipe, stages=stages), rows))
    return replace(sketch, pipelines=tuple(out))


def wider(sketch: Sketch) -> Sketch | Impossible:
    """Twice the tensor-parallel degree everywhere, half as many pipelines."""
    pairs = _pairs(sketch.pipelines)
    if isinstance(pairs, Impossible):
        return pairs
    out = []
    for one, other in pairs:
        stages = tuple(
            _with_degree(a, (*a.devices, *b.devices), 2 * a.degrees.tp)
            for a, b in zip(one.stages, other.stages, strict=True)
        )
        out.append(_with_rows(replace(one, stages=stages), _rows(one) + _rows(other)))
    return replace(sketch, pipelines=tuple(out))


def shallower(sketch: Sketch) -> Sketch | Impossible:
    """Half as many stages, each of two joined, and twice as many pipelines.

    Of interleaved stages each chunk is joined with the one that the next stage holds.
    """
    out: list[PipelineSketch] = []
    for pipe in sketch.pipelines:
        if len(pipe.stages) % 2:
            return Impossible(f"{len(pipe.stages)} stages do not join in pairs")
        if _rows(pipe) < 2:
            return Impossible("some pipeline has a single row: it cannot be shared")
        pairs = list(zip(pipe.stages[::2], pipe.stages[1::2], strict=True))
        if any(a.degrees != b.degrees for a, b in pairs):
            if all(a.degrees.tensor_alone and b.degrees.tensor_alone for a, b in pairs):
                return Impossible("neighbouring stages run on different numbers of chips")
            return Impossible("neighbouring stages run on different meshes")
        for half, rows in enumerate(_halves(_rows(pipe))):
            if len(pairs) == 1 and pipe.stages[0].chunks:
                return Impossible("one stage alone has nobody to take turns with")
            stages = tuple(_joined(a, b, (a, b)[half].devices) for a, b in pairs)
            out.append(_with_rows(replace(pipe, stages=stages), rows))
    return replace(sketch, pipelines=tuple(out))


def deeper(sketch: Sketch) -> Sketch | Impossible:
    """Twice as many stages of half the layers, half as many pipelines.

    Every chunk of an interleaved stage is cut in two.
    """
    pairs = _pairs(sketch.pipelines)
    if isinstance(pairs, Impossible):
        return pairs
    out = []
    for one, other in pairs:
        stages: list[StageSketch] = []
        for a, b in zip(one.stages, other.stages, strict=True):
            if any(end - first < 2 for first, end in a.parts):
                what = "chunk of a stage is" if a.chunks else "stage holds"
                return Impossible(f"some {what} a single layer: it cannot be cut")
            stages += _cut(a, b.devices)
        changed = replace(one, stages=tuple(stages))
        out.append(_with_rows(changed, _rows(one) + _rows(other)))
    return replace(sketch, pipelines=tuple(out))


def in_a_row(sketch: Sketch) -> Sketch | Impossible:
    """As many layers per stage as before, one after the other: 1F1B in place of chunks."""
    pipelines = []
    for pipe in sketch.pipelines:
        every = _in_order(pipe)
        done, stages = 0, []
        for stage in pipe.stages:
            end = done + sum(end - first for first, end in stage.parts)
            own = replace(stage, chunks=())
            stages.append(_with_parts(own, [(done, end)], every[done:end]))
            done = end
        pipelines.append(replace(pipe, stages=tuple(stages), schedule="1f1b"))
    return replace(sketch, pipelines=tuple(pipelines))


def in_two_chunks(sketch: Sketch) -> Sketch | Impossible:
    """Two chunks of half the layers on every stage of a pipeline, dealt out in turn."""
    pipelines = []
    for pipe in sketch.pipelines:
        sizes = [stage.end - stage.first for stage in pipe.stages]
        if len(sizes) < 2:
            return Impossible("a pipeline of one stage has nobody to take turns with")
        if min(sizes) < 2:
            return Impossible("some stage holds a single layer: it cannot be cut")
        every = _in_order(pipe)
        ends = list(accumulate([*((n + 1) // 2 for n in sizes), *(n // 2 for n in sizes)]))
        dealt = list(pairwise([0, *ends]))
        stages = []
        for s, stage in enumerate(pipe.stages):
            parts = dealt[s :: len(sizes)]
            policies = [p for first, end in parts for p in every[first:end]]
            stages.append(_with_parts(replace(stage, chunks=tuple(parts)), parts, policies))
        pipelines.append(replace(pipe, stages=tuple(stages), schedule="interleaved"))
    return replace(sketch, pipelines=tuple(pipelines))


def recomputing(policy: int) -> Callable[[Sketch], Sketch | Impossible]:
    """The same recomputation for every layer."""

    def edit(sketch: Sketch) -> Sketch | Impossible:
        stages = [s for p in sketch.pipelines for s in p.stages]
        if all(set(s.policies) == {policy} for s in stages):
            return Impossible(f"every layer has recompute {WAYS[policy]} already")
        pipelines = []
        for pipe in sketch.pipelines:
            same = (replace(s, policies=(policy,) * len(s.policies)) for s in pipe.stages)
            pipelines.append(replace(pipe, stages=tuple(same)))
        return replace(sketch, pipelines=tuple(pipelines))

    return edit


def with_micro_batch(factor: float) -> Callable[[Sketch], Sketch | Impossible]:
    """Micro-batches of ``factor`` times the rows, in every pipeline."""

    def edit(sketch: Sketch) -> Sketch | Impossible:
        out = []
        for pipe in sketch.pipelines:
            rows = pipe.rows * factor
            if rows != int(rows) or rows < 1:
                return Impossible(f"{pipe.rows} row per micro-batch is the least")
            if rows > _rows(pipe):
                return Impossible(f"a pipeline has only {_rows(pipe)} rows")
            out.append(_with_rows(replace(pipe, rows=int(rows)), _rows(pipe)))
        return replace(sketch, pipelines=tuple(out))

    return edit


def with_zero(level: int) -> Callable[[Sketch], Sketch | Impossible]:
    """Another level of ZeRO."""

    def edit(sketch: Sketch) -> Sketch | Impossible:
        if sketch.zero_level == level:
            return Impossible(f"ZeRO level {level} is the plan's")
        copies = max(s.degrees.copies for p in sketch.pipelines for s in p.stages)
        if len(sketch.pipelines) < 2 and copies == 1:
            return Impossible("one pipeline has nobody to share the optimizer with")
        return replace(sketch, zero_level=level)

    return edit


def shifted(pipeline: int, stage: int, step: int) -> Callable[[Sketch], Sketch | Impossible]:
    """One layer from a stage to the next (``step`` 1) or the one before (-1).

    Done in every pipeline that runs the same layers on as many chips as the given one.
    """

    def edit(sketch: Sketch) -> Sketch | Impossible:
        like = _form(sketch.pipelines[pipeline])
        there = stage + step
        stages = sketch.pipelines[pipeline].stages
        if not (0 <= there < len(stages) and stage < len(stages)):
            return Impossible("there is no stage on that side")
        if max(end - first for first, end in stages[stage].parts) < 2:
            what = "a chunk of the stage" if stages[stage].chunks else "the stage"
            return Impossible(f"{what} would be empty")
        return replace(
            sketch,
            pipelines=tuple(
                _shifted(p, stage, there) if _form(p) == like else p for p in sketch.pipelines
            ),
        )

    return edit


def _shifted(pipe: PipelineSketch, giver: int, taker: int) -> PipelineSketch:
    """The layer leaves the giver's largest part for the same part of the taker, its neighbour."""
    stages = list(pipe.stages)
    a, b = stages[giver], stages[taker]
    part = max(range(len(a.parts)), key=lambda n: (a.parts[n][1] - a.parts[n][0], -n))
    (first, end), (to_first, to_end) = a.parts[part], b.parts[part]
    own, other = _by_chunk(a), _by_chunk(b)
    # the layer comes under the policy of its new stage: times and memory are those of a stage
    if taker > giver:
        left, own[part] = (first, end - 1), own[part][:-1]
        grown, other[part] = (to_first - 1, to_end), (other[part][0], *other[part])
    else:
        left, own[part] = (first + 1, end), own[part][1:]
        grown, other[part] = (to_first, to_end + 1), (*other[part], other[part][-1])
    stages[giver] = _with_part(a, part, left, own)
    stages[taker] = _with_part(b, part, grown, other)
    return replace(pipe, stages=tuple(stages))


def _with_part(
    stage: StageSketch, part: int, layers: tuple[int, int], policies: Sequence[Sequence[int]]
) -> StageSketch:
    """The stage with other layers in one of its parts."""
    parts = tuple(layers if n == part else own for n, own in enumerate(stage.parts))
    return _with_parts(stage, parts, [p for own in policies for p in own])


def _with_parts(
    stage: StageSketch, parts: Sequence[tuple[int, int]], policies: Sequence[int]
) -> StageSketch:
    return replace(
        stage,
        first=parts[0][0],
        end=parts[-1][1],
        policies=tuple(policies),
        chunks=tuple(parts) if stage.chunks else (),
    )


def _joined(a: StageSketch, b: StageSketch, devices: tuple[str, ...]) -> StageSketch:
    """Every part of a stage with the one that its neighbour holds."""
    parts = [(one[0], other[1]) for one, other in zip(a.parts, b.parts, strict=True)]
    pairs = zip(_by_chunk(a), _by_chunk(b), strict=True)
    policies = [p for one, other in pairs for p in (*one, *other)]
    return replace(_with_parts(a, parts, policies), devices=devices)


def _cut(stage: StageSketch, devices: tuple[str, ...]) -> list[StageSketch]:
    """Two stages of half the layers of every part; the second runs on other devices."""
    halves: list[list[tuple[int, int]]] = [[], []]
    policies: list[list[int]] = [[], []]
    for (first, end), own in zip(stage.parts, _by_chunk(stage), strict=True):
        cut = (first + end + 1) // 2
        halves[0].append((first, cut))
        halves[1].append((cut, end))
        policies[0] += own[: cut - first]
        policies[1] += own[cut - first :]
    second = _with_parts(stage, halves[1], policies[1])
    return [_with_parts(stage, halves[0], policies[0]), replace(second, devices=devices)]


def _in_order(pipe: PipelineSketch) -> list[int]:
    """The policy of every layer of the model."""
    every: dict[int, int] = {}
    for stage in pipe.stages:
        for (first, end), own in zip(stage.parts, _by_chunk(stage), strict=True):
            every |= dict(zip(range(first, end), own, strict=True))
    return [every[layer] for layer in sorted(every)]


def _by_chunk(stage: StageSketch) -> list[tuple[int, ...]]:
    """The policies of every part of a stage."""
    rest = iter(stage.policies)
    return [tuple(islice(rest, end - first)) for first, end in stage.parts]


def _with_degree(stage: StageSketch, devices: tuple[str, ...], tp: int) -> StageSketch:
    """The stage on other devices under another tensor-parallel degree."""
    mesh = None if stage.mesh is None else replace(stage.mesh, tp=tp)
    return replace(stage, devices=devices, mesh=mesh)


def _rows(pipe: PipelineSketch) -> int:
    """Rows of one step that go through a pipeline."""
    return (pipe.micro_batches - 1) * pipe.rows + pipe.last_rows


def _with_rows(pipe: PipelineSketch, rows: int) -> PipelineSketch:
    """The pipeline with so many rows per step in micro-batches of its size."""
    size = min(pipe.rows, rows)
    count = -(-rows // size)
    return replace(pipe, rows=size, micro_batches=count, last_rows=rows - (count - 1) * size)


def _halves(rows: int) -> tuple[int, int]:
    return rows - rows // 2, rows // 2


def _half(devices: Sequence[str], which: int) -> tuple[str, ...]:
    middle = len(devices) // 2
    return tuple(devices[:middle] if which == 0 else devices[middle:])


def _form(pipe: PipelineSketch) -> object:
    """What pipelines must agree in to be joined; devices and rows of the step aside."""
    stages = tuple((s.parts, s.policies, s.degrees) for s in pipe.stages)
    return stages, pipe.rows, pipe.schedule


def _pairs(pipelines: Pipelines) -> list[tuple[PipelineSketch, PipelineSketch]] | Impossible:
    """Equal pipelines, two by two."""
    groups: dict[object, list[PipelineSketch]] = {}
    for pipe in pipelines:
        groups.setdefault(_form(pipe), []).append(pipe)
    if any(len(group) % 2 for group in groups.values()):
        if len(pipelines) == 1:
            return Impossible("there is one pipeline only")
        return Impossible("the pipelines do not pair up: some have no equal")
    return [(g[n], g[n + 1]) for g in groups.values() for n in range(0, len(g), 2)]
