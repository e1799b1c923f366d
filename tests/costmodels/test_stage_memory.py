"""Peak memory of a stage is an exact sum of named items."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.memory import (
    DeviceOverhead,
    StateBytes,
    adam_state,
    boundary_buffer_bytes,
    device_overhead,
    stage_memory,
)
from costmodels.price import LayerPrice
from costmodels.units import GIB
from tests.costmodels.blocks import LLAMA_8B, chip, price, vocabulary_head

LAYER = LayerPrice(
    forward_s=1.0,
    backward_input_s=1.0,
    backward_weight_s=1.0,
    tp_comm_forward_s=0.0,
    tp_comm_backward_s=0.0,
    recompute_s=(0.0, 0.0, 1.0),
    parameters=7,
    activation_bytes=(100, 60, 10),
    working_bytes=(5, 9, 90),
    logits_bytes=0,
    items=(),
)
NONE, SELECTIVE, FULL = range(3)
NOTHING = DeviceOverhead(0, 0, 0)


def memory(layers, policies, **change):
    run = {"state": StateBytes(2, 4, 12), "overhead": NOTHING, "in_flight": 1}
    run |= {"micro_batches": 8, "zero_level": 0, "replicas": 1, "boundary_bytes": 0}
    return stage_memory(layers, policies, **(run | change))


def test_a_stage_by_hand():
    last = LAYER._replace(parameters=3, logits_bytes=1000)
    overhead = DeviceOverhead(10, 20, 30)
    m = memory([LAYER, last], [NONE, FULL], overhead=overhead, in_flight=3, boundary_bytes=8)
    assert m.parameters == 20
    assert m.gradients == 40
    assert m.optimizer == 120
    assert m.activations == 3 * (100 + 10) + 90
    assert m.logits == 1000
    assert m.buffers == 28
    assert m.context == 10
    assert m.fragmentation == 30
    assert m.peak == 20 + 40 + 120 + 420 + 1000 + 28 + 10 + 30


def test_no_more_is_in_flight_than_there_is():
    few = memory([LAYER], [NONE], in_flight=9, micro_batches=2)
    assert few.activations == 2 * 100 + 5


def test_zero_divides_the_optimizer_by_the_replicas_of_each_layer():
    m = memory([LAYER, LAYER], [NONE, NONE], zero_level=1, replicas=[4, 5])
    assert m.optimizer == 21 + 17  # ceil(84/4), ceil(84/5)
    assert m.parameters == 28


def test_without_zero_replicas_do_not_matter():
    assert memory([LAYER], [NONE], replicas=8) == memory([LAYER], [NONE])


@given(
    in_flight=st.integers(1, 20),
    policies=st.lists(st.integers(0, 2), min_size=1, max_size=5),
    replicas=st.integers(1, 9),
)
def test_memory_never_falls_with_more_in_flight(in_flight, policies, replicas):
    layers = [LAYER] * len(policies)
    run = {"zero_level": 1, "replicas": replicas}
    fewer = memory(layers, policies, in_flight=in_flight, **run)
    assert memory(layers, policies, in_flight=in_flight + 1, **run).peak >= fewer.peak


@given(policies=st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_memory_grows_with_every_layer(policies):
    layers = [LAYER] * len(policies)
    assert memory([*layers, LAYER], [*policies, NONE]).peak > memory(layers, policies).peak


def test_the_last_stage_is_charged_for_the_logits():
    block, head = price(LLAMA_8B), price(vocabulary_head(4096, 128256))
    without, with_head = memory([block], [NONE]), memory([block, head], [NONE, NONE])
    assert with_head.logits == 10 * 4096 * 128256
    assert with_head.peak > without.peak + with_head.logits


def test_sequence_parallel_devices_hold_slices_of_the_boundary():
    assert boundary_buffer_bytes(30, 33, tp=4, sequence_parallel=True) == 126 // 4
    assert boundary_buffer_bytes(30, 33, tp=4, sequence_parallel=False) == 126


def test_overhead_is_that_of_the_scenarios():
    lost = device_overhead(chip())
    assert lost.context_bytes + lost.buffer_bytes == 1.5 * GIB
    assert lost.fragmentation_bytes == chip().usable_memory_bytes * 5 // 100
    assert device_overhead(chip(), 100 * GIB).fragmentation_bytes == 5 * GIB


@pytest.mark.parametrize(
    ("precision", "gradient", "total"),
    [("bf16", None, 16), ("fp16", 4, 18), ("fp8", None, 16), ("fp32", None, 16)],
)
def test_adam_takes_16_or_18_bytes(precision, gradient, total):
    assert adam_state(precision, gradient).total == total
