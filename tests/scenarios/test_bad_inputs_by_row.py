"""The list of bad inputs that users really give, row by row, for check, plan and estimate.

What ``plan`` refuses is in :mod:`tests.scenarios.test_bad_inputs`; here the same lines go through
``check`` and ``estimate``, and the rows that need more than one line have a test of their own.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from pathlib import Path

import pytest

from planner.plan import Plan
from tests.scenarios.terminal import planned, planner
from tests.scenarios.test_bad_inputs import CLUSTERS, FLEET, MODELS, PLANS, shortcomings

TINY = ("--global-batch", "8", "--seq-len", "512")
QUICK = (*TINY, "--gap", "1")
"""Plans that are good enough at once: these tests look at words, not at times."""
SHALLOW = (
    *("--global-batch", "30", "--seq-len", "512", "--gap", "1"),
    *("--set", "job.max_pipeline_stages=1"),
)

PAIRS = [bad for bad in PLANS if len(bad.line) == 2 and bad.line[1].strip()]
"""Lines of a model and a cluster, which every command reads."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bad")
    named = {f"CLUSTER:{k}": (folder / f"{k}.yaml", text) for k, text in CLUSTERS.items()}
    named |= {f"MODEL:{k}": (folder / f"{k}.json", text) for k, text in MODELS.items()}
    for path, text in named.values():
        path.write_text(text)
    return {key: str(path) for key, (path, _) in named.items()}


def priced(model: str, cluster: str, *options: str) -> tuple[str, Plan]:
    """What ``estimate`` prints about one chip per pipeline, and the priced plan."""
    folder = tempfile.mkdtemp(prefix="planner-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / "plan.json"
    ended = planner("estimate", model, cluster, "tp: 1", *TINY, *options, "-o", file)
    assert ended.code == 0, ended.err
    return ended.text, Plan.model_validate_json(file.read_text(encoding="utf-8"))


def written(tmp_path, text: str) -> str:
    """A cluster file."""
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("bad", PAIRS, ids=lambda b: b.name)
def test_estimate_refuses_what_plan_refuses(bad, files, tmp_path):
    line = [files.get(word, word) for word in bad.line]
    ended = planner("estimate", *line, "tp: 1", "-o", tmp_path / "plan.json")
    assert shortcomings(ended, bad.says) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "bad",
    [
        b
        for b in PAIRS
        if b.name not in ("misspelt preset", "misspelt cluster", "gated or renamed model")
    ],
    ids=lambda b: b.name,
)
def test_check_refuses_what_plan_refuses(bad, files):
    ended = planner("check", *(files.get(word, word) for word in bad.line))
    # the other of the two files is right: problems are counted over both
    says = tuple(phrase for phrase in bad.says if not phrase.endswith("problems"))
    if bad.name == "no model type":
        says = ("not recognised",)
    assert shortcomings(ended, says) == []


class TestRow1SparseRates:
    @pytest.mark.parametrize(
        ("records", "says"),
        [
            ('[{"id": "my", "inherit": "H100-SXM-80GB", "bf16_tflops": 1979}]', "write the dense"),
            (
                '[{"id": "my", "inherit": "H100-SXM-80GB", "name": "My", "bf16_tflops": 1979}]',
                "write the dense one: 989",
            ),
            (
                '[{"id": "my", "inherit": "H100-SXM-80GB", "name": "My", "bf16_tflops": 1600}]',
                "1.6 times",
            ),
            (
                '[{"id": "a", "inherit": "H100-SXM-80GB", "name": "A", "bf16_tflops": 1300},'
                ' {"id": "b", "inherit": "a", "name": "B", "bf16_tflops": 1800}]',
                "b: bf16_tflops 1800 is 1.8 times",
            ),
        ],
    )
    def test_are_found_through_every_inheritance(self, records, says, tmp_path):
        file = tmp_path / "chips.json"
        file.write_text(records)
        ended = planner("chips", "check", file)
        assert ended.code == 2
        assert says in ended.text

    def test_an_honest_figure_of_a_child_passes(self, tmp_path):
        file = tmp_path / "chips.json"
        file.write_text(
            '[{"id": "my", "inherit": "H100-SXM-80GB", "name": "M", "bf16_tflops": 900}]'
        )
        assert planner("chips", "check", file).code == 0

    def test_a_measured_rate_beyond_the_peak_is_the_users_mistake(self, tmp_path):
        text = "nodes: [{name: a, devices: [{chip: A100-SXM-80GB, measured_rows_per_s: 100000}]}]"
        cluster = written(tmp_path, text)
        for line in (
            ("plan", "gpt2", cluster, *TINY),
            ("check", "gpt2", cluster),
            ("estimate", "gpt2", cluster, "tp: 1", *TINY),
        ):
            ended = planner(*line)
            assert ended.code == 2
            assert "of the dense peak (312 TFLOP/s)" in ended.text
            assert "at most" in ended.text


