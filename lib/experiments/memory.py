"""Chapter "Selective memory": what a Mamba's state forgets, read out by an auto-encoder.

Hossain et al. 2025 (arXiv 2512.15653). One experiment holds the decoders that most pages look at:
each is trained once and measured once, by length, kind of text, word class, position, frequency and
perplexity (:mod:`lib.experiments._memory`). ``paper`` are the published models, on Pile-10k.
``matched`` are models of our own, on made-up text of five kinds and on real text. ``quick`` is the
same way from end to end with a tiny model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lib.config import from_dict
from lib.experiments import Experiment
from lib.experiments._language import TEXT_NAMES, LanguageCell
from lib.experiments._memory import train_decoders
from lib.experiments._memory_cell import MemoryCell, language_name, readable
from lib.experiments._pretraining import Published
from lib.experiments._reading import reevaluate
from lib.experiments.stories import DEBIAN
from lib.experiments.stories import TRAINING as PRETRAINING
from lib.models.config import LanguageModelConfig, Mamba1Config
from lib.models.presets import non_embedding, preset
from lib.store import Record
from lib.tasks.corpus import PILE_10K, CorpusConfig, KindsText, LocalText
from lib.tasks.kinds import KindsConfig
from lib.tasks.language import LanguageTask
from lib.tasks.reconstruction import LENGTHS, ReconstructionConfig
from lib.tasks.tokenizers import BPEConfig, PretrainedConfig
from lib.training.config import TrainingConfig

NAME = "memory.reconstruction_by_length"
# layers and width of state-spaces/mamba-*-hf
PUBLISHED = {"130m": (24, 768), "370m": (48, 1024), "790m": (48, 1536), "1.4b": (48, 2048)}
TOKEN_MODELS = ("130m", "1.4b")  # whose word classes were printed, at length 256
PAPER_BATCH = 800  # tokens; the paper's only known batch: 200 chunks of 4 tokens

SIZES = ("5M", "2M", "16M")  # in the order of their worth to a run that may be cut short
SEEDS = {"2M": (1, 2, 3), "5M": (1, 2, 3), "16M": (1,)}
KINDS = CorpusConfig(KindsText(KindsConfig(characters=2400), 30_000), validation=0.05)
# the real text of the stories' chapter, but held out by source file: a long one stands in pieces
REAL = CorpusConfig(
    DEBIAN, validation=0.0,
    held_out=LocalText(
        "data/text", "valid.jsonl.gz",
        fingerprint="1618c770de57eff6bffc47d0d971cf9f7e54ebc0543965878066404bd286ac4d",
    ),
)  # fmt: skip
CORPORA = {"kinds": (KINDS, 2048, "built-in"), "local": (REAL, 8192, "ud")}
READ_TOKENS, MEASUREMENTS = 32_768_000, 20  # of pretraining
BATCH_TOKENS = 16_384  # of a decoder's training
DECODER_STEPS, DECODER_MEASUREMENTS = 2000, 10
# of the rates that memory.decoder_training had tried for this width the best, when the first of the
# chapter's decoders were trained; twice as much, tried later, is a little better
DECODER_RATE, RATE_WIDTH = 1e-2, 128
KEPT_LENGTHS = (8, 16, 32, 64)  # of a model small enough to be published with the book


def chunk_task(length: int) -> ReconstructionConfig:
    """Chunks of `length` tokens; texts that are too short are passed over."""
    return ReconstructionConfig(length, short="skip", end=None)


def asked_for(length: int) -> int:
    """Test chunks of a category: as many tokens at each length, within reason."""
    return min(800, 25_600 // length)


def decoder_rate(model: LanguageModelConfig) -> float:
    """Largest learning rate of a matched decoder, lower for wider models in proportion."""
    return DECODER_RATE * RATE_WIDTH / model.pattern[0].d_model


def decoder_training(length: int, rate: float, tokens: int = BATCH_TOKENS) -> TrainingConfig:
    """Of matched decoders: as many tokens a step at each length. Rates far above the paper's, which
    starts from models that have read thousands of times as much."""
    return TrainingConfig(
        epochs=DECODER_MEASUREMENTS, warmup_epochs=1, batch_size=tokens // length,
        lr_start=1e-5, lr_peak=rate, lr_end=1e-5, beta2=0.95, weight_decay=0.0,
        precision="bfloat16",
    )  # fmt: skip


def epoch_chunks(training: TrainingConfig, steps: int) -> int:
    """Chunks between two measurements, for so many steps in all."""
    return training.batch_size * steps // training.epochs


def paper_training(length: int) -> TrainingConfig:
    """One pass at a constant rate of 1e-5, without decay, warm-up or clipping. Batch sizes are not
    known but for length 4; as many tokens are taken for the others."""
    return TrainingConfig(
        epochs=1, warmup_epochs=0, batch_size=max(1, PAPER_BATCH // length), lr_start=1e-5,
        lr_peak=1e-5, lr_end=1e-5, weight_decay=0.0, clip_norm=None, drop_last=False,
    )  # fmt: skip


# -- language models ------------------------------------------------------------------------


def language_cell(
    model: LanguageModelConfig, corpus: CorpusConfig, tokenizer: BPEConfig, seed: int,
    tokens: int = READ_TOKENS,
) -> LanguageCell:  # fmt: skip
    """A language model that is trained as in the chapter on stories."""
    task = LanguageTask(corpus, tokenizer, 512, epoch_tokens=tokens // MEASUREMENTS)
    return LanguageCell(task, model, PRETRAINING, seed)


def quick_language(
    model: LanguageModelConfig | None = None, corpus: CorpusConfig | None = None,
    tokens_of: CorpusConfig | None = None, seed: int = 1,
) -> LanguageCell:  # fmt: skip
    """A tiny language model, trained in seconds: by default on made-up text of five kinds, in the
    tokens of that text."""
    source = KindsText(KindsConfig(characters=500), documents=400)
    task = LanguageTask(
        corpus or CorpusConfig(source, validation=0.15), BPEConfig(320, 100_000, tokens_of), 32,
        epoch_tokens=32 * 16 * 15, valid_rows=16,
    )  # fmt: skip
    training = TrainingConfig(
        epochs=4, warmup_epochs=1, batch_size=16, lr_start=1e-4, lr_peak=5e-3, lr_end=1e-4
    )
    tiny = LanguageModelConfig(320, 2, (Mamba1Config(48, d_state=8),), tie_embeddings=True)
    return LanguageCell(task, model or tiny, training, seed)


def quick_decoder(language: LanguageCell, length: int, steps: int = 120, **more: Any) -> MemoryCell:
    """A decoder of a tiny language model."""
    training = TrainingConfig(
        epochs=4, warmup_epochs=1, batch_size=512 // length, lr_start=1e-4, lr_peak=1e-2,
        lr_end=1e-4,
    )  # fmt: skip
    return MemoryCell(
        language, chunk_task(length), training, epoch_chunks(training, steps), 40,
        more.pop("tags", None), language.seed, **more,
    )  # fmt: skip


def decoder_cell(
    language: LanguageCell, length: int, tags: str | None, *, steps: int = DECODER_STEPS,
    rate: float | None = None, tokens: int = BATCH_TOKENS, **more: Any,
) -> MemoryCell:  # fmt: skip
    """A decoder of a matched language model, trained for so many steps of so many tokens, at
    :func:`decoder_rate` if not at another rate."""
    rate = decoder_rate(language.model) if rate is None else rate
    training = decoder_training(length, rate, tokens)
    return MemoryCell(
        language, chunk_task(length), training, epoch_chunks(training, steps),
        asked_for(length), tags, language.seed, **more,
    )  # fmt: skip


# -- cells ----------------------------------------------------------------------------------


def cells(profile: str) -> list[MemoryCell]:
    """Cells of a profile.

    paper: four published sizes and seven lengths, one seed. matched: three sizes of our own,
    made-up and real text, seven lengths, three seeds (16M: one), first one seed of all sizes on
    made-up text; last a small model whose weights go with the book. quick: one tiny model, two
    lengths.
    """
    if profile == "quick":
        language = quick_language()
        return [
            quick_decoder(language, n, tags="built-in", keep_weights=True) for n in (4, 8)
        ]  # fmt: skip
    if profile == "paper":
        return [paper_cell(size, length) for size in PUBLISHED for length in LENGTHS]
    if profile != "matched":
        return []
    wanted = [
        (corpus, size, seed)
        for size in SIZES
        for seed in SEEDS[size]
        for corpus in CORPORA
    ]  # fmt: skip
    wanted.sort(key=lambda one: (one[2], one[0] != "kinds"))  # stable: sizes stay in their order
    found = []
    for name, size, seed in wanted:
        corpus, vocab, tags = CORPORA[name]
        language = language_cell(preset("mamba1", size, vocab), corpus, BPEConfig(vocab), seed)
        found += [decoder_cell(language, length, tags) for length in LENGTHS]
    corpus, _, tags = CORPORA["kinds"]
    small = LanguageModelConfig(1024, 5, (Mamba1Config(96),), tie_embeddings=True)
    language = language_cell(small, corpus, BPEConfig(1024), 1)
    kept = [decoder_cell(language, n, tags, keep_weights=True) for n in KEPT_LENGTHS]
    return [*found, *kept]


def paper_cell(size: str, length: int) -> MemoryCell:
    """A decoder of a published model."""
    layers, width = PUBLISHED[size]
    model = LanguageModelConfig(50_280, layers, (Mamba1Config(width),), tie_embeddings=True)
    task = LanguageTask(CorpusConfig(PILE_10K, validation=0.1), PretrainedConfig())
    tags = "conll2003" if length == 256 and size in TOKEN_MODELS else None
    return MemoryCell(
        Published(f"state-spaces/mamba-{size}-hf", model, task), chunk_task(length),
        paper_training(length), None, asked_for(length), tags, seed=1,
    )  # fmt: skip


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a finished record: model (its name), corpus, size (parameters outside the embedding),
    length, seed and every metric."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell = from_dict(MemoryCell, record.config)
        rows.append(
            {
                "model": language_name(cell),
                "corpus": cell.language.task.corpus.source.kind,
                "parameters": non_embedding(cell.model),
                "length": cell.task.length,
                "seed": cell.seed,
                "status": record.status,
                **record.metrics,
            }
        )
    return pd.DataFrame(rows)


def tables(records: Sequence[Record], name: str) -> pd.DataFrame:
    """A small table (see :mod:`lib.analysis.memory_measures`) of all records, one below the other,
    with model, corpus, parameters, length and seed."""
    parts = []
    for record in records:
        table = record.read_curves()
        if "table" not in table or record.status != "done":
            continue
        own = table[table["table"] == name].dropna(axis=1, how="all")
        (facts,) = frame([dataclasses.replace(record, metrics={})]).to_dict("records")
        parts.append(own.assign(**{key: facts[key] for key in facts if key != "status"}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def largest(records: Sequence[Record], length: int, corpus: str | None = None) -> list[Record]:
    """Of the records of a length (and of a text: "kinds", "local"), those of the largest model."""
    rows = frame([dataclasses.replace(record, metrics={}) for record in records])
    if not len(rows):
        return []
    fits = (rows["length"] == length) & (rows["corpus"] == corpus if corpus else True)
    top = rows[fits]["parameters"].max()
    return [records[index] for index in rows[fits & (rows["parameters"] == top)].index]


def most_lengths(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a table with the columns parameters and length, the rows of one model: of those that have
    run at most lengths the largest. While runs are still to come, the largest of all has few."""
    if not len(rows):
        return rows
    lengths = rows.groupby("parameters")["length"].nunique()
    return rows[rows["parameters"] == lengths[lengths == lengths.max()].index.max()]


