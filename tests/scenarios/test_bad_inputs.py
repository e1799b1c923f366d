"""Bad inputs that users really give: exit 2, every problem at once, where, what, what to try.

`says` holds the offending value and what the user should do about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.scenarios.terminal import Ended, planned, planner

FLEET = "8xA100-SXM-80GB"
SMALL = ("gpt2", "2xA100-SXM-40GB", "--global-batch", "8", "--seq-len", "1024")

CLUSTERS = {
    "sparse": """
name: sparse
chips:
  - {id: my-h100, inherit: H100-SXM-80GB, bf16_tflops: 1979}
nodes:
  - {name: a, devices: [{chip: my-h100, count: 8}]}
""",
    "units": """
name: units
nodes:
  - name: a
    devices: [{chip: A100-SXM-80GB, count: 8, memory_label: 80}]
    nics: [{network: eth, bandwidth_one_way: 100}]
  - name: b
    devices: [{chip: A100-SXM-80GB, count: 8}]
    nics: [{network: eth, bandwidth_one_way: "47775 GB/s"}]
""",
    "fast_port": """
name: fast-port
nodes:
  - name_prefix: a
    count: 2
    devices: [{chip: A100-SXM-80GB, count: 8}]
    nics: [{network: eth, bandwidth_one_way: "2000 Gb/s"}]
""",
    "same_host": """
name: same-host
nodes:
  - {name: a, devices: [{chip: A100-SXM-80GB}], nics: [{network: e, bandwidth_one_way: 10 Gb/s}]}
  - {name: a, devices: [{chip: A100-SXM-80GB}], nics: [{network: e, bandwidth_one_way: 10 Gb/s}]}
""",
    "no_network": """
name: no-network
nodes:
  - {name: a, devices: [{chip: A100-SXM-80GB}]}
  - {name: b, devices: [{chip: A100-SXM-80GB}]}
""",
    "typo": """
name: typo
nodes:
  - name: a
    devices: [{chip: A100-SXM-80GB, cout: 8}]
    host_memory: 512
""",
    "out_of_range": """
name: out-of-range
nodes:
  - name: a
    devices: [{chip: A100-SXM-80GB, count: 0, derate: 5, reserved_gib: -3}]
""",
    "in_use": """
name: in-use
nodes:
  - {name: a, devices: [{chip: A100-SXM-80GB, count: 8, reserved_gib: 100}]}
""",
    "unnamed": """
name: unnamed
nodes:
  - {name: "", devices: []}
""",
    "wrong_label": """
name: wrong-label
nodes:
  - {name: a, devices: [{chip: A100-SXM-80GB, count: 8, memory_label: 40 GB}]}
