"""The price of a layout given by hand: the search's own, and clear words where it is wrong."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from costmodels.catalog import load_catalog
from costmodels.units import PS_PER_S
from planner.baselines import equal_splits
from planner.cli import main
from planner.errors import InputError
from planner.estimate import Estimated, estimate, read_layout
from planner.estimate.devices import expand
from planner.estimate.sketch import even_batches, share_rows
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.plan import Plan
from planner.plan_file import read_plan
from planner.solve import SolveParams, prepare, solve
from planner.verify import verify

MIXED = "1xA100-SXM-40GB + 1xV100-SXM2-32GB @ 100Gb/s"
SMALL_JOB = ("job.global_batch=64", "job.seq_len=1024")


def priced(
    layout: str | Path,
    model: str = "gpt2",
    cluster: str | Path = "4xA100-SXM-40GB",
    job: str | None = None,
    sets: Sequence[str] = SMALL_JOB,
) -> Estimated:
    """Price a layout under inputs as the command line names them."""
    changes = parse_overrides(sets)
    return estimate(
        load_model(model, changes),
        load_cluster(cluster, load_catalog(), changes),
        load_job(job, changes),
        read_layout(str(layout)),
        replay=False,
    )


def refused(layout: str | Path, *args: object, **kwargs: object) -> InputError:
    with pytest.raises(InputError) as caught:
        priced(layout, *args, **kwargs)
    return caught.value


def picoseconds(seconds: float) -> int:
    return round(seconds * PS_PER_S)


def depths(plan: Plan) -> list[int]:
    return [stage.in_flight for stage in plan.pipelines[0].stages]


def layers(plan: Plan) -> list[int]:
    return [s.layers[1] - s.layers[0] for s in plan.pipelines[0].stages]


# --- the same price as the search -------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A plan over two kinds of chips that the search made, and its file."""
    changes = parse_overrides(SMALL_JOB)
    found = solve(
        load_model("gpt2"),
        load_cluster(MIXED, load_catalog()),
        load_job(None, changes),
        params=SolveParams(baselines=False),
    )
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_text(found.to_json(), encoding="utf-8")
    return found, path


def test_the_layout_of_a_plan_costs_what_the_search_said_to_the_last_bit(searched):
    plan, path = searched
    again = priced(path, cluster=MIXED).plan
    assert again.pipelines == plan.pipelines
    assert again.sync_groups == plan.sync_groups
    assert (
        again.estimate.model_copy(
            update={"simulated_step_time_s": plan.estimate.simulated_step_time_s}
        )
        == plan.estimate
    )


def test_a_short_layout_costs_what_the_equal_split_beside_a_plan_costs():
    changes = parse_overrides(SMALL_JOB)
    context = prepare(
        load_model("gpt2"), load_cluster("4xA100-SXM-40GB", load_catalog()), load_job(None, changes)
    )
    splits, _ = equal_splits(context.pricer, context.options, (0,), all_chips=False)
    assert len(splits) >= 3
    for s in splits:
        policy = ("none", "selective", "full")[s.policy]
        text = f"tp: {s.tp}, pp: {s.pp}, dp: {s.dp}, micro_batch_rows: {s.rows}, "
        plan = priced(text + f"recompute: {policy}").plan
        assert picoseconds(plan.estimate.step_time_s) == s.priced.exact_ps


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    """A plan of two stages, one on each kind of chip."""
    path = tmp_path / "plan.json"
    path.write_text(priced("pp: 2, chips: [A100, V100]", cluster=MIXED).plan.to_json(), "utf-8")
    return path


