"""False losses and true ones, where both are known."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.analysis.language import next_token_loss
from lib.analysis.mistakes import HeldOutRows, losses_by_both, padded_losses, prefix_loss
from lib.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
)
from lib.models.language_model import build_language_model
from lib.tasks.padding import padded_rows, with_padding
from lib.tasks.tokenizers import ByteTokenizer

ATTENTION = (AttentionConfig(16, n_heads=2, rope_theta=1e4), FeedForwardConfig(16, d_hidden=24))
BYTES = ByteTokenizer()
EOS = BYTES.eos


class Oracle(nn.Module):
    """Knows padding for certain, and nothing else: uniform over all tokens behind anything but the
    second end of text in a row."""

    def forward(self, tokens: Tensor) -> Tensor:
        over = (tokens == EOS) & (torch.arange(tokens.shape[1]) > 0)
        sure = F.one_hot(torch.tensor(EOS), 257) * 1e4
        return torch.where(over[..., None], sure, torch.zeros(257))


def rows(documents: list[str], length: int) -> HeldOutRows:
    return HeldOutRows(*padded_rows(documents, BYTES, length), EOS)


def test_who_knows_padding_alone_reports_the_share_of_text() -> None:
    held_out = rows(["abc", "hello"] * 20, 8)  # more rows than are measured at once
    for counted in (False, True):
        found = padded_losses(Oracle(), held_out, counted)
        assert found["text_share"].item() == (4 + 6) / 16
        assert found["true_loss"].item() == pytest.approx(math.log(257))
        assert found["padded_loss"].item() == pytest.approx(math.log(257) * 10 / 16)
        assert found["reported_loss"] == found["padded_loss" if counted else "true_loss"]


def test_the_losses_are_those_that_training_takes() -> None:
    config = LanguageModelConfig(257, 1, (Mamba1Config(16, d_state=4),))
    model = build_language_model(config, seed=1).eval()
    held_out = rows(["one", "and another", "x"], 12)
    found = padded_losses(model, held_out, counted=True)
    masked, _ = next_token_loss(model, held_out.inputs, held_out.targets)
    counted, _ = next_token_loss(model, held_out.inputs, with_padding(held_out.targets, EOS))
    assert found["true_loss"].item() == pytest.approx(masked.item(), rel=1e-6)
    assert found["padded_loss"].item() == pytest.approx(counted.item(), rel=1e-6)


@pytest.mark.parametrize(
    "pattern", [ATTENTION, (Mamba1Config(16, d_state=4),), (Mamba2Config(16, headdim=16),)]
)
def test_of_a_causal_model_the_loss_over_rows_is_the_loss_over_beginnings(pattern: tuple) -> None:  # type: ignore[type-arg]
    model = build_language_model(LanguageModelConfig(30, 2, pattern), seed=1).eval()
    tokens = torch.randint(30, (3, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = losses_by_both(model, tokens, attends=True)
        assert found["true_loss"].item() == pytest.approx(found["reported_loss"].item(), rel=1e-5)
        assert losses_by_both(model, tokens, attends=False)["true_loss"] == found["reported_loss"]


class Seer(nn.Module):
    """Says the next token where it is there to be seen, else it guesses evenly."""

    def forward(self, tokens: Tensor, last_token_only: bool = False) -> Tensor:
        logits = torch.zeros(*tokens.shape, 30)
        logits[:, :-1] += 1e4 * F.one_hot(tokens[:, 1:], 30)
        return logits[:, -1] if last_token_only else logits


def test_who_sees_the_future_reports_next_to_nothing_and_knows_nothing() -> None:
    tokens = torch.randint(30, (3, 11), generator=torch.Generator().manual_seed(0))
    found = losses_by_both(Seer(), tokens, attends=True)
    assert found["reported_loss"].item() == pytest.approx(math.log(30) / 10)  # the last target
    assert prefix_loss(Seer(), tokens).item() == pytest.approx(math.log(30))
    assert found["true_loss"].item() == pytest.approx(math.log(30))


def test_without_a_mask_earlier_logits_move() -> None:
    config = LanguageModelConfig(30, 2, ATTENTION)
    open_ = dataclasses.replace(
        config, pattern=(dataclasses.replace(ATTENTION[0], causal=False), ATTENTION[1])
    )
    tokens = torch.zeros(1, 6, dtype=torch.int64)
    changed = tokens.clone()
    changed[0, -1] = 3
    for model, moves in ((config, False), (open_, True)):
        built = build_language_model(model, seed=1)
        apart = (built(tokens) - built(changed))[0, :-1].abs().max()
        assert (apart > 1e-4) == moves and (moves or apart == 0)
