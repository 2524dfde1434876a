"""Language models measured: the loss of the next token, and how well held-out text is predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.moe import balance_loss
from lib.tasks.packing import Packed


def next_token_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over all targets, in nats, and the number of tokens that are most likely
    to the model and right. While a model with experts trains, its balance is part of the loss.

    Args:
        inputs, targets: (b, l) int64; every target counts, so rows must hold no padding.
    """
    logits = model(inputs).flatten(0, 1).float()  # the softmax of bfloat16 loses small odds
    flat = targets.flatten()
    loss, right = F.cross_entropy(logits, flat), (logits.argmax(-1) == flat).sum()
    balance = balance_loss(model) if model.training else None
    return (loss if balance is None else loss + balance), right


@dataclass(frozen=True)
class HeldOut:
    """Text to measure on.

    Attributes:
        tokens: (rows, length + 1) integers.
        target_bytes: UTF-8 bytes that all targets stand for.
        batch_rows: rows at a time.
    """

    tokens: Tensor
    target_bytes: float
    batch_rows: int

    def to(self, device: torch.device | str) -> HeldOut:
        """The same text on another device."""
        return HeldOut(self.tokens.to(device), self.target_bytes, self.batch_rows)


def held_out(packed: Packed, rows: int | None, batch_rows: int) -> HeldOut:
    """The first rows of a packed text.

    Args:
        rows: how many, at most; None for all.

    Raises:
        ValueError: rows or batch_rows below 1.
    """
    for name, value in (("rows", rows), ("batch_rows", batch_rows)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, allowed: 1 or more")
    count = len(packed) if rows is None else min(rows, len(packed))
    numbers = torch.arange(count)
    total = float(packed.target_bytes(numbers).sum())
    return HeldOut(packed.take(numbers), total, batch_rows)


def prediction(model: nn.Module, text: HeldOut) -> dict[str, Tensor]:
    """``valid_loss``, the mean over targets in nats; ``valid_bits_per_byte``, which alone can be
    compared between tokenizers; and ``valid_accuracy``. Tensors () on the device: nothing waits for
    the host."""
    loss = torch.zeros((), dtype=torch.float64, device=text.tokens.device)
    right = torch.zeros((), dtype=torch.int64, device=text.tokens.device)
    for rows in text.tokens.split(text.batch_rows):
        part = rows.long()
        mean, hits = next_token_loss(model, part[:, :-1], part[:, 1:])
        loss += mean.double() * (len(part) * (part.shape[1] - 1))
        right += hits
    targets = len(text.tokens) * (text.tokens.shape[1] - 1)
    return {
        "valid_loss": loss / targets,
        "valid_bits_per_byte": loss / (text.target_bytes * math.log(2)),
        "valid_accuracy": right.double() / targets,
    }
