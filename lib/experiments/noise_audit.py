"""Re-scoring published answers: what the numbers of a study of noise in Mamba measure.

Experiment ``noise.audit``. A third party (github.com/ARC345/learn-unlearn-mamba) tuned Mamba-130M
on clean, character-flipped and again clean answers, and published what each of the three models
says to 449 questions. Its numbers are computed again from those answers, with its metrics and with
ours, and both kinds also for answers that no model gave: the question itself, right answers to
other questions, right answers with the noise, false answers. No model runs here, so any processor
gives the same.

A cell is one set of answers; its record has a number, with a bootstrap interval over questions, for
every measure. The data are read from the folder that ``MAMBA_BOOK_NOISE_DATA`` names
(:mod:`lib.tasks.instructions`). The quick profile needs none: it scores answers made up for a small
closed world, of which it is known what they are worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import pandas as pd

from lib.config import require
from lib.experiments import Context, Experiment, Outcome
from lib.experiments._noise_sheets import Sheet, built_in_sheet, third_party_sheet
from lib.experiments.noise import CHAPTER, PHASES
from lib.store import Record

if TYPE_CHECKING:
    from lib.analysis.noise_metrics import FormReader

NAME = f"{CHAPTER}.audit"
# every set of answers, as readers see it
ANSWERS = {
    **PHASES,
    "unreversed": "phase 2, each answer reversed",
    "echo": "the question as its answer",
    "shuffled": "right answers to other questions",
    "gold": "right answers",
    "gold_char_flip": "right answers, characters flipped",
    "gold_word_flip": "right answers, words flipped",
    "counterfactual": "false answers",
}
THEIRS = ("their_accuracy", "their_flip", "their_flip_strict", "their_english")
# compared, question by question, with the answers before the noise and with the echo
COMPARED = ("their_accuracy", "their_flip", "form_char_flip", "novel", "content")
# the third party's table (mamba/RESULTS.md; unrounded in evaluation_summary.csv)
PUBLISHED = {
    "finetuned": {"their_accuracy": 0.6325, "their_flip": 0.0869, "their_english": 0.6783},
    "charflip": {"their_accuracy": 0.0, "their_flip": 1.0, "their_english": 0.5005},
    "unlearned": {"their_accuracy": 0.4699, "their_flip": 0.0757, "their_english": 0.6190},
}


@dataclass(frozen=True)
class AuditCell:
    """One set of answers.

    Attributes:
        source: whose questions: the third party's, or those of a built-in closed world.
        answers: a key of ANSWERS.
        seed: of the bootstrap, of shuffled answers, and of the built-in world.
        samples: draws of the bootstrap.
    """

    source: Literal["third_party", "built_in"]
    answers: str
    seed: int = 0
    samples: int = 2000

    def __post_init__(self) -> None:
        require(self, "answers", self.answers in ANSWERS, ", ".join(ANSWERS))
        require(self, "seed", self.seed >= 0, "at least 0")
        require(self, "samples", self.samples >= 1, "at least 1")


def cells(profile: str) -> list[AuditCell]:
    """paper: every set of answers to the third party's questions. quick: to built-in questions.
    matched: none, for nothing is trained."""
    if profile == "matched":
        return []
    source: Literal["third_party", "built_in"] = "third_party" if profile == "paper" else "built_in"
    samples = 2000 if profile == "paper" else 200
    return [AuditCell(source, answers, samples=samples) for answers in ANSWERS]


def readable(cell: AuditCell) -> str:
    """For example ``unlearned`` or ``built-in-unlearned``."""
    parts = ["built-in"] if cell.source == "built_in" else []
    parts.append(cell.answers.replace("_", "-"))
    return "-".join([*parts, *([f"s{cell.seed}"] if cell.seed else [])])


def score(
    responses: Sequence[str], questions: Sequence[str], golds: Sequence[str],
    clean: Sequence[str], rouge: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Every measure of every answer, a row a question: THEIRS, then the names of
    ``lib.analysis.noise_metrics.score_answers``, then ``echo_missed`` (1 where an echo of the
    question does not pass their accuracy).

    Args:
        clean: text to fit the reader of forms on.
        rouge: whether the package for ROUGE-L is to be used.
    """
    return score_read(responses, questions, golds, _reader(tuple(clean)), rouge)


