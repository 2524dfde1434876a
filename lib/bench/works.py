"""What each benchmark has to do at least, counted from its shape (see :mod:`lib.bench.floor`).

Counts are of an ideal implementation: every tensor that comes in is read once, every one that goes
out is written once, what lies between stays on the chip. For gradients the forward pass is computed
again from its inputs where that is cheaper than keeping it (the scan), or kept for nothing (the
blocks): both make the count a lower bound. Every position of a model is projected by itself; who
projects equal tokens of a first layer once does less than is counted.
"""

from __future__ import annotations

import torch

from lib.bench.floor import Work
from lib.models.config import BlockConfig, LanguageModelConfig, Mamba1Config, Mamba2Config
from lib.models.language_model import LanguageModel


def scan_work(b: int, d: int, length: int, n: int, size: int, backward: bool) -> Work:
    """The selective scan with delta's bias and softplus and D; `size` bytes an element.

    For each entry of each state: forward, the product A dt, its exponential, the income, the update
    and the sum for y. Backward: the first three and the update again, two for the state's gradient,
    and one each for the gradients of A, dt, B, C, the income and their common factor.
    """
    entries = b * d * length * n
    channels, shared, constants = b * d * length * size, b * n * length * size, 4 * d * (n + 2)
    forward = Work(
        read=2 * channels + 2 * shared + constants,
        written=channels,
        fmas=4 * entries,
        exponentials=entries,
    )
    if not backward:
        return forward
    # u, delta, B, C, y's gradient in; four gradients and those of the constants out
    return forward + Work(
        read=3 * channels + 2 * shared + constants,
        written=2 * channels + 2 * shared + constants,
        fmas=11 * entries,
        exponentials=entries,
    )


def mamba2_work(
    config: Mamba2Config, b: int, length: int, backward: bool, last_only: bool = False
) -> Work:
    """A Mamba-2 layer on float32 inputs: projections, convolution, scores, mixing, gate.

    Norms and other work of less than a percent are left out. With `last_only` the positions that
    nobody reads are computed only as far as the last one needs them.
    """
    m, d, n, h = config.d_model, config.d_inner, config.d_state, config.n_heads
    tokens, out = b * length, b if last_only else b * length
    pairs = b * (length if last_only else length * (length + 1) // 2)
    wide = config.n_groups * n
    weights = m * (2 * d + 2 * wide + h) + (d + 2 * wide) * (config.d_conv + 1) + d * (m + 1)
    forward = Work(
        read=4 * (tokens * m + weights),
        written=4 * out * m,
        fmas=tokens * (d + wide) * config.d_conv + out * wide * config.d_conv
        + pairs * (wide + d),
        products=m * (tokens * (d + wide + h) + out * (d + wide)) + out * d * m,
        # one for each SiLU of X, B, C and the gate; decays and softplus are few
        exponentials=tokens * (d + wide) + out * (wide + d),
    )  # fmt: skip
    if not backward:
        return forward
    return forward + Work(
        read=4 * (tokens * m + out * m + weights),
        written=4 * (tokens * m + weights),
        fmas=2 * forward.fmas,
        products=2 * forward.products,
        exponentials=forward.exponentials,
    )


def mamba1_work(config: Mamba1Config, b: int, length: int, backward: bool) -> Work:
    """A Mamba-1 layer on float32 inputs, with its scan."""
    m, d, n, r = config.d_model, config.d_inner, config.d_state, config.rank
    tokens = b * length
    scan = scan_work(b, d, length, n, 4, backward)
    weights = m * 2 * d + d * (config.d_conv + 1) + d * (r + 2 * n) + r * d + d + d * m
    around = Work(
        fmas=tokens * d * config.d_conv,
        products=tokens * (2 * m * d + d * (r + 2 * n) + r * d + d * m),
        exponentials=2 * tokens * d,
    )
    times = 3 if backward else 1
    whole = Work(
        # the scan's own tensors stay on the chip: only the residual stream moves
        read=4 * (times * tokens * m + weights),
        written=4 * (tokens * m + (tokens * m + weights if backward else 0)),
        fmas=times * around.fmas + scan.fmas,
        products=times * around.products,
        exponentials=(2 if backward else 1) * around.exponentials + scan.exponentials,
    )
    return whole


def layer_work(config: BlockConfig, b: int, length: int, backward: bool, last_only: bool) -> Work:
    """A layer of either kind.

    Raises:
        TypeError: a block whose work is not counted here.
    """
    if isinstance(config, Mamba2Config):
        return mamba2_work(config, b, length, backward, last_only)
    if isinstance(config, Mamba1Config):
        return mamba1_work(config, b, length, backward)
    raise TypeError(f"config is a {type(config).__name__}, allowed: Mamba1Config, Mamba2Config")


def model_work(
    config: LanguageModelConfig, b: int, length: int, backward: bool = True, *,
    last_token_only: bool = True, size: int = 4,
) -> Work:  # fmt: skip
    """A language model with its loss, on the last token only or on every next one.

    The residual stream between layers and the logits stay on the chip, since an ideal
    implementation could keep them; only tokens and weights (`size` bytes each: 4, or 2 for
    products in half precision) move.
    """
    layers = sum(
        (
            layer_work(block, b, length, backward,
                       last_token_only and index == config.n_layers - 1)
            for index, block in enumerate(config.blocks)
        ),
        Work(),
    )  # fmt: skip
    answers = b if last_token_only else b * length
    times = 3 if backward else 1
    weights = size * parameters(config)
    products = layers.products + times * answers * config.d_model * config.vocab_size
    return Work(
        read=8 * b * (length + 1) + times * weights,
        written=weights if backward else size * answers * config.vocab_size,
        fmas=layers.fmas,
        products=products if size == 4 else 0,
        half_products=0 if size == 4 else products,
        exponentials=layers.exponentials + answers * config.vocab_size,
    )


def optimiser_work(config: LanguageModelConfig) -> Work:
    """Clipping and AdamW: weight, gradient and both moments read, weight and moments written."""
    numbers = parameters(config)
    return Work(read=4 * 4 * numbers, written=3 * 4 * numbers, fmas=12 * numbers)


def step_work(config: LanguageModelConfig, b: int, length: int) -> Work:
    """A training step on the last token's loss."""
    return model_work(config, b, length) + optimiser_work(config)


def parameters(config: LanguageModelConfig) -> int:
    """Trained numbers of a language model."""
    with torch.device("meta"):  # shapes only
        return sum(p.numel() for p in LanguageModel(config).parameters())
