"""The audit on answers of known worth, and on the third party's where they are given."""

from __future__ import annotations

import os
import time

import pandas as pd
import pytest

from lib.config import from_dict, to_dict
from lib.experiments import Context, Outcome
from lib.experiments._noise_sheets import MADE_UP_FLIPPED, MADE_UP_RIGHT, third_party_sheet
from lib.experiments.noise_audit import (
    ANSWERS,
    PUBLISHED,
    AuditCell,
    cells,
    frame,
    pairs,
    readable,
    run,
    summarise,
)
from lib.store import Record
from lib.tasks import instructions
from lib.tasks.instructions import DataError
from lib.tasks.prompts import Pair


@pytest.fixture(scope="module")
def quick() -> dict[str, Outcome]:
    return {outcome.cell.answers: outcome for outcome in run(cells("quick"), Context())}


def test_made_up_answers_are_found_out(quick: dict[str, Outcome]) -> None:
    assert set(quick) == set(ANSWERS)
    for phase in PUBLISHED:
        metrics = quick[phase].metrics
        assert metrics["content"] == pytest.approx(MADE_UP_RIGHT[phase])
        assert metrics["form_char_flip"] == pytest.approx(MADE_UP_FLIPPED[phase])
        assert metrics["questions"] == 120 and len(quick[phase].curves) == 120  # type: ignore[arg-type]
    # what the third party's accuracy makes of answers three in ten of which are false
    assert quick["finetuned"].metrics["their_accuracy"] == 1.0
    assert quick["counterfactual"].metrics["their_accuracy"] == 1.0
    assert quick["counterfactual"].metrics["content"] == 0.0
    assert quick["echo"].metrics["their_accuracy"] == 1.0
    assert quick["echo"].metrics["echo_missed_count"] == 0.0
    assert quick["echo"].metrics["their_accuracy_echo_missed"] is None


def test_comparisons_and_intervals(quick: dict[str, Outcome]) -> None:
    first, last = quick["finetuned"].metrics, quick["unlearned"].metrics
    assert last["content_before"] == first["content"] == 0.7
    assert last["recovery"] == pytest.approx(0.5 / 0.7)
    assert last["content_before_p"] < 0.01  # type: ignore[operator]
    assert last["form_char_flip_before"] == 0 and last["their_accuracy_echo"] == 1.0
    assert last["content_low"] < 0.5 < last["content_high"]  # type: ignore[operator]
    assert "recovery" not in first and "content_before" not in first
    assert "content_echo" not in quick["gold"].metrics


def test_recovery_of_nothing_is_no_number() -> None:
    zero = pd.DataFrame({"question": [1, 2], "echo_missed": [1.0, 0.0]})
    for name in ("their_accuracy", "their_flip", "form_char_flip", "novel", "content"):
        zero[name] = [0.0, 0.0]
    found = summarise(zero, {"before": zero}, 0, 10)
    assert found["recovery"] is None and found["content_before_p"] == 1.0
    assert found["echo_missed_count"] == 1 and found["their_accuracy_echo_missed"] == 0.0


def test_cells_and_names() -> None:
    assert cells("matched") == []
    assert {c.source for c in cells("paper")} == {"third_party"}
    assert readable(AuditCell("third_party", "gold_char_flip", 3)) == "gold-char-flip-s3"
    assert readable(AuditCell("built_in", "echo")) == "built-in-echo"
    cell = cells("paper")[2]
    assert from_dict(AuditCell, to_dict(cell)) == cell


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": "noisy"}, "AuditCell.answers is 'noisy', allowed: finetuned, charflip, unl"),
        ({"seed": -1}, "seed is -1, allowed: at least 0"),
        ({"samples": 0}, "samples is 0, allowed: at least 1"),
    ],
)
def test_bad_cells_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AuditCell(**{"source": "built_in", "answers": "echo", **change})  # type: ignore[arg-type]


def test_a_spent_budget_stops_before_the_next_cell() -> None:
    outcomes = list(run(cells("quick"), Context(deadline=time.monotonic())))
    assert [outcome.status for outcome in outcomes] == ["stopped"]


def test_without_data_the_error_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(instructions.DATA_VARIABLE, raising=False)
    with pytest.raises(DataError, match="set MAMBA_BOOK_NOISE_DATA or give one"):
        list(run(cells("paper")[:1], Context()))


