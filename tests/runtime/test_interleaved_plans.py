"""Plans with several chunks per stage: read and hashed."""

from __future__ import annotations

from planner.plan import Plan
from tests.priced_plans import two_generations
from tests.runtime.run_plans import P, S, run_plan


def test_plans_without_chunks_are_written_as_before() -> None:
    """The field is absent, so that plans of older versions keep their hash."""
    plan = two_generations()
    assert '"chunks"' not in plan.to_json()
    assert Plan.model_validate_json(plan.to_json()).content_hash() == plan.plan_id


def test_chunks_are_part_of_the_hash() -> None:
    """Dealing the layers out differently makes another plan."""
    names = [f"layer{k}" for k in range(4)]

    def dealt(middle: int) -> Plan:
        chunks = ((0, middle), (middle, 4))
        return run_plan([P([S((0, 4), chunks=chunks)], 2, schedule="interleaved")], names)

    assert '"chunks"' in dealt(1).to_json()
    assert dealt(1).plan_id != dealt(2).plan_id
