"""Language models of equal size: four architectures, six sizes.

Equal means parameters outside the embedding, which all share with the head: within 3 % of the
size's number. At one size all have one width; the number of layers makes up the rest. A size that
is called after its published model (130M) counts that model's embedding in its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from lib.config import require
from lib.models.config import (
    AttentionConfig,
    BlockConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
    MoEConfig,
)

ARCHITECTURES = ("mamba1", "mamba2", "transformer", "moe")
ROPE_THETA = 10_000.0
EXPERTS, CHOSEN = 8, 2


@dataclass(frozen=True)
class Size:
    """A size in all architectures.

    Attributes:
        parameters: what all have outside the embedding, about.
        d_model, headdim: m, and channels of a head of attention and of Mamba-2.
        d_state: of Mamba-2; of Mamba-1 it is 16.
        d_hidden: of the feed-forward block; d_expert: of each of EXPERTS experts.
        layers: number of blocks by architecture; attention with what follows it is one.
    """

    parameters: int
    d_model: int
    headdim: int
    d_state: int
    d_hidden: int
    d_expert: int
    layers: tuple[int, int, int, int]


SIZES = {
    "1M": Size(1_000_000, 96, 32, 64, 256, 56, (15, 14, 9, 6)),
    "2M": Size(2_000_000, 128, 32, 64, 344, 72, (17, 17, 10, 7)),
    "5M": Size(5_000_000, 192, 64, 64, 512, 120, (20, 20, 11, 7)),
    "16M": Size(16_100_000, 320, 64, 128, 864, 208, (24, 23, 13, 8)),
    "27M": Size(27_000_000, 384, 64, 128, 1024, 264, (28, 27, 15, 9)),
    "130M": Size(90_500_000, 768, 64, 128, 2048, 248, (24, 24, 13, 13)),
}


def preset(architecture: str, size: str, vocab_size: int) -> LanguageModelConfig:
    """A language model.

    Args:
        architecture: one of ARCHITECTURES. "transformer": attention with rotary positions, SwiGLU
            (arXiv 2302.13971); "moe": the same with EXPERTS experts, CHOSEN a token, in place of
            the feed-forward block.
        size: a key of SIZES.
        vocab_size: tokens.

    Raises:
        ValueError: another architecture or size.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture is {architecture!r}, allowed: {', '.join(ARCHITECTURES)}")
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, allowed: {', '.join(SIZES)}")
    s = SIZES[size]
    m = s.d_model
    attention = AttentionConfig(
        d_model=m, n_heads=m // s.headdim, d_qk=m, d_v=m, rope_theta=ROPE_THETA
    )
    patterns: dict[str, tuple[BlockConfig, ...]] = {
        "mamba1": (Mamba1Config(d_model=m),),
        "mamba2": (Mamba2Config(d_model=m, d_state=s.d_state, headdim=s.headdim),),
        "transformer": (
            attention, FeedForwardConfig(d_model=m, d_hidden=s.d_hidden, activation="swiglu"),
        ),
        "moe": (
            attention,
            MoEConfig(d_model=m, d_hidden=s.d_expert, n_experts=EXPERTS, top_k=CHOSEN),
        ),
    }  # fmt: skip
    pattern = patterns[architecture]
    layers = s.layers[ARCHITECTURES.index(architecture)] * len(pattern)
    return LanguageModelConfig(vocab_size, layers, pattern, tie_embeddings=True)


def hybrid(size: str, vocab_size: int, every: int = 8) -> LanguageModelConfig:
    """Mamba-2 with attention in place of the middle one of each `every` blocks (as in arXiv
    2403.19887, which has one in eight).

    Raises:
        ValueError: another size, or `every` below 2.
    """
    if every < 2:
        raise ValueError(f"every is {every}, allowed: 2 or more")
    plain, other = (preset(kind, size, vocab_size) for kind in ("mamba2", "transformer"))
    blocks = [plain.pattern[0]] * every
    blocks[every // 2] = other.pattern[0]
    require(plain, "n_layers", plain.n_layers >= every, f"at least every, {every}")
    return LanguageModelConfig(vocab_size, plain.n_layers, tuple(blocks), tie_embeddings=True)


@lru_cache(maxsize=256)  # pages ask for the same few models for each of many records
def non_embedding(config: LanguageModelConfig) -> int:
    """Parameters outside the embedding (and a head of its own)."""
    import torch

    from lib.models.language_model import LanguageModel

    with torch.device("meta"):
        model = LanguageModel(config)
    left_out = {id(model.embedding.weight), id(model.head.weight)}
    return sum(p.numel() for p in model.parameters() if id(p) not in left_out)


def active(config: LanguageModelConfig) -> int:
    """Of :func:`non_embedding`, what one token uses: of experts only those that it goes through."""
    idle = 0
    for block in config.blocks:
        if isinstance(block, MoEConfig):
            wide = block.d_hidden * (2 if block.activation == "swiglu" else 1)
            each = block.d_model * (wide + block.d_hidden)
            idle += each * (block.n_experts - block.top_k)
    return non_embedding(config) - idle
