"""The page that a person sees first, drawn from a plan made by hand."""

import io
import re

import pytest
from rich.console import Console

from planner.plan import Plan, seal
from planner.report.bars import gauge, shares
from planner.report.format import ascii_text
from planner.report.groups import pipeline_groups
from planner.report.page import plan_page
from planner.report.summary import proof
from tests.example_plan import example_plan


def drawn(plan: Plan, *, details: bool = False, width: int = 100) -> str:
    file = io.StringIO()
    Console(width=width, file=file).print(plan_page(plan, details=details))
    return file.getvalue()


def changed(plan: Plan, **values: object) -> Plan:
    return seal(Plan.model_validate({**plan.model_dump(), **values}))


@pytest.fixture(scope="module")
def page() -> str:
    return drawn(example_plan())


def test_the_page_fits_a_hundred_columns(page):
    assert max(map(len, page.splitlines())) <= 100


def test_equal_pipelines_are_drawn_once(page):
    assert page.count("2 pipelines of 12 chips each") == 1
    assert len(pipeline_groups(example_plan())) == 1


def test_pipelines_that_differ_in_depth_are_drawn_apart():
    plan = example_plan()
    body = plan.model_dump()
    body["pipelines"][1]["stages"][0]["in_flight"] = 2
    assert len(pipeline_groups(Plan.model_validate(body))) == 2


def test_pipelines_that_differ_in_micro_batches_only_are_drawn_together():
    body = example_plan().model_dump()
    body["pipelines"][1]["micro_batches"] = 255
    plan = seal(Plan.model_validate(body))
    assert "255–256 micro-batches" in drawn(plan)


def test_a_stage_is_as_wide_as_its_layers(page):
    bar = next(line for line in page.splitlines() if "25 layers" in line)
    first, second = re.split(r" (?=▓)", bar.strip(), maxsplit=1)
    assert len(first) / len(second) == pytest.approx(25 / 17, rel=0.05)


def test_the_ratio_to_the_best_rival_stands_on_top(page):
    assert "1.34× faster than A100-SXM-80GB alone" in page.splitlines()[1]


def test_an_impossible_baseline_shows_its_reason(page):
    assert "does not fit: 4.2 GiB short on every chip" in page


def test_the_gap_is_said_in_words(page):
    assert "at most 0.80 % from the best possible within the declared space" in page


def test_a_limit_that_stopped_the_search_is_said():
    certificate = example_plan().certificate
    assert certificate is not None
    stopped = certificate.model_copy(update={"status": "feasible", "deterministic": False})
    text = proof(stopped, 13.0).plain
    assert "a limit stopped the proof" in text
    assert "another run may give another plan" in text


def test_a_proven_optimum_claims_no_gap():
    certificate = example_plan().certificate
    assert certificate is not None
    text = proof(certificate.model_copy(update={"status": "optimal", "gap": 0.0}), 13.0).plain
    assert text.startswith("the best possible within the declared space")


def test_the_bound_on_the_exact_time_has_its_own_gap():
    certificate = example_plan().certificate
    assert certificate is not None
    exact = certificate.model_copy(update={"exact_lower_bound_s": 9.9})
    said = " ".join(proof(exact, 10.0).plain.split())
    assert "exact time 10.00 s, proven bound 9.900 s: at most 1.0 % from the best" in said


def test_idle_chips_have_their_reason(page):
    assert "2 chips spare/0-1: would slow the step by 3 %" in page


def test_every_assumption_and_warning_is_listed(page):
    plan = example_plan()
    for line in (*plan.assumptions, *plan.warnings):
        assert line in page


def test_a_thin_margin_is_called_thin(page):
    assert "keeps 512 MiB of 31.7 GiB" in page
    assert "thin:" in page


def test_an_alternative_names_the_change_that_it_needs(page):
    assert re.search(r"global batch 504 +12.10 s +\+1.1 % tokens/s", page)


def test_details_itemise_memory_and_time():
    text = drawn(example_plan(), details=True)
    for word in ("optim.", "activ.", "fragm.", "tp fwd", "hop", "zero-bubble"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_plan_without_a_certificate_claims_nothing():
    assert "proof" not in drawn(changed(example_plan(), certificate=None))


def test_many_narrow_stages_still_fit():
    body = example_plan().model_dump()
    stage = body["pipelines"][0]["stages"][0]
    for pipeline in body["pipelines"]:
        pipeline["stages"] = [{**stage, "layers": (i, i + 1)} for i in range(42)]
    text = drawn(Plan.model_validate(body))
    assert max(map(len, text.splitlines())) <= 100


def test_the_drawing_survives_without_utf8(page):
    plain = ascii_text(page)
    assert plain.isascii()
    assert "?" not in plain


def test_shares_give_every_stage_a_cell_and_no_cell_twice():
    assert shares([1, 1000], 10) == [1, 9]
    assert sum(shares([25, 17, 3], 97)) == 97


def test_a_gauge_is_full_at_one():
    assert gauge(1.0, 8).plain == "█" * 8
    assert gauge(1.7, 8).plain == "█" * 8
    assert gauge(0.0, 8).plain == "░" * 8


def test_the_memory_that_measured_runs_took_stands_beside_the_peak(page):
    assert re.search(r"runs of such a peak took [\d.]+ GiB to [\d.]+ GiB", page)
    assert "some runtimes would not fit" in page


def test_details_say_what_loading_takes_of_the_hosts():
    text = drawn(example_plan(), details=True)
    assert re.search(r"every process reads its own part: [\d.]+ [GM]iB on the fullest host", text)
    assert "every process builds the whole model" in text