def test_a_plan_edited_by_hand_is_priced_anew(plan_file):
    body = json.loads(plan_file.read_text(encoding="utf-8"))
    first, second = body["pipelines"][0]["stages"]
    before = body["estimate"]["step_time_s"]
    # two blocks from the A100 to the V100, which is the slower one
    first["layers"][1] = second["layers"][0] = 5
    first["recompute"][0]["layers"][1] = second["recompute"][0]["layers"][0] = 5
    plan_file.write_text(json.dumps(body), encoding="utf-8")
    moved = priced(plan_file, cluster=MIXED).plan
    assert moved.estimate.step_time_s > before
    assert verify(moved) == []


def test_a_layout_is_certified_by_nothing_and_verified_all_the_same():
    plan = priced("tp: 2, pp: 2, micro_batch_rows: 4").plan
    assert plan.certificate is None
    assert verify(plan) == []


def test_a_published_run_is_priced_within_a_quarter():
    plan = priced(
        "bloom-176b-jean-zay",
        "bloom-176b",
        "48x8xA100-SXM-80GB @ 400Gb/s:ib",
        sets=("job.global_batch=2048", "job.seq_len=2048"),
    ).plan
    assert layers(plan) == [6] * 12
    assert plan.estimate.step_time_s == pytest.approx(102.03, rel=0.25)


def test_a_layout_as_people_write_it_for_128_chips_is_priced():
    found = priced("llama-2-70b-128", "llama-2-70b", "dgx-a100-x16", sets=())
    assert found.fits
    assert found.plan.plan_class == "rectangular"
    assert not found.plan.unused_devices
    assert 0.3 < found.plan.estimate.mfu < 0.65


# --- what a layout may say --------------------------------------------------------------------


def test_blocks_that_do_not_divide_are_split_unevenly_and_the_plan_says_so():
    plan = priced("pp: 4", "llama-2-7b", sets=("model.num_hidden_layers=30",)).plan
    assert layers(plan) == [1 + 8, 8, 7, 7 + 1]
    assert any("30 blocks do not divide by 4 stages" in a for a in plan.assumptions)


def test_numbers_of_blocks_leave_embedding_and_head_to_the_ends():
    plan = priced("pp: 3, layers_per_stage: [5, 4, 3]").plan
    assert [s.layers for s in plan.pipelines[0].stages] == [(0, 6), (6, 10), (10, 14)]


def test_intervals_count_all_layers():
    plan = priced("layers_per_stage: [[0, 1], [1, 13], [13, 14]]").plan
    assert layers(plan) == [1, 12, 1]


def test_classic_depth_is_the_number_of_stages_to_the_end():
    assert depths(priced("pp: 4, in_flight: classic").plan) == [4, 3, 2, 1]
    assert depths(priced("pp: 2, in_flight: [7, 1]").plan) == [7, 1]


def test_stages_behind_one_without_room_hold_no_more_than_it_can_use():
    """Every stage as deep as memory allows would be a sixth slower, on links that are slow."""
    inputs = ("llama-2-7b", "6x2xA100-SXM-40GB @ 10Gb/s")
    sets = ("job.global_batch=128", "job.seq_len=4096")
    plan = priced("pp: 12", *inputs, sets=sets).plan
    assert depths(plan) == [16, 15, 13, 12, 10, 9, 7, 6, 4, 3, 2, 1]
    assert verify(plan) == []
    deep = "pp: 12, in_flight: [16, 15, 14, 13, 12, 11, 8, 7, 5, 4, 2, 1]"
    found = priced(deep, *inputs, sets=sets)
    assert found.fits
    assert found.plan.estimate.step_time_s > 1.15 * plan.estimate.step_time_s


def test_gpipe_holds_every_micro_batch():
    plan = priced("pp: 2, dp: 1, micro_batch_rows: 8, schedule: gpipe").plan
    assert depths(plan) == [8, 8]
    assert any("gpipe" in w for w in plan.warnings)


def test_recomputation_may_differ_by_stage():
    plan = priced("pp: 2, recompute: [full, none]").plan
    assert [s.recompute[0].policy for s in plan.pipelines[0].stages] == ["full", "none"]


