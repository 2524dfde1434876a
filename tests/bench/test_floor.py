from __future__ import annotations

import dataclasses

import pytest
import torch

from lib.bench import floor as module
from lib.bench.floor import KNOWN, Rates, Work, copy_bandwidth, floor, matmul_rate, rates_of
from tests.bench.fakes import RATES

CPU = torch.device("cpu")


def test_work_adds_up_and_scales() -> None:
    one = Work(read=10, written=5, fmas=3, products=2, half_products=4, exponentials=1)
    assert one + one == 2 * one == one * 2 == Work(20, 10, 6, 4, 8, 2)
    assert one.bytes == 15 and one.flops == 18 and one.intensity == pytest.approx(18 / 15)


def test_the_floor_is_the_longest_part() -> None:
    # 1e9 bytes/s, 1e9 multiply-adds/s, 2e9 of products, 1e8 exponentials/s
    found = floor(Work(read=3e6, written=1e6, fmas=2e6, products=6e6, exponentials=1e5), RATES)
    assert found.parts == pytest.approx(
        {"bytes": 4e-3, "multiply-adds": 2e-3, "products": 3e-3, "exponentials": 1e-3}
    )
    assert found.seconds == pytest.approx(4e-3) and found.limit == "bytes"
    assert floor(Work(read=1, exponentials=1e6), RATES).limit == "exponentials"
    # products of both kinds share the tensor cores, each at its rate
    fast = dataclasses.replace(RATES, half_products=4e9)
    both = floor(Work(read=1, products=2e6, half_products=4e6), fast)
    assert both.parts["products"] == pytest.approx(2e-3) and both.limit == "products"


def test_rates_that_are_not_known_bound_nothing() -> None:
    plain = dataclasses.replace(RATES, products=None, exponentials=None)
    found = floor(Work(read=1e6, fmas=2e6, products=6e6, exponentials=1e9), plain)
    # products take the plain units then
    assert found.parts == pytest.approx({"bytes": 1e-3, "multiply-adds": 8e-3})


def test_the_table_says_what_the_data_sheet_says() -> None:
    h100 = KNOWN["NVIDIA H100 80GB HBM3"]
    assert 2 * h100.fmas == pytest.approx(67e12, rel=0.01)
    assert h100.products is not None and 6 * h100.products == pytest.approx(495e12, rel=0.01)
    assert h100.half_products == 6 * h100.products
    assert h100.exponentials == pytest.approx(h100.fmas / 8)
    for name, rates in KNOWN.items():
        assert rates.name == name and rates.source and rates.measured == ()


def test_an_unknown_device_has_measured_rates_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "copy_bandwidth", lambda device: 7.0)
    monkeypatch.setattr(module, "matmul_rate", lambda device: 5.0)
    both = ("bandwidth", "fmas")
    assert rates_of(CPU) == Rates("processor", "measured", 7.0, 5.0, measured=both)


def test_a_known_device_has_its_bandwidth_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "copy_bandwidth", lambda device: 7.0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    found = rates_of(torch.device("cuda"))
    assert found.bandwidth == 7.0 and found.measured == ("bandwidth",)
    assert found.exponentials == KNOWN["NVIDIA H200"].exponentials


def test_rates_are_measured_from_the_best_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        pace = iter([3.0, 2.0, 4.0])

        def time(self, work: object) -> float:
            return next(self.pace)

    clock = Clock()
    monkeypatch.setattr(module, "clock_of", lambda device: clock)
    assert copy_bandwidth(CPU, repeats=3) == 2 * (1 << 22) * 4 / 2.0
    clock.pace = iter([1.0, 0.5])
    assert matmul_rate(CPU, repeats=2) == 512**3 / 0.5
