"""Priced layouts that reports are made of: real plans, without a search."""

from __future__ import annotations

from functools import cache

from planner.estimate import estimate, read_layout
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.plan import Plan

FLEET = "8xA100-SXM-80GB + 2x8xV100-SXM2-32GB @ 100Gb/s"
"""Two kinds of chips in three nodes."""


@cache
def priced(
    model: str = "llama-3-8b",
    cluster: str = FLEET,
    layout: str = "tp: 4, pp: 3, recompute: full",
    *sets: str,
) -> Plan:
    """The layout as a plan without a certificate."""
    overrides = parse_overrides(("job.global_batch=256", "job.seq_len=2048", *sets))
    return estimate(
        load_model(model, overrides),
        load_cluster(cluster, overrides=overrides),
        load_job(None, overrides),
        read_layout(layout),
    ).plan