def test_degrees_may_differ_by_stage():
    plan = priced("tp: [2, 1, 1], dp: 1").plan
    assert [len(s.replicas[0].devices) for s in plan.pipelines[0].stages] == [2, 1, 1]
    assert plan.plan_class == "staged"


def test_pipelines_fill_the_cluster_unless_the_layout_says_how_many():
    assert len(priced("tp: 2").plan.pipelines) == 2
    one = priced("tp: 2, dp: 1").plan
    assert [len(u.devices) for u in one.unused_devices] == [2]


def test_stages_take_chips_in_the_order_of_the_layout():
    plan = priced("pp: 2, chips: [V100, A100]", cluster=MIXED).plan
    assert [s.replicas[0].chip for s in plan.pipelines[0].stages] == [
        "nvidia-v100-sxm2-32gb",
        "nvidia-a100-sxm-40gb",
    ]


def test_a_placement_names_the_devices_of_every_stage():
    plan = priced("tp: 2, placement: [node0/2-3, 'node0/1,0']").plan
    assert [s.replicas[0].devices for s in plan.pipelines[0].stages] == [
        ("node0/2", "node0/3"),
        ("node0/1", "node0/0"),
    ]


def test_devices_are_written_as_reports_write_them():
    assert list(expand("node[0-1]/0,2-3")) == [
        "node0/0", "node0/2", "node0/3", "node1/0", "node1/2", "node1/3",
    ]  # fmt: skip
    assert list(expand("gpu-a/7")) == ["gpu-a/7"]


def test_every_default_of_the_layout_is_named():
    named = [a for a in priced("pp: 2").plan.assumptions if a.startswith("layout: ")]
    assert len(named) == 7
    assert "layout: ZeRO level 1, as the search would choose (default)" in named


# --- the batch --------------------------------------------------------------------------------


def test_rows_are_shared_as_evenly_as_can_be():
    # 256 = 4 * 37 + 3 * 36; 37 rows are 19 micro-batches, the last of one row
    assert share_rows(256, 7, 2) == [(19, 1)] * 4 + [(18, 2)] * 3
    assert even_batches(256, 14) == (252, 266)
    assert even_batches(256, 64) == ()
    assert even_batches(10, 16) == (16,)


def test_a_batch_that_does_not_divide_is_priced_unevenly_beside_the_two_that_do():
    plan = priced(
        "dp: 7, micro_batch_rows: 2, micro_batches: 18, recompute: full",
        "llama-3-8b", "s3-seven-a100", "s3-sft-8b", sets=(),
    ).plan  # fmt: skip
    (warning,) = [w for w in plan.warnings if "not the global batch" in w]
    assert "2 rows × 18 micro-batches × 7 pipelines = 252, not the global batch of 256" in warning
    assert "36 or 37 rows per pipeline" in warning
    assert "weighted by rows" in warning
    assert [a.global_batch for a in plan.alternatives] == [252, 266]
    assert (
        sum(
            (p.micro_batches - 1) * p.micro_batch_rows + p.last_micro_batch_rows
            for p in plan.pipelines
        )
        == 256
    )
    assert verify(plan) == []


def test_micro_batches_that_contradict_a_batch_that_divides_are_told():
    plan = priced("dp: 4, micro_batch_rows: 2, micro_batches: 9").plan
    assert plan.pipelines[0].micro_batches == 8
    assert any("2 rows × 9 micro-batches × 4 pipelines = 72" in w for w in plan.warnings)


def test_more_pipelines_than_rows_are_refused():
    (problem,) = refused("dp: 4", sets=("job.global_batch=3",)).problems
    assert problem.message == "4 pipelines share a global batch of 3 rows"


# --- layouts that are wrong -------------------------------------------------------------------


def test_a_degree_that_does_not_divide_the_heads_is_answered_with_those_that_do():
    (problem,) = refused("tp: 7", "llama-3-8b", "s3-seven-a100").problems
    assert problem.message == "tp 7 is not possible: 32 attention heads do not divide by 7"
    assert problem.remedy == "one of 1, 2, 4"


