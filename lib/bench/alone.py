"""The training step of a model that trains alone, on random tokens: a language model, a decoder.

For :mod:`lib.bench.kernels`. The trainer is the one that a run has (:mod:`lib.training.loop`), with
the cell's model, batch, length and precision, a language model with random weights for a decoder to
read, and a few batches in the place of a text.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from lib.analysis.language import next_token_loss
from lib.bench.step import EPOCH
from lib.experiments._language import LanguageCell
from lib.experiments._memory_cell import MemoryCell
from lib.models.autoencoder import AutoencoderConfig, StateAutoencoder, decoder_loss
from lib.models.language_model import build_language_model
from lib.training.batches import TensorBatches
from lib.training.compiling import compile_layers
from lib.training.loop import BatchLoss, Trainer

Alone = LanguageCell | MemoryCell


def trainer_of(cell: Alone, device: torch.device, compile: bool) -> Trainer:
    """The trainer of one cell; compiled, if so, layer by layer."""
    language = build_language_model(cell.model, seed=cell.seed, device=device)
    rows, length = EPOCH * cell.training.batch_size, cell.task.length
    draw = torch.Generator().manual_seed(cell.seed)
    # a language model's labels are a row's next tokens
    shape = (rows, length + isinstance(cell, LanguageCell))
    tokens = torch.randint(cell.model.vocab_size, shape, generator=draw).to(device)
    model: nn.Module = language
    loss: BatchLoss = next_token_loss
    data: tuple[torch.Tensor, ...]
    if isinstance(cell, LanguageCell):
        parts, data = [language], (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    else:
        settings = AutoencoderConfig(length, slots=cell.slots, seed=cell.seed)
        model = both = StateAutoencoder(language.eval(), settings).to(device)
        loss, parts, data = decoder_loss, [both.encoder, both.decoder], (tokens,)
    for part in parts if compile else ():
        compile_layers(part)
    training = dataclasses.replace(cell.training, epochs=2, warmup_epochs=1)
    batches = TensorBatches(data, training.batch_size, seed=0)
    return Trainer(model, loss, batches, training, name="bench")