def planned() -> pd.DataFrame:
    """The cells of the profile paper, a row a length, for readers."""
    rows = []
    for length in LENGTHS:
        own = [cell for cell in cells("paper") if cell.task.length == length]
        tagged = [size.upper() for size in TOKEN_MODELS] if any(cell.tags for cell in own) else []
        rows.append(
            {
                "tokens a chunk": length,
                "chunks a batch": own[0].training.batch_size,
                "models": ", ".join(size.upper() for size in PUBLISHED),
                "word classes of CoNLL-2003": ", ".join(tagged) or None,
            }
        )
    return pd.DataFrame(rows)


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations of omission, a row a record of :func:`frame`, for readers. Where any record
    has them, as the first have not: that with perplexity within one kind of text, and how many
    different tokens that with frequency goes over."""
    names = {
        "corpus": "text", "parameters": "parameters", "length": "tokens", "seed": "seed",
        "rho_frequency": "with frequency", "rho_frequency_within": "within one kind of text",
        "rho_perplexity": "with perplexity",
    }  # fmt: skip
    if "rho_perplexity_within" in table:
        names["rho_perplexity_within"] = "with perplexity, within one kind"
    if "rho_frequency_types" in table:
        names["rho_frequency_types"] = "different tokens, with frequency"
    shown = table.reindex(columns=list(names)).rename(columns=names)
    return shown.assign(text=shown["text"].replace(TEXT_NAMES))


def differing(pairs: pd.DataFrame) -> pd.DataFrame:
    """Of a table of pairs of one or several seeds, those whose omission differs significantly in
    every seed: group, other, mean difference, the largest corrected p, and the number of seeds."""
    columns = ["group", "other", "difference", "p_corrected", "seeds"]
    if not len(pairs):
        return pd.DataFrame(columns=columns)
    found = pairs.groupby(["group", "other"], sort=False, as_index=False).agg(
        difference=("difference", "mean"),
        p_corrected=("p_corrected", "max"),
        seeds=("seed", "nunique"),
        significant=("significant", lambda flags: flags.astype(bool).all()),
    )
    # a pair of which one seed has too few words has no test there
    everywhere = found["significant"] & (found["seeds"] == pairs["seed"].nunique())
    return found.loc[everywhere, columns].reset_index(drop=True)


def differences(pairs: pd.DataFrame) -> pd.DataFrame:
    """:func:`differing` for readers; p that is too small for a float is said to be."""
    rows = differing(pairs)
    names = {
        "group": "group", "other": "compared with", "difference": "omission, difference",
        "p_corrected": "p, corrected", "seeds": "seeds",
    }  # fmt: skip
    small = rows["p_corrected"].map(lambda p: "below 1e-300" if p == 0 else p)
    return rows.assign(p_corrected=small)[list(names)].rename(columns=names)


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="How much text does a state hold? Reconstruction by length",
        protocol=1,
        notebook="notebooks/memory/reconstruction_by_length.ipynb",
        cells=cells,
        readable=readable,
        run=train_decoders,
        frame=frame,
        reevaluate=reevaluate,
    ),
)
