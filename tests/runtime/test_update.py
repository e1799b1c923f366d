"""Between gradients and new weights: what is kept, and where counters lie."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from planner.runtime.checkpoint import counter_device  # noqa: E402
from planner.runtime.comm import Group  # noqa: E402
from planner.runtime.shards import whole  # noqa: E402
from planner.runtime.update import (  # noqa: E402
    Updater,
    default_optimizer,
    make_masters,
    parameter_groups,
)
from planner.runtime.weights import Weights  # noqa: E402


def updater(clip: float | None = None) -> tuple[Updater, torch.nn.Parameter]:
    """One weight in bf16 with a gradient of 16 bits."""
    weights = Weights()
    parameter = torch.nn.Parameter(torch.tensor([3.0, -4.0], dtype=torch.bfloat16))
    weights.add("w", parameter, whole((2,)))
    masters = make_masters(weights, ())
    optimizer = default_optimizer("sgd", 1.0, 0.0)(parameter_groups(masters))
    parameter.grad = torch.tensor([3.0, 4.0], dtype=torch.bfloat16)
    return Updater(weights, (), Group((0,), "gloo", None), optimizer, masters, clip), parameter


def test_a_narrow_gradient_goes_once_it_has_been_widened() -> None:
    found, parameter = updater()
    found.reduce()
    found.widen()
    assert parameter.grad is None
    assert found.masters[0].tensor.grad is not None
    assert found.masters[0].tensor.grad.dtype == torch.float32
    assert found.masters[0].tensor.grad.tolist() == [3.0, 4.0]


def test_the_step_changes_the_copy_and_the_weight() -> None:
    found, parameter = updater()
    found.step()
    assert found.masters[0].tensor.tolist() == [0.0, -8.0]
    assert parameter.tolist() == [0.0, -8.0]
    assert found.masters[0].tensor.grad is None


def test_counters_of_a_fused_optimizer_lie_with_its_weights() -> None:
    weight = torch.zeros(1, device="meta")
    plain = torch.optim.Adam([torch.zeros(1)], lr=0.1)
    assert counter_device(plain, weight).type == "cpu"
    for group in plain.param_groups:
        group["fused"] = True
    assert counter_device(plain, weight).type == "meta"
