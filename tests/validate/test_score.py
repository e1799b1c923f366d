"""Scores by hand: errors, ranking inside sweeps, memory and what does not fit."""

import math

import pytest
from rows import table

from costmodels.fitted import shipped_calibration
from costmodels.measured import measured_catalog
from planner.validate.predict import HEADER, csv_row, predict_rows
from planner.validate.score import memory_summary, quantile, ranking, summarise, sweeps
from planner.validate.summary import validation, worst_first


def predicted(*cells: dict[str, object]):
    return predict_rows(table(*cells).rows, measured_catalog(), shipped_calibration())


@pytest.fixture(scope="module")
def step() -> float:
    (one,) = predicted({})
    assert one.step_s is not None
    return one.step_s


def test_errors_are_of_the_step_time_in_per_cent():
    found = summarise([math.log(1.1), math.log(0.8), math.log(1.3)])
    assert found is not None
    assert (found.rows, found.median) == (3, pytest.approx(20.0))
    assert found.mean == pytest.approx(20.0)
    assert found.p90 == pytest.approx(28.0)
    assert found.bias == pytest.approx(10.0)


def test_nothing_has_no_summary():
    assert summarise([]) is None


def test_quantiles_are_linear_between_neighbours():
    assert quantile([0.0, 10.0], 0.9) == pytest.approx(9.0)
    assert quantile([5.0], 0.9) == 5.0


def test_a_row_that_was_predicted_exactly_has_no_error(step):
    (exact,) = predicted({"step_time_s": step})
    assert exact.error == pytest.approx(0.0, abs=1e-9)


def test_a_rate_is_as_good_a_target_as_a_time(step):
    rate = 64 * 4096 / step / 8
    (p,) = predicted({"tokens_per_s_per_chip": rate})
    assert p.error == pytest.approx(0.0, abs=1e-6)
    assert p.target is not None
    assert not p.target.derived


def test_measured_figures_come_before_derived_ones(step):
    (p,) = predicted({"step_time_s": step, "derived_step_time_s": 2 * step})
    assert p.error == pytest.approx(0.0, abs=1e-9)
    (q,) = predicted({"derived_step_time_s": 2 * step})
    assert q.error == pytest.approx(math.log(0.5))
    assert q.target is not None
    assert q.target.derived


def test_tflops_are_never_a_target():
    (p,) = predicted({"tflops_per_chip": 180, "mfu_pct": 55})
    assert p.error is None
    assert p.predictable


def test_a_measured_cell_that_is_no_number_makes_the_row_unpredictable():
    (p,) = predicted({"step_time_s": "fast"})
    assert not p.predictable
    assert "fast" in p.reason


def sweep(rates: list[float]):
    """Micro-batches of 1, 2 and 4 rows: the model predicts rising rates."""
    cells = [
        {"id": f"r{k}", "micro_batch": 2**k, "zero_stage": 3, "tokens_per_s_per_chip": rate}
        for k, rate in enumerate(rates)
    ]
    return predicted(*cells)


def test_a_sweep_in_the_predicted_order_is_ranked_perfectly():
    found = ranking(sweep([1000, 2000, 3000]))
    assert found is not None
    assert (found.sweeps, found.rank_correlation, found.pairs) == (1, pytest.approx(1.0), 100.0)
    assert found.regret == 0.0


def test_a_sweep_in_the_opposite_order_loses_the_speed_of_the_wrong_pick():
    found = ranking(sweep([3000, 2000, 1500]))
    assert found is not None
    assert found.rank_correlation == pytest.approx(-1.0)
    assert found.pairs == 0.0
    assert found.regret == pytest.approx(50.0)


def test_equal_measurements_are_no_pair():
    assert ranking(sweep([2000, 2000, 2000])) is None


def test_two_rows_or_different_sources_make_no_sweep():
    assert sweeps(sweep([1000, 2000])) == {}
    mixed = predicted(
        *[{"id": f"r{k}", "source": f"s{k}", "tokens_per_s_per_chip": 1000} for k in range(3)]
    )
    assert sweeps(mixed) == {}


def test_memory_counts_who_was_told_that_it_does_not_fit():
    small, big = {"zero_stage": 3}, {"micro_batch": 64, "global_batch": 512}
    (fits,) = predicted(small)
    assert fits.peak_gib is not None
    found = memory_summary(
        predicted(
            small | {"id": "ran", "peak_mem_GiB": fits.peak_gib},
            big | {"id": "alarm", "peak_mem_GiB": 70},
            big | {"id": "caught", "metric_other": "OOM"},
            small | {"id": "missed", "metric_other": "OOM"},
            small | {"id": "need", "peak_mem_GiB": 200},
        )
    )
    assert found is not None
    assert (found.caught, found.out_of_memory) == (1, 3)
    assert (found.false_alarms, found.ran) == (1, 2)
    assert found.errors is not None
    assert found.errors.rows == 3


def test_rows_that_cannot_be_predicted_are_kept_with_their_reason():
    rows = predicted({"id": "a"}, {"id": "b", "hidden": ""}, {"id": "c", "hidden": ""})
    found = validation("rows.csv", rows)
    assert (len(found.predictions), found.predicted) == (3, 1)
    assert found.reasons == (("hidden is not stated", ("b", "c")),)
    assert csv_row(rows[1])[:3] == ("b", "no", "hidden is not stated")


def test_predictions_have_the_columns_of_the_contract(step):
    (p,) = predicted({"step_time_s": step})
    cells = dict(zip(HEADER, csv_row(p), strict=True))
    assert cells["predictable"] == "yes"
    assert float(cells["predicted_step_time_s"]) == pytest.approx(step, rel=1e-5)
    assert float(cells["abs_pct_error"]) == pytest.approx(0.0, abs=1e-3)
    assert cells["target"] == "step_time_s"


def test_the_worst_rows_come_first(step):
    rows = predicted(
        {"id": "good", "step_time_s": step},
        {"id": "bad", "step_time_s": step * 2},
        {"id": "worse", "step_time_s": step / 2},
        {"id": "none"},
    )
    assert [p.row.id for p in worst_first(rows)] == ["worse", "bad", "good"]


def test_groups_are_named_and_sum_to_all(step):
    rows = predicted(
        {"id": "a", "step_time_s": step}, {"id": "b", "step_time_s": step, "chip": "A800"}
    )
    found = validation("rows.csv", rows).as_json()
    assert set(found["groups"]["chip"]) == {"A100-80", "A800"}
    assert sum(g["rows"] for g in found["groups"]["family"].values()) == found["scored"] == 2
