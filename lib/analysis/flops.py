"""Floating-point operations of training, so that losses can be compared at equal compute; and of
reading a context."""

from __future__ import annotations

from lib.models.config import (
    AttentionConfig,
    BlockConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
    MoEConfig,
)


def training_flops(config: LanguageModelConfig, length: int) -> float:
    """Operations a trained token costs, forward and backward, at `length` tokens a sequence.

    Counted are products and additions of projections (two a weight that a token uses), of attention
    (scores and values, half of them behind the causal mask), of convolutions and of the state
    updates (as the recurrence has them, whatever the kernel computes); the backward pass is taken
    for two forward passes, as usual (arXiv 2001.08361, section 2.1). Norms, nonlinearities and the
    look-up of embeddings are left out; what equal tokens may share is counted for each.

    Raises:
        ValueError: length below 1.
        TypeError: a block of another kind.
    """
    return 3.0 * (_blocks(config, length) + 2.0 * config.d_model * config.vocab_size)


def prefill_flops(config: LanguageModelConfig, length: int) -> float:
    """Operations of reading `length` tokens and predicting the next one; counted are the same as by
    :func:`training_flops`, with the head for the last token alone.

    Raises:
        ValueError, TypeError: as :func:`training_flops`.
    """
    return length * _blocks(config, length) + 2.0 * config.d_model * config.vocab_size


def _blocks(config: LanguageModelConfig, length: int) -> float:
    """Forward operations of all blocks a token."""
    if length < 1:
        raise ValueError(f"length is {length}, allowed: 1 or more")
    return sum(_block(block, length) for block in config.blocks)


def _block(block: BlockConfig, length: int) -> float:
    """Forward operations of a block a token."""
    m = block.d_model
    if isinstance(block, Mamba1Config):
        d, n = block.d_inner, block.d_state
        weights = 3 * m * d + d * (block.rank + 2 * n) + block.rank * d + d * block.d_conv
        # decay and dt u B a state, its update, and the sum with C: a product and an addition each
        return 2.0 * weights + 6.0 * d * n
    if isinstance(block, Mamba2Config):
        d, n = block.d_inner, block.d_state
        rows = d + block.conv_dim + d // block.headdim
        return 2.0 * (m * rows + d * m + block.conv_dim * block.d_conv) + 6.0 * d * n
    if isinstance(block, AttentionConfig):
        h = block.n_heads
        weights = m * block.conv_dim + h * block.headdim_v * m
        if block.conv_kind != "none":
            weights += block.conv_dim * block.d_conv
        seen = (length + 1) / 2  # keys that a query sees, on average
        return 2.0 * weights + 2.0 * seen * h * (block.headdim_qk + block.headdim_v)
    if isinstance(block, (FeedForwardConfig, MoEConfig)):
        wide = 3 if block.activation == "swiglu" else 2
        one = 2.0 * m * block.d_hidden * wide
        if isinstance(block, MoEConfig):
            return block.top_k * one + 2.0 * m * block.n_experts
        return one
    raise TypeError(f"operations of {type(block).__name__} are not counted")
