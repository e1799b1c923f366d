"""Figures for people."""

import pytest

from planner.report.format import (
    ascii_text,
    bandwidth,
    count,
    device_list,
    duration,
    flops,
    interval,
    memory,
    percent,
    ratio,
    short_chip_names,
    span,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (3e-12, "3 ps"),
        (4.56e-6, "4.56 µs"),
        (0.0034, "3.40 ms"),
        (0.31, "310 ms"),
        (12.43, "12.43 s"),
        (119.94, "119.9 s"),
        (133.0, "133.0 s"),
        (740.0, "12 min 20 s"),
        (3600 * 5 + 720, "5 h 12 min"),
        (86_400 * 13.1, "13.1 days"),
    ],
)
def test_durations_choose_a_unit_that_reads_well(seconds, text):
    assert duration(seconds) == text


def test_memory_is_in_binary_units():
    assert memory(80 * 2**30) == "80.0 GiB"
    assert memory(512 * 2**20) == "512 MiB"


def test_bandwidth_is_given_in_bits_and_bytes():
    assert bandwidth(12.5e9) == "100 Gb/s (12.5 GB/s)"


def test_compute_rates_are_in_tflops():
    assert flops(312e12) == "312 TFLOP/s"


def test_a_small_gap_is_not_called_zero():
    assert percent(0.00004) == "less than 0.01 %"
    assert percent(0.0) == "0.00 %"
    assert percent(0.008) == "0.80 %"
    assert percent(0.412) == "41.2 %"


def test_ratios_and_counts_read_naturally():
    assert ratio(1.3449) == "1.34×"
    assert count(168_716.4) == "168,716"
    assert span([42, 43, 42]) == "42–43"
    assert span([42, 42]) == "42"


def test_intervals_name_their_last_layer():
    assert interval(0, 25) == "0–24"
    assert interval(7, 8) == "7"


def test_devices_of_one_host_are_joined():
    assert device_list(["a/0", "a/1", "a/2", "a/5"]) == "a/0-2,5"


def test_hosts_with_the_same_devices_are_joined():
    assert device_list([f"n{h}/{d}" for h in range(3) for d in range(8)]) == "n[0-2]/0-7"


def test_hosts_with_leading_zeros_stay_apart():
    assert device_list(["n01/0", "n02/0"]) == "n01/0, n02/0"


def test_chip_names_are_as_short_as_they_can_be_told_apart():
    names = short_chip_names(["nvidia-a100-sxm-80gb", "nvidia-a100-pcie-80gb", "nvidia-l4-24gb"])
    assert set(names.values()) == {"A100-SXM", "A100-PCIE", "L4"}


def test_chip_names_keep_their_model_number():
    assert short_chip_names(["rtx-4090-24gb"])["rtx-4090-24gb"] == "RTX-4090"


def test_ascii_text_keeps_the_width_of_every_line():
    drawn = "██▓░ 4 × A100 · 0–24 …"
    assert len(ascii_text(drawn)) == len(drawn)
    assert ascii_text(drawn).isascii()
