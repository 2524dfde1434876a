"""Small language models from scratch, at equal size, text, tokens and schedule.

A public repository compares a Mamba, a Transformer and a sparse mixture of experts on TinyStories;
its losses count padding, and one of its baselines has no causal mask. Here four architectures train
on the same tokens in the same order, without padding.

What is held out of the real text is not all unseen. Its corpus cuts files above 40,000 characters
into documents, which are split by a hash of their text, each by itself. Of the 525 that are held
out, 19 have more than 30,000 characters (27 % of all characters); 17 of these are pieces of a file
of which another piece is trained on. Two Bible translations stand on both sides. The first 256 rows
are measured, 0.44 of 2.65 MB, of which 32 % is of such pieces. The corpus has a split by source
file, ``valid.jsonl.gz``, which the chapter on memory uses; here it would make other cells. All
architectures meet the same split, so the effect on their order is probably small; it is not known.
Training takes 0.80 (real text) and 0.83 (stories) passes over the text at 5M, 1.60 and 1.66 at 16M.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from lib.config import from_dict
from lib.experiments import Context, Experiment, Outcome
from lib.experiments._language import (
    TEXT_NAMES,
    LanguageCell,
    language_readable,
    tokens_per_second,
    train_language,
    write_samples,
)
from lib.models.presets import ARCHITECTURES, SIZES, non_embedding, preset
from lib.store import Record
from lib.tasks.corpus import CorpusConfig, LocalText, StoryText
from lib.tasks.language import LanguageTask
from lib.tasks.tokenizers import BPEConfig
from lib.training.config import TrainingConfig

NAME, RATES_NAME = "stories.from_scratch", "stories.learning_rate"
NAMES = {
    "mamba1": "Mamba-1", "mamba2": "Mamba-2", "transformer": "Transformer",
    "moe": "mixture of experts",
}  # fmt: skip
# real text: English and code of Debian packages and, 4,052 of 24,976 documents, exercises of
# DeepMind's mathematics_dataset. No part of this repository: whoever has it puts it into data/text,
# which git ignores, and the fingerprint says whether it is the same
DEBIAN = LocalText(
    "data/text", "train-*.jsonl.gz",
    fingerprint="3285ce0451a903ef8bff4d8649b743d5be8fdbe4f5300ab9194868668e87adfe",
)  # fmt: skip
TEXTS = {
    "stories": (CorpusConfig(StoryText(documents=150_000), validation=0.01), 2048),
    "debian": (CorpusConfig(DEBIAN, validation=0.02), 8192),
}
LENGTH, BATCH, MEASUREMENTS = 512, 64, 20
TOKENS = {"5M": 32_768_000, "16M": 65_536_000}  # of training
SEEDS = {"5M": (1, 2, 3), "16M": (1,)}
RATES = (3e-3, 3e-4)  # beside that of all others, on real text
TRAINING = TrainingConfig(
    epochs=MEASUREMENTS, warmup_epochs=1, batch_size=BATCH, lr_peak=1e-3, lr_end=1e-4,
    beta2=0.95, weight_decay=0.1, precision="bfloat16",
)  # fmt: skip


def cells(profile: str) -> list[LanguageCell]:
    """Cells of a profile.

    matched: four architectures of 5M (three seeds) and 16M parameters (one), on the built-in
    stories and on real text. quick: the four at 1M, minutes less, in float32. paper: none, since
    the hub's TinyStories and weeks of its public runs are not here.
    """
    if profile == "quick":
        task = LanguageTask(
            CorpusConfig(StoryText(documents=300), validation=0.1),
            BPEConfig(vocab_size=512, training_bytes=200_000), length=64,
            epoch_tokens=64 * 8 * 3, valid_rows=8,
        )  # fmt: skip
        training = dataclasses.replace(TRAINING, epochs=3, batch_size=8, precision="float32")
        return [LanguageCell(task, preset(kind, "1M", 512), training, 1) for kind in ARCHITECTURES]
    if profile != "matched":
        return []
    found = []
    for size, tokens in TOKENS.items():
        for corpus, vocab in TEXTS.values():
            task = LanguageTask(
                corpus, BPEConfig(vocab), LENGTH, epoch_tokens=tokens // MEASUREMENTS
            )
            found += [
                LanguageCell(task, preset(kind, size, vocab), TRAINING, seed)
                for seed in SEEDS[size]
                for kind in ARCHITECTURES
            ]
    return found


def cells_rates(profile: str) -> list[LanguageCell]:
    """The cells of one seed at 5M with other learning rates: one rate for all may suit one
    architecture better than another. matched: on real text. quick: one cell. paper: none."""
    plain = cells(profile)
    rates: tuple[float, ...] = RATES
    if profile == "quick":
        plain, rates = plain[:1], RATES[:1]
    elif profile == "matched":
        first = [cell for cell in plain if cell.seed == 1 and cell.task.corpus.source == DEBIAN]
        plain = [cell for cell in first if cell.model == preset(architecture(cell), "5M", 8192)]

    def at(cell: LanguageCell, rate: float) -> LanguageCell:
        training = dataclasses.replace(cell.training, lr_peak=rate, lr_end=rate / 10)
        return dataclasses.replace(cell, training=training)

    return [at(cell, rate) for rate in rates for cell in plain]


def readable(cell: LanguageCell) -> str:
    """For example ``moe-5M-stories-s1``, and ``moe-5M-local-lr0.003-s1`` at another rate."""
    kind = architecture(cell)
    known = [size for size in SIZES if preset(kind, size, cell.model.vocab_size) == cell.model]
    if not known:
        return language_readable(cell)
    rate = cell.training.lr_peak
    other = [] if rate == TRAINING.lr_peak else [f"lr{rate:g}"]
    return "-".join([kind, known[0], cell.task.corpus.source.kind, *other, f"s{cell.seed}"])


def architecture(cell: Any) -> str:
    """Which of ARCHITECTURES a cell's model is, or the kind of its first block."""
    kinds = [block.kind for block in cell.model.pattern]
    if kinds == ["attention", "feedforward"]:
        return "transformer"
    return "moe" if kinds == ["attention", "moe"] else kinds[0]


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: architecture, model (its name), parameters (outside the embedding), text,
    seed, learning rate, status, tokens a second, peak memory in GB, and every metric."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell = from_dict(LanguageCell, record.config)
        kind = architecture(cell)
        peak = record.provenance.get("peak_memory_bytes")
        rows.append(
            {
                "architecture": kind,
                "model": NAMES.get(kind, kind),
                "parameters": non_embedding(cell.model),
                "text": cell.task.corpus.source.kind,
                "seed": cell.seed,
                "rate": cell.training.lr_peak,
                "status": record.status,
                "tokens_per_second": tokens_per_second(record),
                "peak_gb": None if peak is None else peak / 1e9,
                **record.metrics,
            }
        )
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`frame` for readers, a row a model and text: means over seeds, least and largest bits
    per byte, tokens a second of the fastest of several runs (others shared the device, so that
    of a single one says little)."""
    if not len(table):
        return table
    groups = table.groupby(["text", "model", "parameters"], sort=False)
    bits = groups["final_valid_bits_per_byte"]
    shown = pd.DataFrame(
        {
            "bits per byte": bits.mean(),
            "least": bits.min(),
            "largest": bits.max(),
            "nats per token": groups["final_valid_loss"].mean(),
            "tokens a second": groups["tokens_per_second"].max().round(-3).where(groups.size() > 1),
            "peak memory, GB": groups["peak_gb"].max().map("{:.1f}".format),
            "seeds": groups["seed"].nunique(),
        }
    ).reset_index()
    shown.insert(0, "size", (shown.pop("parameters") / 1e6).round().astype(int).map("{}M".format))
    return shown.sort_values(["size", "text"], key=_reading_order, kind="stable").assign(
        text=shown["text"].replace(TEXT_NAMES)
    )


def _reading_order(column: pd.Series) -> pd.Series:
    """Small before large; texts by name."""
    return column.str.removesuffix("M").astype(int) if column.name == "size" else column


def by_rate(table: pd.DataFrame) -> pd.DataFrame:
    """Bits per byte at each learning rate, for the models, texts and seeds of :func:`frame` that
    have more than one: one row a model."""
    group = ["model", "parameters", "text", "seed"]
    if not len(table):
        return table
    several = table[table.groupby(group)["rate"].transform("nunique") > 1]
    shown = several.pivot_table(
        index="model", columns="rate", values="final_valid_bits_per_byte", sort=False
    )
    return shown.rename(columns=lambda rate: f"rate {rate:g}").reset_index()


def curves(records: Sequence[Record]) -> pd.DataFrame:
    """Learning curves with model, text, size (parameters, in millions), seed, and at each
    measurement the tokens, petaflops and seconds that training had taken. Seconds are at the
    fastest speed that was measured for the model on its text and kind of device, in any seed: runs
    that share a device slow each other."""
    from lib.analysis.flops import training_flops

    cells = [from_dict(LanguageCell, record.config) for record in records]
    kinds = [
        (cell.model, cell.task, record.provenance.get("device_name"))
        for cell, record in zip(cells, records, strict=True)
    ]
    speeds: dict[Any, float] = {}
    for kind, record in zip(kinds, records, strict=True):
        speed = tokens_per_second(record)
        speeds[kind] = max(speeds.get(kind, 0.0), speed or 0.0)
    parts = []
    for cell, kind, record in zip(cells, kinds, records, strict=True):
        table = record.read_curves()
        tokens = table["step"] * cell.training.batch_size * cell.task.length
        parts.append(
            table.assign(
                model=NAMES.get(architecture(cell), architecture(cell)),
                text=cell.task.corpus.source.kind,
                size=round(non_embedding(cell.model) / 1e6),
                seed=cell.seed,
                tokens=tokens,
                petaflops=tokens * training_flops(cell.model, cell.task.length) / 1e15,
                seconds=tokens / speeds[kind] if speeds[kind] else float("nan"),
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def samples(records: Sequence[Record]) -> pd.DataFrame:
    """What the models wrote: one row a beginning, one column a model; of each architecture the
    first record that has texts on the same beginnings as the first of all."""
    rows: dict[str, dict[str, str]] = {}
    for record in records:
        written = record.provenance.get("samples", [])
        kind = architecture(from_dict(LanguageCell, record.config))
        for sample in written:
            if not rows or sample["prompt"] in rows or len(rows) < len(written):
                row = rows.setdefault(sample["prompt"], {"beginning": sample["prompt"]})
                row.setdefault(NAMES.get(kind, kind), sample["text"])
    return pd.DataFrame(list(rows.values()))


def run(chosen: Sequence[LanguageCell], context: Context) -> Iterator[Outcome]:
    """Train the cells, and let each model write."""
    yield from train_language(chosen, context, write_samples)


def _experiment(name: str, title: str, cells: Any) -> Experiment:
    return Experiment(
        name=name,
        title=title,
        protocol=1,
        notebook="notebooks/stories/from_scratch.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
        judged=False,  # what was published counts padding: there is no number to hold against
    )


EXPERIMENTS = (
    _experiment(NAME, "Four architectures from scratch", cells),
    _experiment(RATES_NAME, "Four architectures from scratch: other learning rates", cells_rates),
)
