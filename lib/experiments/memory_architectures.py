"""What do other architectures keep, of the same text, in as many numbers?

Not in arXiv 2512.15653. A Mamba-2 and a Transformer whose memory is cut down to a few trained slots
(:mod:`lib.models.autoencoder`) have states of as many numbers as a Mamba-1, at about equal
parameters. A GRU cannot: its weights grow with the square of its state. It comes at equal
parameters with the state that these allow, and so does a Mamba-1 with a quarter of its state
entries, so that the size of a state and the architecture can be told apart.

The slots are part of the encoder and learn with the decoder, while every other encoder hands over a
state that nothing has been trained to make: a Transformer is favoured by it. To the decoder the
slots stand directly before its first token, as text before it did in pretraining.
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
    CORPORA,
    decoder_cell,
    language_cell,
    quick_decoder,
    quick_language,
)
from lib.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    GRUConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
)
from lib.models.presets import non_embedding, preset
from lib.store import Record
from lib.tasks.tokenizers import BPEConfig

NAME = "memory.architectures"
LENGTHS = (64, 128)  # a Transformer has fewer slots than either has tokens
SEEDS = (1, 2, 3)
NAMES = {
    "mamba1": "Mamba-1", "mamba1-small": "Mamba-1, small state", "mamba2": "Mamba-2", "gru": "GRU",
    "attention": "Transformer, slots",
}  # fmt: skip


def models(vocab: int, quick: bool = False) -> dict[str, LanguageModelConfig]:
    """The architectures, by the keys of NAMES: about 2M parameters outside the embedding."""
    if quick:
        own = AttentionConfig(d_model=48, n_heads=3, d_qk=48, d_v=48, rope_theta=10_000.0)
        stacks: dict[str, tuple[int, tuple[Any, ...]]] = {
            "mamba1": (2, (Mamba1Config(48, d_state=8),)),
            "mamba2": (2, (Mamba2Config(d_model=48, d_state=8, headdim=32),)),
            "gru": (2, (GRUConfig(d_model=48, d_hidden=64),)),
            "attention": (
                4, (own, FeedForwardConfig(d_model=48, d_hidden=96, activation="swiglu")),
            ),
        }  # fmt: skip
    else:
        transformer = preset("transformer", "2M", vocab)
        stacks = {
            "mamba1": (17, (Mamba1Config(128),)),
            "mamba2": (18, (Mamba2Config(d_model=128, d_state=15, headdim=64),)),
            "gru": (3, (GRUConfig(d_model=128, d_hidden=384),)),
            "attention": (transformer.n_layers, transformer.pattern),
            "mamba1-small": (17, (Mamba1Config(128, d_state=4),)),
        }
    return {
        name: LanguageModelConfig(vocab, layers, pattern, tie_embeddings=True)
        for name, (layers, pattern) in stacks.items()
    }


def cells(profile: str) -> list[MemoryCell]:
    """Cells of a profile.

    matched: five models, two lengths, three seeds, on made-up text. quick: four tiny ones, one
    length. paper: none.
    """
    if profile == "quick":
        return [
            quick_decoder(quick_language(model), 4, 40, slots=SLOTS_QUICK if _attends(model) else 0)
            for model in models(320, quick=True).values()
        ]
    if profile != "matched":
        return []
    corpus, vocab, _ = CORPORA["kinds"]
    return [
        decoder_cell(
            language_cell(model, corpus, BPEConfig(vocab), seed), length, None,
            slots=SLOTS if _attends(model) else 0,
        )
        for seed in SEEDS
        for model in models(vocab).values()
        for length in LENGTHS
    ]  # fmt: skip


# as many as fit into the floats of the Mamba-1 beside them, see `slots_for`
SLOTS, SLOTS_QUICK = 32, 11


def _attends(model: LanguageModelConfig) -> bool:
    return any(isinstance(block, AttentionConfig) for block in model.pattern)


def architecture(cell: MemoryCell) -> str:
    """Key of NAMES."""
    block = cell.model.pattern[0]
    small = isinstance(block, Mamba1Config) and block.d_state == 4
    return f"{block.kind}-small" if small else block.kind


def name_of(cell: MemoryCell) -> str:
    """For example ``gru-3x128-kinds-L32-s1``."""
    text = readable(cell)
    return text.replace("mamba1-", "mamba1-small-", 1) if "small" in architecture(cell) else text


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: architecture (its name), parameters, length, seed, every metric."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell = from_dict(MemoryCell, record.config)
        rows.append(
            {
                "architecture": NAMES[architecture(cell)],
                "parameters": non_embedding(cell.model),
                "length": cell.task.length,
                "seed": cell.seed,
                "status": record.status,
                **record.metrics,
            }
        )
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a record of :func:`frame`, for readers."""
    names = {
        "architecture": "architecture", "length": "tokens", "seed": "seed",
        "state_floats": "numbers in the state", "omission": "omission",
        "swapped_omission": "another chunk's answer", "zero_omission": "from a state of zeros",
        "alone_omission": "language model alone",
        "language_final_valid_bits_per_byte": "its bits per byte",
    }  # fmt: skip
    return frame.reindex(columns=list(names)).rename(columns=names)


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="Equal state, other architectures",
        # in 1, the slots' rotary positions lay behind those of what the decoder writes
        protocol=2,
        notebook="notebooks/memory/architectures.ipynb",
        cells=cells,
        readable=name_of,
        run=train_decoders,
        frame=frame,
        judged=False,  # nobody published a number for it
    ),
)
