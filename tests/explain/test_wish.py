"""What somebody would rather have, as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.errors import InputError
from planner.explain.wish import Changed, Chips, Degrees, Given, parse_wish
from planner.scenario.changes import SetField
from tests.example_plan import example_plan


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("tp=8", Degrees("tp=8", tp=8)),
        ("tp = 8 on v100", Degrees("tp = 8 on v100", tp=8, tp_on="v100")),
        ("pp=4, recompute=full", Degrees("pp=4, recompute=full", pp=4, recompute="full")),
        ("dp=2 and rows=1", Degrees("dp=2 and rows=1", dp=2, rows=1)),
        ("zero=0, schedule=gpipe", Degrees("zero=0, schedule=gpipe", zero=0, schedule="gpipe")),
        ("use v100", Chips("use v100", "use", "v100")),
        ("without v100", Chips("without v100", "without", "v100")),
        ("no v100-sxm2-32gb", Chips("no v100-sxm2-32gb", "without", "v100-sxm2-32gb")),
        ("all chips", Chips("all chips", "all")),
        *(
            (text, Degrees(text, schedule="interleaved"))
            for text in ("interleaved", "schedule=interleaved", "vpp")
        ),
        (
            "precision=bf16",
            Changed("precision=bf16", (SetField("job", ("precision",), "bf16", "bf16"),)),
        ),
    ],
)
def test_wishes_are_read(text: str, wish: object) -> None:
    assert parse_wish(text) == wish


def test_a_layout_and_a_plan_are_wishes_too(tmp_path: Path) -> None:
    inline = parse_wish("tp: 2, pp: 2")
    assert isinstance(inline, Given)
    path = tmp_path / "other.json"
    path.write_text(example_plan().to_json())
    plan = parse_wish(str(path))
    assert isinstance(plan, Given)
    assert plan.layout.plan == example_plan()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tp=many", "no whole number"),
        ("recompute=some", "none of none, selective, full"),
        ("vpp=2", "ask for interleaved, without a number"),
        ("pp=4 on v100", "only tp"),
        ("tq=4", "did you mean tp"),
        ("make it fast", "is not understood"),
        ("tp=8, precision=bf16", "ask one after the other"),
        ("no-such-plan.json", "no such file"),
    ],
)
def test_what_is_no_wish_says_how_to_write_one(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_wish(text)
    assert says in str(caught.value)
