"""The declared rules for every spelling that tables use."""

import pytest
from rows import row

from planner.validate.fields import (
    Unstated,
    count,
    ffn,
    network,
    precision,
    recompute,
    unlisted,
    zero,
)
from planner.validate.stacks import STACKS, UNKNOWN, stack_of, workspace_of


@pytest.mark.parametrize(
    ("text", "job", "recipe", "gradients"),
    [
        ("", "bf16", "16", None),
        ("BF16", "bf16", "16", None),
        ("BF16/FP16 (Megatron-DeepSpeed)", "bf16", "16", None),
        ("bf16 PURE", "bf16", "16", 2),
        ("amp_bf16 DEFAULT", "bf16", "16", None),
        ("FP16 O2", "fp16", "16", None),
        ("FP8 (TE)", "fp8", "fp8", None),
        ("FP8 or NVFP4 - see submission", "fp8", "fp8", None),
        ("NVFP4", "fp4", "fp4", None),
        ("MXFP8", "fp8", "mxfp8", None),
        ("int8 quantized training (AQT) - verify", "fp8", "int8", None),
        ("not stated (artifact default fp16 flag; Megatron-DeepSpeed)", "fp16", "16", None),
        ("fp32", "fp32", "32", None),
    ],
)
def test_precisions(text, job, recipe, gradients):
    found = precision(row(precision=text or None))
    assert (found.job, found.recipe, found.gradient_bytes) == (job, recipe, gradients)


def test_an_unknown_precision_is_no_guess():
    with pytest.raises(Unstated, match="posit"):
        precision(row(precision="posit16"))


@pytest.mark.parametrize(
    ("text", "level", "shard"),
    [
        ("", 0, None),
        ("0", 0, None),
        ("1 (dist. optimizer)", 1, None),
        ("1 within node (8)", 1, 8),
        ("1 OverlappedDistributedOptimizer", 1, None),
        ("2", 2, None),
        ("3", 3, None),
        ("FSDP (ici_fsdp=-1)", 3, None),
    ],
)
def test_zero_stages(text, level, shard):
    found = zero(row(zero_stage=text or None))
    assert (found.level, found.shard) == (level, shard)
    assert found.stated is bool(text)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("full", "full"),
        ("full per layer", "full"),
        ("qkv_proj_offloaded", "full"),
        ("none/selective (recipe)", "selective"),
        ("selective(recompute-activations)", "selective"),
        ("minimal_flash", "selective"),
        ("none (see artifact)", "none"),
        ("see perf recipe", None),
        ("custom", None),
        ("", None),
    ],
)
def test_recomputation(text, policy):
    assert recompute(row(recompute=text or None)) == policy


def test_recomputation_that_the_source_does_not_list_is_not_taken_at_its_word():
    assumed = row(recompute="full", notes="recompute, vocabulary, NICs not in the table")
    assert unlisted(assumed)
    assert recompute(assumed) is None


@pytest.mark.parametrize(
    ("text", "total_gbit", "kind"),
    [
        ("8x200Gb/s HDR IB (Selene)", 1600, "ib"),
        ("4x Omni-Path 100Gb/s (Jean Zay)", 400, "ib"),
        ("RoCE 200Gb/s per NPU", 1600, "roce"),
        ("see source (A100 80GB with 1600 Gbps node-node interconnect (RoCE))", 1600, "roce"),
        ("EFA 800/1600Gb/s per node", 800, "efa"),
        ("GCP A3 (GPUDirect-TCPX 4x200Gb/s)", 800, "roce"),
        ("4x100Gb/s RoCE per node", 400, "roce"),
        ("Ethernet TCP", 10, "tcp"),
        ("100GbE InfiniBand", 3200, "ib"),
        ("", 3200, "ib"),
    ],
)
def test_networks(text, total_gbit, kind):
    """The last two give no rate of the fabric: eight times the chip's usual 400 Gb/s."""
    found = network(row(inter_node_net=text or None), 8, 50e9)
    assert found is not None
    assert found.per_host == pytest.approx(total_gbit * 1e9 / 8)
    assert found.kind == kind


def test_widths_of_experts_and_dense_blocks():
    assert ffn(row(ffn="2048(expert)/18432(dense)")) == (18432, 2048)
    assert ffn(row(ffn="11008")) == (11008, None)
    assert ffn(row(ffn=None)) == (None, None)


@pytest.mark.parametrize("text", ["eight", "0", "2.5", "-1"])
def test_counts_that_are_none_say_so(text):
    with pytest.raises(Unstated, match="chip_count"):
        count(row(chip_count=text), "chip_count")


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        ({"source": "NVIDIA Megatron-Bridge performance summary, NeMo container 25.09"}, "25.09"),
        ({"source": "NVIDIA Megatron-Bridge performance summary, NeMo container 26.08"}, "26.06"),
        ({"family": "llm-foundry"}, "llm-foundry"),
        ({"family": "bloom-prequel", "source": "chronicles-prequel, 02-28"}, "bigscience-bf16"),
        ({"precision": "FP16 (Megatron-DeepSpeed)"}, "megatron-deepspeed"),
        ({"family": "torchtitan"}, "torchtitan"),
        ({"family": "megatron-sc21"}, "megatron-2021"),
    ],
)
def test_software_generations(cells, name):
    assert stack_of(row(**cells)).name.endswith(name)


def test_rows_of_no_known_software_say_so():
    assert stack_of(row(family="ours", source="our cluster")) is UNKNOWN


def test_generations_have_different_names_and_a_workspace():
    assert len({s.name for s in STACKS}) == len(STACKS)
    assert all(workspace_of(s).fixed_bytes > 0 for s in STACKS)
