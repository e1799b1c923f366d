"""Rows for `planner validate` from what `card_steps.py` and `card_runtime.py` wrote.

python tests/benchmarks/card_rows.py CHIP PREFIX OUT.csv steps.jsonl compiled.jsonl runs.jsonl …
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

GIB = 2**30
SPARSE = (
    "head_dim", "q_rank", "shared_ffn", "dense_blocks", "moe_experts", "moe_topk", "moe_imbalance",
)  # fmt: skip
"""Columns of mixtures of experts and latent attention; left out where no row has them."""
HEADER = (
    "id", "family", "model", "params_B", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab",
    "seq", *SPARSE, "chip", "chip_count", "chips_per_node", "precision", "TP", "PP", "DP",
    "zero_stage", "recompute", "micro_batch", "global_batch", "step_time_s", "peak_mem_GiB",
    "metric_other", "source", "address", "source_confidence", "quality", "notes",
)  # fmt: skip
WORDS = {
    ("bf16", False): "BF16 pure, gradients too; masters and Adam FP32",
    ("bf16", True): "BF16, gradients, masters and Adam FP32",
    ("fp16", False): "FP16, gradients too; masters and Adam FP32",
    ("fp32", False): "FP32",
    ("tf32", False): "TF32, all state FP32",
    ("fp8", False): "FP8 products; else BF16 pure, gradients too; masters and Adam FP32",
}


def plain(line: dict[str, Any]) -> dict[str, object]:
    """A run of the plain model of card_model.py."""
    t, w, found = line["try"], line["widths"], line["found"]
    compiled, kernel = t["compiled"], t["kernel"] or "default"
    family = "pytorch-compiled" if compiled else "pytorch-eager"
    if kernel == "math":
        family += "-unfused"
    notes = [f"attention kernel: {kernel}"]
    if compiled:
        notes.append("blocks compiled")
    return {
        "family": family,
        "model": t["model"],
        "precision": WORDS["fp8" if t.get("eight") else t["precision"], t["wide"]],
        "seq": t["seq"],
        "recompute": "full" if t["recompute"] else "none",
        "micro_batch": t["rows"],
        "global_batch": t["rows"] * t["micro_batches"],
        "source": "planner, tests/benchmarks/card_steps.py",
    } | measured(found, w, notes)


def sparse(line: dict[str, Any]) -> dict[str, object]:
    """A run of `card_expert_steps.py`."""
    row = plain(line) | {"source": "planner, tests/benchmarks/card_expert_steps.py"}
    t, w = line["try"], line["widths"]
    row["notes"] = str(row["notes"]).replace("attention kernel: cudnn", "attention by cuDNN")
    if "experts" not in w:
        return row
    row["head_dim"] = w["head_dim"]
    if not w["kv_heads"]:
        row |= {"kv_heads": "MLA", "q_rank": w["q_rank"] or "none"}
    if not w["experts"]:
        return row
    dense = f"/{w['ffn']}(dense)" if w["dense_blocks"] else ""
    row |= {
        "ffn": f"{w['expert_ffn']}(expert){dense}",
        "shared_ffn": w["shared_ffn"] or "",
        "dense_blocks": w["dense_blocks"] or "",
        "moe_experts": w["experts"],
        "moe_topk": w["active"],
        "moe_imbalance": t["imbalance"] or "",
    }
    how = "experts one by one" if t["loop"] else "experts in one grouped product"
    chosen = {None: "by an untrained router", 0.0: "evenly"}.get(t["skew"], "unevenly")
    row["notes"] = f"{how}, chosen {chosen}; {row['notes']}"
    return row


def planned(line: dict[str, Any]) -> dict[str, object]:
    """A plan of one chip, run by the runtime."""
    found = line["found"]
    c = found["config"]
    gpt = c["model_type"] == "gpt2"
    heads = c.get("n_head") or c["num_attention_heads"]
    hidden = c.get("n_embd") or c["hidden_size"]
    widths = {
        "layers": c.get("n_layer") or c["num_hidden_layers"],
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads if gpt else c["num_key_value_heads"],
        "ffn": 4 * hidden if gpt else c["intermediate_size"],
        "vocab": c["vocab_size"],
    }
    names = {"llama": "Llama", "gpt2": "GPT", "qwen2": "Qwen2"}
    return {
        "family": "planner-run",
        "model": f"{names[c['model_type']]}-{found['parameters'] / 1e9:.1f}b",
        "precision": WORDS[found["precision"], found["state"][1] > found["state"][0]],
        "seq": found["seq_len"],
        "recompute": found["recompute"],
        "micro_batch": found["rows"],
        "global_batch": found["rows"] * found["micro_batches"],
        "source": "planner, tests/benchmarks/card_runtime.py",
    } | measured(found, widths, [f"the runtime of this project, {line['plan']}"])


def measured(found: dict[str, Any], w: dict[str, Any], notes: list[str]) -> dict[str, object]:
    """What both kinds of run state alike. Memory is what the device had less: reserved by the
    allocator, and outside of it (context, loaded kernels)."""
    row: dict[str, object] = {
        k: w[k] for k in ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab")
    }
    if "parameters" in found:
        row["params_B"] = f"{found['parameters'] / 1e9:.4g}"
    if found["ok"]:
        row["step_time_s"] = f"{found['step_s']:.5g}"
        row["peak_mem_GiB"] = f"{(found['reserved'] + found['outside']) / GIB:.4g}"
        notes.append(f"allocated {found['allocated'] / GIB:.4g} GiB")
    else:
        row["metric_other"] = "OOM"
    return row | {"notes": "; ".join(notes)}


def _row(line: dict[str, Any]) -> dict[str, object]:
    if "try" not in line:
        return planned(line)
    return sparse(line) if "skew" in line["try"] else plain(line)


def main() -> None:
    chip, prefix, out, *sources = sys.argv[1:]
    rows = []
    for source in sources:
        for text in Path(source).read_text().splitlines():
            line = json.loads(text)
            found = line["found"]
            if not found["ok"] and "out_of_memory" not in found:
                print(
                    "left out:",
                    line.get("try", line.get("plan")),
                    found.get("error"),
                    file=sys.stderr,
                )
                continue
            if "try" not in line and not found["ok"]:
                continue
            rows.append(_row(line))
    fixed = {"chip": chip, "chip_count": 1, "chips_per_node": 1, "TP": 1, "PP": 1, "DP": 1,
             "zero_stage": 0, "address": "this repository", "source_confidence": "measured",
             "quality": "A"}  # fmt: skip
    with Path(out).open("w", newline="") as file:
        without = () if any(row.get(c) for row in rows for c in SPARSE) else SPARSE
        header = [c for c in HEADER if c not in without]
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        for number, row in enumerate(rows, 1):
            writer.writerow({"id": f"{prefix}-{number:03d}"} | row | fixed)
    print(len(rows), "rows", file=sys.stderr)


if __name__ == "__main__":
    main()
