"""Fitting: what was put in comes out, few rows and outliers say little."""

import math
from dataclasses import replace

import pytest

from costmodels.calibration import constant_names, fit
from costmodels.catalog.efficiencies import Efficiencies, Fitted, Setting
from costmodels.collectives import Links
from costmodels.constants import NAMES, constants_data, judged_constants, shipped_constants
from costmodels.fitted import Calibration
from costmodels.memory import adam_state
from costmodels.provenance import MEANINGS, constants_document, efficiencies_document
from costmodels.step import Run, price_step
from costmodels.unknowns import Measured
from tests.costmodels.blocks import LLAMA_8B, chip, embedding, fabric, vocabulary_head

LAYERS = (embedding(4096, 32000), *[LLAMA_8B] * 4, vocabulary_head(4096, 32000))
START = Calibration(shipped_constants())
SETTING = Setting("16", "fa2", "stack")


def run(rows: int, seq_len: int = 2048) -> Run:
    return Run(
        layers=LAYERS,
        cuts=(0, len(LAYERS)),
        chip=chip(),
        links=Links(fabric(), 8),
        seq_len=seq_len,
        precision="bf16",
        state=adam_state("bf16"),
        rows=rows,
        micro_batches=4,
    )


def truth(share: float) -> Calibration:
    table = {("a100-sxm", "16"): Fitted(share, share, share, 1)}
    return replace(START, efficiencies=Efficiencies(sustained=table))


def measured(calibration: Calibration, count: int, **factors: float) -> list[Measured]:
    """Rows as a machine of that calibration would produce them."""
    rows = []
    for k in range(count):
        one = run(1 + k % 4, 1024 * (1 + k % 3))
        priced = price_step(calibration.run(one, SETTING), calibration.constants, exact=False)
        factor = factors.get(f"row{k}", 1.0)
        rows.append(Measured(one, SETTING, priced.step_s * factor, f"family {k}"))
    return rows


def predicted_over_measured(calibration: Calibration, rows: list[Measured]) -> float:
    row = rows[0]
    step = price_step(calibration.run(row.run, row.setting), calibration.constants, exact=False)
    return step.step_s / row.seconds


def share(calibration: Calibration) -> float:
    return calibration.efficiencies.share(chip(), "16")


def test_a_slower_machine_is_recognised():
    rows = measured(truth(share=0.75), 24)
    found = fit(rows, START, software=False)
    assert share(found.calibration) == pytest.approx(share(truth(share=0.75)), rel=0.05)
    assert max(map(abs, found.residuals)) < 0.04


def test_a_least_time_that_no_row_feels_at_first_is_found():
    tiny = replace(START.constants, host_forward_s=1e-9, host_backward_s=1e-9)
    one = Calibration(tiny).run(run(1, 1024), SETTING)
    block = price_step(one, tiny, exact=False).stages[0].layers[1].forward_s
    unfelt = replace(tiny, host_forward_s=0.9 * block)
    assert price_step(one, unfelt).step_s == price_step(one, tiny).step_s
    seconds = price_step(one, replace(tiny, host_forward_s=1.6 * block), exact=False).step_s
    rows = [Measured(run(1, 1024), SETTING, seconds, f"family {k}") for k in range(12)]
    start = Calibration(unfelt)
    found = fit(rows, start, constants=("host_forward_s",), sections=(), software=False)
    assert found.calibration.constants.host_forward_s > 1.4 * block


def test_few_rows_stay_near_the_parent():
    slow = truth(share=0.6)
    few, many = (fit(measured(slow, n), START, software=False).calibration for n in (1, 24))
    assert share(many) < share(few) < share(START)


def test_one_outlier_among_many_changes_little():
    rows = measured(truth(share=0.8), 16, row3=6.0)
    clean = fit(measured(truth(share=0.8), 16), START, software=False).calibration
    spoilt = fit(rows, START, software=False).calibration
    assert share(spoilt) == pytest.approx(share(clean), rel=0.04)


