from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from lib.bench import show, targets
from lib.bench.log import LOG, LogError, load_log
from lib.config import to_dict
from lib.experiments import cells_of, find
from lib.provenance import library_hash
from lib.store import Record, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "local", tmp_path / "published")


def put(
    store: Store, target: targets.Target, status: str = "done", device: str = "test",
    lib_hash: str = "", **metrics: float,
) -> Record:  # fmt: skip
    """A record of the target's benchmark."""
    name = f"foundations.bench_{target.kind}"
    found = find(name)
    readable = found.readable(target.cell)
    provenance = {
        "device_name": device,
        "lib_hash": lib_hash or library_hash(),
        "started": "2026-11-23T09:45:59+00:00",
        "wall_seconds": 1.0,
        "ours": "fused",
        "rates": {"name": device},
        "absent": {"mamba_ssm": "not built"},
        "notes": {},
    }
    reason = None if status == "done" else "it broke"
    return store.save(
        Record(
            name,
            found.protocol,
            to_dict(target.cell),
            readable,
            status,
            metrics,
            provenance,
            reason,
        )
    )


def test_targets_are_the_issue_s() -> None:
    rows = targets.targets()
    assert [(t.reach, t.aim) for t in rows[:5]] == [
        (0.6, 0.25), (6.0, 3.0), (0.9, 0.3), (60.0, 20.0), (1.0, 1.3),
    ]  # fmt: skip
    cpu = rows[5:]
    assert {(t.cell.threads, t.cell.direction, t.metric) for t in cpu} == {
        (threads, direction, f"ratio.{peer}")
        for threads in (1, 2)
        for direction in ("forward", "both")
        for peer in ("transformers", "mambapy")
    }
    assert all(t.better == "more" and t.reach == 1.0 for t in cpu)
    # 12 gammas and 3 seeds at each of six depths, for 210 epochs of 123 batches
    sweep = rows[3].cell
    assert sweep.runs * len(sweep.models) == 72 * 3 and sweep.steps == 210 * 123
    assert 253_125 // sweep.batch == 123


def test_reached_is_a_ratio_from_one_on() -> None:
    less, more = targets.targets()[0], targets.targets()[4]
    assert less.reached(0.3) == 2.0 and less.reached(1.2) == 0.5
    assert more.reached(1.3) == 1.3


def test_the_table_has_a_row_a_target_with_and_without_records(store: Store) -> None:
    wanted = targets.targets()
    rows = targets.table(store)
    assert len(rows) == len(wanted)
    assert {row["measured"] for row in rows} == {"not run yet"}
    assert rows[0]["record"] == "python -m lib bench scan"
    scan = put(store, wanted[0], **{"fused.ms": 0.3, "floor_ms": 0.07})
    ensemble = put(store, wanted[2], **{"fused.ms": 36 * 1.8, "floor_ms": 36 * 0.1})
    put(store, wanted[3], minutes=90.0, floor_minutes=9.0)
    put(store, wanted[4], "failed")
    rows = targets.table(store)
    assert rows[0] == {
        "work": wanted[0].work, "set for": "H100 80 GB", "floor": "0.07 ms",
        "must reach": "0.6 ms", "aim": "0.25 ms", "measured": "0.3 ms", "reached": "2.00 times",
        "device": "test", "day": "2026-11-23", "record": scan.name,
    }  # fmt: skip
    # of one run of the 36
    assert rows[2]["measured"] == "1.8 ms" and rows[2]["floor"] == "0.1 ms"
    assert rows[2]["reached"] == "0.50 times" and rows[2]["record"] == ensemble.name
    assert rows[3]["measured"] == "90 min" and rows[3]["floor"] == "9 min"
    assert rows[3]["reached"] == "0.67 times"
    assert rows[4]["measured"] == "no number (it broke)" and rows[4]["reached"] == ""