def test_layers_that_do_not_sum_up_show_both_sums():
    (problem,) = refused(
        "pp: 4, layers_per_stage: [8, 8, 8, 8]",
        "llama-2-7b",
        sets=("model.num_hidden_layers=30",),
    ).problems
    assert "sums to 32, but Llama-2-7b-hf has 30 blocks" in problem.message
    assert problem.remedy == "for example [8, 8, 7, 7]"


def test_more_chips_than_the_cluster_has_show_the_equation():
    (problem,) = refused("tp: 2, pp: 2, dp: 2").problems
    assert problem.message == "tp 2 × pp 2 × dp 2 = 8 chips, but the cluster has 4"
    assert problem.remedy == "dp: 1 at most"


def test_groups_that_do_not_fit_into_the_islands_are_told():
    (problem,) = refused("tp: 4, pp: 3, dp: 1", cluster="2x6xA100-SXM-40GB @ 100Gb/s").problems
    assert "after 2 groups there is no island with 4 chips left" in problem.message


def test_all_problems_of_a_file_come_at_once_with_their_lines(tmp_path):
    path = tmp_path / "layout.yaml"
    path.write_text("tp: 5\npp: 2\nlayers_per_stage: [6, 7]\nchips: [H100]\n", encoding="utf-8")
    found = refused(path).problems
    assert [p.where for p in found] == [
        f"{path}:1: tp",
        f"{path}:3: layers_per_stage",
        f"{path}:4: chips[0]",
    ]


def test_unknown_keys_name_the_nearest_known_one(tmp_path):
    path = tmp_path / "layout.yaml"
    path.write_text("tp: 2\nrecompte: full\nzero: 4\n", encoding="utf-8")
    key, zero = refused(path).problems
    assert (key.where, key.remedy) == (f"{path}:2: recompte", "did you mean recompute?")
    assert (zero.where, zero.message) == (f"{path}:3: zero", "4 should be less than or equal to 3")