class TestRow4Bandwidths:
    def test_a_scale_up_link_slower_than_pcie_is_doubted(self, tmp_path):
        text = (
            "nodes: [{name: a, devices: [{chip: A100-SXM-80GB, count: 2, "
            "fabric: {kind: nvlink, bandwidth_one_way: 12 GB/s}}]}]"
        )
        said, _plan = priced("gpt2", written(tmp_path, text))
        assert "is slower than the chip's host link" in said

    def test_a_port_above_1000_gbit_is_doubted(self, tmp_path):
        text = (
            "nodes:\n  - {name_prefix: a, count: 2, devices: [{chip: A100-SXM-80GB, count: 8}], "
            "nics: [{network: e, bandwidth_one_way: 1200 Gb/s, kind: ib}]}\n"
        )
        said, _plan = priced("gpt2", written(tmp_path, text))
        assert "one port carries 1200 Gb/s" in said


@pytest.mark.parametrize("chips", [3, 5, 6, 7])
def test_row_7_odd_counts_are_planned_and_not_rounded(chips):
    found = planned("gpt2", f"{chips}xA100-SXM-40GB", *SHALLOW)
    used = sum(len(r.devices) for p in found.plan.pipelines for s in p.stages for r in s.replicas)
    idle = sum(len(u.devices) for u in found.plan.unused_devices)
    assert used + idle == chips
    assert all(u.reason for u in found.plan.unused_devices)


class TestRow8TensorParallel:
    def test_heads_that_do_not_divide_list_the_legal_degrees(self):
        ended = planner("estimate", "qwen2-7b", FLEET, "tp: 8", *TINY)
        assert (
            shortcomings(ended, ("28 attention heads do not divide by 8", "one of 1, 2, 4")) == []
        )

    def test_across_nodes_is_a_warning_with_its_cost(self):
        line = ("estimate", "llama-3-8b", "2x8xA100-SXM-80GB @ 100Gb/s", "tp: 16", *TINY)
        ended = planner(*line)
        assert ended.code == 0
        assert "spans 2 islands" in ended.text
        assert "GB/s per chip instead of" in ended.text


def test_row_9_layers_that_do_not_divide_are_split_unevenly(tmp_path):
    plan = tmp_path / "plan.json"
    ended = planner("estimate", "llama-3-8b", FLEET, "tp: 1, pp: 3, dp: 2", *TINY, "-o", plan)
    assert ended.code == 0
    stages = json.loads(plan.read_text())["pipelines"][0]["stages"]
    assert sum(end - first for first, end in (s["layers"] for s in stages)) == 34


def test_row_10_a_batch_that_does_not_come_out_shows_the_equation():
    ended = planner(
        "estimate", "gpt2", "3xA100-SXM-40GB", "tp: 1, micro_batches: 3", "--global-batch", "10",
        "--seq-len", "512",
    )  # fmt: skip
    assert ended.code == 0
    assert "1 row × 3 micro-batches × 3 pipelines = 9, not the global batch of 10" in ended.text
    assert "--global-batch 9 or --global-batch 12" in ended.text


def test_row_12_an_old_chip_is_planned_in_a_precision_that_it_has():
    said, plan = priced("gpt2", "2xP100-SXM2-16GB")
    assert plan.inputs.job.resolved["precision"] == "fp16"
    assert "no bf16 on P100-SXM2-16GB" in said


def test_row_13_and_14_memories_are_not_one_pool():
    ended = planner("plan", "llama-3-8b", "2xT4-16GB", *TINY)
    assert ended.code == 3
    assert "memories of devices do not add up to one pool" in ended.text
    assert "are missing per device" in ended.text


def test_row_15_links_inside_a_node_are_assumed_and_marked():
    said, _plan = priced("gpt2", "2xRTX4090-24GB")
    assert "pcie4x16" in said
    assert "Assumed, not given" in said


class TestRow16NominalAndReal:
    TEXT = (
        "nodes:\n  - {{name_prefix: a, count: 2, devices: [{{chip: RTX4090-24GB}}], "
        "nics: [{{network: e, bandwidth_one_way: 40 Gb/s{}}}]}}\n"
    )

    def test_tcp_is_flagged_and_does_not_carry_its_nominal_rate(self, tmp_path):
        said, plan = priced("gpt2", written(tmp_path, self.TEXT.format("")))
        assert "hosts are joined by TCP" in said
        assert any("per host achieves" in line for line in plan.assumptions)

    def test_a_measured_rate_above_the_nominal_is_refused(self, tmp_path):
        text = self.TEXT.format(", measured_bandwidth_one_way: 60 Gb/s")
        ended = planner("plan", "gpt2", written(tmp_path, text), *TINY)
        assert shortcomings(ended, ("measured_bandwidth_one_way", "60 Gb/s")) == []


def test_row_17_hosts_are_names_and_never_contacted(tmp_path):
    text = "nodes: [{name: no-such-host.invalid, devices: [{chip: A100-SXM-40GB}]}]"
    _said, plan = priced("gpt2", written(tmp_path, text))
    assert plan.pipelines[0].stages[0].replicas[0].devices[0] == "no-such-host.invalid/0"