def test_targets_say_on_which_device_they_were_reached(store: Store) -> None:
    wanted = targets.targets()
    put(store, wanted[0], device="NVIDIA H200", **{"fused.ms": 0.3})
    put(store, wanted[3], device="NVIDIA H100 80GB HBM3", minutes=30.0)
    put(store, wanted[5], device="AMD EPYC", **{wanted[5].metric: 2.0})
    soup = BeautifulSoup(show.targets_table(store).data, "html.parser")
    rows = soup.select("tbody tr")
    reached = [row.select("td")[-1].get_text() for row in rows]
    day = "2026-11-23"
    assert reached[0] == f"2.00 times (H200, {day})" and reached[3] == f"2.00 times (H100, {day})"
    assert reached[5] == f"2.00 times (AMD EPYC, {day})" and reached[1] == ""
    made_for = [row.select("td")[1].get_text() for row in rows]
    assert made_for == ["H100 80 GB"] * 5 + ["processor, two cores"] * 8
    assert [bool(row.select("strong")) for row in rows].count(True) == 1  # of another GPU
    assert "set for an H100. Rows marked H200 were" in soup.get_text()
    put(store, wanted[0], device="NVIDIA H100 80GB HBM3", **{"fused.ms": 0.3})
    assert "were set for" not in show.targets_table(store).data


def put_runs(
    store: Store, minutes: float, sessions: dict[int, list[dict[str, Any]]], **more: Any
) -> None:
    """Every run of the phase diagram, with so many minutes in all at each depth, the sessions of
    some depths, and `more` facts."""
    experiment = find(targets.SWEPT)
    cells = cells_of(experiment, "paper")
    depths = {cell.model.n_layers for cell in cells}
    seconds = 60 * minutes * len(depths) / len(cells)
    for cell in cells:
        facts = {"training_seconds": seconds, "device_name": "NVIDIA H100 80GB HBM3",
                 "started": f"2026-11-2{cell.model.n_layers}", "wall_seconds": seconds,
                 "sessions": sessions.get(cell.model.n_layers, [{"steps": 100}]),
                 **more}  # fmt: skip
        store.save(Record(experiment.name, experiment.protocol, to_dict(cell),
                          experiment.readable(cell), "done", {}, facts))  # fmt: skip


def test_the_phase_diagram_s_own_time_stands_below_the_extrapolated(store: Store) -> None:
    wanted = targets.targets()
    put(store, wanted[3], minutes=30.0, floor_minutes=3.0)
    assert len(targets.table(store)) == len(wanted)  # nothing without all runs
    put_runs(store, 5.0, {7: [{"steps": 400}, {"steps": 100}]})
    rows = targets.table(store)
    assert len(rows) == len(wanted) + 1
    assert "extrapolated" in rows[3]["work"] and "no evaluations" in rows[3]["work"]
    assert rows[3]["measured"] == "30 min" and rows[3]["reached"] == "2.00 times"
    # five depths of 5 minutes, and the last one's 400 steps at the pace of the 100 that were timed
    assert rows[4]["work"].startswith("The same, as its runs took it, evaluations included; 30.0")
    assert rows[4]["measured"] == "about 50 min" and rows[4]["reached"] == "about 1.20 times"
    assert rows[4]["day"] == "2026-11-22 to 2026-11-27"
    assert rows[4]["record"] == "achilles.phase_diagram, 216 records"
    assert rows[5]["work"] == wanted[4].work


