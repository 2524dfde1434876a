"""Numbers that the page of the audit quotes in its prose, held against the published records."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lib.experiments import cells_of, find
from lib.experiments.noise_audit import NAME
from lib.store import Record, Store

PERCENT = re.compile(r"\d+(?:\.\d+)? %")
# words of the page around a number -> set of answers, metric; "{}" stands for the number
QUOTES = {
    "Mamba-130M gets back to {} accuracy": ("unlearned", "their_accuracy"),
    "accuracy from {},": ("finetuned", "their_accuracy"),
    "and {} of its answers still show the noise": ("unlearned", "their_flip"),
    "scores as high as the model ({} and": ("echo", "their_accuracy"),
    "and {}, p = 0.5)": ("finetuned", "their_accuracy"),
    "**words flipped** score {},": ("gold_word_flip", "their_accuracy"),
    "**characters flipped** they score {},": ("gold_char_flip", "their_accuracy"),
    "so a collapse to {} after that noise": ("charflip", "their_accuracy"),
    "pass as well, {} of 54.": ("counterfactual", "their_accuracy"),
    "and both flips at {}.": ("gold_char_flip", "content"),
    "still pass in {} of 54 cases": ("counterfactual", "content"),
    "(interval 30 to {})": ("counterfactual", "content_high"),
    "the model is right on {} of the questions": ("finetuned", "content"),
    "dealt out at random ({})": ("shuffled", "content"),
    "and on {} at the end": ("unlearned", "content"),
    "**gold answers** themselves {} count": ("gold", "their_flip"),
    "no character is reversed, {}.": ("gold_word_flip", "their_flip"),
    "the model is at {},": ("finetuned", "their_flip"),
    "after unlearning at {} (p = 0.46):": ("unlearned", "their_flip"),
    "*saw* it is {} before": ("finetuned", "their_flip_strict"),
    "before and {} after. The form": ("unlearned", "their_flip_strict"),
    "finds {} before and": ("finetuned", "form_char_flip"),
    "before and {} after (p = 0.004): nine": ("unlearned", "form_char_flip"),
    "“{} English words”": ("charflip", "their_english"),
    "reversed gold answers have {}.": ("gold_char_flip", "their_english"),
    "perfectly: {} show": ("charflip", "their_flip"),
    "partial: 63.3 to {}.": ("unlearned", "their_accuracy"),
    "24.1 to {}, a fall": ("unlearned", "content"),
    "Mamba retains {} of the noise": ("unlearned", "their_flip"),
    "The rate was {} before any noise": ("finetuned", "their_flip"),
    "Told by form it is {} against": ("unlearned", "form_char_flip"),
    "against {} (nine answers, p = 0.004).": ("finetuned", "form_char_flip"),
}
# shares of the made-up answers of the quick profile, which are no measurement
MADE_UP = ("70, 10 and 50 % are right", "0, 100 and 10 % are flipped")


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    cells = json.loads((root / "notebooks/noise/audit.ipynb").read_text())["cells"]
    prose = "".join("".join(c["source"]) + "\n" for c in cells if c["cell_type"] == "markdown")
    return " ".join(prose.split())


@pytest.fixture(scope="module")
def records(root: Path) -> dict[str, Record]:
    experiment, store = find(NAME), Store.at(root)
    cells = cells_of(experiment, "paper")
    found = store.records(NAME, experiment.protocol, cells)
    return {c.answers: r for c, r in zip(cells, found, strict=True) if r is not None}


def shown(words: str, value: float, text: str) -> bool:
    """Whether `text` has the words with the number, with one digit after the point or none."""
    forms = (f"{100 * value:.1f} %", f"{100 * value:.0f} %")
    return any(words.replace("{}", form) in text for form in forms)


@pytest.mark.parametrize("words", list(QUOTES))
def test_the_page_says_what_the_records_say(
    words: str, text: str, records: dict[str, Record]
) -> None:
    answers, metric = QUOTES[words]
    value = records[answers].metrics[metric]
    assert shown(words, value, text), f"{words!r}: the record has {100 * value:.2f} %"
    assert not shown(words, value + 0.011, text)  # another number would not pass


def test_every_percentage_in_the_prose_is_held_against_a_record(text: str) -> None:
    left = text
    for made in MADE_UP:
        assert made in left
        left = left.replace(made, "")
    for words in QUOTES:
        before, after = (re.escape(part) for part in words.split("{}"))
        left, count = re.subn(rf"({before}){PERCENT.pattern}(?={after})", r"\1", left)
        assert count == 1, words
    assert PERCENT.findall(left) == []


def test_counts_and_chances_that_the_page_quotes(text: str, records: dict[str, Record]) -> None:
    unlearned, metrics = records["unlearned"], records["unlearned"].metrics
    flipped = metrics["form_char_flip"] * metrics["questions"]
    assert round(flipped) == 9 and "nine answers" in text
    assert f"(p = {metrics['content_before_p']:.2f};" in text
    assert f"{100 * metrics['content_before']:.1f} to {100 * metrics['content']:.1f} %" in text
    repeats = records["charflip"].metrics["repeats"]
    assert repeats > 0.5 and "Half of the noisy model's answers repeat" in text
    false = records["counterfactual"].metrics
    assert false["their_accuracy"] > 0.5 and "Most **false answers** pass" in text
    assert false["questions"] == 54 and round(100 * false["content_low"]) == 30
    assert "more often than the tuned model's own" in text
    assert false["content"] > records["finetuned"].metrics["content"]
    assert "right no more often than by chance" in text
    turned, chance = records["unreversed"].metrics, records["shuffled"].metrics
    assert turned["content"] <= chance["content"]
    assert records["echo"].metrics["content"] == 0 and "has the echo at 0 and" in text
    assert metrics["questions"] == 449 and unlearned.status == "done"
