"""The report in a real browser, as wide as a screen and as narrow as a phone."""

from __future__ import annotations

from typing import Any

import pytest

from planner.plan import Plan
from planner.report.html.page import report_page
from planner.restore import restore
from planner.simulate import simulate
from tests.report.browser import chromium, seen
from tests.report.made import priced

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no chromium or chrome on the path: nothing can draw the page"
)

WIDE, PHONE = 1280, 390

LONG_NAMES = """
nodes:
  - name: first-machine-in-the-basement-with-the-new-cards
    devices: [{chip: A100-SXM-80GB, count: 8}]
    nics: [{network: ethernet, bandwidth_one_way: 100 Gb/s}]
  - name_prefix: old-machines-of-the-other-building-
    count: 2
    devices: [{chip: V100-SXM2-32GB, count: 8}]
    nics: [{network: ethernet, bandwidth_one_way: 100 Gb/s}]
"""
"""Words that a phone has no room for."""


def page(plan: Plan) -> str:
    world = restore(plan)
    return report_page(plan, world, simulate(plan, world))


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two plans at two widths, in one start of the browser: narrow ones first."""
    folder = tmp_path_factory.mktemp("browser")
    cluster = folder / "mixed.yaml"
    cluster.write_text(LONG_NAMES)
    mixed = page(priced(cluster=str(cluster)))
    deep = page(priced("llama-3-8b", "4x8xA100-SXM-80GB @ 400Gb/s:ib", "tp: 2, pp: 16"))
    pages = [(text, width) for width in (PHONE, WIDE) for text in (mixed, deep)]
    return seen(pages, folder)


def test_all_pages_answered(views):
    assert [v["width"] for v in views] == [PHONE, PHONE, WIDE, WIDE]


def test_runs_without_an_error_and_without_a_network(views):
    assert [v["problems"] for v in views] == [[]] * 4
    assert [v["fetched"] for v in views] == [[]] * 4


def test_draws_every_chart(views):
    assert all(v["drawn"] == v["charts"] >= 3 for v in views)
    assert all(v["bars"] > 60 and v["lines"] >= 2 for v in views)


def test_no_words_overlap_at_any_width(views):
    assert [v["overlaps"] for v in views] == [[]] * 4


def test_no_words_are_cut_off(views):
    assert [v["outside"] for v in views] == [[]] * 4
    assert [v["spilled"] for v in views] == [[]] * 4


def test_never_scrolls_sideways(views):
    assert all(v["scrolled"] <= v["width"] for v in views)


def test_text_is_dark(views):
    assert {v["ink"] for v in views} == {"rgb(31, 41, 51)"}


def test_has_all_its_sections(views):
    wanted = ["Cluster and placement", "Pipelines", "Timeline of a step", "Memory"]
    wanted += ["Where the time goes", "What is proved", "Assumed, not given"]
    assert all(set(wanted) <= set(v["sections"]) for v in views)
