"""The grammar of a fleet in one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InputError
from planner.inputs.shorthand import (
    GRAMMAR,
    Fleet,
    FleetGroup,
    fleet_document,
    looks_like_shorthand,
    parse_shorthand,
)

MIXED = "8xA100-SXM-80GB + 2x8xV100-SXM2-32GB @ 100Gb/s"


def problems(text):
    with pytest.raises(InputError) as caught:
        parse_shorthand(text)
    return caught.value.problems


def test_reads_the_example_of_the_manual():
    rate = 12_500_000_000
    assert parse_shorthand(MIXED).groups == (
        FleetGroup(1, 8, "A100-SXM-80GB", rate),
        FleetGroup(2, 8, "V100-SXM2-32GB", rate),
    )


def test_echoes_what_it_read():
    assert str(parse_shorthand(MIXED)) == MIXED


def test_chip_names_may_start_with_a_digit_and_contain_an_x():
    fleet = parse_shorthand("2x8x910B2-64GB + 4xMLU370-X8-48GB @ 25GB/s:roce")
    assert [(g.nodes, g.devices, g.chip) for g in fleet.groups] == [
        (2, 8, "910B2-64GB"),
        (1, 4, "MLU370-X8-48GB"),
    ]


def test_a_group_may_have_its_own_rate_and_kind():
    fleet = parse_shorthand("2x8xA100-SXM-80GB@200Gb/s:ib + 2x8xV100-SXM2-32GB @ 100Gb/s")
    assert [(g.bandwidth, g.kind) for g in fleet.groups] == [
        (25_000_000_000, "ib"),
        (12_500_000_000, None),
    ]


def test_one_node_needs_no_rate():
    assert parse_shorthand("7xA100-SXM-80GB").groups[0].bandwidth is None


def test_two_nodes_need_a_rate():
    (problem,) = problems("2x8xA100-SXM-80GB")
    assert "has no network rate, but the fleet has 2 nodes" in problem.message
    assert "2x8xA100-SXM-80GB @ 100Gb/s" in problem.remedy


def test_two_groups_are_two_nodes():
    assert len(problems("8xA100-SXM-80GB + 8xV100-SXM2-32GB")) == 2


def test_garbled_text_gets_one_error_with_the_grammar():
    (problem,) = problems("2080 * 24090 * 2")
    assert problem.message == "'2080 * 24090 * 2' is not a fleet in shorthand"
    assert GRAMMAR in problem.remedy


@pytest.mark.parametrize(
    "text", ["8 x A100", "A100", "8xA100+8xV100 @ 1Gb/s", "8x", "x8xA100", "8xA100 +", "-1xA100"]
)
def test_nothing_is_guessed(text):
    assert GRAMMAR in problems(text)[0].remedy


def test_a_rate_without_unit_is_an_error_that_names_both_units():
    (problem,) = problems("2x8xA100-SXM-80GB @ 100")
    assert problem.message == "the rate '100' has no unit"
    assert "Gb/s" in problem.remedy
    assert "GB/s" in problem.remedy


def test_all_problems_are_reported_at_once():
    found = problems("0x8xA100-SXM-80GB@100 + 2x0xV100-SXM2-32GB@1Gb/s:carrier")
    assert [p.message for p in found] == [
        "'0x8xA100-SXM-80GB@100' has 0 nodes",
        "the rate '100' has no unit",
        "'2x0xV100-SXM2-32GB@1Gb/s:carrier' has 0 chips",
        "unknown network kind 'carrier'",
    ]


def test_fast_nodes_are_given_a_port_per_chip():
    node = fleet_document(parse_shorthand("2x8xH100-SXM-80GB @ 3200Gb/s:ib"), name="f")["nodes"][0]
    assert node["nics"] == [
        {"network": "network", "bandwidth_one_way": "50 GB/s", "count": 8, "kind": "ib"}
    ]


def test_nodes_are_numbered_through_all_groups():
    nodes = fleet_document(parse_shorthand(MIXED), name="fleet")["nodes"]
    assert [(n["first_index"], n["count"]) for n in nodes] == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("text", "is_fleet"), [(MIXED, True), ("2080 * 24090 * 2", True), ("s1-a100-v100", False)]
)
def test_names_are_told_from_fleets(text, is_fleet):
    assert looks_like_shorthand(text) is is_fleet


@st.composite
def fleets(draw):
    chips = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
    kinds = st.sampled_from((None, "tcp", "roce", "ib", "efa"))
    groups = []
    for _ in range(draw(st.integers(1, 4))):
        bandwidth = draw(st.integers(1, 10**12))
        groups.append(
            FleetGroup(
                draw(st.integers(1, 2000)),
                draw(st.integers(1, 72)),
                draw(chips.filter(lambda name: not name[:1].isdigit() or "x" not in name)),
                bandwidth,
                draw(kinds),
            )
        )
    return Fleet(tuple(groups))


@given(fleets())
def test_every_fleet_survives_writing_and_reading(fleet):
    assert parse_shorthand(str(fleet)) == fleet
