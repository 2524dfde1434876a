"""Whole models against transformers' Mamba and Mamba-2 with the same weights."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor, nn

from lib.models.config import LanguageModelConfig, Mamba1Config, Mamba2Config
from lib.models.language_model import LanguageModel, build_language_model

transformers.logging.set_verbosity_error()

# our name inside a layer to theirs; the stack's names are below
SHARED = {
    "norm.weight": "norm.weight",
    "mixer.in_proj.weight": "mixer.in_proj.weight",
    "mixer.conv.bias": "mixer.conv1d.bias",
    "mixer.A_log": "mixer.A_log",
    "mixer.D": "mixer.D",
    "mixer.out_proj.weight": "mixer.out_proj.weight",
}
MAMBA1 = {
    **SHARED,
    "mixer.x_proj.weight": "mixer.x_proj.weight",
    "mixer.dt_proj.weight": "mixer.dt_proj.weight",
    "mixer.dt_proj.bias": "mixer.dt_proj.bias",
}
MAMBA2 = {**SHARED, "mixer.dt_bias": "mixer.dt_bias", "mixer.norm.weight": "mixer.norm.weight"}


def randomise(model: nn.Module) -> None:
    """Every weight away from its start, so that no norm, D or bias can be left out unseen."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def copy_weights(ours: LanguageModel, theirs: nn.Module, names: dict[str, str]) -> None:
    source = ours.state_dict()
    target: dict[str, Tensor] = {
        "backbone.embeddings.weight": source["embedding.weight"],
        "backbone.norm_f.weight": source["final_norm.weight"],
        "lm_head.weight": source["head.weight"],
    }
    for index in range(ours.config.n_layers):
        here, there = f"layers.{index}.", f"backbone.layers.{index}."
        for mine, other in names.items():
            target[there + other] = source[here + mine]
        target[there + "mixer.conv1d.weight"] = source[here + "mixer.conv.weight"][:, None]
    assert set(target) == set(theirs.state_dict())
    theirs.load_state_dict(target)


@pytest.fixture
def mamba1() -> tuple[LanguageModel, nn.Module]:
    config = LanguageModelConfig(50, 3, (Mamba1Config(d_model=32, d_state=8),))
    ours = build_language_model(config, seed=0)
    randomise(ours)
    theirs = transformers.MambaForCausalLM(
        transformers.MambaConfig(
            vocab_size=50,
            hidden_size=32,
            state_size=8,
            num_hidden_layers=3,
            layer_norm_epsilon=1e-5,
            tie_word_embeddings=False,
        )
    ).eval()
    copy_weights(ours, theirs, MAMBA1)
    return ours, theirs


@pytest.fixture
def mamba2() -> tuple[LanguageModel, nn.Module]:
    block = Mamba2Config(d_model=32, d_state=16, headdim=16, n_groups=2, chunk_size=16)
    ours = build_language_model(LanguageModelConfig(50, 3, (block,)), seed=0)
    randomise(ours)
    theirs = transformers.Mamba2ForCausalLM(
        transformers.Mamba2Config(
            vocab_size=50,
            hidden_size=32,
            state_size=16,
            num_hidden_layers=3,
            num_heads=4,
            head_dim=16,
            n_groups=2,
            chunk_size=16,
            layer_norm_epsilon=1e-5,
            tie_word_embeddings=False,
        )
    ).eval()
    copy_weights(ours, theirs, MAMBA2)
    return ours, theirs


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
@pytest.mark.parametrize("length", [1, 3, 16, 41])
def test_logits_and_gradients_equal_transformers(
    kind: str, length: int, request: pytest.FixtureRequest
) -> None:
    ours, theirs = request.getfixturevalue(kind)
    tokens = torch.randint(50, (2, length), generator=torch.Generator().manual_seed(length))
    mine, other = ours(tokens), theirs(tokens).logits
    assert (mine - other).abs().max() <= 1e-5 * other.abs().max().clamp(min=1.0)
    mine.square().mean().backward()
    other.square().mean().backward()
    grad, their_grad = ours.layers[0].mixer.in_proj.weight.grad, None
    their_grad = theirs.backbone.layers[0].mixer.in_proj.weight.grad
    assert (grad - their_grad).abs().max() <= 1e-4 * their_grad.abs().max()


@pytest.mark.parametrize("kind", ["mamba1", "mamba2"])
def test_greedy_decoding_equals_transformers(kind: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = request.getfixturevalue(kind)
    prompt = torch.randint(50, (1, 5), generator=torch.Generator().manual_seed(1))
    expected = theirs.generate(prompt, max_new_tokens=12, do_sample=False)[0, 5:].tolist()
    with torch.no_grad():
        logits, states = ours(prompt, last_token_only=True, return_states=True)
        found = []
        for position in range(5, 17):
            token = logits.argmax(-1)
            found.append(int(token))
            logits, states = ours.step(token, states, position)
    assert found == expected
