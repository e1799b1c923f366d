"""Host memory while the weights are loaded: an own part per process, or the whole model in each."""

from __future__ import annotations

from collections import Counter

from planner.plan import Plan
from planner.report.format import memory


def loading(plan: Plan) -> tuple[str, str]:
    """Two lines on the fullest host: what loading takes if every process reads only its own part
    of a checkpoint, and if every process builds the whole model first. In the precision of the
    weights; twice that where a checkpoint is in fp32.
    """
    own: Counter[str] = Counter()
    processes: Counter[str] = Counter()
    whole = 0
    for number, pipeline in enumerate(plan.pipelines):
        for stage in pipeline.stages:
            for replica in stage.replicas:
                weights = replica.memory_bytes.parameters
                for device in replica.devices:
                    host = device.rpartition("/")[0]
                    own[host] += weights
                    processes[host] += 1
            if number == 0:
                whole += weights * len(stage.replicas[0].devices)
    most, chips = max(own.values()), max(processes.values())
    return (
        f"every process reads its own part: {memory(most)} on the fullest host",
        f"every process builds the whole model: {memory(whole)} each, {memory(whole * chips)} on "
        "the fullest host",
    )
