"""From a row to a run: degrees, batches, models; gaps are filled by rules and named."""

import pytest
from rows import row

from costmodels.measured import measured_catalog
from planner.validate.case import build_case
from planner.validate.fields import Unstated
from planner.validate.shapes import build_model


def case(**change):
    return build_case(row(**change), measured_catalog())


def parameters(**change) -> int:
    return build_model(row(**change)).graph.parameters


def reason(**change) -> str:
    with pytest.raises(Unstated) as caught:
        case(**change)
    return str(caught.value)


def test_a_row_becomes_the_run_that_it_describes():
    run = case(TP=2, PP=2, DP=2, zero_stage="1 (dist. optimizer)", micro_batch=2).run
    assert (run.tp, run.pp, run.dp, run.zero, run.shard) == (2, 2, 2, 1, 2)
    assert (run.rows, run.micro_batches, run.tokens) == (2, 16, 64 * 4096)
    assert run.chip.id == "nvidia-a100-sxm-80gb"


def test_llama_has_the_published_size():
    assert parameters() == pytest.approx(6.738e9, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "billions"),
    [
        (
            {"model": "GPT3-175B", "layers": 96, "hidden": 12288, "heads": 96, "kv_heads": 96}
            | {"ffn": 49152, "vocab": 51200},
            174.6,
        ),
        (
            {"model": "Llama3.1-8B", "kv_heads": 8, "ffn": 14336, "vocab": 128256},
            8.03,
        ),
        (
            {"model": "DeepSeekV3 (w/o MTP)", "layers": 61, "hidden": 7168, "heads": 128}
            | {"kv_heads": "MLA", "ffn": "2048(expert)/18432(dense)", "vocab": 129280}
            | {"moe_experts": 256, "moe_topk": 8},
            671,
        ),
        (
            {"model": "Qwen3_235B_a22B", "layers": 94, "heads": 64, "kv_heads": 4}
            | {"ffn": "1536(expert)", "vocab": 151936, "moe_experts": 128, "moe_topk": 8},
            235,
        ),
        (
            {"model": "GPT OSS 120B", "layers": 36, "hidden": 2880, "heads": 64, "kv_heads": 8}
            | {"ffn": "2880(expert)", "vocab": 201088, "moe_experts": 128, "moe_topk": 4},
            116.8,
        ),
        (
            {"model": "DeepSeek-V2-Lite", "layers": 27, "hidden": 2048, "heads": 16}
            | {"kv_heads": "MLA", "q_rank": "none", "ffn": "1408(expert)/10944(dense)"}
            | {"shared_ffn": 2816, "dense_blocks": 1, "moe_experts": 64, "moe_topk": 6}
            | {"vocab": 102400},
            15.7,
        ),
        (
            {"model": "ours", "layers": 48, "hidden": 2048, "heads": 32, "kv_heads": 4}
            | {"head_dim": 128, "ffn": "768(expert)", "vocab": 151936}
            | {"moe_experts": 128, "moe_topk": 8},
            30.5,
        ),
    ],
)
def test_models_have_their_published_sizes(change, billions):
    assert parameters(**change) == pytest.approx(billions * 1e9, rel=0.01)


def test_layers_that_a_source_inferred_follow_from_the_parameters():
    bloom = {"model": "BLOOM-like 176B", "params_B": 176, "layers": 71, "hidden": 14336}
    bloom |= {"heads": 112, "ffn": 57344, "vocab": 250880}
    built = build_model(row(**bloom, notes="layers inferred from size and NHIDDEN"))
    assert len(built.graph.layers) == 70 + 2
    assert len(build_model(row(**bloom)).graph.layers) == 71 + 2


def test_embedding_and_head_count_as_blocks_where_only_that_divides():
    run = case(layers=70, PP=12, DP=1, chip_count=12, chips_per_node=4).run
    assert [b - a for a, b in zip(run.cuts, run.cuts[1:])] == [6] * 12


def test_missing_fields_are_named_not_guessed():
    assert "hidden" in reason(hidden=None)
    assert "seq" in reason(seq=None)
    assert "layout" in reason(TP=None, PP=None, DP=None)
    assert "mixed chips" in reason(mixed_chips=1)
    assert "not in the catalogue" in reason(chip="Abacus 1")
    assert "does not divide" in reason(TP=3)
    assert "ep 16" in reason(EP=16, moe_experts=16, moe_topk=2, ffn="1408(expert)")


def test_full_sharding_needs_no_other_degree():
    run = case(TP=None, PP=None, DP=None, zero_stage="FSDP").run
    assert (run.dp, run.zero, run.shard) == (8, 3, 8)


def test_more_chips_than_rows_share_the_sequences():
    run = case(TP=None, PP=None, DP=None, zero_stage="FSDP", global_batch=2).run
    assert (run.cp, run.dp) == (4, 2)


def test_what_was_filled_in_is_listed():
    found = case(vocab=None, recompute=None, micro_batch=None)
    assert any("vocabulary" in n for n in found.notes)
    assert any("rows per micro-batch" in n for n in found.notes)
    assert any("recomputation" in n for n in found.notes)


def test_unlisted_recomputation_is_the_least_that_fits():
    cells = {"recompute": "full", "notes": "recompute not in the table", "zero_stage": "3"}
    assert case(**cells).run.policy == 0
    assert case(**cells, micro_batch=8).run.policy > 0


def test_a_rack_is_one_fabric():
    links = case(chip="GB200", chip_count=256, chips_per_node=4, DP=256).run.links
    assert links.island == 64
    assert links.port > 0


def test_cores_count_as_parts_of_a_chip():
    run = case(chip="Trainium1 (trn1.32xlarge)", chip_count=16, chips_per_node=16, TP=8, DP=4).run
    assert (run.tp, run.dp) == (4, 4)


def test_nothing_measured_changes_the_run():
    without = case()
    measured = case(
        step_time_s=3, tokens_per_s_per_chip=9, peak_mem_GiB=70, mfu_pct=50, tflops_per_chip=180
    )
    assert measured.run == without.run
    assert measured.notes == without.notes