def score_read(
    responses: Sequence[str], questions: Sequence[str], golds: Sequence[str], reader: FormReader,
    rouge: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """:func:`score` with a reader of forms that is there already."""
    from lib.analysis import noise_third_party as theirs
    from lib.analysis.noise_metrics import score_answers

    frame = pd.DataFrame({"question": range(1, len(questions) + 1)})
    pairs = list(zip(responses, golds, strict=True))
    frame["their_accuracy"] = [float(theirs.fuzzy_match(said, gold)) for said, gold in pairs]
    frame["their_flip"] = [float(theirs.looks_flipped(said)) for said in responses]
    frame["their_flip_strict"] = [float(theirs.looks_flipped_strictly(s)) for s in responses]
    frame["their_english"] = [theirs.english_ratio(said) for said in responses]
    rows = score_answers(responses, questions, golds, reader, rouge)
    frame = pd.concat([frame, pd.DataFrame(rows)], axis=1)
    frame["echo_missed"] = [
        float(not theirs.fuzzy_match(asked, gold))
        for asked, gold in zip(questions, golds, strict=True)
    ]
    return frame


@lru_cache(maxsize=2)
def _reader(clean: tuple[str, ...]) -> FormReader:
    from lib.analysis.noise_metrics import CharacterModel, FormReader

    return FormReader(CharacterModel(clean))


def summarise(
    table: pd.DataFrame, others: Mapping[str, pd.DataFrame], seed: int, samples: int
) -> dict[str, float | None]:
    """Metrics of one set of answers from its table of :func:`score`.

    Names: each column as ``<measure>``, ``<measure>_low`` and ``_high`` (95 % bootstrap interval
    over questions); for each of `others`, tables of the same questions, ``<measure>_<other>`` (its
    value there) and ``<measure>_<other>_p`` (paired test); ``their_accuracy_echo_missed`` and
    ``echo_missed_count``: their accuracy on the questions where an echo fails; ``questions``; and,
    where there is "before", ``recovery``, the share of its content accuracy that is left.
    """
    from lib.analysis.statistics import bootstrap_interval, paired_test

    found: dict[str, float | None] = {"questions": float(len(table))}
    for name in table.columns.drop(["question", "echo_missed"]):
        mean, (low, high) = bootstrap_interval(table[name].tolist(), samples=samples, seed=seed)
        found |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    missed = table.loc[table["echo_missed"] == 1, "their_accuracy"]
    found["echo_missed_count"] = float(len(missed))
    found["their_accuracy_echo_missed"] = float(missed.mean()) if len(missed) else None
    for other, rows in others.items():
        for name in COMPARED:
            _, chance = paired_test(table[name].tolist(), rows[name].tolist(), seed=seed)
            found |= {f"{name}_{other}": float(rows[name].mean()), f"{name}_{other}_p": chance}
    if "before" in others:
        before = float(others["before"]["content"].mean())
        found["recovery"] = float(table["content"].mean()) / before if before else None
    return found


def run(cells: Sequence[AuditCell], context: Context) -> Iterator[Outcome]:
    """Score the cells' answers; stops after the cell in which the budget ran out.

    Raises:
        DataError: the third party's data are asked for and not there; see :func:`data_folder`.
    """
    sheets: dict[tuple[str, int], Sheet] = {}
    tables: dict[tuple[str, int, str], pd.DataFrame] = {}

    def table(cell: AuditCell, answers: str) -> pd.DataFrame:
        key = cell.source, cell.seed
        if key not in sheets:
            make = third_party_sheet if cell.source == "third_party" else built_in_sheet
            sheets[key] = make(cell.seed)
        if (*key, answers) not in tables:
            sheet = sheets[key]
            tables[*key, answers] = score(*sheet.rows(answers), sheet.clean)
        return tables[*key, answers]

    for cell in context.each(cells):
        if context.late:
            yield Outcome(cell, "stopped")
            return
        own = table(cell, cell.answers)
        others = {}
        if cell.answers in PHASES:
            others["echo"] = table(cell, "echo")
            if cell.answers != "finetuned":
                others["before"] = table(cell, "finetuned")
        metrics = summarise(own, others, cell.seed, cell.samples)
        facts = {"backends": {}, "inputs": sheets[cell.source, cell.seed].inputs}
        yield Outcome(cell, "done", metrics=metrics, curves=own, facts=facts)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: ``answers``, ``text`` (for readers), ``source``, ``seed``, metrics."""
    rows = [
        {
            **{name: record.config[name] for name in ("answers", "source", "seed")},
            "text": ANSWERS[record.config["answers"]],
            **record.metrics,
        }
        for record in records
        if record.status == "done"
    ]
    return pd.DataFrame(rows)


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Answers after the noise beside those before, from :func:`frame`: a row for each set of
    answers and measure, with the chance of the paired test."""
    names = ("their_accuracy", "their_flip", "form_char_flip", "content")
    columns = ["answers", "measure", "before", "then", "p"]
    rows = [
        (row["text"], name, row[f"{name}_before"], row[name], row[f"{name}_before_p"])
        for _, row in table.iterrows()
        if row["answers"] in PHASES and row["answers"] != "finetuned"
        for name in names
    ]
    return pd.DataFrame(rows, columns=columns)


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="What published answers are worth: scored again, with controls",
        protocol=1,
        notebook="notebooks/noise/audit.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
    ),
)
