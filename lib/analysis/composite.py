"""What a model answers on the composite function task, counted and looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from lib.analysis.activations import record_activations
from lib.models.language_model import LanguageModel
from lib.tasks.composite import (
    HELD_OUT,
    Split,
    composed_shift,
    symmetric_shift,
    trained_shift,
)
from lib.training.batches import narrow

EVALUATION_ROWS = 2_000
OFFSET = (
    "answer_offset_"  # of metrics: OFFSET + "-10" is the share of answers that are the key - 10
)


def last_token_loss(
    model: Callable[..., torch.Tensor], tokens: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy on the last token only (App. D), and the number of right answers."""
    logits = model(tokens, last_token_only=True)
    return F.cross_entropy(logits, labels), (logits.argmax(-1) == labels).sum()


def answers(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Most likely answer for each of the (count, length) sequences, shape (count,); of an ensemble
    (runs, count) for (runs, count, length)."""
    with torch.no_grad():
        parts = [
            model(part.long(), last_token_only=True).argmax(-1)
            for part in tokens.split(EVALUATION_ROWS, dim=-2)
        ]
    return torch.cat(parts, -1)


def stacked(splits: Sequence[Split]) -> Split:
    """Test data of several runs as one, (runs, count, ...), in the smallest integers that hold it:
    for :func:`rates` of an ensemble."""
    names = [field.name for field in dataclasses.fields(Split)]
    return Split(**{
        name: narrow(torch.stack([getattr(split, name) for split in splits])) for name in names
    })  # fmt: skip


def rates(model: nn.Module, test: Split) -> dict[str, torch.Tensor]:
    """:func:`accuracies` as float64 tensors on the device, () or, for an ensemble with
    :func:`stacked` data, (runs,). Nothing waits for the host, so a CUDA graph can hold it."""
    given = answers(model, test.tokens)
    held_out = test.where(43)
    right = given == test.labels
    return {
        "composite": _rate(given == test.composite, held_out),
        "symmetric": _rate(given == test.symmetric, held_out),
        "seen": _rate(right, ~held_out),
    }


def symmetry_rates(model: nn.Module, test: Split) -> dict[str, torch.Tensor]:
    """:func:`rates` on the full symmetry task, where pair 43 has its mirror's label, and
    ``mirror``: the accuracy on that mirror, pair 34, under held-out residues (Fig. 7a)."""
    given = answers(model, test.tokens)
    held_out = test.where(43)
    right = given == test.labels
    return {
        "composite": _rate(given == test.composite, held_out),
        "symmetric": _rate(right, held_out),
        "seen": _rate(right, ~held_out),
        "mirror": _rate(right, test.where(34)),
    }


def rates_by_pair(model: nn.Module, test: Split) -> dict[str, torch.Tensor]:
    """:func:`rates` on each pair under the labels of training: ``pair_11`` to ``pair_44``,
    or ``pair_01`` where 0 is an anchor."""
    right = answers(model, test.tokens) == test.labels
    pairs = test.pairs.unique().tolist()
    return {f"pair_{pair:02d}": _rate(right, test.where(pair)) for pair in pairs}


def answered_as(model: nn.Module, test: Split) -> dict[str, torch.Tensor]:
    """As which pair's the held-out pair 43 is answered, of a task in which a pair and its mirror
    mean the same: ``answered_as_01`` is the share of answers that are the key plus the shift of
    pair 01. Pairs of one shift have the same share."""
    shifts = test.labels.long() - test.keys.long()
    given = answers(model, test.tokens) - test.keys.long()
    held_out = test.where(43)
    shares = {}
    for pair in test.pairs.unique().tolist():
        if pair // 10 <= pair % 10:
            of_pair = test.where(pair)
            shift = (shifts * of_pair).sum(-1, keepdim=True) // of_pair.sum(-1, keepdim=True)
            shares[f"answered_as_{pair:02d}"] = _rate(given == shift, held_out)
    return shares


def _rate(hits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (hits & mask).sum(-1).double() / mask.sum(-1).double()


def accuracies(model: LanguageModel, test: Split, by_pair: bool = False) -> dict[str, float]:
    """Accuracy on the held-out pair 43 under both labels, on the fifteen seen pairs under held-out
    residues, and (`by_pair`) on each pair."""
    found = rates(model, test)
    if by_pair:
        found.update(rates_by_pair(model, test))
    return {name: float(value) for name, value in found.items()}


def answer_offsets(
    model: LanguageModel, test: Split, pair: int = 43, modulus: int | None = None
) -> dict[int, float]:
    """What is answered to a pair, as answer less key, to the share of its sequences: which wrong
    answers are given where neither label is.

    Args:
        modulus: of the labels, where they have one: then the nearest way round, from
            ``-modulus // 2`` on.

    Raises:
        ValueError: no sequence of `test` has that pair.
    """
    asked = test.take(test.where(pair))
    if not len(asked):
        raise ValueError(f"pair is {pair}, allowed: {test.pairs.unique().tolist()}")
    found = answers(model, asked.tokens) - asked.keys
    if modulus is not None:
        found = (found + modulus // 2) % modulus - modulus // 2
    offsets, counts = found.unique(return_counts=True)
    total = len(asked)
    pairs = zip(offsets.tolist(), counts.tolist(), strict=True)
    return {offset: count / total for offset, count in pairs}


def answer_probabilities(model: LanguageModel, tokens: torch.Tensor) -> list[float]:
    """Softmax over the vocabulary of the answer to one sequence (length,)."""
    with torch.no_grad():
        return model(tokens[None], last_token_only=True)[0].softmax(-1).tolist()


def expected_answers(key: int, first: int, second: int) -> dict[str, int]:
    """Answers worth marking for a key and a pair: what training taught, or for pair 43 what each
    solution would answer."""
    pair = (first, second)
    if pair == HELD_OUT:
        return {"composite": key + composed_shift(pair), "symmetric": key + symmetric_shift(pair)}
    return {"trained": key + trained_shift(pair)}


def steps_and_decays(
    model: LanguageModel, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """dt and exp(dt A) of a Mamba-2 model's first head, layer by layer: (layers, length) each."""
    with torch.no_grad(), record_activations(model, ".dt") as found:
        model(tokens[None])
    dt = torch.stack([value[0, :, 0] for value in found.values()])
    heads = [cast(Any, layer).mixer.A_log[0] for layer in model.layers]
    A = -torch.stack(heads).exp()
    return dt, torch.exp(dt * A.detach()[:, None])