@pytest.mark.parametrize(
    ("layout", "where", "message"),
    [
        ("pp: 2, recompute: [full]", "recompute", "has 1 entry, but there are 2 stages (pp: 2)"),
        ("pp: 13", "pp", "13 stages, but gpt2 has only 12 blocks"),
        ("layers_per_stage: [[0, 7], [8, 14]]", "layers_per_stage[1]", "stage 2 starts at layer 8"),
        ("layers_per_stage: [[0, 7], [7, 13]]", "layers_per_stage[1]", "end at layer 13, but gpt2"),
        ("layers_per_stage: [6, [7, 14]]", "layers_per_stage", "mixes numbers of layers and"),
        ("layers_per_stage: [6, 0, 6]", "layers_per_stage[1]", "stage 2 holds no layer"),
        ("in_flight: [1, 2]", "in_flight[1]", "stage 2 holds 2 micro-batches, more than the 1"),
        ("placement: [node0/0, node0/0]", "placement[1]", "node0/0 is used twice"),
        ("placement: [node0/4]", "placement[0]", "no device is called node0/4"),
        ("tp: 2, placement: [node0/0-2]", "placement[0]", "names 3 devices, but tp 2 × dp 1 = 2"),
        ("placement: ['node0/0-999999999']", "placement[0]", "names more devices than the 4 of"),
        ("chips: []", "chips", "names no chip"),
        ("chips: [T4]", "chips[0]", "'T4' is not in the cluster"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_what_is_wrong(layout, where, message):
    problem = refused(layout).problems[0]
    assert problem.where == f"layout:1: {where}"
    assert message in problem.message


def test_a_name_that_is_no_layout_names_the_nearest():
    (problem,) = refused("bloom-176b").problems
    assert "did you mean bloom-176b-jean-zay?" in problem.remedy


def test_the_plan_of_another_model_is_refused_with_the_line(plan_file):
    first = refused(plan_file, "opt-350m", MIXED).problems[0]
    assert first.where.startswith(f"{plan_file}:")
    assert "the plan is for gpt2 with 14 layers" in first.message


def test_the_plan_of_another_batch_is_refused_with_its_own(plan_file):
    (problem,) = refused(plan_file, cluster=MIXED, sets=("job.global_batch=32",)).problems
    assert problem.message == "the pipelines run 64 rows per step, not 32"


def test_the_plan_of_another_cluster_names_the_missing_device(plan_file):
    (problem,) = refused(plan_file, cluster="1xA100-SXM-40GB").problems
    assert problem.message == "no device is called node1/0"


def test_every_contradiction_in_a_plan_is_told(plan_file):
    body = json.loads(plan_file.read_text(encoding="utf-8"))
    first, second = body["pipelines"][0]["stages"]
    second["layers"] = [8, 13]
    second["in_flight"] = first["in_flight"] + 1
    second["replicas"][0]["devices"] = first["replicas"][0]["devices"]
    plan_file.write_text(json.dumps(body), encoding="utf-8")
    text = str(refused(plan_file, cluster=MIXED))
    assert "[8, 13) does not follow layer 6" in text
    assert "end at layer 13, but gpt2 has 14" in text
    assert "depths are at least 1 and must not increase" in text
    assert "node0/0 is used already by pipelines[0].stages[0].replicas[0]" in text


# --- what the search would not do -------------------------------------------------------------


def test_what_the_job_forbids_is_priced_with_a_warning():
    sets = (*SMALL_JOB, "job.techniques.recompute_full=false", "job.micro_batch_rows=[1]")
    plan = priced("pp: 2, recompute: full, micro_batch_rows: 2", sets=sets).plan
    told = [w for w in plan.warnings if w.startswith("layout: ")]
    assert "against the job, it uses full recomputation" in told[0]
    assert "2 rows per micro-batch, the job allows 1" in told[1]


def test_tensor_parallelism_across_islands_runs_at_the_speed_of_the_network():
    # 100 Gb/s of TCP achieve 5.625 GB/s per node of two chips; both chips of a group share it
    sets = (*SMALL_JOB, "model.n_head=12")
    wide = priced("tp: 4", cluster="2x2xA100-SXM-40GB @ 100Gb/s", sets=sets).plan
    inside = priced("tp: 4", sets=sets).plan
    assert any("5.62 GB/s per chip instead of" in w for w in wide.warnings)
    times = [p.pipelines[0].stages[0].replicas[0].time_s for p in (wide, inside)]
    assert times[0].forward == times[1].forward
    assert times[0].tp_comm_forward > 10 * times[1].tp_comm_forward


def test_stages_and_groups_that_no_network_joins_are_refused(tmp_path):
    path = tmp_path / "apart.yaml"
    nodes = [
        f"  - {{name: {name}, devices: [{{chip: A100-SXM-40GB, count: 1}}], "
        f"nics: [{{network: {network}, bandwidth_one_way: 100 Gb/s}}]}}\n"
        for name, network in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "two"))
    ]
    path.write_text("name: apart\nnodes:\n" + "".join(nodes), encoding="utf-8")
    (group,) = refused("tp: 2, placement: [[a/0, c/0]]", cluster=path).problems
    assert group.message.startswith("tp 2 cannot be priced: no network joins a/")
    hop = refused("placement: [a/0, c/0]", cluster=path).problems[0]
    assert "no network joins a/" in hop.message


def test_a_group_of_unlike_chips_is_refused():
    (problem,) = refused("tp: 2, placement: [[node0/0, node1/0]]", cluster=MIXED).problems
    assert "cannot mix islands of 1xA100-SXM-40GB and 1xV100-SXM2-32GB" in problem.message


def test_gradients_across_vendors_are_priced_with_a_warning():
    plan = priced("dp: 2", cluster="1xA100-SXM-80GB + 1x910B3-64GB @ 100Gb/s").plan
    (warning,) = [w for w in plan.warnings if "Huawei" in w]
    assert "cluster.cross_vendor_collectives=cpu-staged" in warning
    assert [p.where for p in verify(plan)]


# --- memory -----------------------------------------------------------------------------------


def test_what_does_not_fit_is_priced_and_says_by_how_much():
    found = priced("tp: 2", "llama-2-7b", sets=("job.global_batch=64",))
    (short,) = found.shortfalls
    memory = found.plan.pipelines[0].stages[0].replicas[0].memory_bytes
    assert short.peak - short.usable == memory.peak - memory.usable > 0
    assert (short.number, short.pipelines) == (1, 2)
    assert found.plan.warnings[0].startswith("does not fit: stage 1 (layers 0–33 on A100-SXM-40GB)")
    assert found.plan.estimate.step_time_s > 0


def test_the_changes_that_are_offered_do_make_it_fit():
    sets = ("job.global_batch=64",)
    offered = priced("tp: 4, micro_batch_rows: 8", "llama-2-7b", sets=sets).plan.alternatives
    assert "recompute: full" in [a.change for a in offered]
    for change in offered:
        fields = {"tp": "4", "micro_batch_rows": "8"}
        fields |= dict(part.split(": ") for part in change.change.split(", "))
        text = ", ".join(f"{key}: {value}" for key, value in fields.items())
        again = priced(text, "llama-2-7b", sets=sets)
        assert again.fits
        assert again.plan.estimate.step_time_s == change.step_time_s


# --- the command ------------------------------------------------------------------------------

COMMAND = ["estimate", "gpt2", "4xA100-SXM-40GB", "--global-batch", "64", "--seq-len", "1024"]
TOO_LARGE = ["estimate", "llama-2-7b", "4xA100-SXM-40GB", "tp: 2", "--global-batch", "64"]


def test_the_report_is_that_of_a_plan_and_ends_with_the_verdict(capsys):
    assert main([*COMMAND, "tp: 2, pp: 2"]) == 0
    out = capsys.readouterr().out
    assert "step time" in out
    assert "replayed event by event" in out
    assert out.splitlines()[-1].startswith("fits: every chip keeps at least")


def test_a_written_plan_is_accepted_by_check_show_and_simulate(tmp_path, capsys):
    path = tmp_path / "plan.json"
    assert main([*COMMAND, "pp: 2, dp: 2", "-o", str(path), "--quiet"]) == 0
    assert read_plan(path).certificate is None
    for command in ("check", "show", "simulate"):
        assert main([command, str(path)]) == 0
    capsys.readouterr()


def test_json_is_the_plan_and_twice_the_same(capsys):
    texts = []
    for _ in range(2):
        assert main([*COMMAND, "pp: 2", "--format", "json"]) == 0
        texts.append(capsys.readouterr().out)
    assert Plan.model_validate_json(texts[0]).certificate is None
    assert texts[0] == texts[1]


def test_a_layout_that_does_not_fit_is_an_answer_with_a_verdict(capsys):
    assert main(TOO_LARGE) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("does not fit: up to ")


def test_with_must_fit_it_is_a_failure_and_nothing_is_written(tmp_path, capsys):
    path = tmp_path / "plan.json"
    assert main([*TOO_LARGE, "--must-fit", "--quiet", "-o", str(path)]) == 3
    assert "GiB too much per chip" in capsys.readouterr().err
    assert not path.exists()


def test_problems_of_the_layout_and_of_the_other_inputs_come_together(capsys):
    code = main(["estimate", "gpt", "4xA100", "tp: 2, ppp: 2", "--format", "json"])
    body = json.loads(capsys.readouterr().out)["error"]
    assert code == 2
    assert len(body["problems"]) == 3
