"""What the phases of the closed-world study need beside models: cells, text, rows, measures.

One world and one base model serve all noises of an architecture and a seed. How a cell's numbers
come about from its tables of scored answers is here as well, so that running is apart from meaning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from lib.config import digest, require, to_dict
from lib.models.config import LanguageModelConfig
from lib.tasks.closed_world import ClosedWorld, Item, World, build
from lib.tasks.language import LanguageTask
from lib.tasks.noise import NOISES, NONE, NoiseConfig
from lib.tasks.tokenizers import BPEConfig
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    from lib.analysis.noise_metrics import FormReader

PHASES = ("base", "clean", "noisy", "again")
SHOWN = 5  # noisy examples of the in-context test, as in the paper
PROMPT = "{question}\n"
# of facts: what becomes of them between two phases (whether, of those, ...)
FLOWS = {
    "kept": ("clean", 1, "noisy", 1),  # known after phase 1: still known in phase 2
    "back": ("noisy", 0, "again", 1),  # known after 1 and lost in 2: known again after 3
    "lost": ("clean", 1, "again", 0),  # known after 1: not known after 3
    "gained": ("clean", 0, "again", 1),  # not known after 1: known after 3
}
# measured apart for facts that are noisy in phase 2 and for the others; "own" is the noise's form
BY_SIDE = ("content", "noise", "own", "clean")
SIDES = (("chosen", True), ("others", False))


def base_identity(
    base: LanguageTask, model: LanguageModelConfig, pretraining: TrainingConfig, seed: int
) -> str:
    """Of a model that pretraining ends with."""
    return digest(["noise base", *map(to_dict, (base, model, pretraining)), seed])[:16]


@dataclass(frozen=True)
class PhaseCell:
    """One noise on one model: trained on clean, noisy and clean answers again.

    Attributes:
        world: the facts; drawn with `seed`.
        base: the text of pretraining, and the tokenizer; `epoch_tokens` is not used.
        model: as it starts; `vocab_size` is the tokenizer's.
        pretraining, clean, noisy, again: training on text and in phases 1, 2 and 3.
        noise: a key of NOISES, or "none": the control with clean answers in all phases.
        share: part of the facts whose answers are noisy in phase 2.
        samples: phase 2 has so many questions alone, again and again; None for all.
        scored: which targets count in the loss: those of answers, or of whole rows.
        weights: in phases 2 and 3; "bfloat16": all of them, with no float32 master copy.
        seed: of weights, world, order and noise.
    """

    world: ClosedWorld
    base: LanguageTask
    model: LanguageModelConfig
    pretraining: TrainingConfig
    clean: TrainingConfig
    noisy: TrainingConfig
    again: TrainingConfig
    noise: str
    seed: int
    share: float = 1.0
    samples: int | None = None
    scored: Literal["answer", "whole"] = "answer"
    weights: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        require(self, "noise", self.noise in (NONE, *NOISES), ", ".join((NONE, *NOISES)))
        require(self, "seed", self.seed >= 0, "0 or more")
        fits = 0 < self.share <= 1 and (self.noise != NONE or self.share == 1)
        require(self, "share", fits, "more than 0 and at most 1; 1 without noise")
        fits = self.samples is None or (self.samples >= 1 and self.share == 1)
        require(self, "samples", fits, "None, or at least 1 with share 1")
        require(self, "scored", self.scored in ("answer", "whole"), "answer, whole")
        require(self, "weights", self.weights in ("float32", "bfloat16"), "float32, bfloat16")
        tokenizer = self.base.tokenizer
        if isinstance(tokenizer, BPEConfig) and tokenizer.vocab_size != self.model.vocab_size:
            raise ValueError(
                f"model.vocab_size is {self.model.vocab_size}, allowed: {tokenizer.vocab_size}, "
                "the tokens of the tokenizer"
            )

    @property
    def base_identity(self) -> str:
        """Of the model that pretraining ends with: equal for all cells that share it."""
        return base_identity(self.base, self.model, self.pretraining, self.seed)

    @property
    def clean_identity(self) -> str:
        """Of the model that phase 1 ends with."""
        facts = [to_dict(self.world), to_dict(self.clean), self.scored]
        return digest(["noise clean", self.base_identity, *facts])[:16]


@dataclass(frozen=True)
class Questions:
    """A world with what is trained and asked.

    Attributes:
        prompts: of the training questions. asked: of the test questions.
        length: targets of a row: as many as the longest noisy answer needs.
        reader: tells the form of answers that fit no template.
    """

    world: World
    prompts: list[str]
    asked: list[str]
    length: int
    most_new: int
    reader: FormReader

    def noisy(
        self, cell: PhaseCell, items: Sequence[Item], share: float | None = None
    ) -> list[str]:
        """Answers to `items` in phase 2."""
        if cell.noise == NONE:
            return [item.answer for item in items]
        config = NoiseConfig(cell.noise, cell.share if share is None else share, cell.seed)
        return self.world.noisy_answers(config, items)[0]

    def chosen(self, cell: PhaseCell, items: Sequence[Item]) -> list[bool]:
        """Whether the answer to each of `items` is noisy in phase 2."""
        if cell.noise == NONE:
            return [False] * len(items)
        config = NoiseConfig(cell.noise, cell.share, cell.seed)
        return self.world.noisy_answers(config, items)[1]


@lru_cache(maxsize=2)
def open_questions(world: ClosedWorld, seed: int, base: LanguageTask) -> Questions:
    """The world drawn with `seed`, in rows of one length for every noise."""
    from lib.analysis.world_scores import reader_of
    from lib.experiments._language import open_data
    from lib.tasks.question_answers import longest

    built, tokenizer = build(world, seed), open_data(base).tokenizer
    prompts = [PROMPT.format(question=item.question) for item in built.train]
    sets = [[item.answer for item in built.train]]
    sets += [built.noisy_answers(NoiseConfig(name, seed=seed), built.train)[0] for name in NOISES]
    most_new = max(len(t) for answers in sets for t in tokenizer.encode_batch(answers)) + 4
    asked = [PROMPT.format(question=item.question) for item in built.test]
    length = longest(prompts, sets, tokenizer)
    return Questions(built, prompts, asked, length, most_new, reader_of(built))


def phase_answers(cell: PhaseCell, phase: str, questions: Questions) -> tuple[list[str], list[str]]:
    """Prompts and answers that a phase trains on, as many in every phase.

    With `samples` phase 2 has the first so many questions about different facts, in turn.
    """
    items = questions.world.train
    if phase != "noisy":
        return questions.prompts, [item.answer for item in items]
    answers = questions.noisy(cell, items)
    if cell.samples is None:
        return questions.prompts, answers
    first: dict[int, int] = {}
    for row, item in enumerate(items):
        first.setdefault(item.fact, row)
    chosen = list(first.values())[: cell.samples]
    turn = [chosen[row % len(chosen)] for row in range(len(items))]
    return [questions.prompts[row] for row in turn], [answers[row] for row in turn]


def in_context(
    cell: PhaseCell, questions: Questions, most: int = 200
) -> tuple[list[str], list[Item]]:
    """Prompts that show SHOWN questions with noisy answers before each test question, and their
    items. The same examples stand before all; none is about a fact that is asked."""
    items = questions.world.train
    rng = np.random.default_rng([cell.seed, 0x1C])
    facts: dict[int, int] = {}
    for row in rng.permutation(len(items)).tolist():
        facts.setdefault(items[row].fact, row)
    rows = list(facts.values())[:SHOWN]
    shown = [items[row] for row in rows]
    examples = "".join(
        f"{PROMPT.format(question=item.question)}{answer}\n"
        for item, answer in zip(shown, questions.noisy(cell, shown, 1.0), strict=True)
    )
    told = {item.fact for item in shown}
    asked = [item for item in questions.world.test if item.fact not in told][:most]
    return [examples + PROMPT.format(question=item.question) for item in asked], asked


def summarise(
    tables: Mapping[str, pd.DataFrame], own: str, chosen: Sequence[bool] | None = None,
    samples: int = 500,
) -> dict[str, Any]:  # fmt: skip
    """Metrics of a cell from its tables of scored answers, by phase.

    Names: ``<measure>_<phase>``; ``own_<phase>``, the exact-format rate of the noise's own form
    (before any noise: the rate of false positives); with ``_low`` and ``_high`` (bootstrap over
    facts, whose questions go together) for content, noise and own; ``content_again_p`` and
    ``noise_again_p``, paired tests over facts of phase 3 against phase 1 (in records that name no
    ``sessions`` over questions, with more false alarms); FLOWS, shares of questions with their
    intervals; and, with `chosen` (whether each question's fact is noisy in phase 2), what
    :func:`by_side` gives.
    """
    from lib.analysis.statistics import bootstrap_rate, paired_test
    from lib.analysis.world_scores import MEASURES

    found: dict[str, Any] = {}
    for phase, table in tables.items():
        for name in MEASURES:
            found[f"{name}_{phase}"] = float(table[name].mean())
        found[f"own_{phase}"] = found[f"form_{own}_{phase}"]
        if chosen is not None:
            found |= by_side(table, f"form_{own}", chosen, phase)
        by_fact = table.groupby("fact")
        counts = by_fact.size().to_numpy()
        for name, column in (("content", "content"), ("noise", "noise"), ("own", f"form_{own}")):
            sums = by_fact[column].sum().to_numpy()
            _, interval = bootstrap_rate(sums, counts, draws=samples)
            if interval is not None:
                found[f"{name}_{phase}_low"], found[f"{name}_{phase}_high"] = interval
    if {"clean", "again"} <= set(tables):
        for name in ("content", "noise"):
            then, before = (
                tables[phase].groupby("fact")[name].mean().tolist() for phase in ("again", "clean")
            )
            found[f"{name}_again_p"] = paired_test(then, before, samples=1000)[1]
        before = found["content_clean"]
        found["recovery"] = found["content_again"] / before if before else None
    if {"clean", "noisy", "again"} <= set(tables):
        found |= _flows(tables, samples)
    return found


def by_side(
    table: pd.DataFrame, own: str, chosen: Sequence[bool], phase: str
) -> dict[str, float | None]:
    """``<measure>_<side>_<phase>`` for the measures of BY_SIDE and both SIDES, None for a side that
    has no question.

    Args:
        table: a row a question, with columns "content", "noise", "clean" and `own`, which says
            whether the answer has the noise's form.
        chosen: whether each question's fact is noisy in phase 2.
    """
    found: dict[str, float | None] = {}
    for side, wanted in SIDES:
        part = table[np.asarray(chosen) == wanted]
        for name in BY_SIDE:
            column = part[own if name == "own" else name]
            found[f"{name}_{side}_{phase}"] = float(column.mean()) if len(part) else None
    return found


def _flows(tables: Mapping[str, pd.DataFrame], samples: int) -> dict[str, Any]:
    from lib.analysis.statistics import bootstrap_rate

    found: dict[str, Any] = {}
    facts = tables["clean"]["fact"]
    known = {phase: table["content"].to_numpy() == 1 for phase, table in tables.items()}
    for name, (first, was, then, becomes) in FLOWS.items():
        among = known[first] == bool(was)
        if first == "noisy":
            among &= known["clean"]
        hit = among & (known[then] == bool(becomes))
        if not among.any():
            found[name] = None
            continue
        sums = pd.Series(hit.astype(float)).groupby(facts.to_numpy()).sum().to_numpy()
        counts = pd.Series(among.astype(float)).groupby(facts.to_numpy()).sum().to_numpy()
        found[name], interval = bootstrap_rate(sums, counts, draws=samples)
        if interval is not None:
            found[f"{name}_low"], found[f"{name}_high"] = interval
    return found


def compact(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of all phases as one small one: ``phase`` (number in PHASES), ``fact``, ``phrasing``,
    ``content``, ``clean``, ``noise``, and ``form`` (number in FORMS, -1 for none exactly)."""
    from lib.analysis.noise_metrics import FORMS

    parts = []
    for phase, table in tables.items():
        forms = table[[f"form_{form}" for form in FORMS]].to_numpy()
        part = table[["fact", "phrasing"]].assign(
            phase=np.int8(PHASES.index(phase)),
            form=np.where(forms.any(1), forms.argmax(1), -1).astype(np.int8),
            **{name: table[name].astype(np.int8) for name in ("content", "clean", "noise")},
        )
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def family(cell: PhaseCell) -> PhaseCell:
    """What cells share that begin with the same model after phase 1."""
    return dataclasses.replace(
        cell, noise=NONE, share=1.0, samples=None, weights="float32", noisy=cell.clean,
        again=cell.clean,
    )  # fmt: skip
