"""Whatever a file holds, an import ends with a cluster or with an input error."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InputError
from planner.importers.deepspeed import import_deepspeed
from planner.importers.kubernetes import import_kubernetes
from planner.importers.megatron import import_megatron
from planner.importers.nccl import import_nccl
from planner.importers.nvidia_smi import import_nvidia_smi
from planner.importers.slurm import import_slurm
from planner.inputs.reading import parse_document
from tests.importers.samples import CATALOG, sample
from tests.importers.test_kubernetes import node
from tests.importers.test_megatron import SCRIPT

A100 = "A100-SXM-80GB"


def kubernetes(text: str) -> None:
    document = parse_document(text, "nodes.json", is_json=True)
    import_kubernetes(document, CATALOG, network="100Gb/s", oversubscription=1.0)


IMPORTS = {
    "nvidia-smi": (
        sample("nvidia_smi_topo_a100x8_3nic.txt"),
        lambda text: import_nvidia_smi(text, "f", CATALOG, chip=A100, nodes=2, network="1Gb/s"),
    ),
    "nccl": (
        sample("nccl_topo_azure_ncv4_a100pcie_nvlink.xml"),
        lambda text: import_nccl(text, "f", CATALOG, nvlink_pairs="0-1,2-3"),
    ),
    "slurm": (
        sample("slurm_topology_tree.conf"),
        lambda text: import_slurm(
            text, "f", CATALOG, devices=[f"8x{A100}"], network="1Gb/s", oversubscription=1.0
        ),
    ),
    "deepspeed": (
        "a-1 slots=4\na-2 slots=8 # x\nb slots=2\n",
        lambda text: import_deepspeed(text, "f", CATALOG, chips=[A100], network="1Gb/s"),
    ),
    "kubernetes": (json.dumps({"items": [node("a", leaf="l"), node("b", leaf="l")]}), kubernetes),
    "megatron": (SCRIPT, lambda text: import_megatron(text, "f")),
}


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """The text with a piece cut out, doubled, or replaced by something else."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        other = draw(
            st.one_of(
                st.just(""),
                st.just(text[start:end] * 2),
                st.text(st.sampled_from("abN0189[]-,=\"'$(){}<>\\/ \n\tX*|é"), max_size=8),
            )
        )
        text = text[:start] + other + text[end:]
    return text


@pytest.mark.parametrize("name", IMPORTS)
@settings(max_examples=120)
@given(data=st.data())
def test_ends_with_a_result_or_an_input_error(name, data):
    text, run = IMPORTS[name]
    assert all(message for message in messages(run, data.draw(damaged(text))))


def messages(run: Callable[[str], object], text: str) -> list[str]:
    """What an import says about a text; nothing if it takes it. Other errors are bugs."""
    try:
        run(text)
    except InputError as error:
        return [problem.message for problem in error.problems]
    return []
