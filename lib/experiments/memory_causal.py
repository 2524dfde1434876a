"""Does what is rare in pretraining get forgotten? The causal test.

Hossain et al. 2025 (arXiv 2512.15653) report that rarer categories are forgotten more; rare and
hard go together there. Here language models read stories in which one category of sentences is ten
times rarer or ten times more frequent, and plain sentences give or take the room
(:mod:`lib.tasks.stories`: the same stories, the same words in the beats of all other categories).
The decoders of all of them learn and are asked for the same other stories, with the same tokens, so
that nothing but the pretraining differs.

Pretraining acts twice, though: on the model whose state is read, and on the decoder, which starts
as its copy. So there is a second reading, in which all decoders of a seed start from the model of
base rates, whatever they read. The claims are about this one. It has a bias of its own, against the
claim: the base rate, 6 % of the beats, is nearer to the rare end (0.6 %) than to the frequent one
(60 %), and so is what the decoder starts from.

A model may also keep more or less of everything. So omission of the category's own words is taken
less that of the categories that no pretraining changed (`REST`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from lib.config import from_dict
from lib.experiments import Context, Experiment, Outcome
from lib.experiments._language import LanguageCell
from lib.experiments._memory import train_decoders
from lib.experiments._memory_cell import MemoryCell, readable
from lib.experiments.memory import decoder_cell, language_cell, quick_decoder, quick_language
from lib.models.presets import preset
from lib.store import Record
from lib.tasks import stories
from lib.tasks.corpus import CorpusConfig, StoryText
from lib.tasks.stories import StoryConfig
from lib.tasks.tokenizers import BPEConfig

NAME = "memory.prevalence_causal"
CATEGORIES = ("numbers", "names")
FREQUENCIES = (1.0, 0.1, 10.0)
LENGTHS = (16, 32)  # short enough for decoders of so few steps
ALIKE = 32  # length of the second reading
ASKED = 5  # times as many chunks as of one kind elsewhere: here there is one kind, not five
# a category's own words, whose omission the claims are about: most tokens of its sentences are of
# others, the same from sentence to sentence
OWN = {"numbers": "number_words", "names": "name_words"}
WORDS = {"numbers": "number words", "names": "names"}  # the same, for readers
# controls beside a decoder, as metrics begin and as readers know them: what is guessed of the text
# before, what is written of nothing, what the decoder's habits are
CONTROLS = {
    "alone_": "language model alone", "zero_": "state of zeros", "swapped_": "another's answer",
}  # fmt: skip
# omission of the tokens of all categories but the one that was changed, mean over categories
REST = "omission_label_rest_of_{}"
SEEDS = (1, 2, 3)
OTHER = 90  # seed of the stories that decoders learn: none of the language models read them
TOKENS, STEPS = 16_384_000, 1000  # of pretraining, of a decoder


def read_stories(category: str, frequency: float, documents: int, held: float) -> CorpusConfig:
    """What a language model reads: one category at another frequency."""
    told = StoryConfig() if frequency == 1 else StoryConfig(**{category: frequency})  # type: ignore[arg-type]
    return CorpusConfig(StoryText(told, documents), validation=held)


def asked_stories(documents: int, held: float) -> CorpusConfig:
    """What all decoders learn and are asked for: every category at 2.5 times its base rate."""
    return CorpusConfig(StoryText(stories.rich(OTHER), documents), validation=held)


def cells(profile: str) -> list[MemoryCell]:
    """Cells of a profile.

    matched: 2M parameters, numbers and names at 0.1, 1 and 10 times the base rate, two lengths,
    three seeds, a whole seed at a time; each seed ends with decoders that start alike, at the rare
    and the frequent end. quick: a tiny model, numbers at 0.1 and 10 times. paper: none, nobody
    published such a run.
    """
    if profile == "quick":
        asked = asked_stories(150, 0.3)
        found = []
        for frequency in (0.1, 10.0):
            corpus = read_stories("numbers", frequency, 150, 0.1)
            language = quick_language(corpus=corpus, tokens_of=asked)
            found.append(quick_decoder(language, 8, 60, text=asked))
        return found
    if profile != "matched":
        return []
    asked = asked_stories(60_000, 0.02)
    tokenizer = BPEConfig(2048, corpus=asked)

    def decoder(language: LanguageCell, length: int, **more: Any) -> MemoryCell:
        cell = decoder_cell(language, length, None, steps=STEPS, text=asked, **more)
        return dataclasses.replace(cell, asked=ASKED * cell.asked)

    found = []
    for seed in SEEDS:
        ends: list[LanguageCell] = []  # at other rates than the base's
        for category in CATEGORIES:
            for frequency in FREQUENCIES:
                if frequency == 1 and category != CATEGORIES[0]:
                    continue  # the base rate is the same for all
                corpus = read_stories(category, frequency, 25_000, 0.02)
                model = preset("mamba1", "2M", 2048)
                language = language_cell(model, corpus, tokenizer, seed, TOKENS)
                ends += [language] if frequency != 1 else []
                found += [decoder(language, length) for length in LENGTHS]
        found += [decoder(language, ALIKE, start="base rates") for language in ends]
    return found


def rest_of(
    metrics: Mapping[str, float | None], category: str, writer: str = ""
) -> float | None:  # fmt: skip
    """Mean omission of all categories but one; None if none was measured.

    Args:
        writer: of a control, by its prefix.
    """
    found = [
        value
        for name in stories.CATEGORIES
        if name != category and (value := metrics.get(f"{writer}omission_label_{name}")) is not None
    ]
    return sum(found) / len(found) if found else None


def run(cells: Sequence[MemoryCell], context: Context) -> Iterator[Outcome]:
    """As the chapter's decoders; with the metrics REST of each category, whichever was changed, so
    that two models of one test can be held against each other.

    Raises:
        As :func:`lib.experiments._memory.train_decoders`.
    """
    for outcome in train_decoders(cells, context):
        if outcome.metrics:
            more = {REST.format(name): rest_of(outcome.metrics, name) for name in CATEGORIES}
            outcome.metrics = {**outcome.metrics, **more}
        yield outcome


def changed(cell: MemoryCell) -> tuple[str, float]:
    """The category whose frequency was set, and to what; ("none", 1) at base rates."""
    source = cell.language.task.corpus.source
    assert isinstance(source, StoryText)
    for name in stories.CATEGORIES:
        if getattr(source.stories, name) != 1:
            return name, getattr(source.stories, name)
    return "none", 1.0


def name_of(cell: MemoryCell) -> str:
    """For example ``numbers-x0.1-mamba1-17x128-stories-L64-s1``."""
    category, frequency = changed(cell)
    alike = "" if cell.start == "copy" else "-alike"
    return f"{category}-x{frequency:g}-{readable(cell)}{alike}"


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a finished record: changed (a category), frequency, length, seed, alike (whether the
    decoder started from the model of base rates), every metric, and `own` and `rest`: omission of
    the changed category's words, and mean of the other categories' tokens."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell = from_dict(MemoryCell, record.config)
        category, frequency = changed(cell)
        own = record.metrics.get(f"omission_label_{OWN.get(category, category)}")
        rows.append(
            {
                "changed": category,
                "frequency": frequency,
                "length": cell.task.length,
                "seed": cell.seed,
                "alike": cell.start != "copy",
                "status": record.status,
                "own": own,
                "rest": record.metrics.get(REST.format(category)),
                **record.metrics,
            }
        )
    return pd.DataFrame(rows)


def unchanged(category: str) -> str:
    """The tested category whose frequency stays where that of `category` is set."""
    return next(name for name in CATEGORIES if name != category)


def by_frequency(table: pd.DataFrame, category: str, alike: bool = False) -> pd.DataFrame:
    """Rows of one category's test: its cells and those at base rates, which all tests share.

    Args:
        alike: of the decoders that start alike, at the lengths that these have.

    Returns:
        Columns frequency, length, seed, own (omission of the category's words), rest, unchanged
        (omission of the words whose frequency stayed), and of the category's words what controls
        lose: alone (the language model alone), zero (from a state of zeros), swapped (in the answer
        to another chunk; nothing in records older than it).
    """
    if not len(table):
        return pd.DataFrame()
    own, base = table[table["changed"] == category], table[table["changed"] == "none"]
    own = own[own["alike"] == alike]
    rows = pd.concat([own, base[base["length"].isin(own["length"])] if alike else base])
    label = f"omission_label_{OWN[category]}"
    taken = {
        "own": label, "rest": REST.format(category),
        "unchanged": f"omission_label_{OWN[unchanged(category)]}",
        **{writer.removesuffix("_"): f"{writer}{label}" for writer in CONTROLS},
    }  # fmt: skip
    found = rows[["frequency", "length", "seed"]].copy()
    for column, metric in taken.items():
        found[column] = rows[metric] if metric in rows else float("nan")
    return found.sort_values(["frequency", "seed"])


def gaps(table: pd.DataFrame) -> pd.DataFrame:
    """How much more is lost where a category was rare than where it was frequent, for readers: a
    row a category, length, start of the decoders and seed.

    Returns:
        Columns changed, tokens, decoders start, seed; own words, other categories, and the first
        less the second: difference; of the CONTROLS the same difference, without those that no
        record has; unchanged words (of the other tested category).
    """
    keys = ["changed", "length", "alike", "seed"]
    rows: list[dict[str, Any]] = []
    tested = table[table["changed"] != "none"] if len(table) else table
    for (category, length, alike, seed), cells in tested.groupby(keys) if len(tested) else ():
        at = cells.set_index("frequency").reindex([min(FREQUENCIES), max(FREQUENCIES)])
        ends = at.to_dict("records")
        lost = pd.DataFrame(
            {"own words": at["own"], "other categories": at["rest"],
             "difference": at["own"] - at["rest"],
             **{name: [_beyond(end, category, writer) for end in ends]
                for writer, name in CONTROLS.items()},
             "unchanged words": at[f"omission_label_{OWN[unchanged(category)]}"]}
        )  # fmt: skip
        more = lost.iloc[0] - lost.iloc[1]
        start = "alike" if alike else "as copies"
        rows.append(
            {"changed": category, "tokens": length, "decoders start": start, "seed": seed, **more}
        )
    columns = ["changed", "tokens", "decoders start", "seed", "own words", "other categories",
               "difference", *CONTROLS.values(), "unchanged words"]  # fmt: skip
    measured = [
        name
        for writer, name in CONTROLS.items()
        if any(f"{writer}omission_label_{label}" in table for label in OWN.values())
    ]
    found = pd.DataFrame(rows, columns=columns)
    found = found.drop(columns=[name for name in CONTROLS.values() if name not in measured])
    # the reading that is judged comes first
    return found.sort_values(columns[:4], ascending=[False, False, True, True])


def not_remembered(table: pd.DataFrame) -> pd.DataFrame:
    """What is left of omission if guessing is taken off, for readers: a row a category, length,
    start of the decoders and frequency.

    A word is lost if it is neither remembered nor guessed. Were the two independent of each other,
    the share that is not remembered would be what the decoder loses over what the language model
    alone, told the true text before, misses. Above 1 the decoder does worse than a guess. The
    guesses are those of the model that is read: a copy begins with them, a decoder that starts
    alike does not.

    Args:
        table: as :func:`frame` makes it.

    Returns:
        Columns changed, tokens, decoders start, times the base rate; lost, language model alone and
        not remembered: the mean over seeds, and of the last one every seed's, as text.
    """
    rows: list[dict[str, Any]] = []
    for alike, category in itertools.product((True, False), CATEGORIES):
        found = by_frequency(table, category, alike)
        for (length, frequency), seeds in (
            found.groupby(["length", "frequency"]) if len(found) else ()
        ):
            left = seeds["own"] / seeds["alone"]
            rows.append(
                {
                    "changed": category,
                    "tokens": length,
                    "decoders start": "alike" if alike else "as copies",
                    "times the base rate": frequency,
                    "lost": seeds["own"].mean(),
                    "language model alone": seeds["alone"].mean(),
                    "not remembered": left.mean(),
                    "by seed": ", ".join(f"{value:.2f}" for value in left),
                }
            )
    return pd.DataFrame(rows)


def _beyond(metrics: Mapping[str, Any], category: str, writer: str) -> float:
    """What a control loses of a category's words beyond the other categories; not a number where
    it was not measured."""
    own = metrics.get(f"{writer}omission_label_{OWN[category]}", float("nan"))
    rest = rest_of(metrics, category, writer)
    return float("nan") if rest is None else own - rest


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="Is what is rare in pretraining forgotten? A causal test",
        # 2: a category's words have a label of their own; 3: REST, which claims subtract
        protocol=3,
        notebook="notebooks/memory/prevalence_causal.ipynb",
        cells=cells,
        readable=name_of,
        run=run,
        frame=frame,
    ),
)
