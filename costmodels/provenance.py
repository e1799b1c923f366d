"""What each constant means, in words, and the data files that a fit writes.

constants.json      one entry per constant: value, unit, meaning, interval, evidence
efficiencies.json   factors of vendors, architectures, silicon, attention kernels, software
"""

from __future__ import annotations

from costmodels.calibration import Fit
from costmodels.catalog.efficiencies import to_json
from costmodels.constants import NAMES, Constants

MEANINGS: dict[str, tuple[str, str]] = {
    "launch_s": ("s", "between two dependent kernels on the chip"),
    "k_half": ("elements", "reduction depth at which half of a product fills and drains its tiles"),
    "wave_fill": ("share", "of the cores' idle time in a partly filled last wave that is lost"),
    "tile_128": ("share", "rate of 128x128 tiles over 256x128 ones"),
    "tile_64": ("share", "rate of 128x64 tiles over 256x128 ones"),
    "tile_32": ("share", "rate of 64x64 tiles over 256x128 ones"),
    "flash_forward": ("share", "rate of fused attention over products, forward (reference chips)"),
    "flash_backward": ("share", "rate of fused attention over products, backward"),
    "flash_head_half": ("elements", "head size at which fused attention reaches half its rate"),
    "flash_query": ("tokens", "of keys that take as long as what a query takes beside its keys"),
    "unfused_forward": ("passes", "reads and writes of the score matrix forward"),
    "unfused_backward": ("passes", "reads and writes of the score matrix backward"),
    "eager_softmax": (
        "ratio",
        "of forward passes (as many more backward) where softmax is not one kernel",
    ),
    "misaligned_core": ("ratio", "slow-down of batched products with an odd head size"),
    "stream": ("share", "of the memory bandwidth that elementwise kernels reach"),
    "expert_stream": (
        "share",
        "of the memory bandwidth that products of experts reach (measured on an H100, not fitted)",
    ),
    "eager_passes": ("ratio", "of the bytes moved where elementwise kernels are not fused"),
    "accumulate": ("passes", "of reading and writing accumulated gradients per micro-batch"),
    "cast_passes": ("passes", "over each operand of a product in 8 or 4 bits"),
    "host_forward_s": ("s", "for the host to issue a block's forward pass"),
    "host_backward_s": ("s", "for the host to issue a block's backward pass"),
    "host_collective_s": ("s", "for the host to issue a collective of a block"),
    "host_expert_s": (
        "s",
        "for the host to issue the products of one expert (measured on an H100, not fitted)",
    ),
    "host_cast_s": ("s", "more for each expert whose operands are cast to 8 bits"),
    "host_routing_s": (
        "s",
        "to issue the unfused way to experts and back, each pass (measured on an H100, not fitted)",
    ),
    "slow_host": ("ratio", "of host times in runtimes that issue every kernel from Python"),
    "collective_launch_s": ("s", "launch of one collective (measured on 8 H200, not fitted)"),
    "tensor_exposed": ("share", "of tensor-parallel communication that no computation hides"),
    "context_exposed": ("share", "of context-parallel communication that attention never hides"),
    "expert_exposed": ("ratio", "of expert all-to-alls to their time on free links"),
    "gradient_overlap": ("share", "of the last passes behind which gradients are reduced"),
    "gradient_tail": ("share", "of the gradient reduction that always comes after the last pass"),
    "shard_overlap": ("share", "of a layer's computation behind which weights are gathered"),
    "shard_exposed": ("share", "of gathering and scattering that computation always feels"),
    "jitter": ("1", "slow-down of a step by each factor e in hosts"),
}
"""Unit and meaning of every constant."""


def constants_document(fit: Fit, judged: Constants) -> dict[str, object]:
    """The content of ``constants.json`` after a fit; constants that were held keep their value."""
    entries: dict[str, object] = {}
    for name in NAMES:
        unit, meaning = MEANINGS[name]
        start = getattr(judged, name)
        entry: dict[str, object] = {"unit": unit, "meaning": meaning, "judged": start}
        found = fit.constants.get(name)
        if found is None:
            entry |= {"value": start, "evidence": "judged or measured, not fitted"}
        else:
            families = fit.leverage.get(name, ())
            evidence = f"{found.rows} rows feel it"
            if families:
                evidence += f", most of all those of {', '.join(families)}"
            entry |= {
                "value": float(f"{found.value:.4g}"),
                "low": float(f"{found.low:.4g}"),
                "high": float(f"{found.high:.4g}"),
                "evidence": evidence,
            }
        entries[name] = entry
    about = (
        "Constants of the cost model, fitted to the rows of this folder by `planner calibrate "
        "--refit`, starting from (and shrinking to) the judged values. low and high enclose 90 % "
        "given the model's form."
    )
    return {"about": about, "constants": entries}


def efficiencies_document(fit: Fit) -> dict[str, object]:
    """The content of ``efficiencies.json`` after a fit."""
    about = (
        "Factors fitted to the rows of this folder; keys are joined with |. A chip's sustained "
        "share of its dense peak is gemm_fraction * 0.86 * vendor * architecture * sustained; "
        "attention is the rate of fused kernels over the reference; pace is the time of a software "
        "generation over the chip's mean. low and high enclose 90 %."
    )
    return {"about": about, **to_json(fit.calibration.efficiencies)}
