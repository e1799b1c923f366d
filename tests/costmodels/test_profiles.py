"""Measured layer times: what lies between measurements, what is refused, what replaces what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.profiles import Measurement, layer_profile, measured_price
from tests.costmodels.blocks import gpt_block, price, vocabulary_head

BLOCK = gpt_block(1024, 16)


def measured(forward, backward, kept=1000, weights=400):
    return Measurement(forward, backward, 0.001, kept, weights)


def profile(points):
    """One layer; ``points[tp, rows] = (forward, backward)``."""
    return layer_profile("chip", 4, {way: [measured(*times)] for way, times in points.items()})


def test_a_measured_way_is_taken_as_it_is():
    p = profile({(1, 2): (0.3, 0.7), (1, 4): (0.5, 1.1)})
    assert p.measurement(0, 1, 4) == measured(0.5, 1.1)
    assert not p.interpolated(1, 4)


def test_rows_between_two_measured_ones_lie_on_the_line():
    points = {(1, 2): [measured(0.3, 0.7, 100)], (1, 8): [measured(0.9, 1.9, 400)]}
    found = layer_profile("chip", 4, points).measurement(0, 1, 4)
    # a third of the way from 2 to 8 rows
    assert found.forward_s == pytest.approx(0.5)
    assert found.backward_s == pytest.approx(1.1)
    assert found.activation_bytes == 200


def test_a_degree_between_two_measured_ones_follows_a_power_law():
    found = profile({(1, 1): (0.4, 1.6), (4, 1): (0.1, 0.4)})
    assert found.measurement(0, 2, 1).forward_s == pytest.approx(0.2)
    assert found.interpolated(2, 1)


@pytest.mark.parametrize(
    ("tp", "rows", "words"),
    [
        (1, 16, "16 rows per micro-batch at tp=1 were not measured on chip (2 to 8 were)"),
        (1, 1, "1 rows per micro-batch at tp=1 were not measured on chip (2 to 8 were)"),
        (8, 2, "tp=8 was not measured on chip (1 to 4 were)"),
        (2, 8, "8 rows per micro-batch at tp=4 were not measured on chip (only 2 were)"),
    ],
)
def test_nothing_is_extrapolated(tp, rows, words):
    p = profile({(1, 2): (0.3, 0.7), (1, 8): (0.5, 1.1), (4, 2): (0.1, 0.2)})
    assert p.problem(tp, rows) == words
    with pytest.raises(LookupError, match="not measured"):
        p.measurement(0, tp, rows)


def test_a_time_above_that_of_a_larger_micro_batch_is_lowered_and_named():
    p = profile({(4, 1): (0.0024, 0.0017), (4, 2): (0.0015, 0.0018), (4, 4): (0.0018, 0.0033)})
    assert p.measurement(0, 4, 1).forward_s == 0.0015
    assert p.measurement(0, 4, 1).backward_s == 0.0017
    assert p.lowered == ((4, 1),)


def test_layers_must_be_the_same_in_every_way():
    with pytest.raises(ValueError, match="same layers"):
        layer_profile("c", 4, {(1, 1): [measured(1, 1)], (1, 2): [measured(1, 1)] * 2})


times = st.floats(1e-6, 1.0)


@given(
    st.dictionaries(
        st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 16)),
        st.tuples(times, times),
        min_size=1,
    ),
    st.integers(1, 16),
    st.integers(1, 16),
)
def test_more_rows_never_take_less_time(points, one, other):
    p = profile(points)
    low, high = sorted((one, other))
    for tp in p.points:
        if p.problem(tp, low) is None and p.problem(tp, high) is None:
            a, b = p.measurement(0, tp, low), p.measurement(0, tp, high)
            assert a.forward_s <= b.forward_s * (1 + 1e-12)
            assert a.backward_s <= b.backward_s * (1 + 1e-12)


FORMULA = price(BLOCK, "V100-SXM2-32GB", tp=2, precision="fp16", rows=2, seq_len=2048, flash=False)


def test_measured_times_replace_compute_and_communication_together():
    found = measured_price(FORMULA, measured(0.01, 0.03), 2)
    assert found.forward_s == 0.01
    assert found.backward_input_s + found.backward_weight_s == pytest.approx(0.03)
    assert found.tp_comm_forward_s == found.tp_comm_backward_s == 0
    assert sum(s for _, s in found.items) == pytest.approx(0.04)


def test_the_backward_pass_divides_as_in_the_formula():
    found = measured_price(FORMULA, measured(0.01, 0.03), 2)
    formula = FORMULA.backward_input_s / (FORMULA.backward_input_s + FORMULA.backward_weight_s)
    assert found.backward_input_s == pytest.approx(0.03 * formula)


def test_full_recomputation_runs_the_measured_forward_again():
    found = measured_price(FORMULA, measured(0.01, 0.03), 2)
    assert found.recompute_s[2] == 0.01
    share = FORMULA.recompute_s[1] / (FORMULA.forward_s + FORMULA.tp_comm_forward_s)
    assert found.recompute_s[1] == pytest.approx(0.01 * share)


def test_recomputation_never_keeps_more_than_was_measured():
    found = measured_price(FORMULA, measured(0.01, 0.03, kept=500_000_000), 2)
    none, selective, full = found.activation_bytes
    assert none == 500_000_000
    assert full == FORMULA.activation_bytes[2] < selective < none
    shares = FORMULA.activation_bytes
    assert selective == -(-none * shares[1] // shares[0])


def test_logits_that_were_not_kept_are_counted_beside_what_was_measured():
    head = price(
        vocabulary_head(1024, 50304), "A100-SXM-80GB", tp=1, precision="bf16", rows=1, seq_len=2048
    )
    inputs, at_once = head.activation_bytes[0], 10 * 2048 * 50304
    assert head.logits_bytes == at_once
    kept = inputs + 4 * 2048 * 50304  # the fp32 copy alone
    found = measured_price(head, measured(0.01, 0.03, kept=kept), 2)
    assert found.activation_bytes == (kept,) * 3
    assert kept + found.logits_bytes == inputs + at_once


def test_a_head_that_kept_more_than_all_logits_needs_nothing_beside():
    head = price(
        vocabulary_head(1024, 50304), "A100-SXM-80GB", tp=1, precision="bf16", rows=1, seq_len=2048
    )
    kept = head.activation_bytes[0] + 12 * 2048 * 50304
    assert measured_price(head, measured(0.01, 0.03, kept=kept), 2).logits_bytes == 0


def test_weights_are_counted_from_measured_bytes():
    assert measured_price(FORMULA, measured(0.1, 0.2, weights=401), 4).parameters == 101


def test_a_derated_chip_takes_the_measured_time_longer():
    p = layer_profile("chip", 2, {(2, 2): [measured(0.01, 0.03)]})
    slow = p.price(0, 2, 2, FORMULA, 0.5)
    assert slow.forward_s == 0.02
    assert slow.backward_input_s + slow.backward_weight_s == pytest.approx(0.06)
    assert slow.recompute_s[2] == 0.02