@pytest.mark.parametrize(
    "earlier, more, said",
    [
        ({}, {}, ""),
        ({}, {"ensemble": {"runs": 1, "abreast": 2}},
         "; some of them count the whole of a time that they shared"),
        ({"device_name": "AMD EPYC"}, {},
         "; 30.0 min of it timed, some of the rest not counted"),
    ],
)  # fmt: skip
def test_a_time_that_is_not_exact_says_why(
    store: Store, earlier: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    put(store, targets.targets()[3], minutes=30.0, floor_minutes=3.0)
    sessions = {7: [{"steps": 400, **earlier}, {"steps": 100}]} if earlier else {}
    put_runs(store, 5.0, sessions, **more)
    row = targets.table(store)[4]
    assert row["work"] == f"The same, as its runs took it, evaluations included{said}"
    certainty = "at most " if more else "at least " if earlier else ""
    assert row["measured"] == f"{certainty}30 min"


def test_the_sweep_s_depths_have_the_runs_own_time_beside_them(store: Store) -> None:
    metrics = {"minutes": 50.0, "floor_minutes": 5.0}
    for depth in (2, 7):  # 4 minutes for 25,830 steps
        metrics |= {f"L{depth}.ms": 4 * 6e4 / 25_830, f"L{depth}.ms_per_run": 1.0,
                    f"L{depth}.floor_share": 0.1}  # fmt: skip
    record = put(store, targets.targets()[3], **metrics)
    put_runs(store, 5.0, {7: [{"steps": 400}, {"steps": 100}]})
    soup = BeautifulSoup(show.sweep_table([record], store).data, "html.parser")
    cells = [[cell.get_text() for cell in row.select("td")] for row in soup.select("tbody tr")]
    assert [row[0] for row in cells] == ["L2", "L7", "all"]
    assert [row[-3:] for row in cells] == [
        ["4.0", "5.0", "5.0 (100% of steps)"],
        ["4.0", "about 25.0", "5.0 (20% of steps)"],
        ["50.0 (floor 5.0)", "about 50.0", "30.0 (87% of steps)"],
    ]
    # of those that were timed from end to end
    assert "(L2) they took 5.0 minutes, 1.25 times the 4.0 extrapolated" in soup.get_text()


def test_what_other_code_measured_is_marked(store: Store) -> None:
    target = targets.targets()[0]
    metrics = {"fused.ms": 1.0, "fused.ms_low": 0.9, "fused.ms_high": 1.1, "fused.error": 0.0,
               "fused.floor_share": 0.5}  # fmt: skip
    new = put(store, target, **metrics)
    html = show.bench_table("scan", [new]).data
    assert "test, 2026-11-23, lib " + library_hash()[:8] in html and show.OLDER not in html
    old = put(store, target, lib_hash="0123456789abcdef", **metrics)
    html = show.bench_table("scan", [old, new]).data
    assert "lib 01234567 †" in html and "† 1 of 2: measured by other code" in html


def test_a_tie_is_called_one(store: Store) -> None:
    target = targets.targets()[4]
    for low, said in ((1.003, "1.02 times, even"), (1.011, "1.02 times")):
        ratio = {"ratio.mamba_ssm": 1.018, "ratio.mamba_ssm.low": low, "ratio.mamba_ssm.high": 1.07}
        put(store, target, **ratio)
        assert targets.table(store)[4]["reached"] == said


def test_points_are_apart_by_device(store: Store) -> None:
    metrics = {"fused.ms": 1.0, "work.bytes": 10.0, "work.flops": 20.0, "work.exponentials": 5.0}
    wanted = targets.targets()
    new = put(store, wanted[0], device="NVIDIA H200", **metrics)
    old = put(store, wanted[1], device="NVIDIA H100 80GB HBM3", **metrics)
    assert len(show.points([new, old])) == 2
    found = list(show.by_device([new, old]))
    assert [device for device, _, _ in found] == ["H200", "H100"]
    assert [list(rows["benchmark"]) for _, rows, _ in found] == [[new.readable], [old.readable]]
    assert [rates["name"] for _, _, rates in found] == ["NVIDIA H200", "NVIDIA H100 80GB HBM3"]
    assert list(show.by_device([])) == []


def test_tables_say_how_to_run_what_has_not_run() -> None:
    assert "python -m lib bench scan" in show.bench_table("scan", []).data
    assert "python -m lib bench sweep" in show.sweep_table([]).data
    assert len(show.points([])) == 0


def test_tables_have_every_contestant_and_what_was_absent(store: Store) -> None:
    metrics = {
        "fused.ms": 1.0, "fused.ms_low": 0.9, "fused.ms_high": 1.1, "fused.error": 0.0,
        "fused.floor_share": 0.5, "floor_ms": 0.5, "floor_ms.bytes": 0.5,
        "work.bytes": 10.0, "work.flops": 20.0, "work.exponentials": 5.0,
    }  # fmt: skip
    metrics |= {
        "in_turn.ms": 2.0, "in_turn.ms_low": 1.9, "in_turn.ms_high": 2.1, "in_turn.error": 0.0,
        "in_turn.floor_share": 0.25,
    }  # fmt: skip
    done = put(store, targets.targets()[0], **metrics)
    done.provenance["notes"] = {"in_turn": "use_mambapy"}
    html = show.bench_table("scan", [done]).data
    # names of code are words; ours does not differ from ours
    assert "in turn" in html and "mambapy's scan" in html.replace("&#x27;", "'")
    assert "in_turn" not in html and "use_mambapy" not in html
    assert "<td>–</td>" in html and "<td>0</td>" in html and "0e+00" not in html
    assert show.title_of(done).startswith("Batch 2,048, 64 channels")
    assert "fused (ours)" in html and "mamba_ssm" in html and "not built" in html
    assert html.count("batch 2,048, 64 channels, length 8") == 1  # over its contestants
    failed = put(store, targets.targets()[0], "failed", **metrics)
    assert "it broke" in show.bench_table("scan", [failed]).data
    point, _ = show.points([done]).to_dict("records")
    assert point["ours"] and point["intensity"] == 2.0 and point["rate"] == 20e3
    assert point["exponentials"] == 0.25


def test_the_sweep_s_table_has_depths_and_minutes(store: Store) -> None:
    metrics = {"minutes": 50.0, "floor_minutes": 5.0}
    for depth in (2, 7):
        metrics |= {f"L{depth}.ms": 36.0 * depth, f"L{depth}.ms_per_run": 1.0 * depth,
                    f"L{depth}.floor_share": 0.1}  # fmt: skip
    html = show.sweep_table([put(store, targets.targets()[3], **metrics)], store).data
    for text in ("L2", "72.0", "L7", "252", "50.0 (floor 5.0)"):
        assert text in html


TRIAL = """
- change: share B
  bench: scan
  prediction: a quarter of the reads
  before: 0.9
  after: 0.6
  unit: ms
  kept: true
"""


def write(root: Path, text: str) -> Path:
    (root / LOG).parent.mkdir(parents=True, exist_ok=True)
    (root / LOG).write_text(text)
    return root


def test_the_log_may_be_empty_or_absent(tmp_path: Path) -> None:
    assert load_log(tmp_path) == [] == load_log(write(tmp_path, "# nothing yet\n"))
    assert "Nothing" in show.log_table(tmp_path).data


def test_the_log_is_shown_with_its_gain(tmp_path: Path) -> None:
    root = write(tmp_path, TRIAL)
    (trial,) = load_log(root)
    assert trial.gain == pytest.approx(1.5) and trial.kept
    html = show.log_table(root).data
    assert html.startswith("<details class='idle'><summary>Changes that were tried: 1, kept: 1")
    assert "share B" in html and "0.9 to 0.6 ms (scan)" in html and "1.50" in html


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "holds a dict, allowed: a list of trials"),
        ("- change: x", r"trial 1 has \['change'\], allowed: exactly change, bench"),
        (TRIAL.replace("0.9", "fast"), "trial 1: before is 'fast', allowed: int or float"),
        (TRIAL.replace("0.6", "0"), "trial 1: after is 0, allowed: more than 0"),
        (TRIAL.replace("scan", "scam"), "bench is 'scam', allowed: scan, block"),
        (TRIAL.replace("true", "1"), "kept is 1, allowed: bool"),
        ("- [", "cannot be read"),
    ],
)
def test_mistakes_in_the_log_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LogError, match=message):
        load_log(write(tmp_path, text))


def test_the_book_s_log_is_sound(root: Path) -> None:
    for trial in load_log(root):
        assert trial.change and trial.prediction
