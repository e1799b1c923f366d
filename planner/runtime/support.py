"""What the runtime refuses to execute, by name. Knows no PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from costmodels.price import HOSTED
from planner.errors import ExportError, InputError, Problem
from planner.plan import Plan, Stage
from planner.runtime.orders import pipeline_orders


def check_supported(plan: Plan) -> None:
    """Raise ExportError, naming every feature of the plan that this runtime does not execute."""
    found = [*_features(plan)]
    if found:
        where, feature, remedy = found[0]
        more = "".join(f"; {f} ({w})" for w, f, _ in found[1:4])
        raise ExportError(
            f"the PyTorch runtime cannot run {feature}{more}",
            where=where,
            remedies=list(dict.fromkeys(r for _, _, r in found)) or [remedy],
        )
    problems = [*_incomplete(plan)]
    if problems:
        raise InputError(problems)
    for p, pipeline in enumerate(plan.pipelines):
        pipeline_orders(pipeline, f"pipelines[{p}]")


def _incomplete(plan: Plan) -> Iterator[Problem]:
    """Layers that a pipeline leaves out, and devices that would have to do two things."""
    remedy = "planner check says everything that is wrong with a plan"
    for p, pipeline in enumerate(plan.pipelines):
        end = pipeline.stages[-1].parts[-1][1]
        if end != len(plan.layer_order):
            message = f"ends at layer {end}, but the model has {len(plan.layer_order)} layers"
            yield Problem(f"pipelines[{p}]", message, remedy)
    used = Counter(
        device
        for pipeline in plan.pipelines
        for stage in pipeline.stages
        for replica in stage.replicas
        for device in replica.devices
    )
    for device in [d for d, count in used.items() if count > 1][:5]:
        yield Problem("devices", f"{device} is used {used[device]} times", remedy)


def _features(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Where, what, and what to do instead."""
    for field in ("lora", "frozen_layers"):
        if plan.inputs.job.resolved.get(field):
            yield f"job.{field}", f"{field.replace('_', ' ')}", "train all weights"
    for k, group in enumerate(plan.sync_groups):
        if group.compression != "none":
            feature = f"gradients packed as {group.compression}"
            yield f"sync_groups[{k}]", feature, "plan with --forbid gradient_compression"
    for p, pipeline in enumerate(plan.pipelines):
        for s, stage in enumerate(pipeline.stages):
            where = f"pipelines[{p}].stages[{s}]"
            if stage.zero.level > 1:
                feature = f"ZeRO level {stage.zero.level}"
                yield where, feature, "plan with ZeRO level 1 at most"
            if stage.offload != "none":
                yield where, f"offload to {stage.offload}", "plan without offload"
            if any(part.policy in HOSTED for part in stage.recompute):
                feature = "activations in host memory"
                yield where, feature, "plan with --forbid activation_offload"
            for replica in stage.replicas:
                mesh = replica.mesh
                if mesh.context_parallel > 1:
                    yield where, f"context parallelism {mesh.context_parallel}", "plan without it"
                if mesh.expert_parallel > 1:
                    yield where, f"expert parallelism {mesh.expert_parallel}", "plan without it"
                if mesh.data_parallel > 1:
                    feature = f"data parallelism {mesh.data_parallel} inside a stage"
                    yield where, feature, "plan without it"
                if mesh.zero3:
                    yield where, "ZeRO level 3 inside a stage", "plan without it"
            yield from _uncovered(stage, where)


def _uncovered(stage: Stage, where: str) -> Iterator[tuple[str, str, str]]:
    """Layers whose recomputation is not said."""
    said = {layer for part in stage.recompute for layer in range(*part.layers)}
    for first, end in stage.parts:
        missing = [layer for layer in range(first, end) if layer not in said]
        if missing:
            feature = f"layer {missing[0]} without a recomputation policy"
            yield f"{where}.recompute", feature, "name a policy for every layer"
