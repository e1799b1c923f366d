"""Replay of plans: equal to the recurrence where nothing is contended, slower where it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.interleaved import classic_depths
from costmodels.interleaved import exact_time as exact_interleaved
from costmodels.schedules import depth_rule, exact_time, takt
from planner.errors import InputError
from planner.plan import Plan
from planner.report.replay import replay_object
from planner.simulate import simulate
from planner.timeline import covered_ps
from tests.hand_plans import BOUNDARY_BYTES, HandPipeline, hand_plan, hand_world
from tests.priced_plans import PipelineSketch, StageSketch, priced_plan

PAIR = ["a/0", "b/0"]


def two_stages(devices: list[str], hop: int = 100, m: int = 1) -> HandPipeline:
    return HandPipeline([10, 10], [20, 20], [hop], devices, [2, 1], m)


def alone_rate(hop: int) -> float:
    """Bytes/s that one transfer of the hop asks for."""
    return BOUNDARY_BYTES / (hop * 1e-12)


@st.composite
def pipelines(draw: st.DrawFn) -> HandPipeline:
    stages = draw(st.integers(1, 5))
    times = st.lists(st.integers(1, 10**6), min_size=stages, max_size=stages)
    forward, backward = draw(times), draw(times)
    hops = draw(st.lists(st.integers(0, 10**6), min_size=stages - 1, max_size=stages - 1))
    depths = depth_rule(forward, backward, hops, takt(forward, backward, hops))
    devices = [f"n{s}/0" for s in range(stages)]
    m = draw(st.integers(1, 12))
    schedule = draw(st.sampled_from(["1f1b", "gpipe"]))
    return HandPipeline(forward, backward, hops, devices, depths, m, schedule)


@given(pipelines())
def test_equals_the_exact_time_to_the_picosecond_without_contention(pipeline: HandPipeline) -> None:
    world = hand_world(len(pipeline.forward), pipeline.devices)
    exact = exact_time(
        pipeline.schedule,
        pipeline.forward,
        pipeline.backward,
        pipeline.hops,
        pipeline.in_flight,
        pipeline.micro_batches,
    )
    assert simulate(hand_plan([pipeline]), world).step_time_ps == exact.total


@st.composite
def interleaved(draw: st.DrawFn) -> HandPipeline:
    """Unequal stages of two chunks or more, at the usual depths or deeper ones."""
    stages, chunks, m = draw(st.integers(2, 4)), draw(st.integers(2, 4)), draw(st.integers(1, 10))
    own = st.lists(st.integers(1, 10**6), min_size=chunks, max_size=chunks)
    times = st.lists(own, min_size=stages, max_size=stages)
    hops = draw(st.lists(st.integers(0, 10**6), min_size=stages, max_size=stages))
    more = draw(st.integers(0, 3))
    depths = [d + more for d in classic_depths(stages, chunks, m)]
    devices = [f"n{s}/0" for s in range(stages)]
    return HandPipeline(draw(times), draw(times), hops, devices, depths, m, "interleaved")


@given(interleaved())
def test_chunks_take_their_exact_time_to_the_picosecond_without_contention(
    pipeline: HandPipeline,
) -> None:
    world = hand_world(pipeline.layers, pipeline.devices)
    exact = exact_interleaved(
        pipeline.forward,
        pipeline.backward,
        pipeline.hops,
        pipeline.in_flight,
        pipeline.micro_batches,
    )
    (run,) = simulate(hand_plan([pipeline]), world).runs
    assert tuple(spans[-1][1] for spans in run.operations) == exact.stage_last_backward_end


@given(interleaved(), st.floats(0.2, 3.0))
def test_chunks_are_never_faster_on_a_wire_that_all_channels_share(
    pipeline: HandPipeline, room: float
) -> None:
    devices = list(pipeline.devices)
    shared = {(a, b): ("wire",) for a in devices for b in devices if a != b}
    capacity = {"wire": room * alone_rate(max([1, *pipeline.hops]))}
    world = hand_world(pipeline.layers, devices, shared=shared, capacity=capacity)
    free = simulate(hand_plan([pipeline]), hand_world(pipeline.layers, devices))
    assert simulate(hand_plan([pipeline]), world).step_time_ps >= free.step_time_ps


@given(interleaved())
def test_every_transfer_of_a_run_joins_the_end_of_one_operation_to_a_later_one(
    pipeline: HandPipeline,
) -> None:
    world = hand_world(pipeline.layers, pipeline.devices)
    (run,) = simulate(hand_plan([pipeline]), world).runs
    chunks, m = len(run.chunks[0]) // (2 * pipeline.micro_batches), pipeline.micro_batches
    stages = len(run.orders)
    sent = [t for s in range(stages) for d in (True, False) for t in run.transfers(s, down=d)]
    assert len(sent) == 2 * m * (stages * chunks - 1)
    for transfer in sent:
        (here, there), (k, n) = transfer.stages, transfer.operations
        assert run.operations[here][k][1] <= transfer.span[0]
        assert transfer.span[1] <= run.operations[there][n][0]
        virtual = [run.chunk_of(a, b) * stages + a for a, b in ((here, k), (there, n))]
        assert virtual[1] - virtual[0] == (1 if run.orders[here][k][0] == "F" else -1)
        assert (
            run.orders[here][k]
            == run.orders[there][n]
            == (
                run.orders[here][k][0],
                transfer.micro_batch,
            )
        )


def test_the_way_back_to_the_first_stage_slows_a_pipeline_down_where_it_is_full() -> None:
    """One micro-batch; the way b -> a has room for half of what a transfer asks for."""
    pipeline = HandPipeline(
        [[10, 10], [10, 10]], [[20, 20], [20, 20]], [100, 100], PAIR, [3, 3], 1, "interleaved"
    )
    shared = {("b/0", "a/0"): ("back",)}
    world = hand_world(4, PAIR, shared=shared, capacity={"back": alone_rate(200)})
    # activations a -> b, b -> a, a -> b; gradients b -> a, a -> b, b -> a
    hops = 100 + 200 + 100 + 200 + 100 + 200
    assert simulate(hand_plan([pipeline]), world).step_time_ps == 4 * 30 + hops


def test_rejects_chunks_without_times() -> None:
    pipeline = HandPipeline(
        [[10, 10], [10, 10]], [[20, 20], [20, 20]], [0, 0], PAIR, [5, 3], 2, "interleaved"
    )
    body = hand_plan([pipeline]).model_dump(mode="json")
    del body["pipelines"][0]["stages"][0]["replicas"][0]["chunk_time_s"]
    with pytest.raises(InputError, match="chunks and times per stage"):
        simulate(Plan.model_validate(body), hand_world(4, PAIR))


def test_rejects_chunks_that_wait_for_one_another() -> None:
    pipeline = HandPipeline(
        [[10, 10], [10, 10]], [[20, 20], [20, 20]], [0, 0], PAIR, [2, 2], 2, "interleaved"
    )
    with pytest.raises(InputError, match="raise in_flight"):
        simulate(hand_plan([pipeline]), hand_world(4, PAIR))


@given(pipelines(), st.floats(0.2, 3.0))
def test_is_never_faster_than_the_exact_time(pipeline: HandPipeline, room: float) -> None:
    devices = list(pipeline.devices)
    shared = {(a, b): ("wire",) for a in devices for b in devices if a != b}
    capacity = {"wire": room * alone_rate(max([1, *pipeline.hops]))}
    world = hand_world(len(devices), devices, shared=shared, capacity=capacity)
    free = simulate(hand_plan([pipeline]), hand_world(len(devices), devices))
    assert simulate(hand_plan([pipeline]), world).step_time_ps >= free.step_time_ps


def test_two_pipelines_that_share_a_full_port_slow_each_other_down() -> None:
    plan = hand_plan([two_stages(["a/0", "b/0"]), two_stages(["c/0", "d/0"])])
    devices = ["a/0", "b/0", "c/0", "d/0"]
    shared = {("a/0", "b/0"): ("port",), ("c/0", "d/0"): ("port",)}
    world = hand_world(2, devices, shared=shared, capacity={"port": alone_rate(100)})
    # Both activations leave at 10 and share the port; the gradients have ways of their own.
    assert simulate(plan, world).step_time_ps == 10 + 200 + 10 + 20 + 100 + 20


def test_a_port_with_room_for_all_shares_slows_nobody_down() -> None:
    plan = hand_plan([two_stages(["a/0", "b/0"]), two_stages(["c/0", "d/0"])])
    devices = ["a/0", "b/0", "c/0", "d/0"]
    shared = {("a/0", "b/0"): ("port",), ("c/0", "d/0"): ("port",)}
    world = hand_world(2, devices, shared=shared, capacity={"port": 2 * alone_rate(100)})
    assert simulate(plan, world).step_time_ps == 10 + 100 + 10 + 20 + 100 + 20


def test_the_latency_of_a_hop_asks_for_no_bandwidth() -> None:
    # 40 of the 100 ps are latency, so the bytes ask for more while they flow: 60 ps at the rate
    # of the port alone. Together they take 120.
    plan = hand_plan([two_stages(["a/0", "b/0"]), two_stages(["c/0", "d/0"])])
    devices = ["a/0", "b/0", "c/0", "d/0"]
    shared = {("a/0", "b/0"): ("port",), ("c/0", "d/0"): ("port",)}
    world = hand_world(2, devices, shared=shared, capacity={"port": alone_rate(60)}, latency=40)
    assert simulate(plan, world).step_time_ps == 10 + (40 + 120) + 10 + 20 + 100 + 20


def test_gradients_take_the_opposite_route() -> None:
    plan = hand_plan([two_stages(PAIR)])
    shared = {("b/0", "a/0"): ("back",)}
    world = hand_world(2, PAIR, shared=shared, capacity={"back": alone_rate(200)})
    assert simulate(plan, world).step_time_ps == 10 + 100 + 10 + 20 + 200 + 20


def test_alike_pipelines_on_ports_of_their_own_share_one_run() -> None:
    names = [(f"x{k}/0", f"y{k}/0") for k in range(3)]
    plan = hand_plan([two_stages(list(pair), m=4) for pair in names])
    shared = {pair: (f"port{k}",) for k, pair in enumerate(names)}
    capacity = {f"port{k}": alone_rate(300) for k in range(3)}
    world = hand_world(2, [d for p in names for d in p], shared=shared, capacity=capacity)
    runs = simulate(plan, world).runs
    assert runs[0] is runs[1] is runs[2]


def test_synchronisation_waits_for_the_slowest_member_and_the_update_follows() -> None:
    slow = HandPipeline([30], [60], [], ["b/0"], [1], 2)
    quick = HandPipeline([10], [20], [], ["a/0"], [1], 2)
    plan = hand_plan([quick, slow], syncs=[([(0, 0), (1, 0)], 7)], update=5)
    timeline = simulate(plan, hand_world(1, PAIR))
    assert timeline.step_time_ps == 2 * (30 + 60) + 7 + 5


def test_a_stage_updates_as_soon_as_its_own_gradients_are_reduced() -> None:
    plan = hand_plan([two_stages(PAIR)], syncs=[([(0, 1)], 1000)], update=5)
    updates = {
        piece.stage: piece.start_ps
        for piece in simulate(plan, hand_world(2, PAIR)).finish
        if piece.category == "update"
    }
    assert updates == {0: 10 + 100 + 10 + 20 + 100 + 20, 1: 10 + 100 + 10 + 20 + 1000}


def test_reductions_that_overlap_pass_once() -> None:
    early = HandPipeline([10], [20], [], ["a/0"], [1], 1)
    late = HandPipeline([25], [35], [], ["b/0"], [1], 1)
    both = [(0, 0), (1, 0)]
    # The first stage is ready after 30 and alone in a reduction until 37, the pair reduces twice
    # from 60 on: 7 + 50 pass, 7 + 50 + 20 are spent.
    plan = hand_plan([early, late], syncs=[([(0, 0)], 7), (both, 50), (both, 20)], update=5)
    timeline = simulate(plan, hand_world(1, PAIR))
    assert timeline.finish_ps() == {
        (0, 0, "sync"): 7 + 50,
        (1, 0, "sync"): 50,
        (0, 0, "update"): 5,
        (1, 0, "update"): 5,
    }
    stages = [stage for p in replay_object(plan, timeline)["pipelines"] for stage in p["stages"]]
    assert [stage["sync_s"] for stage in stages] == [57e-12, 50e-12]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted)))
def test_spans_cover_every_instant_once(spans: list[list[int]]) -> None:
    instants = {t for start, end in spans for t in range(start, end)}
    assert covered_ps((start, end) for start, end in spans) == len(instants)


def test_a_short_last_micro_batch_counts_as_a_full_one() -> None:
    full = HandPipeline([10], [20], [], ["a/0"], [1], 3, rows=4, last_rows=4)
    short = HandPipeline([10], [20], [], ["a/0"], [1], 3, rows=4, last_rows=1)
    world = hand_world(1, ["a/0"])
    times = [simulate(hand_plan([p]), world).step_time_ps for p in (full, short)]
    assert times[0] == times[1]


def test_bubble_is_the_time_a_stage_waits() -> None:
    # Two equal stages, free hops, two micro-batches: 3 slots of 30, of which each computes 2.
    pipeline = HandPipeline([10, 10], [20, 20], [0], PAIR, [2, 1], 2)
    (fractions,) = simulate(hand_plan([pipeline]), hand_world(2, PAIR)).bubble_fractions
    assert fractions == pytest.approx((1 / 3, 1 / 3))


def test_rejects_a_schedule_that_deadlocks() -> None:
    pipeline = HandPipeline([10, 10], [20, 20], [0], PAIR, [1, 2], 4)
    with pytest.raises(InputError, match="wait for one another"):
        simulate(hand_plan([pipeline]), hand_world(2, PAIR))


def test_rejects_devices_that_the_cluster_does_not_have() -> None:
    with pytest.raises(InputError, match="z/0 is not in the cluster"):
        simulate(hand_plan([two_stages(["a/0", "z/0"])]), hand_world(2, PAIR))


def test_a_stage_in_the_middle_sends_both_ways_over_one_port() -> None:
    """On a slow network the activations to the next stage and the gradients to the one before
    meet on its port; the plan gives each half of it, so the replay finds nothing contended."""
    layers = [(0, 4), (4, 7), (7, 10)]
    stages = [
        StageSketch(tuple(f"node{k}/{i}" for i in range(4)), held) for k, held in enumerate(layers)
    ]
    sketch = PipelineSketch(stages, rows=1, micro_batches=16, last_rows=1)
    plan = priced_plan("3x4xA100-SXM-80GB @ 1Gb/s", [sketch], bound=1.0)
    assert simulate(plan).step_time_s == plan.estimate.step_time_s
