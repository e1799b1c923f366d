"""Good plans, deliberately broken: every one must be rejected, for the right reason.

Each breakage changes one thing and seals the plan again, as somebody who knows the format would.
``BROKEN`` maps a name to the good plan, the change, and a piece of the expected message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from planner.inputs.constraints import Constraints, Pin
from planner.plan import Plan, digest, seal
from planner.verify import verify
from tests.priced_plans import two_generations, two_interleaved, two_vendors

Body = dict[str, Any]


@dataclass(frozen=True)
class Breakage:
    """A good plan and what was done to it. ``expected`` is part of the message that must come."""

    good: Callable[[], Plan]
    change: Callable[[Body], None]
    expected: str
    sealed: bool = True

    def broken(self) -> Plan:
        """The plan after the change."""
        body = self.good().model_dump(mode="json")
        self.change(body)
        plan = Plan.model_validate(body)
        return seal(plan) if self.sealed else plan


BROKEN: dict[str, Breakage] = {}


def breaks(
    expected: str, good: Callable[[], Plan] = two_generations, *, sealed: bool = True
) -> Callable[[Callable[[Body], None]], Callable[[Body], None]]:
    """Register a change of a good plan."""

    def register(change: Callable[[Body], None]) -> Callable[[Body], None]:
        BROKEN[change.__name__] = Breakage(good, change, expected, sealed)
        return change

    return register


def problems_of(plan: Plan, change: Callable[[Body], None]) -> str:
    """What verification says of a plan after a change of its document."""
    body = plan.model_dump(mode="json")
    change(body)
    return "\n".join(map(str, verify(Plan.model_validate(body))))


def stage(body: Body, pipeline: int, index: int) -> Body:
    return body["pipelines"][pipeline]["stages"][index]


def replica(body: Body, pipeline: int, index: int) -> Body:
    return stage(body, pipeline, index)["replicas"][0]


# -- the file ---------------------------------------------------------------------------------


@breaks("plan_id: does not match the plan's content", sealed=False)
def edited_after_it_was_written(body: Body) -> None:
    body["warnings"] = ["all is well"]


@breaks("inputs.job.digest: does not match")
def job_swapped_under_the_old_digest(body: Body) -> None:
    body["inputs"]["job"]["resolved"]["objective"] = "cost"


@breaks("inputs.job.resolved: cannot be restored")
def job_without_a_batch(body: Body) -> None:
    record = body["inputs"]["job"]
    del record["resolved"]["global_batch"]
    record["digest"] = digest(record["resolved"])


@breaks("layer_order: differs")
def layers_renamed(body: Body) -> None:
    body["layer_order"][3] = "somewhere.else"


# -- coverage ---------------------------------------------------------------------------------


@breaks("layers 5 to 5 are on no stage")
def layer_left_out(body: Body) -> None:
    stage(body, 0, 0)["layers"] = [0, 5]
    stage(body, 0, 0)["recompute"][0]["layers"] = [0, 5]


@breaks("begins at layer 5, but the stages before it end at 6")
def layer_computed_twice(body: Body) -> None:
    stage(body, 0, 1)["layers"] = [5, 10]
    stage(body, 0, 1)["recompute"][0]["layers"] = [5, 10]


@breaks("end at layer 9, but the model has 10 layers")
def head_forgotten(body: Body) -> None:
    stage(body, 0, 1)["layers"] = [6, 9]
    stage(body, 0, 1)["recompute"][0]["layers"] = [6, 9]


@breaks("ends at layer 4, the stage at 5")
def recomputation_stops_short(body: Body) -> None:
    stage(body, 1, 0)["recompute"] = [{"layers": [0, 4], "policy": "full"}]


# -- devices ----------------------------------------------------------------------------------


@breaks("node9/0 is not a device of the cluster")
def device_of_another_cluster(body: Body) -> None:
    replica(body, 1, 1)["devices"] = ["node9/0"]


@breaks("node0/0 is used 2 times")
def device_used_twice(body: Body) -> None:
    replica(body, 1, 0)["devices"] = ["node0/0", "node0/3"]


@breaks("1 devices are neither used nor listed: node1/3")
def idle_device_not_listed(body: Body) -> None:
    body["unused_devices"][0]["devices"].remove("node1/3")


@breaks("node0/0 is listed as unused, but not only once")
def busy_device_listed_as_idle(body: Body) -> None:
    body["unused_devices"][0]["devices"].append("node0/0")


@breaks("has no reason")
def idle_without_a_reason(body: Body) -> None:
    body["unused_devices"][0]["reason"] = " "


@breaks("a tensor-parallel group spans islands")
def tensor_parallel_over_the_network(body: Body) -> None:
    replica(body, 0, 0)["devices"] = ["node0/0", "node1/2"]
    body["unused_devices"][0]["devices"].remove("node1/2")
    body["unused_devices"][0]["devices"].append("node0/1")


@breaks("says nvidia-h100-sxm-80gb, but node0/0 is a nvidia-a100-sxm-80gb")
def chip_dressed_up(body: Body) -> None:
    replica(body, 0, 0)["chip"] = "nvidia-h100-sxm-80gb"


@breaks("2 devices for a mesh of 4")
def mesh_larger_than_its_devices(body: Body) -> None:
    replica(body, 0, 0)["mesh"]["tensor_parallel"] = 4


# -- legality ---------------------------------------------------------------------------------


@breaks("32 attention heads do not divide by 3")
def heads_that_do_not_divide(body: Body) -> None:
    idle = body["unused_devices"][0]["devices"]
    idle.remove("node1/2")
    replica(body, 0, 1)["devices"] = ["node1/0", "node1/1", "node1/2"]
    replica(body, 0, 1)["mesh"]["tensor_parallel"] = 3


@breaks("nvidia-v100-sxm2-32gb does not support bf16")
def precision_that_a_chip_lacks(body: Body) -> None:
    record = body["inputs"]["job"]
    record["resolved"]["precision"] = "bf16"
    record["digest"] = digest(record["resolved"])


@breaks("context parallelism is not allowed by the job")
def context_parallelism_smuggled_in(body: Body) -> None:
    replica(body, 0, 0)["mesh"] |= {"context_parallel": 2, "tensor_parallel": 1}


@breaks("ZeRO level 3 is not one that this version prices")
def zero_level_that_nobody_priced(body: Body) -> None:
    stage(body, 0, 0)["zero"]["level"] = 3


@breaks("does not go with scope 'none'")
def sharded_over_nobody(body: Body) -> None:
    stage(body, 0, 0)["zero"]["scope"] = "none"


@breaks("full recomputation is not allowed here")
def recomputation_that_the_job_forbids(body: Body) -> None:
    record = body["inputs"]["job"]
    record["resolved"]["recompute_full"] = False
    record["digest"] = digest(record["resolved"])


# -- batch and schedule -----------------------------------------------------------------------


@breaks("run 17 rows per step, but the job's global batch is 15")
def rows_that_nobody_asked_for(body: Body) -> None:
    body["pipelines"][1]["micro_batches"] += 1


@breaks("3 rows in the last micro-batch of 2")
def last_micro_batch_too_large(body: Body) -> None:
    body["pipelines"][0]["last_micro_batch_rows"] = 3


@breaks("replicas share 1 rows, but a micro-batch has 2")
def rows_lost_inside_a_stage(body: Body) -> None:
    replica(body, 0, 1)["rows"] = 1


@breaks("waits for 5 micro-batches where stage 0 holds 1: the schedule deadlocks")
def deadlock(body: Body) -> None:
    stage(body, 0, 0)["in_flight"] = 1
    stage(body, 0, 1)["in_flight"] = 5


@breaks("in_flight is 0: at least 1 is needed")
def nothing_in_flight(body: Body) -> None:
    stage(body, 0, 1)["in_flight"] = 0


@breaks("GPipe holds all 5 micro-batches")
def gpipe_with_the_memory_of_1f1b(body: Body) -> None:
    body["pipelines"][0]["schedule"] = "gpipe"


@breaks("hop_to_next_s: is missing")
def hop_forgotten(body: Body) -> None:
    stage(body, 0, 0)["hop_to_next_s"] = None


@breaks("is rectangular, but the pipelines differ")
def asymmetric_plan_called_rectangular(body: Body) -> None:
    body["plan_class"] = "rectangular"


# -- groups -----------------------------------------------------------------------------------


@breaks("no group reduces layer 0 over its replicas")
def gradients_never_reduced(body: Body) -> None:
    del body["sync_groups"][0]


@breaks("layer 0 is reduced 2 times")
def gradients_reduced_twice(body: Body) -> None:
    body["sync_groups"].append(body["sync_groups"][0])


@breaks("does not join exactly the replicas of layer")
def replica_left_out_of_its_group(body: Body) -> None:
    body["sync_groups"][0]["members"].pop()


@breaks("pipeline 7 has no stage 0")
def group_with_a_stranger(body: Body) -> None:
    body["sync_groups"][0]["members"][0]["pipeline"] = 7


@breaks("does not run tp 8")
def group_with_the_wrong_shards(body: Body) -> None:
    body["sync_groups"][0]["members"][0]["tensor_parallel"] = 8


@breaks("is 0, but its members run ZeRO level 1")
def group_that_forgets_to_shard(body: Body) -> None:
    body["sync_groups"][0]["level"] = 0


@breaks("which the cluster does not allow", good=two_vendors)
def gradients_reduced_between_vendors(body: Body) -> None:
    # The second pipeline runs its stages on the other vendor's chips.
    first, second = replica(body, 1, 0), replica(body, 1, 1)
    for key in ("devices", "chip"):
        first[key], second[key] = second[key], first[key]


# -- figures ----------------------------------------------------------------------------------


@breaks("memory_bytes.optimizer: says")
def optimizer_state_understated(body: Body) -> None:
    memory = replica(body, 0, 0)["memory_bytes"]
    memory["optimizer"] -= 1
    memory["peak"] -= 1


@breaks("memory_bytes.peak: says")
def peak_that_is_no_sum(body: Body) -> None:
    replica(body, 0, 0)["memory_bytes"]["peak"] -= 2**20


@breaks("memory_bytes.usable: says")
def memory_that_the_chip_does_not_have(body: Body) -> None:
    replica(body, 1, 1)["memory_bytes"]["usable"] *= 2


@breaks("memory_bytes.activations: says")
def deeper_than_its_memory_says(body: Body) -> None:
    stage(body, 0, 0)["in_flight"] += 1


@breaks("memory_bytes.peak: needs")
def plan_that_does_not_fit(body: Body) -> None:
    record = body["inputs"]["cluster"]
    for node in record["resolved"]["nodes"]:
        for group in node["devices"]:
            group["reserved_gib"] = 28.0
    record["digest"] = digest(record["resolved"])


@breaks("time_s.forward: says")
def stage_one_picosecond_too_fast(body: Body) -> None:
    time = replica(body, 0, 0)["time_s"]
    time["forward"] -= 1e-12


@breaks("time_s.backward_total: says")
def recomputation_not_charged(body: Body) -> None:
    time = replica(body, 1, 0)["time_s"]
    time["backward_total"] -= time["recompute"]


@breaks("hop_to_next_s: says")
def hop_over_a_faster_network(body: Body) -> None:
    stage(body, 0, 0)["hop_to_next_s"] /= 2


@breaks("formula_time_s: says")
def formula_time_below_the_recurrence(body: Body) -> None:
    body["pipelines"][1]["formula_time_s"] *= 0.9


@breaks("exact_time_s: says")
def exact_time_too_good(body: Body) -> None:
    body["pipelines"][0]["exact_time_s"] *= 0.999


@breaks("sync_groups[0].time_s: says")
def synchronisation_for_free(body: Body) -> None:
    body["sync_groups"][0]["time_s"] = 0.0


@breaks("estimate.breakdown_s.update: says")
def update_for_free(body: Body) -> None:
    parts = body["estimate"]["breakdown_s"]
    parts["steady"] += parts["update"]
    parts["update"] = 0.0


@breaks("estimate.step_time_s: says")
def step_faster_than_its_parts(body: Body) -> None:
    body["estimate"]["step_time_s"] *= 0.9


@breaks("does not sum to the step time")
def breakdown_that_does_not_add_up(body: Body) -> None:
    body["estimate"]["breakdown_s"]["steady"] *= 0.5


@breaks("estimate.tokens_per_s: says")
def throughput_embellished(body: Body) -> None:
    body["estimate"]["tokens_per_s"] *= 1.01


@breaks("estimate.mfu: says")
def utilisation_embellished(body: Body) -> None:
    body["estimate"]["mfu"] *= 1.5


@breaks("less than without contention")
def replay_faster_than_the_recurrence(body: Body) -> None:
    body["estimate"]["simulated_step_time_s"] = body["estimate"]["step_time_s"] * 0.99


@breaks("is below the step time")
def objective_below_the_step_time(body: Body) -> None:
    body["certificate"]["objective_s"] = body["estimate"]["step_time_s"] * 0.9


@breaks("is above the objective")
def bound_above_the_objective(body: Body) -> None:
    body["certificate"]["lower_bound_s"] = body["certificate"]["objective_s"] * 1.1


@breaks("certificate.gap: says")
def gap_that_is_not_the_gap(body: Body) -> None:
    body["certificate"]["gap"] /= 2


@breaks("says optimal at a gap of")
def optimal_with_a_gap(body: Body) -> None:
    body["certificate"]["status"] = "optimal"


@breaks("says within_tolerance at a gap of", good=two_vendors)
def optimum_called_less(body: Body) -> None:
    body["certificate"]["status"] = "within_tolerance"


@breaks("but the limit was 0.01")
def tolerance_exceeded(body: Body) -> None:
    body["certificate"]["solver"]["limits"]["gap"] = 0.01


@breaks("is true although a wall-clock limit was set")
def reproducible_by_the_clock(body: Body) -> None:
    body["certificate"]["solver"]["limits"]["time_limit_s"] = 60.0


# -- stages of several chunks --------------------------------------------------------------------
# two_interleaved: stage 0 holds [0, 3) and [5, 8), stage 1 holds [3, 5) and [8, 10)


@breaks("stages: hold 1 and 2 chunks, not all as many", good=two_interleaved)
def chunk_lost(body: Body) -> None:
    own = stage(body, 0, 1)
    own["chunks"] = own["chunks"][:1]
    own["layers"] = own["chunks"][0]
    own["recompute"] = own["recompute"][:1]
    own["replicas"][0]["chunk_time_s"] = own["replicas"][0]["chunk_time_s"][:1]


@breaks("stages[1].chunks[0]: layers 3 to 7 are on no stage", good=two_interleaved)
def chunks_swapped(body: Body) -> None:
    own = stage(body, 0, 1)
    own["chunks"].reverse()
    own["layers"] = [own["chunks"][0][0], own["chunks"][-1][1]]
    own["recompute"].reverse()


@breaks("begins at layer 3, but the stages before it end at 5", good=two_interleaved)
def chunks_not_dealt_out_in_turn(body: Body) -> None:
    first, second = stage(body, 0, 0), stage(body, 0, 1)
    first["chunks"], first["layers"] = [[0, 5], [5, 8]], [0, 8]
    first["recompute"] = [{"layers": part, "policy": "none"} for part in first["chunks"]]
    assert second["chunks"][0] == [3, 5]


@breaks("chunks[0]: [3, 3) holds no layer", good=two_interleaved)
def chunk_without_layers(body: Body) -> None:
    own = stage(body, 0, 1)
    own["chunks"][0] = own["chunks"][0][:1] * 2


@breaks("is not where the stage's chunks begin and end", good=two_interleaved)
def reach_that_is_not_that_of_the_chunks(body: Body) -> None:
    stage(body, 0, 0)["layers"] = [0, 5]


@breaks("schedule: 1f1b runs one interval of layers per stage", good=two_interleaved)
def chunks_under_another_schedule(body: Body) -> None:
    body["pipelines"][0]["schedule"] = "1f1b"


@breaks("schedule: is interleaved, but no stage holds more than one chunk")
def interleaved_without_chunks(body: Body) -> None:
    body["pipelines"][0]["schedule"] = "interleaved"


@breaks("stages of several chunks are not allowed by the job", good=two_interleaved)
def chunks_that_the_job_does_not_allow(body: Body) -> None:
    record = body["inputs"]["job"]
    del record["resolved"]["interleaved"]
    record["digest"] = digest(record["resolved"])


@breaks("one stage alone has nothing to interleave with", good=two_interleaved)
def chunks_of_one_stage_alone(body: Body) -> None:
    pipeline = body["pipelines"][0]
    pipeline["stages"] = pipeline["stages"][:1]


@breaks("chunk_time_s: 1 times for 2 chunks", good=two_interleaved)
def chunk_without_its_time(body: Body) -> None:
    del replica(body, 0, 1)["chunk_time_s"][0]


@breaks("chunk_time_s: 1 times for 0 chunks")
def time_of_a_chunk_that_is_none(body: Body) -> None:
    replica(body, 0, 0)["chunk_time_s"] = [[0.1, 0.2]]


@breaks("chunk_time_s[1][0]: says", good=two_interleaved)
def chunk_one_picosecond_too_fast(body: Body) -> None:
    replica(body, 0, 0)["chunk_time_s"][1][0] -= 1e-12


@breaks("chunk_time_s[0][1]: says", good=two_interleaved)
def time_moved_from_one_chunk_to_another(body: Body) -> None:
    own = replica(body, 1, 1)["chunk_time_s"]
    own[0][1], own[1][1] = own[1][1], own[0][1]


@breaks("the schedule deadlocks with depths 5, 2", good=two_interleaved)
def too_shallow_for_its_chunks(body: Body) -> None:
    stage(body, 0, 1)["in_flight"] = 2


@breaks("stages[1].hop_to_next_s: says", good=two_interleaved)
def way_back_to_the_first_stage_for_free(body: Body) -> None:
    stage(body, 0, 1)["hop_to_next_s"] = 0.0


@breaks("stages[1].hop_to_next_s: is missing", good=two_interleaved)
def way_back_to_the_first_stage_forgotten(body: Body) -> None:
    stage(body, 1, 1)["hop_to_next_s"] = None


@breaks("memory_bytes.activations: says", good=two_interleaved)
def fewer_pairs_held_than_at_the_peak(body: Body) -> None:
    memory = replica(body, 0, 0)["memory_bytes"]
    memory["activations"] //= 2
    memory["peak"] -= memory["activations"]


@breaks("does not join exactly the replicas of layer 3", good=two_interleaved)
def chunk_reduced_by_another_stage(body: Body) -> None:
    for member in body["sync_groups"][1]["members"]:
        member["stage"] = 0


@breaks("no group reduces layer 5 over its replicas", good=two_interleaved)
def second_chunk_never_reduced(body: Body) -> None:
    del body["sync_groups"][2]


@breaks("recompute: does not cover layers from 5 on once", good=two_interleaved)
def layers_between_the_chunks_recomputed(body: Body) -> None:
    spans = [[0, 3], [3, 8]]
    stage(body, 0, 0)["recompute"] = [{"layers": s, "policy": "selective"} for s in spans]


@breaks("layers 8 to 9 lie on nvidia-a100-sxm-80gb, but the job", good=two_interleaved)
def chunk_on_a_chip_that_the_job_rules_out(body: Body) -> None:
    record = body["inputs"]["job"]
    pin = Pin(8, 10, never_on=("nvidia-a100-sxm-80gb",))
    record["resolved"]["constraints"] = Constraints(pinned_layers=(pin,)).as_json()
    record["digest"] = digest(record["resolved"])
