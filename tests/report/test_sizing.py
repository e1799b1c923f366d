"""How many chips, in words: what is proven, what was found, and what is open."""

from __future__ import annotations

import io

from rich.console import Console

from planner.report.sizing import (
    holds_text,
    least_text,
    replacement_object,
    replacement_page,
    tried_table,
)
from planner.whatif import Outcome, node_type
from planner.whatif.replace import ASSUMPTIONS, Holds, Replacement
from planner.whatif.sizing import Sized, Tried

NODE = node_type("A100-SXM-80GB", chips=2)
RATE = 100.0


def outcome(rate: float, most: float) -> Outcome:
    return Outcome(
        status="planned",
        tokens_per_step=1000,
        step_time_s=1000 / rate,
        lower_bound_s=1000 / most,
    )


def sized(*tried: tuple[int, float, float], proven: int, below: int) -> Sized:
    """``(nodes, tokens per second, at most)`` of every fleet, the answer last."""
    found = tuple(Tried(n, outcome(rate, most)) for n, rate, most in tried)
    return Sized(NODE, RATE, found[-1].nodes, found[-1].outcome, proven, below, found)


def text_of(value: object) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(value)
    return out.getvalue()


EXACT = sized((4, 80.0, 99.0), (5, 101.0, 110.0), proven=5, below=4)
OPEN = sized((3, 70.0, 90.0), (4, 80.0, 105.0), (5, 101.0, 110.0), proven=4, below=4)


def test_what_is_proven_is_told_from_what_was_not_found() -> None:
    assert least_text(EXACT) == "proven: no plan on fewer nodes is fast enough"
    assert least_text(OPEN) == (
        "found by search: none was found on 8; proven: fewer than 8 chips (4 nodes) cannot do it"
    )
    lines = text_of(tried_table(OPEN)).splitlines()
    assert [line.strip().split("  ")[-1].strip() for line in lines[1:]] == [
        "too few (proven)",
        "no plan was found that is fast enough",
        "enough",
    ]


def replacement(found: Sized, claim: int, *claims: Holds) -> Replacement:
    old = outcome(RATE, 125.0)
    return Replacement(NODE, 8, old, found, None, claim, claims)


def test_the_accuracy_of_the_step_to_match_is_said() -> None:
    # 10 s found, 8 s at best
    page = text_of(replacement_page(replacement(OPEN, 30)))
    assert "the best there is takes at most 20.0 % less (proven)" in page


def test_a_claim_is_judged_by_plans_and_proofs() -> None:
    for claim, verdict in (
        (30, "not reproduced: 10 suffice"),
        (10, "reproduced"),
        (8, "not reproduced: a plan was found for 10, none for 8"),
        (6, "not reproduced: 6 are too few (proven)"),
    ):
        assert verdict in text_of(replacement_page(replacement(OPEN, claim)))


def test_a_share_says_whether_it_is_proven() -> None:
    computing = next(a for a in ASSUMPTIONS if a.speed)
    assert holds_text(Holds(computing, 0.5), OPEN) == "at 50.0 %: of its rate"
    assert holds_text(Holds(computing, 0.5, proven=True), OPEN).endswith("(proven)")
    assert holds_text(Holds(computing, None, "even then"), OPEN) == "does not hold: even then"
    found = replacement_object(replacement(OPEN, 30, Holds(computing, 0.5, proven=True)))
    assert found["claim_holds_if"][0]["proven"] is True
    assert (found["proven_least_chips"], found["none_found_on_chips"]) == (8, 8)
