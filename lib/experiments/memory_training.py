"""Is a decoder trained to the end? More steps and other rates for the same state.

What a decoder does not write down may be missing in the state, or not be found there yet. Only the
first is forgetting. So decoders of one size are trained at other rates and for longer than the
chapter's: what more training finds was not forgotten. Ends of runs are to be compared, not slopes:
each rate falls to nothing by the end of its run, so every curve is flat there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lib.config import from_dict
from lib.experiments import Experiment
from lib.experiments._memory import train_decoders
from lib.experiments._memory_cell import MemoryCell, readable
from lib.experiments.memory import (
    BATCH_TOKENS,
    CORPORA,
    decoder_cell,
    language_cell,
    quick_decoder,
    quick_language,
)
from lib.models.presets import preset
from lib.store import Record
from lib.tasks.tokenizers import BPEConfig

NAME = "memory.decoder_training"
# length, tokens a step, steps, rate: rates and batches, which decided those of the whole chapter,
# then two and four times its steps, at its rate and at the one that did better at 32 tokens
GRID = (
    (32, 16_384, 1000, 1e-3), (32, 16_384, 1000, 3e-3), (32, 16_384, 1000, 1e-2),
    (32, 16_384, 1000, 2e-2), (32, 8192, 1000, 1e-2), (32, 4096, 1000, 1e-2),
    (64, 16_384, 4000, 1e-2), (256, 16_384, 4000, 1e-2), (32, 16_384, 4000, 1e-2),
    (64, 16_384, 4000, 2e-2), (256, 16_384, 4000, 2e-2), (32, 16_384, 4000, 2e-2),
    (64, 16_384, 8000, 1e-2), (256, 16_384, 8000, 1e-2),
)  # fmt: skip


def cells(profile: str) -> list[MemoryCell]:
    """Cells of a profile. matched: 2M parameters, made-up text. quick: a tiny model, two lengths
    of training. paper: none."""
    if profile == "quick":
        return [quick_decoder(quick_language(), 4, steps) for steps in (20, 60)]
    if profile != "matched":
        return []
    corpus, vocab, _ = CORPORA["kinds"]
    language = language_cell(preset("mamba1", "2M", vocab), corpus, BPEConfig(vocab), seed=1)
    return [
        decoder_cell(language, length, None, steps=steps, rate=rate, tokens=tokens)
        for length, tokens, steps, rate in GRID
    ]  # fmt: skip


def total_steps(cell: MemoryCell) -> int:
    """Optimiser steps of a decoder."""
    assert cell.epoch_chunks is not None
    return cell.training.epochs * (cell.epoch_chunks // cell.training.batch_size)


def tokens_of(cell: MemoryCell) -> int:
    """Tokens of chunks that a step of a decoder sees."""
    return cell.training.batch_size * cell.task.length


def name_of(cell: MemoryCell) -> str:
    """For example ``mamba1-17x128-kinds-L32-s1-4000-0.003``, of batches of BATCH_TOKENS."""
    name = f"{readable(cell)}-{total_steps(cell)}-{cell.training.lr_peak:g}"
    tokens = tokens_of(cell)
    return name if tokens == BATCH_TOKENS else f"{name}-b{tokens}"


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a finished record: length, tokens (a step), steps, rate, seed and every metric."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell = from_dict(MemoryCell, record.config)
        rows.append(
            {
                "length": cell.task.length,
                "tokens": tokens_of(cell),
                "steps": total_steps(cell),
                "rate": cell.training.lr_peak,
                "seed": cell.seed,
                "status": record.status,
                **record.metrics,
            }
        )
    return pd.DataFrame(rows)


def learning(records: Sequence[Record]) -> pd.DataFrame:
    """Learning curves on held-out chunks: columns length, tokens (a step), rate, steps (of the
    whole run), step, test_loss, test_accuracy."""
    parts = []
    for record in records:
        table = record.read_curves()
        own = table[table["table"] == "training"][["step", "test_loss", "test_accuracy"]]
        (facts,) = frame([record])[["length", "tokens", "rate", "steps"]].to_dict("records")
        parts.append(own.assign(**facts))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def ends(records: Sequence[Record], chapter: Sequence[Record] = ()) -> pd.DataFrame:
    """How far each run came, for readers: a row a run, by length and then by what it ended with.

    Args:
        chapter: records of :data:`lib.experiments.memory.NAME`; those of the same language models
            stand beside the others, marked as the chapter's.
    """
    languages = [record.config["language"] for record in records]
    beside = [record for record in chapter if record.config["language"] in languages]
    table = pd.concat([frame(records), frame(beside).assign(of="the chapter")])
    names = {
        "length": "tokens", "tokens": "tokens a step", "steps": "steps", "rate": "rate",
        "token_accuracy": "in their place", "omission": "omission", "of": "decoder of",
    }  # fmt: skip
    shown = table.reindex(columns=list(names)).fillna({"of": "this experiment"})
    lengths = shown["length"].isin([record.config["task"]["length"] for record in records])
    return shown[lengths].sort_values(["length", "token_accuracy"]).rename(columns=names)


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="Is a decoder trained to the end?",
        protocol=1,
        notebook="notebooks/memory/reconstruction_by_length.ipynb",
        cells=cells,
        readable=name_of,
        run=train_decoders,
        frame=frame,
        judged=False,  # a control of ours, not a published number
    ),
)
