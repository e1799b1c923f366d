"""A plan made by hand: one A100 node and two V100 nodes train Llama-2-13B in two pipelines."""

from __future__ import annotations

from planner.plan import (
    Alternative,
    Baseline,
    Breakdown,
    Certificate,
    Estimate,
    InputRecord,
    Inputs,
    Mesh,
    Pipeline,
    Plan,
    RecomputeRange,
    Replica,
    SearchSpace,
    SolverInfo,
    Stage,
    StageMemory,
    StageTime,
    SyncGroup,
    SyncMember,
    UnusedDevices,
    Zero,
    digest,
    seal,
)

GIB = 2**30


def record(name: str, resolved: dict[str, object] | None = None) -> InputRecord:
    """An input that says nothing but its name."""
    value = resolved or {"name": name}
    return InputRecord(name=name, digest=digest(value), resolved=value)


def stage(
    layers: tuple[int, int],
    devices: list[str],
    chip: str,
    *,
    in_flight: int,
    policy: str = "none",
    peak_gib: float,
    usable_gib: float,
    hop_s: float | None,
) -> Stage:
    """A stage of one replica; its times are 0.4 ms forward and 0.8 ms backward per layer."""
    n = layers[1] - layers[0]
    again = 0.0004 * n if policy == "full" else 0.0
    return Stage(
        layers=layers,
        in_flight=in_flight,
        recompute=(RecomputeRange(layers=layers, policy=policy),),
        zero=Zero(level=1, scope="all-replicas"),
        replicas=(
            Replica(
                rows=1,
                chip=chip,
                mesh=Mesh(tensor_parallel=len(devices)),
                devices=tuple(devices),
                time_s=StageTime(
                    forward=0.0003 * n,
                    backward_input=0.0003 * n,
                    backward_weight=0.0003 * n,
                    recompute=again,
                    tp_comm_forward=0.0001 * n,
                    tp_comm_backward=0.0002 * n,
                    forward_total=0.0004 * n,
                    backward_total=0.0008 * n + again,
                ),
                memory_bytes=StageMemory(
                    parameters=6 * GIB,
                    gradients=6 * GIB,
                    optimizer=12 * GIB,
                    activations=int((peak_gib - 27.0) * GIB),
                    logits=0,
                    buffers=GIB,
                    context=GIB,
                    fragmentation=GIB,
                    peak=int(peak_gib * GIB),
                    usable=int(usable_gib * GIB),
                ),
            ),
        ),
        hop_to_next_s=hop_s,
    )


def pipeline(number: int) -> Pipeline:
    """Half of the A100 node, then one of the two V100 nodes."""
    fast = [f"a100-0/{i}" for i in range(4 * number, 4 * number + 4)]
    slow = [f"v100-{number}/{i}" for i in range(8)]
    return Pipeline(
        micro_batches=256,
        micro_batch_rows=1,
        last_micro_batch_rows=1,
        schedule="1f1b",
        stages=(
            stage(
                (0, 25),
                fast,
                "nvidia-a100-sxm-80gb",
                in_flight=3,
                peak_gib=61.2,
                usable_gib=79.1,
                hop_s=0.0034,
            ),
            stage(
                (25, 42),
                slow,
                "nvidia-v100-sxm2-32gb",
                in_flight=1,
                policy="full",
                peak_gib=31.2,
                usable_gib=31.7,
                hop_s=None,
            ),
        ),
        formula_time_s=12.50,
        exact_time_s=12.20,
    )


def example_plan() -> Plan:
    """The plan, sealed."""
    return seal(
        Plan(
            planner_version="0.1.0",
            inputs=Inputs(
                model=record("llama-2-13b"),
                cluster=record("8xA100-SXM-80GB + 2x8xV100-SXM2-32GB @ 100Gb/s"),
                job=record("job"),
                catalogue=record("catalogue"),
            ),
            plan_class="asymmetric",
            layer_order=(
                "model.embed_tokens",
                *(f"model.layers.{i}" for i in range(40)),
                "lm_head",
            ),
            pipelines=(pipeline(0), pipeline(1)),
            sync_groups=(
                SyncGroup(
                    layers=(0, 25),
                    kind="gradients",
                    level=1,
                    members=(
                        SyncMember(pipeline=0, stage=0, tensor_parallel=4),
                        SyncMember(pipeline=1, stage=0, tensor_parallel=4),
                    ),
                    time_s=0.03,
                ),
            ),
            unused_devices=(
                UnusedDevices(devices=("spare/0", "spare/1"), reason="would slow the step by 3 %"),
            ),
            alternatives=(
                Alternative(
                    change="global batch 504",
                    global_batch=504,
                    step_time_s=12.1,
                    tokens_per_s=170_611.0,
                    description="every pipeline runs 252 micro-batches",
                ),
            ),
            estimate=Estimate(
                step_time_s=12.43,
                tokens_per_s=168_716.0,
                mfu=0.412,
                mfu_6n=0.398,
                breakdown_s=Breakdown(fill=0.31, steady=11.6, sync=0.4, update=0.12),
                step_time_range_s=(11.2, 14.0),
                simulated_step_time_s=12.45,
            ),
            certificate=Certificate(
                status="within_tolerance",
                objective_s=12.50,
                lower_bound_s=12.40,
                gap=0.008,
                exact_lower_bound_s=12.31,
                search_space=SearchSpace(
                    allowed=("tensor parallelism 1, 2, 4, 8", "1f1b"), dropped=("zero-bubble",)
                ),
                solver=SolverInfo(
                    name="column generation + CP-SAT",
                    versions={"ortools": "9.15"},
                    seed=0,
                    limits={"gap": 0.01},
                ),
                deterministic=True,
            ),
            baselines=(
                Baseline(name="A100-SXM-80GB alone", step_time_s=16.66, description="2 × tp4"),
                Baseline(
                    name="V100-SXM2-32GB alone",
                    step_time_s=None,
                    description="does not fit: 4.2 GiB short on every chip",
                ),
                Baseline(name="equal split", step_time_s=20.1, description="all chips, same share"),
            ),
            assumptions=("network kind tcp", "network efficiency 0.85 of the nominal rate"),
            warnings=("V100-SXM2-32GB runs attention without FlashAttention",),
        )
    )
