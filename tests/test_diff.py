"""Two plans side by side: what moves, and whether checkpoints follow."""

from __future__ import annotations

import pytest

from planner.diff import diff
from planner.estimate import estimate, read_layout
from planner.report.differences import diff_markdown, diff_object, verdicts
from planner.whatif.money import Costs
from tests.small_plans import FOUR, laid_out, small_inputs

UNKNOWN = Costs(None, None, None, None)


def test_a_plan_does_not_differ_from_itself() -> None:
    plan = laid_out("tp: 2, pp: 2")
    found = diff(plan, plan)
    assert found.same_layout
    assert not found.moves
    assert not found.inputs
    assert not found.reshard.needed
    assert "checkpoints can be read as they are" in verdicts(found)


def test_another_cut_moves_the_layers_between_the_cuts_alone() -> None:
    found = diff(
        laid_out("tp: 2, pp: 2, layers_per_stage: [3, 3]"),
        laid_out("tp: 2, pp: 2, layers_per_stage: [4, 2]"),
    )
    assert [m.layers for m in found.moves] == [(3, 4)]
    assert found.moved_layers == 1
    assert found.moves[0].devices_kept == 0
    assert found.reshard.weights
    assert found.reshard.possible


def test_other_tensor_parallelism_reshards_every_layer() -> None:
    found = diff(laid_out("tp: 1, dp: 4"), laid_out("tp: 2, dp: 2"))
    assert found.moved_layers == 6
    assert found.moves[0].tensor_parallel == ((1,), (2,))
    assert any("tensor parallelism changes for 6 of 6" in w for w in found.reshard.weights)


def test_fewer_replicas_reshard_the_sharded_optimizer_only() -> None:
    found = diff(laid_out("tp: 1, dp: 4"), laid_out("tp: 1, dp: 2"))
    assert found.reshard.weights == ()
    assert found.reshard.optimizer == ("the optimizer is cut over 4 replicas, then over 2",)
    without = diff(laid_out("tp: 1, dp: 4, zero: 0"), laid_out("tp: 1, dp: 2, zero: 0"))
    assert not without.reshard.needed


def test_another_model_cannot_use_the_checkpoints() -> None:
    found = diff(laid_out("tp: 1, dp: 4"), laid_out("tp: 1, dp: 4", FOUR, 5))
    assert not found.reshard.possible
    assert found.moves == ()
    assert any("of no use" in line for line in verdicts(found))


def test_inputs_that_differ_are_named_by_field() -> None:
    inputs = small_inputs(sets="optimizer=sgd")
    layout = read_layout("tp: 1, dp: 4")
    other = estimate(inputs.model, inputs.cluster, inputs.job, layout, replay=False).plan
    fields = {c.where: (c.before, c.after) for c in diff(laid_out("tp: 1, dp: 4"), other).inputs}
    assert fields["job.optimizer"] == ("adam", "sgd")
    assert fields["job.state_bytes.optimizer"] == (12, 8)
    assert all(name.startswith("job.") for name in fields)


def test_memory_names_the_item_that_grew() -> None:
    found = diff(laid_out("tp: 1, dp: 4, recompute: full"), laid_out("tp: 1, dp: 4"))
    (memory,) = found.memory
    assert memory.after > memory.before
    assert memory.grown[0][0] == "activations"
    assert sum(size for _, size in memory.grown) == memory.after - memory.before


def test_an_unknown_price_is_unknown_in_every_format() -> None:
    found = diff(laid_out("tp: 1, dp: 4"), laid_out("tp: 2, dp: 2"))
    text = diff_markdown(found, (UNKNOWN, UNKNOWN))
    assert "| USD per hour | unknown | unknown |" in text
    assert diff_object(found, (UNKNOWN, UNKNOWN))["after"]["usd_per_hour"] is None


@pytest.mark.parametrize(
    "pair", [("tp: 1, dp: 4", "tp: 4, dp: 1"), ("tp: 2, pp: 2", "tp: 1, pp: 4")]
)
def test_the_difference_turned_round_moves_the_same_layers(pair: tuple[str, str]) -> None:
    one, other = map(laid_out, pair)
    there, back = diff(one, other), diff(other, one)
    assert [m.layers for m in there.moves] == [m.layers for m in back.moves]
    assert there.reshard.needed == back.reshard.needed
