"""Jobs: what is given is kept, what is left open is filled in and said."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels.catalog import load_catalog
from costmodels.memory import StateBytes
from planner.errors import InputError
from planner.graphs.build_topology import build_topology
from planner.inputs.cluster import load_cluster
from planner.inputs.job import ResolvedJob, load_job, resolve_job
from planner.inputs.job_spec import JobSpec
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.inputs.resources import fixture_names

CATALOG = load_catalog()
LLAMA = load_model("llama-2-13b").graph


def topology(cluster):
    return build_topology(load_cluster(cluster, CATALOG).spec, CATALOG)


A100 = topology("dgx-a100-x16")
MIXED = topology("s1-a100-v100")


def job(*overrides):
    return load_job(None, parse_overrides(overrides))


def resolve(*overrides, cluster=A100, model=LLAMA):
    return resolve_job(job(*overrides), model, cluster)


def refusal(*overrides):
    with pytest.raises(InputError) as caught:
        job(*overrides)
    return caught.value.problems


@pytest.mark.parametrize("name", fixture_names("jobs"))
def test_every_shipped_job_loads(name):
    assert load_job(name).name == name


def test_precision_is_bf16_where_every_chip_has_it():
    assert resolve().precision == "bf16"


def test_precision_falls_back_to_fp16_for_v100_and_says_why():
    resolved = resolve(cluster=MIXED)
    assert resolved.precision == "fp16"
    assert any("fp16" in n and "no bf16 on V100-SXM2-32GB" in n for n in resolved.notes)


def test_precision_falls_back_to_fp32_for_cards_without_16_bit_units():
    assert resolve(cluster=topology("m1-flodl")).precision == "fp32"


def test_a_stated_precision_is_kept_for_the_checks_to_judge():
    assert resolve("job.precision=bf16", cluster=MIXED).precision == "bf16"


def test_sequence_length_is_the_models_longest_up_to_4096():
    assert resolve(model=load_model("gpt2").graph).seq_len == 1024
    assert resolve(model=load_model("llama-3-8b").graph).seq_len == 4096


def test_default_micro_batches_shrink_with_the_sequence():
    assert resolve().micro_batch_rows == (1, 2, 4, 8)
    assert resolve("job.seq_len=16384").micro_batch_rows == (1, 2)
    assert resolve("job.seq_len=131072").micro_batch_rows == (1,)


def test_default_micro_batches_are_not_larger_than_the_batch():
    assert resolve("job.global_batch=3").micro_batch_rows == (1, 2)


def test_every_default_is_noted_and_nothing_that_was_given():
    noted = " ".join(resolve().notes)
    for word in ("precision", "sequence length", "rows per micro-batch", "global batch",
                 "optimizer", "gradients"):  # fmt: skip
        assert word in noted
    given = resolve(
        "job.global_batch=8", "job.seq_len=64", "job.precision=fp16", "job.optimizer=adam",
        "job.gradient_dtype=same", "job.micro_batch_rows=[1]",
        "job.techniques.interleaved=false",
    )  # fmt: skip
    assert given.notes == ()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), StateBytes(2, 2, 12)),
        (("job.gradient_dtype=fp32",), StateBytes(2, 4, 12)),
        (("job.precision=fp32",), StateBytes(4, 4, 8)),
        (("job.optimizer=adam8bit",), StateBytes(2, 2, 2)),
        (("job.optimizer=sgd",), StateBytes(2, 2, 8)),
        (("job.optimizer_state_bytes_per_parameter=6",), StateBytes(2, 2, 6)),
    ],
)
def test_state_bytes_per_parameter(overrides, expected):
    assert resolve(*overrides).state_bytes == expected


def test_a_rectangular_plan_has_equal_pipelines():
    resolved = resolve("job.plan_class=rectangular")
    assert resolved.plan_class == "rectangular"
    assert not resolved.unequal_pipelines


def test_allowed_rows_are_sorted_once_each():
    assert resolve("job.micro_batch_rows=[4, 1, 4]").micro_batch_rows == (1, 4)


def test_an_unknown_objective_is_refused_with_those_that_exist():
    (problem,) = refusal("job.objective=speed")
    assert "step_time, cost or energy" in problem.remedy
    assert "objective" in problem.where


def test_an_unknown_field_names_the_nearest():
    (problem,) = refusal("job.global_bach=3")
    assert problem.remedy == "did you mean global_batch?"


@pytest.mark.parametrize(
    "override",
    [
        "job.global_batch=0",
        "job.global_batch=1.5",
        "job.global_batch=true",
        "job.seq_len=-1",
        "job.precision=int8",
        "job.micro_batch_rows=[]",
        "job.micro_batch_rows=[0]",
        "job.global_batch_tolerance=2",
        "job.techniques.zero1=maybe",
        "job.optimizer=lion",
    ],
)
def test_values_out_of_range_are_errors(override):
    field = override.split("=")[0].removeprefix("job.")
    (problem,) = refusal(override)
    assert field in problem.where


def test_micro_batches_beyond_the_batch_are_an_error():
    (problem,) = refusal("job.global_batch=2", "job.micro_batch_rows=[4]")
    assert problem.remedy == "allow at most 2 rows"


def test_an_unknown_job_names_the_nearest():
    with pytest.raises(InputError, match="did you mean s3-sft-8b"):
        load_job("s3-sft-7b")


@given(
    st.builds(
        JobSpec,
        global_batch=st.integers(1, 4096),
        seq_len=st.none() | st.integers(1, 65536),
        optimizer=st.sampled_from(("adam", "adamw", "adam8bit", "sgd")),
        gradient_dtype=st.sampled_from(("same", "fp32")),
        plan_class=st.sampled_from(("any", "rectangular", "staged", "asymmetric")),
    )
)
@settings(max_examples=50, deadline=None)
def test_resolved_jobs_survive_their_json(spec):
    resolved = resolve_job(load_job_of(spec), LLAMA, MIXED)
    restored = ResolvedJob.from_json(json.loads(json.dumps(resolved.as_json())))
    assert restored.as_json() == resolved.as_json()


def load_job_of(spec):
    from planner.inputs.job import JobInput

    return JobInput("job", "", spec)


def test_figures_that_the_objective_does_not_ask_for_are_said_to_be_unused():
    """A job file may hold prices for later; a --price for nothing is not passed over in silence."""
    prices = "job.prices_usd_per_hour={A100-SXM-80GB: 2.0}"
    said = "prices_usd_per_hour: not used, the objective is "
    assert f"{said}step_time" in resolve(prices).notes
    energy = ("job.objective=energy", "job.max_step_time_s=100")
    assert f"{said}energy" in resolve(prices, *energy).notes
    cost = ("job.objective=cost", "job.max_step_time_s=100")
    assert not any("not used" in n for n in resolve(prices, *cost).notes)


def test_interleaved_pipelines_are_tried_where_many_chips_have_few_rows_and_layers_are_alike():
    large = topology("128x8xA100-SXM-80GB @ 200Gb/s")
    few, many = "job.global_batch=512", "job.global_batch=1024"

    def tried(*overrides, cluster=large, model=LLAMA):
        found = resolve(*overrides, cluster=cluster, model=model)
        said = "interleaved pipelines tried: 512 rows for 1024 chips (default)" in found.notes
        assert said == (found.interleaved and few in overrides and len(overrides) == 1)
        return found.interleaved

    assert tried(few)
    assert not tried(many)
    assert not tried(few, cluster=topology("64x8xA100-SXM-80GB @ 200Gb/s"))  # a row per chip
    assert tried("job.global_batch=15", cluster=topology("2x8xA100-SXM-80GB @ 200Gb/s"))
    assert not tried("job.global_batch=7", cluster=topology("8xA100-SXM-80GB"))
    assert not tried(few, model=load_model("deepseek-v3").graph)  # its first blocks are others
    vendors = "64x8xA100-SXM-80GB + 64x8x910B3-64GB @ 200Gb/s"  # every round changes vendor
    assert tried(few, cluster=topology(vendors))
    assert not tried(few, "job.techniques.interleaved=false")
    assert tried(many, "job.techniques.interleaved=true")
