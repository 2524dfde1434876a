"""Where only the last position is read, blocks make no other: equal logits, equal gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from lib.models.config import (
    AttentionConfig,
    BlockConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
    MoEConfig,
)
from lib.models.language_model import LanguageModel, build_language_model
from lib.ops.ssd import apply_ssd_matrix, ssd_last, ssd_matrix
from lib.training.ensemble import Ensemble

M, VOCAB = 8, 13
PLAIN = Mamba2Config(M, d_state=6, headdim=4, chunk_size=32)
ATTENTION = AttentionConfig(M, n_heads=2, d_v=12)
FEED = FeedForwardConfig(M, 10)
BLOCKS: dict[str, tuple[BlockConfig, ...]] = {
    "mamba2": (PLAIN,),
    "mamba2, groups and biases": (
        dataclasses.replace(PLAIN, n_groups=2, headdim=2, bias=True, conv_bias=False),
    ),
    "mamba2, no convolution": (dataclasses.replace(PLAIN, conv_kind="none"),),
    "mamba2, gated past": (dataclasses.replace(PLAIN, conv_bypass="gated"),),
    "mamba2, longer than a chunk": (dataclasses.replace(PLAIN, chunk_size=4),),
    "mamba2 before feed-forward": (PLAIN, FEED),
    "attention": (ATTENTION,),
    "attention, bias and turned": (dataclasses.replace(ATTENTION, bias=True, rope_theta=100.0),),
    "attention, convolved": (dataclasses.replace(ATTENTION, conv_kind="standard"),),
    "attention that sees all": (dataclasses.replace(ATTENTION, causal=False),),
    "transformer": (ATTENTION, dataclasses.replace(FEED, activation="swiglu", bias=True), FEED),
    "feed-forward alone": (FEED, FEED),
    "mamba1": (Mamba1Config(M, d_state=4), FEED),
    "mixture of experts": (ATTENTION, MoEConfig(M, 6, n_experts=3)),
}
STACKS: dict[str, dict[str, Any]] = {
    "": {},
    "after": {"norm_place": "after"},
    "no norm": {"pre_norm": False, "final_norm": False},
}


def model_of(blocks: tuple[BlockConfig, ...], seed: int = 0, **stack: Any) -> LanguageModel:
    config = LanguageModelConfig(VOCAB, 2 * len(blocks), blocks, **stack)
    return build_language_model(config, seed=seed).double()


def tokens(length: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (3, length), generator=torch.Generator().manual_seed(seed))


def logits_and_gradients(
    model: LanguageModel, text: Tensor, last_only: bool
) -> tuple[Tensor, dict[str, Tensor | None]]:
    logits = model(text, last_token_only=True) if last_only else model(text)[:, -1]
    model.zero_grad()
    (logits.square() * torch.arange(1.0, VOCAB + 1)).sum().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("stack", list(STACKS))
@pytest.mark.parametrize("name", list(BLOCKS))
def test_the_same_as_the_last_of_all_positions(name: str, stack: str) -> None:
    model = model_of(BLOCKS[name], **STACKS[stack])
    for length in (1, 2, 11):
        found, grads = logits_and_gradients(model, tokens(length), True)
        expected, wanted = logits_and_gradients(model, tokens(length), False)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        for parameter, want in wanted.items():
            have = grads[parameter]
            # what is not reached has no gradient, where reading all positions gives zeros
            have = torch.zeros_like(want) if have is None and want is not None else have
            torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-11, msg=parameter)


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("mamba2", [9, 1]), ("transformer", [9, 9, 9, 1, 1, 1]), ("feed-forward alone", [1] * 4),
        ("mamba1", [9, 9, 1, 1]), ("mixture of experts", [9] * 4),
        ("mamba2 before feed-forward", [9, 9, 1, 1]),
    ],
)  # fmt: skip
def test_no_other_position_is_made(name: str, lengths: list[int]) -> None:
    model = model_of(BLOCKS[name])
    found = [0] * len(model.layers)

    def through(index: int) -> Any:
        forward = model.layers[index].forward

        def counted(*arguments: Any) -> Any:
            out = forward(*arguments)
            found[index] = out[0].shape[1]
            return out

        return counted

    for index, layer in enumerate(model.layers):
        layer.forward = through(index)
    assert model(tokens(9), last_token_only=True).shape == (3, VOCAB)
    assert found == lengths
    model(tokens(9), last_token_only=True, return_states=True)  # states are of all positions
    assert found == [9] * len(lengths)


@pytest.mark.parametrize("name", ["mamba2", "transformer"])
def test_whoever_watches_an_activation_sees_all_positions(name: str) -> None:
    model = model_of(BLOCKS[name])
    plain = model(tokens(9), last_token_only=True)
    seen = 0
    for activation in ("act_y", "act_S", "act_hidden", "act_resid"):
        for layer in model.layers:
            watched = getattr(layer if activation == "act_resid" else layer.mixer, activation, None)
            if watched is None:
                continue
            shapes: list[torch.Size] = []
            handle = watched.register_forward_hook(lambda m, i, out, s=shapes: s.append(out.shape))
            torch.testing.assert_close(model(tokens(9), last_token_only=True), plain)
            handle.remove()
            assert len(shapes) == 1 and 9 in shapes[0], activation
            seen += 1
    assert seen == {"mamba2": 2 * 3, "transformer": 2 * 2 + 4 + 6}[name]
    torch.testing.assert_close(model(tokens(9), last_token_only=True), plain)


@pytest.mark.parametrize("name", ["mamba2", "transformer"])
def test_runs_of_an_ensemble_and_half_precision(name: str) -> None:
    models = [model_of(BLOCKS[name], seed).float() for seed in range(2)]
    together = Ensemble(models)
    texts = torch.stack([tokens(9, seed) for seed in range(2)])
    found = together(texts, last_token_only=True)
    for run, model in enumerate(models):
        torch.testing.assert_close(found[run], model(texts[run])[:, -1], rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = models[0](texts[0], last_token_only=True)
        whole = models[0](texts[0])[:, -1]
    torch.testing.assert_close(half, whole, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("name", ["mamba2", "transformer"])
def test_a_compiler_takes_it_whole(name: str) -> None:
    model = model_of(BLOCKS[name])
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    found = compiled(tokens(9), last_token_only=True)
    torch.testing.assert_close(found, model(tokens(9), last_token_only=True))


def test_the_last_row_of_the_matrix() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, dt, A = draw(2, 7, 4, 3), draw(2, 7, 4).exp(), -draw(4).exp()
    B, C = draw(2, 7, 2, 5), draw(2, 7, 2, 5)
    expected = apply_ssd_matrix(ssd_matrix(dt, A, B, C), x, dt)[:, -1]
    torch.testing.assert_close(ssd_last(x, dt, A, B, C[:, -1]), expected)
    far = ssd_last(x, 1000 * dt, A, B, C[:, -1])  # nothing is left of all but the last step
    own = (B[:, -1] * C[:, -1]).sum(-1).repeat_interleave(2, 1)[..., None] * x[:, -1]
    torch.testing.assert_close(far, 1000 * dt[:, -1, :, None] * own)
    with pytest.raises(ValueError, match="dt"):
        ssd_last(x, dt[:, :-1], A, B, C[:, -1])
