"""The training step of a model that trains alone, on random tokens: a language model, a decoder.

For :mod:`lib.bench.kernels`. The trainer is the one that a run has (:mod:`lib.training.loop`), with
the cell's model, batch, length and precision, a language model with random weights for a decoder to
read, and a few batches in the place of a text.
"""

from __future__ import annotations

import dataclasses

import torch

from lib.bench.step import EPOCH
from lib.experiments._language import LanguageCell
from lib.experiments._memory_cell import MemoryCell
from lib.models.language_model import build_language_model
from lib.training.batches import TensorBatches
from lib.training.compiling import compile_layers
from lib.training.config import TrainingConfig
from lib.training.loop import Trainer

Alone = LanguageCell | MemoryCell


def trainer_of(cell: Alone, device: torch.device, compile: bool) -> Trainer:
    """The trainer of one cell; compiled, if so, layer by layer."""
    model = build_language_model(cell.model, seed=cell.seed, device=device)
    rows, length = EPOCH * cell.training.batch_size, cell.task.length
    ahead = isinstance(cell, LanguageCell)  # there a row's next tokens are its labels
    draw = torch.Generator().manual_seed(cell.seed)
    tokens = torch.randint(cell.model.vocab_size, (rows, length + ahead), generator=draw).to(device)
    training = dataclasses.replace(cell.training, epochs=2, warmup_epochs=1)
    if isinstance(cell, LanguageCell):
        from lib.analysis.language import next_token_loss

        if compile:
            compile_layers(model)
        data = (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        return Trainer(model, next_token_loss, _batches(data, training), training, name="bench")
    from lib.models.autoencoder import AutoencoderConfig, StateAutoencoder, decoder_loss

    settings = AutoencoderConfig(length, slots=cell.slots, seed=cell.seed)
    both = StateAutoencoder(model.eval(), settings).to(device)
    if compile:
        compile_layers(both.encoder)
        compile_layers(both.decoder)
    return Trainer(both, decoder_loss, _batches((tokens,), training), training, name="bench")


def _batches(data: tuple[torch.Tensor, ...], training: TrainingConfig) -> TensorBatches:
    return TensorBatches(data, training.batch_size, seed=0)