def test_more_rows_narrow_the_interval():
    def width(count: int) -> float:
        found = fit(measured(truth(share=0.8), count), START, software=False).calibration
        own = found.efficiencies.sustained["a100-sxm", "16"]
        assert own.rows == count
        return math.log(own.high / own.low)

    assert width(24) < width(4)


def test_the_same_rows_give_the_same_figures():
    rows = measured(truth(share=0.8), 6, row1=1.2)
    assert fit(rows, START).calibration == fit(rows, START).calibration


def test_a_generation_of_software_has_its_own_pace():
    rows = [replace(r, seconds=r.seconds * 1.3) for r in measured(START, 12)]
    other = [replace(r, setting=replace(SETTING, software="new")) for r in measured(START, 12)]
    pace = fit(rows + other, START).calibration.efficiencies.pace
    assert pace["a100-sxm", "16", "stack"].value > 1.05
    assert pace["a100-sxm", "16", "new"].value < pace["a100-sxm", "16", "stack"].value


def test_only_the_sections_that_may_move_do():
    found = fit(measured(truth(share=0.7), 6), START, software=False, sections=("sustained",))
    assert set(found.calibration.efficiencies.sustained) == {("a100-sxm", "16")}
    assert found.calibration.efficiencies.vendor == {}


def test_a_constant_is_fitted_with_what_determines_it():
    slow = replace(START.constants, stream=0.8 * START.constants.stream)
    rows = measured(replace(START, constants=slow), 24)
    found = fit(rows, START, constants=("stream",), software=False, sections=())
    assert found.constants["stream"].value < START.constants.stream
    assert found.constants["stream"].low < found.constants["stream"].high
    assert found.constants["stream"].rows == 24
    assert found.leverage["stream"]


def test_leaving_rows_out_is_fitting_the_others():
    rows = measured(truth(share=0.8), 12) + measured(truth(share=0.6), 12)
    left = frozenset(range(12, 24))
    apart = fit(rows, START, software=False).tangent.without(left)
    alone = fit(rows[:12], START, software=False).calibration
    assert share(apart) == pytest.approx(share(alone), rel=0.01)


def test_what_only_rows_left_out_told_is_not_known():
    other = [replace(r, setting=replace(SETTING, software="new")) for r in measured(START, 4)]
    found = fit([*measured(START, 8), *other], START)
    apart = found.tangent.without(frozenset(range(8, 12))).efficiencies
    assert ("a100-sxm", "16", "stack") in apart.pace
    assert ("a100-sxm", "16", "new") not in apart.pace
    none = found.tangent.without(frozenset(), software=False)
    assert none.efficiencies.pace == {}


def test_nothing_to_fit_is_an_error():
    with pytest.raises(ValueError, match="nothing to fit"):
        fit([], START)


def test_every_shipped_constant_has_a_unit_a_meaning_and_its_evidence():
    data = constants_data()
    assert set(data) == set(NAMES) == set(MEANINGS)
    for name, entry in data.items():
        assert entry["unit"] == MEANINGS[name][0]
        assert entry["meaning"] == MEANINGS[name][1]
        assert entry["evidence"]
        if name in constant_names():
            assert entry["low"] < entry["value"] < entry["high"]
        else:
            assert entry["value"] == entry["judged"] == getattr(judged_constants(), name)


def test_constants_stay_physical():
    c = shipped_constants()
    assert all(getattr(c, name) > 0 for name in NAMES if name != "jitter")
    assert 0.5 < c.stream < 1
    assert all(0 < share <= 1 for _, _, share in c.tiles)
    assert c.gradient_tail < 1
    assert 1e-6 < c.launch_s < 3e-5


def test_documents_hold_what_was_fitted():
    rows = measured(truth(share=0.8), 6)
    found = fit(rows, START, constants=("stream",), software=False)
    constants = constants_document(found, judged_constants())["constants"]
    assert constants["stream"]["value"] == pytest.approx(found.constants["stream"].value, rel=1e-3)
    assert "sustained" in efficiencies_document(found)