class TestRow18StrayValues:
    @pytest.mark.parametrize(
        ("device", "says"),
        [
            ("count: 1111", "1024"),
            ("count: -1", "1"),
            ("count: 1.5", "whole number"),
            ("derate: 0", "0.01"),
            ("measured_rows_per_s: 0", "greater than 0"),
            ("measured_rows_per_s: .inf", "finite"),
            ("measured_rows_per_s: 1.0e-9", "hours"),
        ],
    )
    def test_are_out_of_range(self, device, says, tmp_path):
        text = f"nodes: [{{name: a, devices: [{{chip: A100-SXM-80GB, {device}}}]}}]"
        ended = planner("plan", "gpt2", written(tmp_path, text), *TINY)
        assert shortcomings(ended, (says,)) == []

    def test_price_zero_means_unknown(self, tmp_path):
        text = (
            "chips: [{id: mine, inherit: A100-SXM-40GB, price_usd_per_hour: 0}]\n"
            "nodes: [{name: a, devices: [{chip: mine}]}]"
        )
        _said, plan = priced("gpt2", written(tmp_path, text))
        (own,) = plan.inputs.cluster.resolved["chips"]
        assert own["price_usd_per_hour"] is None


def test_row_20_a_plan_for_another_batch_is_stale():
    made = planned("gpt2", "2xA100-SXM-40GB", *QUICK)
    line = ("check", made.file, "--against", "gpt2", "2xA100-SXM-40GB")
    changed = ("--set", "job.global_batch=16", "--set", "job.seq_len=512")
    ended = planner(*line, *changed)
    assert ended.code == 5
    same = ("--set", "job.global_batch=8", "--set", "job.seq_len=512")
    assert planner(*line, *same).code == 0


class TestRow21FilesThatDisagree:
    def test_a_layout_that_names_a_device_that_is_not_there(self):
        ended = planner("estimate", "gpt2", FLEET, "tp: 4, placement: [other/0-3]", *TINY)
        assert shortcomings(ended, ("no device is called other/0", "hosts are node0")) == []

    def test_a_sequence_longer_than_the_model_was_made_for(self):
        said, _plan = priced("gpt2", "2xA100-SXM-40GB", "--set", "job.seq_len=2048")
        assert "2048 tokens are more than the 1024" in said


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("vpp: 2", ("called virtual", "write virtual")),
        ("etp: 2", ("called expert_tp", "write expert_tp")),
        ("offload: true", ("offload", "'none'", "'optimizer'")),
    ],
)
def test_rows_22_and_24_techniques_are_named_or_known_by_another_name(layout, says):
    ended = planner("estimate", "mixtral-8x7b", FLEET, f"tp: 8, {layout}", *TINY)
    assert shortcomings(ended, says) == []
    assert "unknown key" not in ended.text


def test_row_23_a_slice_of_a_card_is_no_chip():
    ended = planner("plan", "gpt2", "7xA100-SXM4-40GB-MIG-1g.5gb", *TINY)
    assert shortcomings(ended, ("no chip is called",)) == []


def test_row_25_more_chips_show_what_they_are_worth():
    found = planned("gpt2", "1xA100-SXM-40GB + 1xRTX4090-24GB @ 1Gb/s", *QUICK)
    assert "tokens/s" in found.text
    assert "per chip" in found.text
    assert found.baseline("equal split") > 0


def test_row_28_all_problems_of_all_options_come_at_once():
    ended = planner(
        "plan", "lama-3-8b", "8xA100", "--forbid", "magic", "--forbid", "more", "--set", "bar",
        "--set", "job.globl_batch=4", "--set", "cluster",
    )  # fmt: skip
    says = ("magic", "more", "--set bar", "--set cluster", "llama-3-8b", "A100-SXM-80GB",
            "global_batch", "7 problems")  # fmt: skip
    assert shortcomings(ended, says) == []


def test_shipped_names_are_listed_and_shown():
    for kind, name in (
        ("models", "llama-2-13b"),
        ("clusters", "s1-a100-v100"),
        ("jobs", "s1-pretrain-13b"),
        ("layouts", "llama-2-70b-128"),
    ):
        listed = planner(kind, "list")
        assert listed.code == 0
        assert name in listed.out
        facts = json.loads(planner(kind, "list", name, "--format", "json").out)
        assert [row["name"] for row in facts] == [name]
        shown = planner(kind, "show", name)
        assert (shown.code, shown.out == "") == (0, False)
        assert json.loads(planner(kind, "show", name, "--format", "json").out)["text"] == shown.out
        wrong = planner(kind, "show", name[:-1] + "q")
        assert shortcomings(wrong, (f"did you mean {name}?",)) == []
        assert shortcomings(planner(kind, "list", "zzzz"), (f"planner {kind} list",)) == []


def test_the_exact_sizes_of_models_are_in_the_list():
    facts = json.loads(planner("models", "list", "--format", "json").out)
    sizes = {row["name"]: row["parameters"] for row in facts}
    assert sizes["llama-3-8b"] == 8_030_261_248
    assert sizes["mixtral-8x7b"] == 46_702_792_704


def test_errors_name_the_command_that_lists():
    ended = planner("plan", "nomodel", "nocluster", "nojob")
    says = ("planner models list", "planner clusters list", "planner jobs list")
    assert shortcomings(ended, says) == []
