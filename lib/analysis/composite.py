"""What a model answers on the composite function task, counted and looked at."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F

from lib.analysis.activations import record_activations
from lib.models.language_model import LanguageModel
from lib.tasks.composite import (
    HELD_OUT,
    Split,
    composed_shift,
    symmetric_shift,
    trained_shift,
)

EVALUATION_ROWS = 2_000


def last_token_loss(
    model: LanguageModel, tokens: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy on the last token only (App. D), and the number of right answers."""
    logits = model(tokens, last_token_only=True)
    return F.cross_entropy(logits, labels), (logits.argmax(-1) == labels).sum()


def answers(model: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    """Most likely answer for each of the (count, length) sequences, shape (count,)."""
    with torch.no_grad():
        parts = [model(p, last_token_only=True).argmax(-1) for p in tokens.split(EVALUATION_ROWS)]
    return torch.cat(parts)


def accuracies(model: LanguageModel, test: Split, by_pair: bool = False) -> dict[str, float]:
    """Accuracy on the held-out pair 43 under both labels, on the fifteen seen pairs under held-out
    residues, and (`by_pair`) on each pair."""
    given = answers(model, test.tokens)
    held_out = test.where(43)

    def rate(hits: torch.Tensor, mask: torch.Tensor) -> float:
        return int((hits & mask).sum()) / int(mask.sum())

    right = given == test.labels
    out = {
        "composite": rate(given == test.composite, held_out),
        "symmetric": rate(given == test.symmetric, held_out),
        "seen": rate(right, ~held_out),
    }
    if by_pair:
        for pair in sorted(set(test.pairs.tolist())):
            out[f"pair_{pair}"] = rate(right, test.where(pair))
    return out


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