FILES = {
    "D_test": [Pair("What is A?", "A is one."), Pair("What is B?", "B is two.")],
    "D_cfact_train": [Pair("what is a??", "A is nine."), Pair("What is C?", "C is C."),
                      Pair("what is a??", "A is ten."), Pair("What is A?", "A is eight.")],
    "D_GK": [Pair("What is B??", "leaked"), Pair("Why?", "Because it is so.")],
    **{f"mamba-130m-{phase}": [Pair("What is A?", "eno si A"), Pair("What is B?", "B")]
       for phase in PUBLISHED},
}  # fmt: skip


def test_the_sheet_of_the_third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    files = dict(FILES)
    monkeypatch.setattr(instructions, "load_authors", lambda name, empty="refuse": files[name])
    sheet = third_party_sheet(0)
    # the first false answer for each way of writing a test question; others are no test questions
    assert sheet.false_rows == [("what is a??", "A is one."), ("What is A?", "A is one.")]
    assert sheet.responses["counterfactual"] == ["A is nine.", "A is eight."]
    assert sheet.rows("counterfactual")[2] == ["A is one.", "A is one."]
    assert sheet.clean == ["Because it is so."]  # test questions are left out of it
    assert sheet.responses["unreversed"] == ["A is one", "B"]
    assert sheet.responses["shuffled"] == ["B is two.", "A is one."]
    assert set(sheet.responses) == set(ANSWERS) and len(sheet.inputs) == 6
    files["mamba-130m-charflip"] = files["mamba-130m-charflip"][::-1]
    with pytest.raises(DataError, match="mamba-130m-charflip: its questions are not those"):
        third_party_sheet(0)


def test_frame_has_a_row_a_record(quick: dict[str, Outcome]) -> None:
    done = quick["unlearned"]
    metrics = {k: v for k, v in done.metrics.items() if v is not None}
    records = [
        Record("noise.audit", 1, to_dict(done.cell), "x", status, metrics, {})
        for status in ("done", "failed")
    ]
    (row,) = frame(records).to_dict("records")
    assert row["answers"] == "unlearned" and row["text"] == ANSWERS["unlearned"]
    assert row["content"] == done.metrics["content"]


def test_pairs_are_the_phases_after_the_noise(quick: dict[str, Outcome]) -> None:
    table = frame(
        [
            Record("noise.audit", 1, to_dict(o.cell), "x", "done", o.metrics, {})  # type: ignore[arg-type]
            for o in quick.values()
        ]
    )
    found = pairs(table)
    assert len(found) == 2 * 4 and set(found["answers"]) == {
        ANSWERS["charflip"], ANSWERS["unlearned"],
    }  # fmt: skip
    content = found[(found["measure"] == "content") & (found["answers"] == ANSWERS["unlearned"])]
    assert content[["before", "then"]].values.tolist() == [[0.7, 0.5]]
    assert pairs(pd.DataFrame()).empty


DATA = os.environ.get("MAMBA_BOOK_NOISE_DATA")


@pytest.mark.skipif(not DATA, reason="MAMBA_BOOK_NOISE_DATA names no folder with the authors' data")
def test_the_third_party_s_answers_give_its_table_and_what_it_leaves_out() -> None:
    found = {o.cell.answers: o.metrics for o in run(cells("paper"), Context())}
    for phase, numbers in PUBLISHED.items():
        for name, value in numbers.items():
            assert found[phase][name] == pytest.approx(value, abs=6e-5), (phase, name)
    # percentages counted separately, in another program, before this one was written
    for answers, name, value in [
        ("echo", "their_accuracy", 65.0), ("gold_word_flip", "their_accuracy", 100.0),
        ("gold_char_flip", "their_accuracy", 0.0), ("gold", "their_flip", 4.7),
        ("gold_word_flip", "their_flip", 98.9), ("gold_char_flip", "their_flip", 99.8),
        ("finetuned", "their_flip_strict", 0.0), ("charflip", "their_flip_strict", 100.0),
        ("unlearned", "their_flip_strict", 0.4), ("gold", "their_english", 67.2),
        ("gold_char_flip", "their_english", 50.8), ("finetuned", "novel", 24.1),
        ("charflip", "novel", 0.0), ("unlearned", "novel", 18.9), ("charflip", "content", 2.7),
        ("unreversed", "their_accuracy", 0.9), ("charflip", "repeats", 51.0),
    ]:  # fmt: skip
        assert found[answers][name] * 100 == pytest.approx(value, abs=0.051), (answers, name)
    counts = {a: found[a]["their_accuracy_echo_missed"] * 157 for a in ("finetuned", "unlearned")}
    assert counts == {"finetuned": pytest.approx(49), "unlearned": pytest.approx(53)}
    false = found["counterfactual"]
    assert false["questions"] == 54 and false["their_accuracy"] * 54 == pytest.approx(38)
