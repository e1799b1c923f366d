"""Profiles in the layouts of other planners."""

import json

import pytest

from planner.cli import main
from planner.errors import InputError
from planner.inputs.foreign_profiles import Wanted, import_profile, recognise


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def info(layers):
    return {
        str(k): {
            "params_floats": w // 4,
            "params_bytes": w,
            "act_mem_bytes": a,
            "act_output_bytes": 1,
        }
        for k, (w, a) in enumerate(layers)
    }


@pytest.fixture
def sailor(tmp_path):
    """Embedding, three blocks of which the last two are equal, head; tp 1 at 1 and 2 rows."""
    times = {
        "0": [0.001, 0.0, 0.010],
        "1": [0.004, 0.008, 0.010],
        "2": [0.003, 0.008, 0.010],
        "3": [0.003, 0.008, 0.010],
        "4": [0.005, 0.006, 0.010],
    }
    doubled = {k: [2 * f, 2 * b, u] for k, (f, b, u) in times.items()}
    write(
        tmp_path / "profiles" / "toy" / "V100-16" / "profile.json",
        {"2": {"1": doubled}, "1": {"1": times}},
    )
    layers = [(400, 10), (100, 50), (100, 50), (100, 50), (200, 80)]
    write(tmp_path / "llm_info.json", {"toy": {"1": info(layers)}})
    rate = [[0.0, 1.0, 2.0], 3e9]  # 2 GB/s at 1 MB, one more with every doubling, at most 3
    zone = {"V100-16": {"1": {"z": {"V100-16": {"1": rate}}}}}
    write(tmp_path / "network" / "multizone_bandwidths_het.json", {"z": zone})
    write(tmp_path / "network" / "intra_node_bandwidths.json", {"V100-16": {"2": [[1.0], 1e9]}})
    write(tmp_path / "training_config_toy.json", {"sequence_length": 64})
    (tmp_path / "LICENSE").write_text("MIT License\n\nCopyright (c) Somebody\n")
    return tmp_path


def test_the_layout_is_recognised(sailor, tmp_path):
    assert recognise(sailor) == "sailor"
    with pytest.raises(InputError, match="holds neither"):
        recognise(tmp_path / "network")


def test_sailor_layers_become_rows_and_equal_neighbours_intervals(sailor):
    spec = import_profile(sailor, Wanted(chips={"V100-16": "V100-SXM2-16GB"})).spec
    (chip,) = spec.chips
    assert chip.chip == "V100-SXM2-16GB"
    assert [r.layer for r in chip.rows] == [0, 1, (2, 4), 4] * 2
    assert [r.micro_batch_rows for r in chip.rows] == [1] * 4 + [2] * 4
    block = chip.rows[6]
    assert (block.forward_s, block.backward_s) == (0.006, 0.016)
    assert (block.activation_bytes, block.parameter_bytes) == (100, 100)
    assert (spec.seq_len, spec.precision, spec.transfers) == (64, "fp32", "blocking")
    assert spec.source == "MIT License. Copyright (c) Somebody"


def test_sailor_step_is_divided_among_the_layers_that_were_timed(sailor):
    rows = import_profile(sailor, Wanted()).spec.chips[0].rows[:4]
    # embedding, two different blocks and head weigh 800: the second equal block comes on top
    assert [r.update_s for r in rows] == pytest.approx([0.005, 0.00125, 0.00125, 0.0025])


def test_sailor_rates_are_sampled_up_to_their_peak(sailor):
    inside, between = import_profile(sailor, Wanted()).spec.links
    assert (inside.where, inside.chips) == ("in_node", 2)
    assert inside.points[0][1] == pytest.approx(2**20 / 1e9)
    assert (between.where, between.chips) == ("between_nodes", 1)
    by_size = dict(between.points)
    assert by_size[2**20] == pytest.approx(2**20 / (2.0684e9), rel=1e-3)
    assert by_size[2**30] == pytest.approx(2**30 / 3e9)


def test_sailor_bytes_must_be_there_for_every_degree(sailor):
    write(sailor / "llm_info.json", {"toy": {"2": {}}})
    with pytest.raises(InputError, match="tp 1 has no bytes in"):
        import_profile(sailor, Wanted())
    write(sailor / "llm_info.json", {})
    with pytest.raises(InputError, match="says nothing about toy"):
        import_profile(sailor, Wanted())


def test_several_sailor_models_must_be_told_apart(sailor):
    (sailor / "profiles" / "other").mkdir()
    with pytest.raises(InputError, match="--model with one of other, toy"):
        import_profile(sailor, Wanted())
    assert import_profile(sailor, Wanted(model="toy")).spec.model == "toy"


@pytest.fixture
def metis(tmp_path):
    for tp, rows in ((1, 1), (1, 2), (2, 1)):
        write(
            tmp_path / f"DeviceType.A100_tp{tp}_bs{rows}.json",
            {
                "model": {
                    "model_name": "GPT",
                    "parameters": {"parameters_per_layer_bytes": [400 // tp, 800 // tp]},
                },
                "execution_time": {
                    "layer_compute_total_ms": [3.0 * rows, 6.0 * rows],
                    "forward_backward_time_ms": 12.0 * rows,
                    "optimizer_time_ms": 6.0,
                },
                "execution_memory": {"layer_memory_total_mb": [1, 2]},
            },
        )
    return tmp_path


def test_metis_files_become_rows(metis):
    wanted = Wanted(seq_len=128, precision="fp16", chips={"A100": "A100-SXM-80GB"})
    found = import_profile(metis, wanted)
    first, last = found.spec.chips[0].rows[:2]
    assert (first.tensor_parallel, first.micro_batch_rows) == (1, 1)
    assert (first.forward_s, first.backward_s) == pytest.approx((0.001, 0.002))
    # the three milliseconds beyond the layers are the last one's
    assert last.forward_s + last.backward_s == pytest.approx(0.009)
    assert (first.update_s, last.update_s) == pytest.approx((0.002, 0.004))
    # a mebibyte less 16 bytes of state for each of 200 parameters
    assert first.activation_bytes == 2**20 - 200 * 16
    assert any("a third" in note for note in found.notes)


def test_metis_says_neither_length_nor_precision(metis):
    with pytest.raises(InputError) as error:
        import_profile(metis, Wanted())
    assert [p.remedy for p in error.value.problems] == ["give --seq-len", "give --precision"]


def test_metis_lists_must_have_one_figure_for_every_layer(metis):
    file = metis / "DeviceType.A100_tp1_bs1.json"
    broken = json.loads(file.read_text())
    broken["execution_memory"]["layer_memory_total_mb"] = [1]
    write(file, broken)
    with pytest.raises(InputError, match="has 2 times, 2 weights and 1 memory figures"):
        import_profile(metis, Wanted(seq_len=1, precision="fp16"))


def test_the_command_writes_a_profile_that_checks(sailor, capsys):
    out = sailor / "profile.json"
    chip = "V100-16=V100-SXM2-16GB"
    assert main(["profiles", "import", str(sailor), "--chip", chip, "-o", str(out)]) == 0
    assert "wrote" in capsys.readouterr().err
    assert main(["check", str(out)]) == 0
    assert "8 rows of 1 chip" in capsys.readouterr().out
    assert main(["profiles", "import", str(sailor)]) == 0
    assert json.loads(capsys.readouterr().out)["profile_version"] == 1
    assert main(["profiles", "import", str(sailor), "--chip", "nonsense"]) == 2
