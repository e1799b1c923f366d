"""Whether a layout fits, in a line that nobody overlooks."""

from __future__ import annotations

from rich.text import Text

from planner.plan import Plan
from planner.report.format import memory


def verdict(plan: Plan) -> Text:
    """``fits`` with the least memory left, or ``does not fit`` with the greatest shortfall."""
    held = [
        (number, replica.memory_bytes)
        for pipeline in plan.pipelines
        for number, stage in enumerate(pipeline.stages, start=1)
        for replica in stage.replicas
    ]
    short = sorted({number for number, m in held if m.peak > m.usable})
    if not short:
        left = memory(min(m.usable - m.peak for _, m in held))
        return Text.assemble(("fits", "bold green"), f": every chip keeps at least {left} free")
    over = memory(max(m.peak - m.usable for _, m in held))
    stages = max(len(pipeline.stages) for pipeline in plan.pipelines)
    where = ""
    if stages > 1:
        numbers = ", ".join(map(str, short))
        where = f"{'stage' if len(short) == 1 else 'stages'} {numbers} of {stages}: "
    return Text.assemble(("does not fit", "bold red"), f": {where}up to {over} too much per chip")
