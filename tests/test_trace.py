"""The trace of a replay: valid, complete, and no longer than it must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings

from planner.simulate import simulate
from planner.timeline import Timeline, write_trace
from tests.hand_plans import HandPipeline, hand_plan, hand_world
from tests.report.made import priced
from tests.scenarios.terminal import planner
from tests.test_simulate import interleaved, pipelines
from tests.trace_format import Event, problems_of

PAIR = ["a/0", "b/0"]
US = 1_000_000
"""Picoseconds."""


def two_stages(devices: list[str], m: int = 2) -> HandPipeline:
    """Forward 10 µs, backward 20 µs, 100 µs between the stages."""
    return HandPipeline([10 * US, 10 * US], [20 * US, 20 * US], [100 * US], devices, [2, 1], m)


@cache
def small() -> Timeline:
    plan = hand_plan([two_stages(PAIR)], syncs=[([(0, 0)], 50 * US)], update=5 * US)
    return simulate(plan, hand_world(2, PAIR))


def text_of(timeline: Timeline, *, every_pipeline: bool = False) -> str:
    return "".join(timeline.to_chrome_trace(every_pipeline=every_pipeline))


def events_of(timeline: Timeline, *, every_pipeline: bool = False) -> list[Event]:
    return json.loads(text_of(timeline, every_pipeline=every_pipeline))["traceEvents"]


def test_is_valid():
    assert problems_of(text_of(small())) == []


@given(pipelines())
@settings(max_examples=60)
def test_is_valid_whatever_the_times(pipeline: HandPipeline):
    """Times of picoseconds up to a microsecond: many slices are shorter than a nanosecond."""
    world = hand_world(len(pipeline.forward), pipeline.devices)
    assert problems_of(text_of(simulate(hand_plan([pipeline]), world))) == []


@given(interleaved())
@settings(max_examples=40)
def test_is_valid_where_stages_hold_several_chunks(pipeline: HandPipeline):
    world = hand_world(pipeline.layers, pipeline.devices)
    assert problems_of(text_of(simulate(hand_plan([pipeline]), world))) == []


def test_names_the_chunk_of_operations_and_transfers():
    times = [[10 * US] * 2] * 2
    pipeline = HandPipeline(times, times, [US, US], PAIR, [3, 3], 1, "interleaved")
    events = events_of(simulate(hand_plan([pipeline]), hand_world(4, PAIR)))
    shown = [(e["tid"], e["name"]) for e in events if e.get("cat") in ("forward", "backward")]
    assert shown == [
        (s, f"{kind}0, chunk {c}")
        for s in (0, 1)
        for kind, c in (("F", 0), ("F", 1), ("B", 1), ("B", 0))
    ]
    ways = [e["args"]["name"] for e in events if e["name"] == "thread_name"][2:]
    assert ways == [
        "activations 0 to 1",
        "gradients 1 to 0",
        "activations 1 to 0",
        "gradients 0 to 1",
    ]
    sent = [e["name"] for e in events if e.get("cat") == "transfer" and e["ph"] == "X"]
    assert sent[:2] == ["activations 0 to chunk 0", "activations 0 to chunk 1"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda events: events[-1].pop("bp"), "does not bind"),
        (lambda events: first(events, "X").update(dur=10.5), "overlaps"),
        (lambda events: first(events, "X").pop("dur"), "no duration"),
        (lambda events: first(events, "X").update(ph="Q"), "phase 'Q'"),
        (lambda events: first(events, "C").update(args={"held": "two"}), "without numbers"),
        (lambda events: first(events, "M").update(args={}), "without its argument"),
        (lambda events: events.remove(first(events, "s")), "goes tf"),
        (lambda events: first(events, "f").update(ts=0.001), "back in time"),
        (lambda events: first(events, "t").update(tid=99), "in no slice"),
        (lambda events: events.remove(named(events, "thread_name")), "has no name"),
    ],
)
def test_a_broken_trace_is_found(change: Callable[[list[Event]], Any], says: str):
    trace = json.loads(text_of(small()))
    change(trace["traceEvents"])
    assert says in " ".join(problems_of(json.dumps(trace)))


def first(events: list[Event], phase: str) -> Event:
    return next(e for e in events if e["ph"] == phase)


def named(events: list[Event], name: str) -> Event:
    return next(e for e in events if e["name"] == name)


def test_has_one_named_track_per_device():
    names = [e["args"]["name"] for e in events_of(small()) if e["name"] == "thread_name"]
    assert [n.split()[0] for n in names] == [*PAIR, "activations", "gradients"]


def test_gives_times_in_microseconds():
    f0 = next(e for e in events_of(small()) if e["name"] == "F0" and e["tid"] == 1)
    assert (f0["ts"], f0["dur"]) == (110.0, 9.999)


def test_shows_every_operation_once():
    shown = [e["name"] for e in events_of(small()) if e.get("cat") in ("forward", "backward")]
    assert sorted(shown) == sorted(["F0", "F1", "B0", "B1"] * 2)


def test_a_track_is_filled_from_the_start_of_the_step_to_its_end():
    for tid in (0, 1):
        slices = [e for e in events_of(small()) if e["ph"] == "X" and e["tid"] == tid]
        assert slices[0]["ts"] == 0.0
        for one, other in pairwise(slices):
            assert one["ts"] + one["dur"] + 0.001 == pytest.approx(other["ts"])
        end = slices[-1]["ts"] + slices[-1]["dur"] + 0.001
        assert end == pytest.approx(small().step_time_ps / US)


def test_bubbles_say_what_they_wait_for():
    # Stage 1 has nothing to do until the first activations arrive, and stage 0 between its two
    # forwards and the first gradients.
    waits = {
        (e["tid"], e["ts"]): (e["dur"], e["args"]["waits_for"])
        for e in events_of(small())
        if e.get("cat") == "bubble"
    }
    assert waits[1, 0.0] == (109.999, "activations of micro-batch 0")
    assert waits[0, 20.0] == (219.999, "gradients of micro-batch 0")
    assert [w for (tid, _), (_, w) in waits.items() if tid == 1][-1] == "the end of the step"


def test_arrows_lead_from_an_operation_through_its_transfer_to_the_next():
    events = events_of(small())
    chains: dict[int, list[Event]] = {}
    for e in events:
        if e["ph"] in ("s", "t", "f"):
            chains.setdefault(e["id"], []).append(e)
    assert len(chains) == 2 * 2
    assert {tuple(e["tid"] for e in chain) for chain in chains.values()} == {(0, 2, 1), (1, 3, 0)}


def test_counts_the_micro_batches_that_a_stage_holds():
    counted = [
        e["args"]["held"] for e in events_of(small()) if e["ph"] == "C" and "stage 0" in e["name"]
    ]
    assert counted == [1, 2, 1, 0]


def test_shows_synchronisation_and_update():
    assert {"sync", "update"} <= {e.get("cat") for e in events_of(small())}


def test_equal_pipelines_are_written_once_unless_all_are_wanted():
    devices = [[f"a{k}/0", f"b{k}/0"] for k in range(5)]
    plan = hand_plan([two_stages(pair) for pair in devices])
    timeline = simulate(plan, hand_world(2, [d for pair in devices for d in pair]))
    once, every = events_of(timeline), events_of(timeline, every_pipeline=True)
    assert {e["pid"] for e in once} == {0}
    assert named(once, "process_name")["args"]["name"] == "pipeline 0 and 4 like it"
    assert named(once, "process_labels")["args"]["labels"].startswith("5 pipelines run alike")
    assert {e["pid"] for e in every} == {0, 1, 2, 3, 4}
    flows = [e["id"] for e in every if e["ph"] == "s"]
    assert len(flows) == len(set(flows)) == 5 * 4
    assert problems_of(text_of(timeline, every_pipeline=True)) == []


def test_pipelines_that_differ_are_written_apart():
    other = HandPipeline([11 * US, 10 * US], [20 * US] * 2, [100 * US], ["c/0", "d/0"], [2, 1], 2)
    plan = hand_plan([two_stages(PAIR), other])
    timeline = simulate(plan, hand_world(2, [*PAIR, "c/0", "d/0"]))
    assert {e["pid"] for e in events_of(timeline)} == {0, 1}


def test_thousands_of_devices_stay_readable():
    plan = priced("llama-3-8b", "256x8xA100-SXM-80GB @ 400Gb/s:ib", "tp: 8, pp: 2")
    text = text_of(simulate(plan))
    assert problems_of(text) == []
    assert len(text) < 200_000


def test_is_written_as_it_is_made(tmp_path):
    path = tmp_path / "trace.json"
    with path.open("w") as file:
        write_trace(small(), file)
    assert path.read_text() == text_of(small())


def test_the_command_writes_all_pipelines_when_told(tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(priced().to_json())
    sizes = []
    for flags in ((), ("--all",)):
        trace = tmp_path / "trace.json"
        assert planner("simulate", plan, "--trace", trace, *flags).code == 0
        assert problems_of(trace.read_text()) == []
        sizes.append(len({e["pid"] for e in json.loads(trace.read_text())["traceEvents"]}))
    assert sizes == [1, 2]
    refused = planner("simulate", plan, "--all")
    assert refused.code == 2
    assert "--trace FILE" in refused.err
