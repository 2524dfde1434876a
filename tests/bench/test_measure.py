from __future__ import annotations

import pytest
import torch

from lib.bench.measure import (
    BenchError,
    CpuClock,
    Timing,
    captured,
    check,
    clock_of,
    measure,
    quartiles,
    ratios,
    relative_error,
)
from tests.bench.fakes import FakeClock, Log


@pytest.fixture
def log() -> Log:
    return Log(FakeClock())


def timed(log: Log, contestants: list, **options: object) -> list[Timing]:
    errors = {contestant.name: 0.0 for contestant in contestants}
    return measure(contestants, log.clock, errors=errors, **options)  # type: ignore[arg-type]


def test_contestants_take_turns_and_inputs_rotate(log: Log) -> None:
    ours, peer = log.contestant("a", 1.0, sets=2), log.contestant("b", 1.0, sets=2)
    timed(log, [ours, peer], repeats=2)
    lap = {"a": ["a0", "a1"], "b": ["b0", "b1"]}
    # a lap of warm-up and one to see how long it takes, then in turns
    assert log.calls[:8] == lap["a"] * 2 + lap["b"] * 2
    assert log.calls[8:] == (lap["a"] + lap["b"]) * 2


def test_laps_fill_the_window_up_to_a_limit(log: Log) -> None:
    quick, slow = log.contestant("quick", 0.003), log.contestant("slow", 5.0)
    few = log.contestant("few", 0.001, most_laps=4)
    found = timed(log, [quick, slow, few], repeats=1, window=0.01)
    assert [timing.laps for timing in found] == [4, 1, 4]
    (still,) = timed(log, [log.contestant("still", 0.0)], repeats=1)
    assert still.laps == 1000


def test_times_are_of_one_call(log: Log) -> None:
    (timing,) = timed(log, [log.contestant("a", 0.002, sets=3)], repeats=4, window=0.05)
    assert timing.ms == pytest.approx([2.0] * 4)
    assert timing.name == "a" and timing.laps == 9


def test_medians_quartiles_and_the_fastest(log: Log) -> None:
    # two calls before the repeats, then 1, 5, 2, 4, 3 seconds
    pace = [1.0, 1.0, 1.0, 5.0, 2.0, 4.0, 3.0]
    (timing,) = timed(log, [log.contestant("a", pace)], repeats=5)
    assert timing.ms == pytest.approx([1e3, 5e3, 2e3, 4e3, 3e3])
    assert timing.median == pytest.approx(3e3) and timing.fastest == pytest.approx(1e3)
    assert timing.quartiles == pytest.approx((2e3, 4e3))
    assert quartiles([7.0]) == (7.0, 7.0)


def test_ratios_are_formed_within_a_repeat() -> None:
    # a machine that is ten times slower in the second half says the same of both
    ours = Timing("ours", (1.0, 1.0, 10.0, 10.0), 0.0, 1)
    peer = Timing("peer", (3.0, 3.0, 30.0, 30.0), 0.0, 1)
    assert ratios(peer, ours) == (3.0, 3.0, 3.0)
    assert ratios(Timing("p", (2.0, 4.0, 6.0), 0.0, 1), Timing("o", (2.0,) * 3, 0.0, 1)) == (
        2.0, 1.5, 2.5,
    )  # fmt: skip


def test_reset_runs_before_each_timing_and_outside_of_it(log: Log) -> None:
    def reset() -> None:
        log.calls.append("reset")
        log.clock.now += 100.0

    (timing,) = timed(log, [log.contestant("a", 1.0, reset=reset)], repeats=2)
    assert log.calls == ["a0", "reset", "a0", "reset", "a0", "reset", "a0"]
    assert timing.ms == pytest.approx([1e3, 1e3])


def test_names_must_differ(log: Log) -> None:
    same = [log.contestant("a", 1.0), log.contestant("a", 1.0)]
    with pytest.raises(BenchError, match=r"contestants are \['a', 'a'\], allowed: different names"):
        timed(log, same, repeats=1)
    assert log.calls == []


def test_what_is_not_finite_or_not_the_same_is_refused(log: Log) -> None:
    one = torch.ones(4)
    entries = {
        "first": [one, 2 * one],
        "near": [one, 2.002 * one],
        "far": [one, 2.2 * one],
        "nan": [one, one / 0 - one / 0],
        "inf": [one / 0, 2 * one],
        "short": [one],
        "shape": [one, 2 * torch.ones(5)],
    }
    contestants = [log.contestant(name, 1.0, outputs) for name, outputs in entries.items()]
    errors, refused = check(contestants, tolerance=0.01)
    assert set(errors) == {"first", "near"}
    assert errors["first"] == 0 and errors["near"] == pytest.approx(1e-3, rel=1e-3)
    assert refused == {
        "far": "refused: it differs from first by 1.0e-01, allowed: 1e-02",
        "nan": "refused: output 1 is not finite",
        "inf": "refused: output 0 is not finite",
        "short": "refused: it has 1 outputs, first has 2",
        "shape": "refused: it differs from first by inf, allowed: 1e-02",
    }
    assert log.calls == []  # checking is not timing


def test_each_output_has_its_tolerance_and_the_last_one_holds_for_the_rest(log: Log) -> None:
    one = torch.ones(4)
    entries = {
        "first": [one, one, one],
        "near": [1.005 * one, 1.05 * one, 1.05 * one],
        "first output": [1.05 * one, one, one],
        "last output": [one, one, 1.2 * one],
    }
    contestants = [log.contestant(name, 1.0, outputs) for name, outputs in entries.items()]
    errors, refused = check(contestants, (0.01, 0.1))
    assert errors == {"first": 0.0, "near": pytest.approx(0.05, rel=1e-3)}
    assert refused == {
        "first output": "refused: it differs from first by 5.0e-02, allowed: 1e-02",
        "last output": "refused: it differs from first by 2.0e-01, allowed: 1e-01",
    }


def test_the_first_sound_contestant_is_the_measure(log: Log) -> None:
    bad = log.contestant("bad", 1.0, [torch.full((2,), torch.nan)])
    good = log.contestant("good", 1.0, [torch.ones(2)])
    errors, refused = check([bad, good], 1e-3)
    assert errors == {"good": 0.0} and list(refused) == ["bad"]
    assert check([], 1e-3) == ({}, {})


def test_relative_error_of_zero_is_absolute() -> None:
    assert relative_error(torch.tensor([3.0, 4.0]), torch.zeros(2)) == 5.0
    assert relative_error(torch.tensor([3.0]), torch.tensor([2.0])) == 0.5


def test_the_processor_s_clock_measures_wall_time() -> None:
    clock = clock_of(torch.device("cpu"))
    assert isinstance(clock, CpuClock)
    assert clock.time(lambda: None) >= 0


def test_what_cannot_be_captured_says_so(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("no stream here\nand more of it")

    monkeypatch.setattr(torch.cuda, "Stream", refuse)
    found = captured(log.contestant("a", 1.0, note="plain"))
    assert found.graph is None
    assert found.note == "plain; not captured (RuntimeError: no stream here)"


def test_a_graph_takes_the_place_of_the_calls(log: Log) -> None:
    class Graph:
        replayed = 0

        def replay(self) -> None:
            self.replayed += 1

    graph = Graph()
    log.contestant("a", 1.0, sets=3, graph=graph).lap()
    assert graph.replayed == 1 and log.calls == []
