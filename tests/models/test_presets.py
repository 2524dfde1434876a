from __future__ import annotations

import pytest
import torch

from lib.models.config import AttentionConfig, LanguageModelConfig, Mamba2Config, MoEConfig
from lib.models.language_model import build_language_model
from lib.models.presets import ARCHITECTURES, SIZES, active, hybrid, non_embedding, preset


@pytest.mark.parametrize("size", SIZES)
def test_architectures_are_of_equal_size(size: str) -> None:
    counts = {kind: non_embedding(preset(kind, size, 2048)) for kind in ARCHITECTURES}
    for kind, count in counts.items():
        assert count == pytest.approx(SIZES[size].parameters, rel=0.03), (kind, count)
    assert {preset(kind, size, 2048).d_model for kind in ARCHITECTURES} == {SIZES[size].d_model}


def test_the_largest_is_the_published_130M() -> None:
    config = preset("mamba1", "130M", 50_280)
    assert (config.n_layers, config.d_model) == (24, 768)
    # state-spaces/mamba-130m has 129,135,360 parameters, its embedding padded to 50,280 rows
    assert non_embedding(config) + 50_280 * 768 == 129_135_360


def test_the_embedding_does_not_count() -> None:
    small, large = (preset("mamba2", "1M", vocab) for vocab in (300, 3000))
    assert non_embedding(small) == non_embedding(large)
    own = LanguageModelConfig(300, small.n_layers, small.pattern)
    assert non_embedding(own) == non_embedding(small)


def test_of_experts_a_token_uses_a_few() -> None:
    for kind in ("mamba1", "transformer"):
        config = preset(kind, "1M", 300)
        assert active(config) == non_embedding(config)
    config = preset("moe", "1M", 300)
    (_, block) = config.pattern
    assert isinstance(block, MoEConfig)
    model = build_language_model(config, seed=0)
    experts = sum(p.numel() for n, p in model.named_parameters() if n.endswith("_weight"))
    assert active(config) == non_embedding(config) - experts * 6 // 8


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_small_one_runs_and_is_causal(kind: str) -> None:
    model = build_language_model(preset(kind, "1M", 300), seed=0).eval()
    tokens = torch.randint(300, (2, 12), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, 7] = (other[:, 7] + 1) % 300
    with torch.no_grad():
        a, b = model(tokens), model(other)
    torch.testing.assert_close(a[:, :7], b[:, :7], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(a[:, 7:], b[:, 7:])


def test_a_hybrid_has_attention_in_between() -> None:
    config = hybrid("1M", 300, every=4)
    kinds = [type(block) for block in config.blocks]
    assert len(kinds) == 14 and kinds[:4] == [
        Mamba2Config,
        Mamba2Config,
        AttentionConfig,
        Mamba2Config,
    ]
    assert kinds.count(AttentionConfig) == 3
    logits = build_language_model(config, seed=0)(torch.zeros(1, 5, dtype=torch.int64))
    assert logits.shape == (1, 5, 300)
    with pytest.raises(ValueError, match="every is 1, allowed: 2 or more"):
        hybrid("1M", 300, every=1)


def test_what_there_is_not_says_what_there_is() -> None:
    with pytest.raises(
        ValueError, match="architecture is 'gru', allowed: mamba1, mamba2, transfor"
    ):
        preset("gru", "1M", 300)
    with pytest.raises(ValueError, match="size is '7B', allowed: 1M, 2M, 5M, 16M, 27M, 130M"):
        preset("mamba1", "7B", 300)
