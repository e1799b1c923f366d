"""What the words of a measured run mean: the declared rules for every spelling.

Each rule reads only what describes the run, never what was measured. Where a source leaves a
value open, the rule says what is taken instead, and the prediction lists it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from costmodels.units import GBIT
from planner.validate.table import Row

Recompute = Literal["none", "selective", "full"]


class Unstated(Exception):
    """Why a row cannot be expressed."""


def number(row: Row, column: str) -> float | None:
    """The cell as a number; None where it is empty. Unstated where it is something else."""
    text = row[column].replace(",", "").replace("_", "")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise Unstated(f"{column} {row[column]!r} is not a number") from None


def count(row: Row, column: str) -> int | None:
    """The cell as a whole positive number; None where it is empty."""
    value = number(row, column)
    if value is None:
        return None
    if value != int(value) or value < 1:
        raise Unstated(f"{column} {row[column]!r} is not a whole number of at least 1")
    return int(value)


@dataclass(frozen=True, slots=True)
class PrecisionRule:
    """``job`` is the precision of the planner, ``recipe`` the finer name that efficiency has.

    ``gradient_bytes`` of the reduction: 2 where the source says that everything is in 16 bits.
    """

    job: str
    recipe: str
    gradient_bytes: int | None = None


def precision(row: Row) -> PrecisionRule:
    """bf16, fp16, fp8, tf32 or fp32 by the first word that fits; empty means bf16."""
    text = row["precision"].lower()
    if not text or "not stated" in text:
        return PrecisionRule("fp16" if "fp16" in text else "bf16", "16")
    if "fp4" in text:
        # MLPerf lists "FP8 or NVFP4"; vendors' tables say NVFP4 alone.
        return PrecisionRule("fp8", "fp8") if "fp8" in text else PrecisionRule("fp4", "fp4")
    if "int8" in text:
        return PrecisionRule("fp8", "int8")
    if "fp8" in text:
        narrow = 2 if "pure" in text else None
        return PrecisionRule("fp8", "mxfp8" if "mx" in text else "fp8", narrow)
    if "pure" in text:
        return PrecisionRule("bf16", "16", 2)
    if "bf16" in text:
        return PrecisionRule("bf16", "16")
    if "fp16" in text or "half" in text:
        return PrecisionRule("fp16", "16")
    if "tf32" in text:
        return PrecisionRule("tf32", "32")
    if "fp32" in text:
        return PrecisionRule("fp32", "32")
    raise Unstated(f"precision {row['precision']!r} is not known")


@dataclass(frozen=True, slots=True)
class ZeroRule:
    """ZeRO level, and the replicas that share a shard where not all of them do."""

    level: int
    shard: int | None = None
    stated: bool = True


def zero(row: Row) -> ZeroRule:
    """The first digit is the level; FSDP is 3; "within node (8)" limits the shard."""
    text = row["zero_stage"].lower()
    scope = re.search(r"within node \((\d+)\)", text)
    shard = int(scope[1]) if scope else None
    if not text:
        return ZeroRule(0, stated=False)
    if "fsdp" in text:
        return ZeroRule(3, shard)
    digit = re.match(r"\s*([0-3])\b", text)
    if digit is None:
        raise Unstated(f"zero_stage {row['zero_stage']!r} is not known")
    return ZeroRule(int(digit[1]), shard)


def recompute(row: Row) -> Recompute | None:
    """The policy; None where the source leaves it to a recipe or does not say."""
    text = row["recompute"].lower()
    if unlisted(row):
        return None
    if text.startswith("full") or "offloaded" in text:
        return "full"
    if text.startswith("none/selective") or "minimal" in text or "partial" in text:
        return "selective"
    if text.startswith("selective"):
        return "selective"
    if text.startswith("none"):
        return "none"
    return None


def unlisted(row: Row) -> bool:
    """Whether the table's notes say that recomputation is not among what the source lists."""
    return bool(re.search(r"\brecompute\b[^.;]*\bnot in the table", row["notes"].lower()))


_RATE = re.compile(
    r"(?:(\d+)\s*x\s*)?((?:(?!\d+\s*x)[\w .+-])*?)(\d+(?:/\d+)?)\s*(Gb/s|Gbit/s|Gbps|GbE)"
)


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """Bytes/s of one host, one way, and the kind of network."""

    per_host: float
    kind: str


def network(row: Row, per_host: int, catalogue: float | None) -> NetworkRule | None:
    """The way out of a host; ``catalogue`` is a chip's usual share in bytes/s.

    "8x400Gb/s" is eight ports, "200Gb/s per NPU" one for each chip, "1600Gb/s" the host's total;
    a bare rate beside InfiniBand or RoCE of up to 400 Gb/s is one port per chip. Without a rate
    the catalogue's share of the chip counts. None where nothing is known at all.
    """
    text = row["inter_node_net"]
    low = text.lower()
    kind = next((k for w, k in _KINDS if w in low), "ib")
    best: float | None = None
    for ports, _, rate, unit in _RATE.findall(text):
        if unit == "GbE" and kind != "tcp":
            continue  # the Ethernet beside the fabric that is named
        single = float(rate.split("/")[0]) * GBIT
        after = low[low.find(rate) :]
        if "per gpu" in after or "per npu" in after or "per chip" in after:
            total = single * per_host
        elif ports:
            total = single * int(ports)
        elif "per node" in after or "node-node" in after or rate in ("800", "1600", "3200"):
            total = single
        elif kind in ("ib", "roce") and single <= 400 * GBIT:
            total = single * per_host
        else:
            total = single
        best = max(best or 0.0, total)
    if best is None:
        if "slow" in low or ("ethernet" in low and kind == "tcp"):
            return NetworkRule(10 * GBIT, "tcp")
        return None if catalogue is None else NetworkRule(catalogue * per_host, kind)
    return NetworkRule(best, kind)


_KINDS = (
    ("omni-path", "ib"),
    ("slingshot", "roce"),
    ("tcpx", "roce"),
    ("roce", "roce"),
    ("rdma", "roce"),
    ("infiniband", "ib"),
    ("connectx", "ib"),
    ("ib ", "ib"),
    ("efa", "efa"),
    ("ethernet", "tcp"),
    ("tcp", "tcp"),
)


def ffn(row: Row) -> tuple[int | None, int | None]:
    """Widths of the dense MLP and of one expert: ``2048(expert)/18432(dense)``."""
    dense = expert = None
    for width, what in re.findall(r"(\d+)\s*(?:\((\w+)\))?", row["ffn"]):
        if what == "expert":
            expert = int(width)
        else:
            dense = int(width)
    return dense, expert


def degrees(row: Row) -> Mapping[str, int | None]:
    """Parallel degrees as written."""
    return {name: count(row, name) for name in ("TP", "PP", "VPP", "DP", "CP", "EP")}
