"""Re-scoring published answers: what the numbers of a study of noise in Mamba measure.

Experiment ``noise.audit``. A third party (github.com/ARC345/learn-unlearn-mamba) tuned Mamba-130M
on clean, character-flipped and again clean answers, and published what each of the three models
says to 449 questions. Its numbers are computed again from those answers, with its metrics and with
sound ones, and both kinds also for answers that no model gave: the question itself, right answers
to other questions, right answers with the noise. No model runs here, so any processor gives the
same.

A cell is one set of answers; its record has a number, with a bootstrap interval over questions, for
every measure. The data are read from the folder that ``MAMBA_BOOK_NOISE_DATA`` names
(:mod:`lib.tasks.instructions`). The quick profile needs none: it scores answers made up for a small
closed world, of which it is known what they are worth.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from lib.config import require
from lib.experiments import Context, Experiment, Outcome
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


@dataclass(frozen=True)
class Sheet:
    """Questions, their right answers, and what was answered.

    Attributes:
        responses: by a key of ANSWERS. Those to "counterfactual" belong to `false_rows`, pairs of
            question and right answer, since false answers were published to few questions.
        clean: clean text of the kind, to fit the reader of forms on.
        inputs: file to SHA-256 of what was read, for the record.
    """

    questions: list[str]
    golds: list[str]
    responses: dict[str, list[str]]
    false_rows: list[tuple[str, str]]
    clean: list[str]
    inputs: dict[str, str]

    def rows(self, answers: str) -> tuple[list[str], list[str], list[str]]:
        """Responses, questions and right answers of one set."""
        if answers == "counterfactual":
            questions, golds = (list(column) for column in zip(*self.false_rows, strict=True))
            return self.responses[answers], questions, golds
        return self.responses[answers], self.questions, self.golds


def third_party_sheet(seed: int) -> Sheet:
    """The third party's questions and answers.

    False answers are those of the authors' D_cfact to questions that are test questions too (but
    for case and a stray "?"), the first for each way the question is written.

    Raises:
        DataError: no folder, or its files are missing or not the known ones.
    """
    from lib.analysis.noise_metrics import controls
    from lib.tasks.instructions import SOURCES, DataError, load_authors
    from lib.tasks.noise import flip_characters

    test = load_authors("D_test")
    questions, golds = [p.question for p in test], [p.answer for p in test]
    responses = controls(questions, golds, seed)
    for phase in PHASES:
        said = load_authors(f"mamba-130m-{phase}")
        if [pair.question for pair in said] != questions:
            raise DataError(f"mamba-130m-{phase}: its questions are not those of D_test")
        responses[phase] = [pair.answer for pair in said]
    responses["unreversed"] = [flip_characters(said) for said in responses["charflip"]]
    right = {_key(question): gold for question, gold in zip(questions, golds, strict=True)}
    false: dict[str, str] = {}
    for pair in load_authors("D_cfact_train"):
        if _key(pair.question) in right:
            false.setdefault(pair.question, pair.answer)
    responses["counterfactual"] = list(false.values())
    known = [p for p in load_authors("D_GK", empty="drop") if _key(p.question) not in right]
    names = ["D_test", "D_cfact_train", "D_GK", *(f"mamba-130m-{phase}" for phase in PHASES)]
    return Sheet(
        questions, golds, responses, [(question, right[_key(question)]) for question in false],
        [pair.answer for pair in known], {name: SOURCES[name].sha256 for name in names},
    )  # fmt: skip


def _key(question: str) -> str:
    return question.strip().rstrip("?").strip().lower()


# what the made-up answers of the quick profile are, phase by phase
MADE_UP_RIGHT = {"finetuned": 0.7, "charflip": 0.1, "unlearned": 0.5}
MADE_UP_FLIPPED = {"finetuned": 0.0, "charflip": 1.0, "unlearned": 0.1}


def built_in_sheet(seed: int) -> Sheet:
    """A closed world of 120 facts with made-up answers: in each phase the shares of
    ``MADE_UP_RIGHT`` are right, the others false, and those of ``MADE_UP_FLIPPED`` flipped."""
    from lib.analysis.noise_metrics import controls
    from lib.tasks.closed_world import ClosedWorld, Item, build
    from lib.tasks.noise import NoiseConfig, flip_characters

    world = build(ClosedWorld(10, 10, 10), seed)
    items = [Item(f.question(0), f.answer(), n, 0) for n, f in enumerate(world.facts)]
    questions, golds = [i.question for i in items], [i.answer for i in items]
    false, _ = world.noisy_answers(NoiseConfig("counterfactual", seed=seed), items)
    responses = controls(questions, golds, seed)
    count = len(items)
    for number, phase in enumerate(PHASES):
        rng = np.random.default_rng([seed, 0xAD, number])
        right = rng.permutation(count) < round(MADE_UP_RIGHT[phase] * count)
        flipped = rng.permutation(count) < round(MADE_UP_FLIPPED[phase] * count)
        said = [golds[n] if right[n] else false[n] for n in range(count)]
        responses[phase] = [flip_characters(s) if flipped[n] else s for n, s in enumerate(said)]
    responses["unreversed"] = [flip_characters(said) for said in responses["charflip"]]
    responses["counterfactual"] = false
    pairs = list(zip(questions, golds, strict=True))
    return Sheet(questions, golds, responses, pairs, [item.answer for item in world.train], {})


def score(
    responses: Sequence[str], questions: Sequence[str], golds: Sequence[str], clean: Sequence[str]
) -> pd.DataFrame:
    """Every measure of every answer, a row a question: THEIRS, then the names of
    ``lib.analysis.noise_metrics.score_answers``, then ``echo_missed`` (1 where an echo of the
    question does not pass their accuracy).

    Args:
        clean: text to fit the reader of forms on.
    """
    from lib.analysis import noise_third_party as theirs
    from lib.analysis.noise_metrics import score_answers

    frame = pd.DataFrame({"question": range(1, len(questions) + 1)})
    pairs = list(zip(responses, golds, strict=True))
    frame["their_accuracy"] = [float(theirs.fuzzy_match(said, gold)) for said, gold in pairs]
    frame["their_flip"] = [float(theirs.looks_flipped(said)) for said in responses]
    frame["their_flip_strict"] = [float(theirs.looks_flipped_strictly(s)) for s in responses]
    frame["their_english"] = [theirs.english_ratio(said) for said in responses]
    rows = score_answers(responses, questions, golds, _reader(tuple(clean)))
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

    for cell in cells:
        if context.deadline is not None and time.monotonic() >= context.deadline:
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
