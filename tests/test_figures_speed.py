from __future__ import annotations

import pandas as pd
import pytest

from lib.figures import speed

RATES = {"bandwidth": 1e9, "fmas": 1e12, "products": 2e12, "exponentials": 1e10}
POINTS = pd.DataFrame(
    {
        "benchmark": ["a", "a", "b"],
        "device": ["NVIDIA H200"] * 3,
        "contestant": ["fused", "peer", "fused"],
        "ours": [True, False, True],
        "intensity": [10.0, 10.0, 100.0],
        "rate": [5e9, 1e9, 4e10],
        "exponentials": [0.05, 0.05, 0.0],
    }
)


def test_a_roofline_has_every_known_ceiling_and_every_point() -> None:
    figure = speed.roofline(POINTS, RATES, "T")
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines"}
    labels = [label.format(each=20) for label, _ in speed.CEILINGS.values()]
    assert set(lines) == set(labels) and labels[-1] == "exponentials, one for each 20 flop"
    memory = lines["memory"]
    assert [y / x for x, y in zip(memory.x, memory.y, strict=True)] == pytest.approx([1e9, 1e9])
    # two flop for each multiply-add; one exponential for each 20 flop
    assert list(lines[speed.CEILINGS["fmas"][0]].y) == [2e12] * 2
    assert list(lines[labels[-1]].y) == pytest.approx([2e11] * 2)
    marks = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    assert set(marks) == {"fused (ours)", "peer"}
    assert list(marks["fused (ours)"].y) == [5e9, 4e10]
    assert marks["peer"].marker.symbol.endswith("-open")
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert "byte" in figure.layout.xaxis.title.text and "flop/s" in figure.layout.yaxis.title.text


def test_the_line_of_memory_ends_at_the_highest_ceiling() -> None:
    figure = speed.roofline(POINTS, {**RATES, "bandwidth": 1e11}, "T")
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines"}
    assert lines["memory"].x[1] == 40 and lines["memory"].y[1] == 4e12
    # far left of all points it is seen too, and the others begin with it
    figure = speed.roofline(POINTS, {**RATES, "bandwidth": 1e13}, "T")
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines"}
    assert lines["memory"].x[1] == pytest.approx(0.4)
    assert {line.x[0] for line in lines.values()} == {0.1}


def test_exponentials_that_bound_nothing_have_no_line() -> None:
    few = POINTS.assign(exponentials=[0.002, 0.002, 0.0])
    figure = speed.roofline(few, RATES, "T")
    names = [trace.name for trace in figure.data if trace.mode == "lines"]
    assert len(names) == 3 and not any("exponentials" in name for name in names)


def test_a_contestant_looks_alike_in_every_figure() -> None:
    others = POINTS.assign(contestant=["fused", "compiled", "fused"])
    for points in (POINTS, others):
        figure = speed.roofline(points, RATES, "T")
        (ours,) = (trace for trace in figure.data if trace.name == "fused (ours)")
        assert (ours.marker.color, ours.marker.symbol) == speed.LOOKS["fused"]
    assert len({*speed.LOOKS.values(), speed.OTHER}) == len(speed.LOOKS) + 1


def test_points_of_two_devices_have_no_common_ceilings() -> None:
    mixed = POINTS.assign(device=["NVIDIA H200", "NVIDIA H200", "NVIDIA H100 80GB HBM3"])
    with pytest.raises(ValueError, match="points are of 2 devices, allowed: one"):
        speed.roofline(mixed, RATES, "T")


def test_rates_that_are_not_known_are_not_drawn() -> None:
    unknown = {**RATES, "products": None, "exponentials": None}
    figure = speed.roofline(POINTS, unknown, "T")
    assert sum(trace.mode == "lines" for trace in figure.data) == 2


def test_bars_show_every_part_in_microseconds() -> None:
    (bars,) = speed.floor_bars({"bytes": 1e-6, "exponentials": 3e-6}, "T").data
    shown = dict(zip(bars.y, bars.x, strict=True))
    assert shown == pytest.approx(
        {"bytes": 1.0, "multiply-adds": 0.0, "products": 0.0, "exponentials": 3.0}
    )


def test_times_show_every_repeat() -> None:
    frame = pd.DataFrame({"contestant": ["a", "b"] * 3, "ms": [1.0, 2.0, 1.1, 2.1, 1.2, 2.2]})
    figure = speed.times(frame, "T")
    assert [list(trace.x) for trace in figure.data] == [[1.0, 1.1, 1.2], [2.0, 2.1, 2.2]]
    assert figure.layout.title.y is None
    assert speed.times(frame, "T<br>U").layout.title.y < 0.97  # two lines have room
    assert all(trace.boxpoints == "all" for trace in figure.data)
