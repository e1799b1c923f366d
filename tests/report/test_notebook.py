"""What a notebook shows, and plans as tables."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

import planner
from planner.errors import InputError
from planner.report import tables
from planner.report.tables import beside_rows, device_rows, operation_rows, stage_rows
from planner.simulate import simulate
from tests.example_plan import example_plan
from tests.report.made import priced
from tests.report.test_html_report import Balanced


def shown(value: object) -> str:
    """The HTML of a value, which must be whole and need no script."""
    html: str = value._repr_html_()
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert "<script" not in html
    assert "http" not in html
    return html


def test_a_plan_shows_its_figures_and_stages():
    html = shown(priced())
    assert "llama-3-8b on 24 chips" in html
    assert "step time" in html
    assert html.count('class="segment"') == 3


def test_a_plan_that_cannot_be_restored_is_shown_all_the_same():
    assert "llama" in shown(example_plan()).lower()


def test_a_replay_draws_equal_pipelines_once():
    timeline = simulate(priced())
    html = shown(timeline)
    assert "pipeline 0 and 1 like it" in html
    assert html.count("<text") == 3 * 2
    widths = [float(w) for w in re.findall(r'width="([\d.]+)" height="16"', html)]
    assert all(0 <= w <= 900 for w in widths)


def test_a_replay_of_thousands_of_operations_stays_small():
    plan = priced(
        "gpt2", "2xA100-SXM-40GB", "tp: 1, pp: 2", "job.seq_len=512", "job.global_batch=4000"
    )
    assert len(simulate(plan)._repr_html_()) < 400_000


def test_plans_side_by_side():
    one, other = priced(), priced("llama-3-8b", "8xA100-SXM-80GB", "tp: 2")
    compared = planner.side_by_side(one, alone=other)
    html = shown(compared)
    assert one.plan_id[:12] in html
    assert "alone" in html
    rows = compared.rows()
    assert rows[0]["ratio"] == 1.0
    expected = other.estimate.step_time_s / one.estimate.step_time_s
    assert rows[1]["ratio"] == pytest.approx(expected)
    assert list(compared.to_pandas()["name"]) == [one.plan_id[:12], "alone"]
    with pytest.raises(InputError, match="no plan is given"):
        planner.side_by_side()


def test_tables_hold_every_stage_and_device():
    plan = priced()
    stages = stage_rows(plan)
    assert len(stages) == sum(len(s.replicas) for p in plan.pipelines for s in p.stages)
    assert (
        stages[0]["forward_total_s"] == plan.pipelines[0].stages[0].replicas[0].time_s.forward_total
    )
    assert len(device_rows(plan)) == 24
    assert {row["kind"] for row in beside_rows(plan)} >= {"plan"}


def test_idle_devices_are_in_the_table_with_their_reason():
    plan = priced("llama-3-8b", "8xA100-SXM-80GB", "tp: 2, pp: 1, dp: 3")
    rows = device_rows(plan)
    assert [row["device"] for row in rows if row["idle_because"]] == ["node0/6", "node0/7"]


def test_operations_end_with_the_step():
    timeline = simulate(priced())
    rows = operation_rows(timeline)
    assert max(row["end_s"] for row in rows) == pytest.approx(timeline.step_time_s)
    counts = {what: sum(row["what"] == what for row in rows) for what in ("forward", "activations")}
    assert counts == {"forward": 2 * 3 * 128, "activations": 2 * 2 * 128}


def test_data_frames():
    plan = priced()
    assert list(plan.to_pandas()["stage"]) == [row["stage"] for row in stage_rows(plan)]
    assert len(plan.to_pandas("devices")) == 24
    assert set(simulate(plan).to_pandas()["what"]) >= {"forward", "backward", "sync", "update"}
    with pytest.raises(InputError, match="one of stages, devices, beside"):
        plan.to_pandas("nonsense")


def test_without_pandas_the_error_says_what_to_do(monkeypatch):
    def missing(name: str) -> object:
        raise ImportError(name) if name == "pandas" else AssertionError

    monkeypatch.setattr(tables, "import_module", missing)
    with pytest.raises(InputError, match="pip install pandas"):
        tables.to_pandas([])
    monkeypatch.undo()
    assert import_module("pandas") is not None
