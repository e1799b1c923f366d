"""Questions for the input: how many chips, how large a model, how fast a link, how cheap a chip."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InfeasibleError, InputError, NoPlanFound
from planner.inputs.job import load_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.scenario.apply import apply_change
from planner.scenario.changes import ScaleLink
from planner.scenario.inputs import PlanInputs
from planner.scenario.links import link_rate
from planner.scenario.rates import ChipRates, Figure, Rates
from planner.whatif import (
    Effort,
    Evaluator,
    Outcome,
    RunOptions,
    Target,
    break_even_link,
    equal_time,
    fleet_of,
    largest,
    link,
    node_type,
    size,
    tornado,
    worth_price,
)
from planner.whatif.fleet import parse_count
from planner.whatif.pricing import kept
from planner.whatif.replace import ASSUMPTIONS, holds
from planner.whatif.sizing import least_nodes
from tests.small_plans import MILLION, small_inputs, tiny_model

QUICK = RunOptions(effort=Effort(gap=0.2))
A100, V100 = "nvidia-a100-sxm-80gb", "nvidia-v100-sxm2-32gb"


# -- how many ---------------------------------------------------------------------------------


@dataclass
class Scripted(Evaluator):
    """An evaluator with a made-up world: tokens per second by number of nodes."""

    rate_of: object = None
    bound_over: object = 1.0

    def enough(self, inputs: PlanInputs, name: str, tokens_per_s: float | None) -> Outcome:
        self.asked += 1
        nodes = inputs.cluster.spec.hosts
        rate = self.rate_of(nodes)
        over = self.bound_over(nodes) if callable(self.bound_over) else self.bound_over
        if rate == 0:
            return Outcome(status="infeasible", reason="nothing fits")
        return Outcome(
            status="planned",
            tokens_per_step=1000,
            step_time_s=1000 / rate,
            lower_bound_s=1000 / rate / over,
        )


def world(needed: float, rate_of: object, bound_over: object = 1.0):
    node = node_type("A100-SXM-80GB")
    inputs = small_inputs()
    evaluator = Scripted(QUICK, rate_of=rate_of, bound_over=bound_over)
    found = least_nodes(
        lambda n: replace(inputs, cluster=fleet_of(node, n)), node, needed, evaluator
    )
    return found, evaluator


@settings(deadline=None, derandomize=True, database=None, max_examples=8)
@given(
    st.integers(1, 80),
    st.floats(0.6, 1.0),
    st.integers(0, 20),
    st.sampled_from((10.0, 2_000.0, 1e6)),
)
def test_the_least_number_of_nodes_is_found(
    least: int, power: float, missing: int, each: float
) -> None:
    def rate_of(nodes: int) -> float:
        return 0.0 if nodes <= missing else each * nodes**power

    needed = rate_of(least + missing)
    found, evaluator = world(needed, rate_of)
    assert found.nodes == least + missing
    assert found.proven_least == found.nodes
    assert found.below == found.nodes - 1
    assert evaluator.asked <= 25


def test_what_is_proven_is_the_bounds_word_not_the_searchs() -> None:
    found, _ = world(1000.0, lambda n: 10.0 * n, bound_over=1.1)
    assert found.nodes == 100
    assert 1 < found.proven_least < 100
    assert all(
        t.outcome.most_tokens_per_s < 1000.0 for t in found.tried if t.nodes < found.proven_least
    )


def test_a_smaller_fleet_is_asked_for_a_proof() -> None:
    # found: 100. The bound says 1.1 times the rate, so 90 nodes are proven not to do: 1.1 * 900
    found, _ = world(1000.0, lambda n: 10.0 * n, bound_over=1.1)
    assert (found.nodes, found.below, found.proven_least) == (100, 99, 91)


def test_where_bounds_widen_on_the_way_down_the_last_proof_is_tried_much_further_down() -> None:
    # 99 are not enough, by a bound of 1.05; 95 and 83, next in proportion, by one of 1.2 and 1.3:
    # (1 / 1.079)^3 of 83 are 66, which 1.3 * 660 rules out
    def bound_over(nodes: int) -> float:
        return 1.05 if nodes > 95 else 1.2 if nodes > 83 else 1.3

    found, _ = world(1000.0, lambda n: 10.0 * n, bound_over=bound_over)
    assert (found.nodes, found.proven_least) == (100, 67)


def test_a_large_number_is_found_to_a_hundredth() -> None:
    found, evaluator = world(50_000.0, lambda n: 10.0 * n**0.9)
    least = math.ceil(5000 ** (1 / 0.9))
    assert least <= found.nodes <= least * 1.01
    assert found.below < least
    assert found.nodes - found.below <= found.nodes * 0.01
    assert evaluator.asked <= 20


def test_where_to_begin_changes_nothing_but_the_way() -> None:
    node, inputs = node_type("A100-SXM-80GB"), small_inputs()
    for first in (1, 37, 400):
        evaluator = Scripted(QUICK, rate_of=lambda n: 10.0 * n)
        found = least_nodes(
            lambda n: replace(inputs, cluster=fleet_of(node, n)),
            node,
            1000.0,
            evaluator,
            first=first,
        )
        assert (found.nodes, found.proven_least) == (100, 100)


def test_more_nodes_that_bring_nothing_end_the_question() -> None:
    with pytest.raises(NoPlanFound) as caught:
        world(1000.0, lambda n: 500.0 * (1 - math.exp(-n)))
    assert "twice as many bring" in caught.value.message
    assert "--global-batch" in caught.value.remedies[0]


def test_what_fits_nowhere_is_infeasible() -> None:
    with pytest.raises(InfeasibleError):
        world(1000.0, lambda _: 0.0)


def test_a_real_model_on_real_chips() -> None:
    model = load_model("gpt2")
    job = load_job(None, parse_overrides(["job.global_batch=64", "job.seq_len=1024"]))
    node = node_type("a100-sxm-80gb", chips=2)
    evaluator = Evaluator(QUICK)
    found = size(model, job, node, Target(tokens=20e9, seconds=86_400), evaluator)
    assert found.outcome.tokens_per_s >= found.target_tokens_per_s
    assert found.target_tokens_per_s == pytest.approx(20e9 / 86_400)
    fewer = [t.outcome for t in found.tried if t.nodes < found.nodes]
    assert all(o.tokens_per_s < found.target_tokens_per_s for o in fewer)
    assert 1 <= found.proven_least <= found.nodes


def test_goodput_asks_for_more() -> None:
    assert Target(1e12, 86_400.0, goodput=0.5).tokens_per_s == 2e12 / 86_400.0


# -- names and nodes --------------------------------------------------------------------------


def test_a_name_that_machines_decide_is_taken_with_a_note() -> None:
    node = node_type("h800")
    assert (node.chip.id, node.chips, node.bandwidth) == ("nvidia-h800-sxm-80gb", 8, 400 * 10**9)
    assert any("taken as H800-SXM-80GB" in note for note in node.notes)
    assert fleet_of(node, 3).spec.device_count == 24


def test_a_name_that_machines_do_not_decide_is_an_error_with_the_variants() -> None:
    with pytest.raises(InputError) as caught:
        node_type("v100")
    assert "fits 4 chips" in str(caught.value)


def test_a_network_is_given_for_the_whole_node() -> None:
    node = node_type("h800", network="1600Gb/s:roce", chips=4)
    cluster = fleet_of(node, 2)
    (nic,) = cluster.spec.nodes[0].nics
    assert (nic.count, nic.bandwidth_one_way, nic.kind) == (4, 50 * 10**9, "roce")
    with pytest.raises(InputError):
        node_type("h800", network="1600")
    with pytest.raises(InputError):
        node_type("h800", network="1600Gb/s:carrier-pigeon")


def test_counts_are_read() -> None:
    assert parse_count("1000xH100") == (1000, "H100")
    assert parse_count("3,000 x H800") == (3000, "H800")
    with pytest.raises(InputError):
        parse_count("H100")


# -- equal time -------------------------------------------------------------------------------


def test_slower_chips_take_more_of_them_and_the_term_is_named() -> None:
    model, job = tiny_model(3), small_inputs().job
    old, new = node_type("H100-SXM-80GB", chips=2), node_type("A100-SXM-80GB", chips=2)
    found = equal_time(model, job, old, 2, new, Evaluator(QUICK))
    assert found.new.chips > 2
    assert found.ratio == found.new.chips / 2
    assert found.new.outcome.tokens_per_s >= found.old_outcome.tokens_per_s
    assert found.differences[0][0] == "compute"
    total = sum(change for _, change in found.differences)
    assert total == pytest.approx(found.same_count.step_time_s - found.old_outcome.step_time_s)


def test_the_same_chip_replaces_itself_one_for_one() -> None:
    node = node_type("A100-SXM-80GB", chips=2)
    found = equal_time(tiny_model(3), small_inputs().job, node, 2, node, Evaluator(QUICK))
    assert found.ratio == 1.0


def test_the_share_at_which_a_claim_holds_is_where_both_take_as_long() -> None:
    node = node_type("A100-SXM-80GB", chips=2)
    inputs = PlanInputs(tiny_model(3), fleet_of(node, 1), small_inputs().job)
    slower = next(a for a in ASSUMPTIONS if a.speed)
    evaluator = Evaluator(QUICK)
    rate = evaluator.enough(inputs, "", None).tokens_per_s / 2
    found = holds(inputs, node, slower, rate, evaluator)
    # one node computes nearly all of the time
    assert found.share == pytest.approx(0.5, rel=0.1)
    too_low = holds(inputs, node, slower, rate * 4, evaluator)
    assert too_low.share is None
    assert "slower already" in too_low.reason


def test_what_a_bound_proves_about_a_share_is_said() -> None:
    node = node_type("A100-SXM-80GB", chips=2)
    inputs = PlanInputs(tiny_model(3), fleet_of(node, 1), small_inputs().job)
    slower = next(a for a in ASSUMPTIONS if a.speed)
    rate = Evaluator(QUICK).enough(inputs, "", None).tokens_per_s / 2
    found = holds(inputs, node, slower, rate, Evaluator(RunOptions(effort=Effort(gap=0.01))))
    # two chips of two: at a twentieth below the share even perfect division is too slow
    assert found.proven


def test_memory_that_runs_out_before_the_fleet_is_slow_enough_never_makes_the_claim() -> None:
    node = node_type("A100-SXM-80GB", chips=1)
    inputs = PlanInputs(tiny_model(3), fleet_of(node, 1), small_inputs().job)
    memory = next(a for a in ASSUMPTIONS if a.memory)
    evaluator = Evaluator(QUICK)
    step = evaluator.enough(inputs, "", None)
    found = holds(inputs, node, memory, step.tokens_per_s / 50, evaluator)
    # recomputation takes a third more: before it is 50 times slower nothing fits
    assert "never gets slower" in found.reason
    assert found.proven


def test_a_target_is_asked_again_at_no_cost() -> None:
    inputs, evaluator = small_inputs(), Evaluator(QUICK)
    whole = evaluator.enough(inputs, "", None)
    assert evaluator.enough(inputs, "", whole.tokens_per_s / 3) is whole
    assert evaluator.asked == 1


def test_decided_targets_are_read_from_the_cache(tmp_path) -> None:
    inputs = small_inputs()
    options = RunOptions(effort=QUICK.effort, cache=tmp_path)
    first, second = Evaluator(options), Evaluator(options)
    assert first.enough(inputs, "", 10.0) == second.enough(inputs, "", 10.0)
    assert (first.asked, second.asked) == (1, 0)
    second.enough(inputs, "", 1e9)
    assert second.asked == 1


def test_chips_that_fill_no_nodes_are_refused() -> None:
    node = node_type("A100-SXM-80GB")
    with pytest.raises(InputError) as caught:
        equal_time(tiny_model(3), small_inputs().job, node, 12, node, Evaluator(QUICK))
    assert "ask for 8 or 16" in str(caught.value)


# -- the largest ------------------------------------------------------------------------------


def test_the_largest_micro_batch_is_the_last_that_has_a_plan() -> None:
    inputs = small_inputs("1xV100-SXM2-32GB", layers=4, sets="techniques.recompute_full=false")
    inputs = replace(inputs, job=replace(inputs.job, spec=with_rows(inputs, 64)))
    evaluator = Evaluator(QUICK)
    found = largest(inputs, "micro_batch_rows", evaluator)
    assert found.outcome.status == "planned"
    assert found.above is not None
    assert found.above.status == "infeasible"
    assert found.proven
    # 4 layers of 200 MB per row and 16 bytes for each of 400 million parameters in 31.7 GiB
    most = (31.7 * 2**30 - 16 * 400 * MILLION) / (4 * 200 * MILLION)
    assert 0.5 * most < found.size <= most


def with_rows(inputs: PlanInputs, batch: int):
    data = inputs.job.spec.model_dump(mode="json", exclude_unset=True)
    return type(inputs.job.spec).model_validate({**data, "global_batch": batch})


def test_the_largest_model_grows_in_depth_and_width() -> None:
    job = load_job(None, parse_overrides(["job.global_batch=8", "job.seq_len=256"]))
    cluster = fleet_of(node_type("V100-SXM2-16GB", chips=1), 1)
    found = largest(PlanInputs(load_model("gpt2"), cluster, job), "model", Evaluator(QUICK))
    # 16 bytes of state per parameter in less than 16 GiB
    assert 0.3e9 < found.size < 16 * 2**30 / 16
    assert found.proven
    assert "hidden size" in found.text


def test_a_layer_graph_does_not_say_how_it_grows() -> None:
    with pytest.raises(InputError) as caught:
        largest(small_inputs(), "model", Evaluator(QUICK))
    assert "how it would grow" in str(caught.value)


# -- links and prices -------------------------------------------------------------------------


def two_nodes() -> PlanInputs:
    return small_inputs("2x1xA100-SXM-80GB @ 100Gb/s", layers=4)


def test_below_the_break_even_another_plan_is_faster() -> None:
    inputs = two_nodes()
    found = break_even_link(inputs, "network", QUICK.effort)
    assert found.now_bytes_per_s == link_rate(inputs.cluster, "network") == 12.5e9
    assert found.break_even_bytes_per_s is not None
    assert found.rival is not None
    share = found.break_even_bytes_per_s / found.now_bytes_per_s
    below, above = (apply_change(inputs, ScaleLink("network", share * f)) for f in (0.8, 1.25))
    times = [[kept(p, i).step_time_s for p in (found.chosen, found.rival)] for i in (below, above)]
    assert times[0][0] > times[0][1]
    assert times[1][0] < times[1][1]


def test_a_plan_that_is_as_fast_today_leads_from_here_on(monkeypatch) -> None:
    times = {"chosen": lambda share: 1.0, "faster": lambda share: 0.5 + 0.5005 / share}
    plans = {name: SimpleNamespace(name=name, pipelines=name) for name in times}
    timed = lambda plan, share: SimpleNamespace(step_time_s=times[plan.name](share), fits=True)  # noqa: E731
    monkeypatch.setattr(link, "kept", timed)
    # 0.05 % slower today, 25 % faster on a link twice as fast
    assert link._gains(plans["chosen"], plans["faster"], lambda share: share) == 1.0
    times["faster"] = lambda share: 1.2 - 0.01 * share
    assert link._gains(plans["chosen"], plans["faster"], lambda share: share) is None


def test_the_price_at_which_a_chip_is_worth_it_makes_tokens_cost_the_same() -> None:
    inputs = small_inputs("2xA100-SXM-80GB + 1x2xV100-SXM2-32GB @ 400Gb/s:ib", layers=4)
    rates = Rates((ChipRates(A100, Figure(2.0, "given"), None),))
    found = worth_price(inputs, "v100", rates, QUICK.effort)
    assert found.usd_per_hour is not None
    with_it, without = found.with_it.outcome, found.without_it.outcome
    used = dict(with_it.used)
    cost_with = (2.0 * used.get(A100, 0) + found.usd_per_hour * used[V100]) / with_it.tokens_per_s
    cost_without = 2.0 * dict(without.used)[A100] / without.tokens_per_s
    assert cost_with == pytest.approx(cost_without)
    assert found.times_other == pytest.approx(found.usd_per_hour / 2.0)
    unknown = worth_price(inputs, "v100", Rates(), QUICK.effort)
    assert unknown.usd_per_hour is None
    assert unknown.unknown == (A100,)
    assert unknown.times_other == pytest.approx(found.times_other)


def test_the_only_kind_of_chip_has_no_price_to_compare() -> None:
    with pytest.raises(InputError):
        worth_price(small_inputs(), "a100", Rates(), QUICK.effort)


# -- sensitivity ------------------------------------------------------------------------------


def test_a_tornado_puts_the_largest_swing_on_top() -> None:
    rates = Rates((ChipRates(A100, Figure(2.0, "given"), None),))
    found = tornado(two_nodes(), QUICK.effort, spread=1.25, rates=rates)
    swings = [bar.swing_s for bar in found.bars]
    assert swings == sorted(swings, reverse=True)
    by_name = {bar.input.name: bar for bar in found.bars}
    speed = by_name["speed of A100-SXM-80GB"]
    assert speed.low.best_s > found.chosen.estimate.step_time_s > speed.high.best_s
    network = by_name["bandwidth of network"]
    assert network.low.best_s >= network.high.best_s
    (price,) = found.prices
    assert price.high == pytest.approx(1.25**2 * price.low)
    assert found.usd_per_million_tokens == pytest.approx(1.25 * price.low)


def test_where_the_plan_is_overtaken_the_other_plan_is_better_indeed() -> None:
    inputs = two_nodes()
    found = tornado(inputs, QUICK.effort, spread=512.0, only=["network"])
    (bar,) = found.bars
    below = bar.flips[0]
    assert below is not None
    rival = bar.low.planned.plan
    for factor, ahead in ((below * 0.9, True), (below * 1.1, False)):
        changed = apply_change(inputs, ScaleLink("network", factor))
        own, other = kept(found.chosen, changed), kept(rival, changed)
        assert (other.step_time_s < own.step_time_s * (1 - 1e-3)) is ahead


def test_a_tornado_of_a_chip_without_prices_says_unknown() -> None:
    found = tornado(two_nodes(), QUICK.effort, only=["nothing has this name"])
    assert found.bars == ()
    assert found.usd_per_million_tokens is None
    assert (found.prices[0].low, found.prices[0].high) == (None, None)
