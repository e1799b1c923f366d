"""What the page says: all parts, in one file, the same bytes every time."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib import import_module

import pytest

from planner.errors import InputError
from planner.plan import Plan
from planner.report.html import figure
from planner.report.html.page import report_page
from planner.report.html.proof import proof
from planner.report.html.time_chart import PARTS, shares
from planner.report.html.view import View, view_of
from planner.restore import restore
from planner.simulate import simulate
from tests.example_plan import example_plan
from tests.report.made import FLEET, priced
from tests.scenarios.terminal import planner

LIBRARY = figure.library_code()


def page(plan: Plan) -> str:
    """The page without the library's own code, which is the same in all."""
    world = restore(plan)
    text = report_page(plan, world, simulate(plan, world))
    own = LIBRARY.replace("</", "<\\/")
    assert own in text
    return text.replace(own, "")


def figures(text: str) -> dict[str, dict[str, list[dict[str, object]]]]:
    found = re.findall(r'<script type="application/json" id="figure-([^"]+)">(.*?)</script>', text)
    return {name: json.loads(data) for name, data in found}


class Balanced(HTMLParser):
    """Fails where an element is left open or closed twice."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_says_what_the_plan_is_worth():
    text = page(priced())
    assert "llama-3-8b on 24 chips" in text
    assert "8 × A100, 16 × V100" in text
    assert "<h2>Assumed, not given</h2>" in text
    assert "nothing is proved about it" in text
    assert priced().plan_id in text


def test_every_element_is_closed():
    parser = Balanced()
    parser.feed(page(priced()))
    assert parser.open == []


def test_names_no_other_file_and_no_address():
    text = page(priced())
    assert re.findall(r"""(?:src|href)\s*=|url\(|@import|https?://""", text) == []


def test_the_same_plan_gives_the_same_bytes():
    assert page(priced()) == page(priced())


def test_memory_items_of_a_row_add_up_to_the_peak():
    plan = priced()
    data = figures(page(plan))["memory-0"]["data"]
    for row, stage in enumerate(view_of(plan).groups[0].stages):
        peak = stage.tightest.memory_bytes.peak / 2**30
        total = sum(trace["x"][row] for trace in data if trace["type"] == "bar")
        assert total == pytest.approx(peak, rel=1e-9)


def test_time_of_a_stage_adds_up_to_the_step():
    plan = priced()
    timeline = simulate(plan)
    for share in shares(view_of(plan), timeline):
        assert len(share.parts) == len(PARTS)
        assert sum(share.parts) == pytest.approx(timeline.step_time_s, rel=1e-6)


def test_draws_each_operation_of_a_short_step():
    plan = priced("llama-3-8b", FLEET, "tp: 4, pp: 3, recompute: full", "job.global_batch=16")
    drawn = figures(page(plan))["timeline-0"]["data"]
    counts = {trace["name"]: len(trace["x"]) for trace in drawn if trace["type"] == "bar"}
    assert counts == {"forward": 24, "backward": 24, "sync": 3, "update": 3}
    lines = {trace["name"]: len(trace["x"]) for trace in drawn if trace["type"] == "scatter"}
    assert lines == {"activations": 3 * 16, "gradients": 3 * 16}  # start, end, gap


def test_joins_the_steady_middle_of_a_long_step():
    drawn = figures(page(priced()))["timeline-0"]["data"]
    steady = next(trace for trace in drawn if trace["name"] == "steady")
    assert len(steady["x"]) == 3
    forwards = next(trace for trace in drawn if trace["name"] == "forward")
    assert len(forwards["x"]) < 3 * 40 < 3 * 128


def test_thousands_of_chips_are_no_larger_than_dozens():
    small = page(priced("llama-3-8b", "8x8xA100-SXM-80GB @ 400Gb/s:ib", "tp: 4, pp: 2"))
    sets = ("job.global_batch=16384",)
    large = page(priced("llama-3-8b", "512x8xA100-SXM-80GB @ 400Gb/s:ib", "tp: 4, pp: 2", *sets))
    assert "on 4,096 chips" in large
    assert "× 256" in large
    assert len(large) < 1.2 * len(small)


def test_letters_name_groups_of_unequal_pipelines():
    plan = priced()
    view = view_of(plan)
    assert [view.label(0, s) for s in range(3)] == ["1", "2", "3"]
    two = View(plan, view.groups * 30, view.kinds, view.names)
    assert [two.label(g, 0) for g in (0, 25, 26, 29)] == ["A1", "Z1", "AA1", "AD1"]


def test_names_from_files_are_text_and_not_markup(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "name: <script>alert(1)</script>\n"
        "chips: [{id: 'my<b>chip', inherit: A100-SXM-80GB}]\n"
        "nodes: [{name: a, devices: [{chip: 'my<b>chip', count: 2}]}]\n"
    )
    text = page(priced("gpt2", str(file), "tp: 1", "job.seq_len=1024"))
    assert "<script>alert" not in text
    assert "<b>chip" not in text.lower()
    assert "my&lt;b&gt;chip" in text.lower()


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch, tmp_path):
    def missing(name: str) -> object:
        raise ImportError(name) if name.startswith("plotly") else AssertionError

    monkeypatch.setattr(figure, "import_module", missing)
    with pytest.raises(InputError, match="pip install 'plotly>=6'"):
        figure.plotting()
    with pytest.raises(InputError, match="plotly"):
        figure.library_code()
    plan = tmp_path / "plan.json"
    plan.write_text(priced().to_json())
    ended = planner("report", plan, "-o", tmp_path / "report.html")
    assert ended.code == 2
    assert "extra [report]" in ended.err
    assert not (tmp_path / "report.html").exists()


def test_the_command_writes_the_page_or_prints_it(tmp_path):
    plan, file = tmp_path / "plan.json", tmp_path / "report.html"
    plan.write_text(priced().to_json())
    ended = planner("report", plan, "-o", file)
    assert (ended.code, ended.out) == (0, "")
    printed = planner("report", plan, "-o", "-")
    assert printed.out == file.read_text(encoding="utf-8")
    assert printed.out.startswith("<!doctype html>\n<html lang")


def test_the_command_refuses_what_is_no_plan(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("{}")
    ended = planner("report", file, "-o", tmp_path / "report.html")
    assert ended.code == 2
    assert "is not a plan" in ended.err


def test_the_library_is_the_one_that_is_declared():
    assert import_module("plotly").__name__ == "plotly"
    assert "plotly.js" in LIBRARY[:200]


@pytest.mark.parametrize(
    ("status", "bound", "says"),
    [
        ("within_tolerance", 0.99, "takes less than"),
        ("optimal", 1.0, "No plan of the declared space is faster."),
        ("feasible", 0.0, "Nothing was proved before the search was stopped."),
    ],
)
def test_the_proof_says_what_was_proved(status, bound, says):
    plan = example_plan()
    assert plan.certificate is not None
    objective = plan.certificate.objective_s
    changes = {"status": status, "lower_bound_s": bound * objective, "gap": 1 - bound}
    body = plan.model_dump()
    body["certificate"] |= changes
    assert says in proof(Plan.model_validate(body))