""",
}

CONFIG = '{{"model_type": "{type}", "hidden_size": 8192, "intermediate_size": {inner}, \
"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 64, \
"vocab_size": 152064, "_name_or_path": "Qwen1.5-72B"}}'

MODELS = {
    "wrong_size": CONFIG.format(type="qwen2", inner=16384),
    "state_space": CONFIG.format(type="mamba", inner=24576),
    "no_type": '{"hidden_size": 4096}',
    "half": '{"model_type": "llama", ',
    "odd_heads": '{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, '
    '"num_hidden_layers": 4, "num_attention_heads": 33, "vocab_size": 32000}',
}


@dataclass(frozen=True)
class Bad:
    """A command line and what its error must say. CLUSTER:x and MODEL:x stand for files."""

    name: str
    line: tuple[str, ...]
    says: tuple[str, ...]


V100_PAIR = "2x8xV100-SXM2-32GB"

PLANS = [
    Bad("sparse rate", ("llama-3-8b", "CLUSTER:sparse"), ("1979", "sparsity", "989")),
    Bad("A100 has variants", ("llama-3-8b", "8xA100"), ("A100-SXM-40GB", "A100-PCIE-80GB")),
    Bad("910B has variants", ("llama-3-8b", "8x910B"), ("910B1-64GB", "910B4-32GB")),
    Bad("V100 has two sizes", ("gpt2", "8xV100"), ("V100-SXM2-16GB", "V100-SXM2-32GB")),
    Bad(
        "GB or GiB, Gb or GB per second",
        ("llama-3-8b", "CLUSTER:units"),
        ("80 GiB", "80 GB", "100 Gb/s", "100 GB/s", "more than any link", "3 problems"),
    ),
    Bad("a port beyond any port", ("gpt2", "CLUSTER:fast_port"), ("2000 Gb/s", "1,600 Gb/s")),
    Bad("rate without unit", ("llama-3-8b", f"{V100_PAIR} @ 100"), ("has no unit", "8 times")),
    Bad("no rate at all", ("llama-3-8b", V100_PAIR), ("no network rate", "2 nodes", "@ 100Gb/s")),
    Bad("garbled fleet", ("gpt2", "2080 * 24090 * 2"), ("not a fleet", "[NODESx]CHIPSxCHIP")),
    Bad("empty fleet", ("gpt2", " "), ("nothing was given",)),
    Bad(
        "bf16 on a V100",
        ("llama-2-13b", "s1-a100-v100", "--precision", "bf16"),
        ("V100-SXM2-32GB has no bf16", "job.precision=fp16"),
    ),
    Bad(
        "fp8 on two chips without",
        ("llama-2-13b", "s1-a100-v100", "--precision", "fp8"),
        ("A100-SXM-80GB has no fp8", "V100-SXM2-32GB has no fp8", "2 problems"),
    ),
    Bad("unknown precision", ("gpt2", FLEET, "--precision", "bf17"), ("bf17", "bf16")),
    Bad(
        "micro-batch beyond the batch",
        ("gpt2", FLEET, "--global-batch", "4", "--set", "job.micro_batch_rows=[8]"),
        ("larger than the global batch", "at most 4"),
    ),
    Bad("no batch", ("gpt2", FLEET, "--global-batch", "0"), ("global_batch", "0")),
    Bad("same host twice", ("gpt2", "CLUSTER:same_host"), ("same_host.yaml:4", "the host name a")),
    Bad("nodes without a network", ("gpt2", "CLUSTER:no_network"), ("no network port", "nics")),
    Bad(
        "misspelt keys",
        ("gpt2", "CLUSTER:typo"),
        ("did you mean count?", "did you mean host_memory_gib?", "2 problems"),
    ),
    Bad(
        "values out of range",
        ("gpt2", "CLUSTER:out_of_range"),
        ("count", "derate", "reserved_gib", "3 problems"),
    ),
    Bad("memory that others use", ("gpt2", "CLUSTER:in_use"), ("100 GiB are reserved",)),
    Bad("nameless, empty node", ("gpt2", "CLUSTER:unnamed"), ("name", "devices", "2 problems")),
    Bad("another card's memory", ("gpt2", "CLUSTER:wrong_label"), ("40 GB", "80 GiB")),
    Bad("name and size disagree", ("MODEL:wrong_size", FLEET), ("72B", "56.18 B")),
    Bad("no transformer", ("MODEL:state_space", FLEET), ("mamba is not supported", "llama")),
    Bad("no model type", ("MODEL:no_type", FLEET), ("model_type", "is missing")),
    Bad("half a file", ("MODEL:half", FLEET), ("half.json:1",)),
    Bad("heads that do not divide", ("MODEL:odd_heads", FLEET), ("33", "4096")),
    Bad("gated or renamed model", ("meta-llama/Llama-3-8B", FLEET), ("nothing is downloaded",)),
    Bad("misspelt preset", ("lama-3-8b", FLEET), ("did you mean llama-3-8b",)),
    Bad("misspelt cluster", ("gpt2", "s1-a100-v10"), ("did you mean s1-a100-v100?",)),
    Bad("missing job", ("gpt2", FLEET, "nowhere.yaml"), ("nowhere.yaml",)),
    Bad(
        "a technique that does not exist",
        ("gpt2", FLEET, "--set", "job.techniques.offload=true"),
        ("offload", "known: activation_offload", "tensor_parallel"),
    ),
    Bad("forbidding what does not exist", ("gpt2", FLEET, "--forbid", "magic"), ("magic", "zero1")),
    Bad(
        "all three inputs at once",
        ("lama-3-8b", "8xA100", "--set", "job.globl_batch=4"),
        ("llama-3-8b", "A100-SXM-80GB", "global_batch", "3 problems"),
    ),
    Bad("a gap above one", ("gpt2", FLEET, "--gap", "3"), ("--gap",)),
]

OTHERS = [
    Bad(
        "estimate: tp 3",
        ("estimate", "llama-3-8b", FLEET, "tp: 3"),
        ("32 attention heads", "one of 1, 2"),
    ),
    Bad(
        "estimate: more chips than there are",
        ("estimate", "llama-3-8b", FLEET, "tp: 8, pp: 4"),
        ("32", "8"),
    ),
    Bad("estimate: misspelt field", ("estimate", "gpt2", FLEET, "tpp: 8"), ("did you mean tp?",)),
    Bad("show: no such plan", ("show", "nowhere.json"), ("no such file",)),
    Bad("show: no plan", ("show", "MODEL:no_type"), ("plan",)),
    Bad("simulate: half a file", ("simulate", "MODEL:half"), ("half.json:1",)),
    Bad("check: neither of the kinds", ("check", "MODEL:no_type"), ("not recognised",)),
    Bad("chips show: variants", ("chips", "show", "H100"), ("H100-SXM-80GB", "H100-NVL-94GB")),
    Bad("chips show: unknown", ("chips", "show", "TPUv9"), ("TPUv9",)),
    Bad("schema: unknown", ("schema", "plann"), ("did you mean plan?",)),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bad")
    named = {f"CLUSTER:{k}": (folder / f"{k}.yaml", text) for k, text in CLUSTERS.items()}
    named |= {f"MODEL:{k}": (folder / f"{k}.json", text) for k, text in MODELS.items()}
    for path, text in named.values():
        path.write_text(text)
    return {key: str(path) for key, (path, _) in named.items()}


def shortcomings(ended: Ended, says: tuple[str, ...]) -> list[str]:
    """What the error lacks."""
    found = [f"does not say {phrase!r}" for phrase in says if phrase not in ended.err]
    if ended.code != 2:
        found.append(f"exit code {ended.code}")
    if "Traceback" in ended.err or "internal error" in ended.err:
        found.append("a stack trace")
    return [*found, ended.err] if found else []


@pytest.mark.parametrize("bad", PLANS, ids=lambda b: b.name)
def test_plan_refuses(bad, files, tmp_path):
    target = tmp_path / "plan.json"
    ended = planner("plan", *(files.get(word, word) for word in bad.line), "-o", target)
    assert shortcomings(ended, bad.says) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", OTHERS, ids=lambda b: b.name)
def test_other_commands_refuse(bad, files):
    ended = planner(*(files.get(word, word) for word in bad.line))
    assert shortcomings(ended, bad.says) == []


@pytest.mark.parametrize("bad", PLANS, ids=lambda b: b.name)
def test_nothing_but_the_error_object_is_printed_as_json(bad, files):
    if "--gap" in bad.line:
        pytest.skip("usage errors have no list of problems")
    ended = planner("plan", *(files.get(word, word) for word in bad.line), "--format", "json")
    assert (ended.error["code"], ended.err) == ("invalid_input", "")
    assert all(p["where"] and p["message"] for p in ended.error["problems"])


def test_a_plan_for_another_sequence_length_is_stale(tmp_path):
    made = planned(*SMALL)
    job = ("--set", "job.global_batch=8", "--set", "job.seq_len=512")
    ended = planner("check", made.file, "--against", *SMALL[:2], *job)
    assert ended.code == 5
    assert "another job" in ended.err


def test_a_label_within_5_percent_is_noted_and_the_catalogue_planned_with(tmp_path):
    cluster = tmp_path / "nvl.yaml"
    cluster.write_text(
        "nodes: [{name: a, devices: [{chip: H100-NVL-94GB, memory_label: 96 GB}]}]\n"
    )
    found = planned("gpt2", str(cluster), "--global-batch", "8", "--seq-len", "1024")
    assert "labelled 96 GB; planned with 94 GiB" in found.text


def test_memory_that_others_use_is_not_planned_with(tmp_path):
    cluster = tmp_path / "shared.yaml"
    cluster.write_text("nodes: [{name: a, devices: [{chip: A100-SXM-80GB, reserved_gib: 20}]}]\n")
    found = planned("gpt2", str(cluster), "--global-batch", "8", "--seq-len", "1024")
    (stage,) = found.plan.pipelines[0].stages
    assert stage.replicas[0].memory_bytes.usable < 60 * 2**30


def test_a_network_faster_than_the_links_inside_is_doubted(tmp_path):
    cluster = tmp_path / "inverted.yaml"
    cluster.write_text(
        "nodes:\n  - name_prefix: a\n    count: 2\n    devices: [{chip: RTX4090-24GB, count: 2}]\n"
        "    nics: [{network: e, bandwidth_one_way: 900 Gb/s, kind: ib}]\n"
    )
    found = planned("gpt2", str(cluster), "--global-batch", "8", "--seq-len", "1024")
    assert "is faster than all links inside it" in found.text


def test_an_assumed_network_kind_is_marked(tmp_path):
    found = planned("gpt2", "2x1xRTX4090-24GB @ 10Gb/s", "--global-batch", "8")
    assert "tcp" in found.text
    assert any("tcp at 10 Gb/s" in a for a in found.plan.assumptions)


def test_a_batch_that_no_micro_batch_divides_names_the_nearest():
    found = planned("gpt2", "2xA100-SXM-40GB", "--global-batch", "9", "--seq-len", "1024",
                    "--set", "job.micro_batch_rows=[2]")  # fmt: skip
    assert "gradients must be weighted by rows" in found.text
    assert "--set job.global_batch=8 or 10" in found.text
