"""Choosing the next token from logits: greedy, or drawn with temperature, top-k and top-p.

Every row of a batch draws from a stream of its own, one number a token, made on the CPU: a prompt
gets the same text in any batch and on any device, up to rounding of its logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.config import require
from lib.models.blocks import counts


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen.

    Attributes:
        temperature: logits are divided by it; 0 for greedy, the likeliest token, no draw at all.
        top_k: draw among the k likeliest alone (and others that are just as likely as the last of
            them); None for all.
        top_p: then among the fewest likeliest that together have this probability, the nucleus of
            arXiv 1904.09751, section 3.1; 1 for all.
        seed: of the draws; row r of a batch has the stream of `seed` + r.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        fits = 0 <= self.temperature < math.inf
        require(self, "temperature", fits, "0 (greedy) or more, finite")
        fits = self.top_k is None or counts(self.top_k)
        require(self, "top_k", fits, "None or at least 1, whole")
        require(self, "top_p", 0 < self.top_p <= 1, "more than 0, up to 1")
        require(
            self, "seed", isinstance(self.seed, int) and 0 <= self.seed < 2**63, "0 to 2^63 - 1"
        )


def probabilities(logits: Tensor, config: SamplingConfig) -> Tensor:
    """logits (b, v) to the probabilities (b, v), float64, that a temperature above 0 draws from."""
    scaled = logits.double() / config.temperature
    if config.top_k is not None and config.top_k < scaled.shape[-1]:
        least = scaled.topk(config.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    chances = scaled.softmax(-1)
    if config.top_p < 1:
        likeliest, order = chances.sort(dim=-1, descending=True, stable=True)
        # a token stays if those before it do not suffice: the first always does
        before = likeliest.cumsum(-1) - likeliest
        kept = likeliest.masked_fill(before >= config.top_p, 0.0)
        chances = torch.zeros_like(chances).scatter(-1, order, kept)
        chances = chances / chances.sum(-1, keepdim=True)
    return chances


class Sampler:
    """Chooses tokens for the rows of a batch, one call a token.

    Args:
        config: how.
        rows: for each row its number, which with the seed decides its stream.
    """

    def __init__(self, config: SamplingConfig, rows: Sequence[int]) -> None:
        self.config = config
        self.streams = [torch.Generator().manual_seed(config.seed + row) for row in rows]

    def __call__(self, logits: Tensor) -> Tensor:
        """logits (b, v) to tokens (b,), int64.

        Raises:
            ValueError: logits that are NaN, of a model that has diverged.
        """
        if bool(logits.isnan().any()):
            raise ValueError("logits are NaN: the model's weights, or its precision, are at fault")
        if self.config.temperature == 0:
            return logits.argmax(-1)
        sums = probabilities(logits, self.config).cumsum(-1)
        draws = [torch.rand(1, generator=g, dtype=torch.float64) for g in self.streams]
        # a share of the row's own sum, which rounding may have left a little off 1; the first token
        # whose sum exceeds it has a probability above 0
        wanted = torch.stack(draws).to(sums.device) * sums[:, -1:]
        chosen = torch.searchsorted(sums, wanted, right=True)[:, 0]
        return chosen.clamp(max=logits.shape[-1] - 1)
