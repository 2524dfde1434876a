"""What the chapter's measures give to a writer that has read nothing: another text of that kind.

A decoder that writes good text of the right kind shares words with the chunk, and the longer both
are the more. Here the same chunks are asked for, and in place of an answer stands another chunk of
the same category, from another document: no model, no memory. What a decoder's numbers are worth is
what they have beyond these. None of this is in arXiv 2512.15653.

Two measures need a model all the same, to read the chunks and not to write: the correlation with a
chunk's perplexity, and the similarity of mean token vectors. They are taken from the language model
of a record of the chapter that kept its weights, if there is one that has read the same text (the
small one that is published with the book); else they are left out. It is not the model whose
decoders these numbers stand beside, and its tokens are others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lib import provenance
from lib.config import from_dict, require
from lib.experiments import Context, Experiment, Outcome, find, memory
from lib.experiments._language import open_data
from lib.experiments._reading import KeptModel
from lib.experiments._training import check_seed
from lib.experiments.memory import (
    CORPORA,
    asked_for,
    chunk_task,
    language_cell,
    quick_decoder,
    quick_language,
)
from lib.models.presets import preset
from lib.store import Record, Store
from lib.tasks.language import LanguageTask
from lib.tasks.reconstruction import LENGTHS, ReconstructionConfig
from lib.tasks.tokenizers import BPEConfig

NAME = "memory.unrelated_text"
MODEL = "mamba1-20x192-kinds"
SEEDS = (1, 2, 3)
CORPUS = "kinds"  # the text that knows the kind of each document and word, without a download


@dataclass(frozen=True)
class UnrelatedCell:
    """One length.

    Attributes:
        text: text and tokenizer of the models whose numbers these stand beside.
        task: how texts are cut into chunks.
        asked: chunks of each category, at most; the same as are asked of decoders.
        seed: of which other chunk stands for which.
    """

    text: LanguageTask
    task: ReconstructionConfig
    asked: int
    seed: int

    def __post_init__(self) -> None:
        check_seed(self.seed)
        require(self, "asked", self.asked >= 1, "1 or more")


def cells(profile: str) -> list[UnrelatedCell]:
    """Cells of a profile: the made-up text of the matched models, seven lengths, three draws.
    quick: that of the quick decoders, their two lengths. paper: none, its texts are on the hub."""
    if profile == "quick":
        found = [quick_decoder(quick_language(), length) for length in (4, 8)]
        return [UnrelatedCell(quick_language().task, c.task, c.asked, 1) for c in found]
    if profile != "matched":
        return []
    corpus, vocab, _ = CORPORA[CORPUS]
    text = language_cell(preset("mamba1", "5M", vocab), corpus, BPEConfig(vocab), 1).task
    return [
        UnrelatedCell(text, chunk_task(length), asked_for(length), seed)
        for length in LENGTHS
        for seed in SEEDS
    ]


def readable(cell: UnrelatedCell) -> str:
    """For example ``unrelated-kinds-L64-s1``."""
    return f"unrelated-{cell.text.corpus.source.kind}-L{cell.task.length}-s{cell.seed}"


def kept_model(text: LanguageTask) -> KeptModel | None:
    """A language model that has read the text and lies in a record; held-out documents are new to
    it, too."""
    found = [
        cell
        for profile in ("matched", "quick")
        for cell in memory.cells(profile)
        if cell.keep_weights and cell.language.task.corpus == text.corpus
    ]
    protocol = find(memory.NAME).protocol
    for record in Store.at(provenance.ROOT).records(memory.NAME, protocol, found):
        if record is not None and record.weights_path() is not None:
            return KeptModel(record)
    return None


def run(cells: Sequence[UnrelatedCell], context: Context) -> Iterator[Outcome]:
    """Measure the cells, on the processor whatever the device."""
    opened: dict[LanguageTask, KeptModel | None] = {}
    for cell in context.each(cells):
        if context.late:
            yield Outcome(cell, "stopped", "budget spent")
            continue
        if cell.text not in opened:
            opened[cell.text] = kept_model(cell.text)
        yield _measure(cell, opened[cell.text])


def _measure(cell: UnrelatedCell, reader: KeptModel | None) -> Outcome:
    import numpy as np

    from lib.analysis.memory_controls import unrelated_text
    from lib.analysis.memory_measures import tabulate
    from lib.analysis.memory_writing import Observed
    from lib.tasks.memory_text import ask

    data = open_data(cell.text)
    decode = data.tokenizer.decode
    frequency = np.bincount(
        np.asarray(data.train.stream.tokens), minlength=data.tokenizer.vocab_size
    )
    asked = ask(data, cell.task, cell.asked)
    rows = unrelated_text(asked.chunks, cell.seed)
    facts: dict[str, Any] = {
        "backends": {},
        "text": data.corpus.describe(),
        "tokenizer": data.tokenizer.fingerprint,
    }
    perplexity, near = None, {}
    if reader is not None:
        texts = [decode(row) for row in asked.chunks.tokens.tolist()]
        perplexity = reader.perplexities(texts, cell.task.length)
        near[""] = reader.similarity(texts, [decode(row) for row in rows])
        facts["reader"] = reader.facts
    observed = Observed({"": rows}, near, perplexity, None, {})
    metrics, tables = tabulate(observed, asked, decode, frequency)
    return Outcome(cell, "done", None, metrics, tables, None, facts)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a finished record: corpus, length, seed and every metric."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell = from_dict(UnrelatedCell, record.config)
        facts = {"corpus": cell.text.corpus.source.kind, "length": cell.task.length}
        rows.append({**facts, "seed": cell.seed, "status": record.status, **record.metrics})
    return pd.DataFrame(rows)


def of_claims(decoders: pd.DataFrame) -> pd.DataFrame:
    """Of :func:`lib.experiments.memory.frame` the rows of the model that the chapter's claims are
    about, 5M parameters on made-up text."""
    return decoders[decoders["model"] == MODEL] if len(decoders) else decoders


def beside(decoders: pd.DataFrame, unrelated: pd.DataFrame) -> pd.DataFrame:
    """Decoders' numbers with those of unrelated text of the same length, for readers: a row a
    length, means over seeds.

    Args:
        decoders: rows of one model, of :func:`lib.experiments.memory.frame`. unrelated: of
            :func:`frame`.
    """
    names = {
        "token_accuracy": "in their place", "omission": "omission",
        "rho_frequency": "omission with frequency",
        "rho_frequency_within": "the same, within one kind",
        "omission_first_quarter": "lost, first quarter",
        "omission_last_quarter": "lost, last quarter",
        "omission_first_quarter_even": "shared, first quarter",
        "omission_last_quarter_even": "shared, last quarter",
    }  # fmt: skip
    parts = {}
    for who, table in (("decoder", decoders), ("unrelated text", unrelated)):
        means = table.reindex(columns=["length", *names]).groupby("length").mean()
        parts[who] = means.rename(columns=names)
    found = pd.concat(parts, names=["", "tokens"]).dropna(axis=1, how="all")
    return found.reset_index().sort_values(["tokens", ""]).reset_index(drop=True)


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="An unrelated text in the place of an answer",
        protocol=1,
        notebook="notebooks/memory/reconstruction_by_length.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
        judged=False,  # a control of ours, not a published number
    ),
)
