"""Operations counted by the formula, against those that PyTorch counts while a model runs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.analysis.flops import prefill_flops, training_flops
from lib.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
    Mamba3Config,
    MoEConfig,
)
from lib.models.language_model import build_language_model
from lib.models.presets import preset

LENGTH, BATCH, VOCAB = 16, 2, 30
ATTENTION = AttentionConfig(d_model=32, n_heads=2, d_qk=32, d_v=64)


def counted(config: LanguageModelConfig) -> float:
    """Forward operations a token, as the library counts matrix products."""
    model = build_language_model(config, seed=0)
    tokens = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    return float(counter.get_total_flops() / (BATCH * LENGTH))


def test_a_transformer_s_operations_are_its_matrix_products() -> None:
    feed = FeedForwardConfig(d_model=32, d_hidden=48, activation="swiglu")
    config = LanguageModelConfig(VOCAB, 4, (ATTENTION, feed))
    # the library counts the whole square of scores, of which the mask leaves (l + 1) / 2 a query
    hidden = (LENGTH - (LENGTH + 1) / 2) * 2 * 2 * (16 + 32) * 2
    assert training_flops(config, LENGTH) / 3 == pytest.approx(counted(config) - hidden)
    plain = dataclasses.replace(feed, activation="silu")
    less = training_flops(LanguageModelConfig(VOCAB, 4, (ATTENTION, plain)), LENGTH)
    assert training_flops(config, LENGTH) - less == 3 * 2 * (2 * 32 * 48)


def test_a_mixture_costs_what_its_chosen_experts_cost() -> None:
    def with_experts(count: int, top_k: int) -> float:
        block = MoEConfig(d_model=32, d_hidden=48, n_experts=count, top_k=top_k)
        return training_flops(LanguageModelConfig(VOCAB, 2, (ATTENTION, block)), LENGTH)

    feed = FeedForwardConfig(d_model=32, d_hidden=48, activation="swiglu")
    dense = training_flops(LanguageModelConfig(VOCAB, 2, (ATTENTION, feed)), LENGTH)
    router = 3 * 2 * 32 * 8
    assert with_experts(8, 1) == dense + router
    assert with_experts(8, 2) - with_experts(8, 1) == 3 * 2 * (3 * 32 * 48)


@pytest.mark.parametrize(
    ("block", "d", "n", "conv"),
    [
        (Mamba1Config(d_model=32, d_state=4), 64, 4, 64),
        (Mamba2Config(d_model=32, d_state=4, headdim=16), 64, 4, 72),
    ],
)
def test_a_mamba_costs_its_projections_its_convolution_and_its_states(
    block: Mamba1Config | Mamba2Config, d: int, n: int, conv: int
) -> None:
    config = LanguageModelConfig(VOCAB, 2, (block,))
    model = build_language_model(config, seed=0)
    maps = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    products = sum(2 * m.in_features * m.out_features for m in maps)
    expected = products + 2 * (2 * conv * 4 + 6 * d * n)
    assert training_flops(config, LENGTH) / 3 == pytest.approx(expected)
    assert training_flops(config, LENGTH) == training_flops(config, 1)  # the same at any length


def test_attention_grows_with_length() -> None:
    config = LanguageModelConfig(VOCAB, 1, (ATTENTION,))
    grown = training_flops(config, 2000) - training_flops(config, 1000)
    assert grown == pytest.approx(3 * 500 * 2 * 2 * (16 + 32))


def test_what_is_not_counted_says_so() -> None:
    config = LanguageModelConfig(VOCAB, 1, (ATTENTION,))
    with pytest.raises(ValueError, match="length is 0, allowed: 1 or more"):
        training_flops(config, 0)
    other = LanguageModelConfig(VOCAB, 1, (Mamba3Config(d_model=32, d_state=8, headdim=16),))
    with pytest.raises(TypeError, match="operations of Mamba3Config are not counted"):
        training_flops(other, 4)


@pytest.mark.parametrize("kind", ["mamba1", "mamba2", "transformer"])
def test_reading_is_a_third_of_training_but_for_the_head(kind: str) -> None:
    config = preset(kind, "1M", 300)
    head = 2 * config.d_model * config.vocab_size
    whole = 64 * (training_flops(config, 64) / 3 - head) + head
    assert prefill_flops(config, 64) == pytest.approx(whole)
