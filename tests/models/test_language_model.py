from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.models.config import (
    BlockConfig,
    GRUConfig,
    InitialisationConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
)
from lib.models.language_model import LanguageModel, build_language_model
from lib.models.layers import RMSNorm

BLOCKS: dict[str, tuple[BlockConfig, ...]] = {
    "mamba1": (Mamba1Config(d_model=16, d_state=4),),
    "mamba2": (Mamba2Config(d_model=16, d_state=8, headdim=8, n_groups=2, chunk_size=8),),
    "hybrid": (
        Mamba1Config(d_model=16, d_state=4),
        Mamba2Config(d_model=16, d_state=8, headdim=16),
    ),
    "gru": (GRUConfig(d_model=16, d_hidden=12),),
    "kernels": (
        Mamba1Config(d_model=16, d_state=4, conv_kind="palindromic", conv_bypass="residual"),
        Mamba2Config(d_model=16, d_state=8, headdim=16, conv_frozen=True, conv_bypass="gated"),
    ),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no norms": {"pre_norm": False, "final_norm": False},
    "tied": {"tie_embeddings": True},
    "learned": {"positional_encoding": "learned", "max_length": 40},
    "sinusoidal": {"positional_encoding": "sinusoidal", "max_length": 40},
}


def make(
    block: str = "mamba2", variant: str = "plain", seed: int = 0, **block_change: Any
) -> LanguageModel:
    pattern = tuple(dataclasses.replace(b, **block_change) for b in BLOCKS[block])
    config = LanguageModelConfig(30, 3, pattern, **VARIANTS[variant])
    return build_language_model(config, seed=seed).double()


def tokens(length: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randint(30, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("block", list(BLOCKS))
def test_step_by_step_equals_the_full_pass(block: str, variant: str) -> None:
    model, sequence = make(block, variant), tokens(21)
    with torch.no_grad():
        expected = model(sequence)
        states, found = model.initial_states(2), []
        for position, token in enumerate(sequence.unbind(1)):
            logits, states = model.step(token, states, position)
            found.append(logits)
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("conv_kind", ["standard", "all_one", "none"])
@pytest.mark.parametrize("block", ["mamba1", "mamba2"])
def test_every_convolution_kind_decodes_too(block: str, conv_kind: str) -> None:
    model, sequence = make(block, conv_kind=conv_kind), tokens(9)
    with torch.no_grad():
        expected, kept = model(sequence, return_states=True)
        states = model.initial_states(2)
        for token in sequence.unbind(1):
            logits, states = model.step(token, states)
    torch.testing.assert_close(logits, expected[:, -1], rtol=1e-10, atol=1e-10)
    for mine, other in zip(kept, states, strict=True):
        torch.testing.assert_close(mine.ssm, other.ssm, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(mine.conv, other.conv, rtol=1e-10, atol=1e-10)


@given(
    cut=st.integers(1, 19),
    block=st.sampled_from(list(BLOCKS)),
    variant=st.sampled_from(list(VARIANTS)),
)
def test_a_sequence_in_two_parts_equals_the_whole(cut: int, block: str, variant: str) -> None:
    model, sequence = make(block, variant), tokens(20)
    with torch.no_grad():
        first, states = model(sequence[:, :cut], return_states=True)
        second = model(sequence[:, cut:], states, start=cut)
        expected = model(sequence)
    torch.testing.assert_close(torch.cat([first, second], 1), expected, rtol=1e-10, atol=1e-10)


@given(at=st.integers(0, 14), block=st.sampled_from(list(BLOCKS)))
def test_causality(at: int, block: str) -> None:
    model, sequence = make(block), tokens(15)
    changed = sequence.clone()
    changed[:, at] = (changed[:, at] + 7) % 30
    with torch.no_grad():
        before, after = model(sequence), model(changed)
    assert torch.equal(before[:, :at], after[:, :at])
    assert not torch.allclose(before[:, at], after[:, at])


@pytest.mark.parametrize("block", list(BLOCKS))
def test_padding_and_batch_do_not_matter(block: str) -> None:
    model, sequence = make(block), tokens(11, batch=4)
    padded = torch.cat([sequence, torch.zeros(4, 6, dtype=torch.int64)], 1)
    with torch.no_grad():
        expected = model(sequence)
        torch.testing.assert_close(model(padded)[:, :11], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model(sequence[2:3]), expected[2:3], rtol=1e-10, atol=1e-10)
        last = model(sequence, last_token_only=True)
    torch.testing.assert_close(last, expected[:, -1])


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("block", list(BLOCKS))
def test_gradients_reach_every_trained_parameter(block: str, variant: str) -> None:
    model = make(block, variant)
    model(tokens(12)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_the_quadratic_path_with_S_equals_the_op() -> None:
    model, sequence = make("mamba2"), tokens(8)
    reference = LanguageModel(model.config, backend="reference").double()
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(sequence), reference(sequence), rtol=1e-10, atol=1e-10)


def test_an_all_one_kernel_is_never_trained() -> None:
    model = make("mamba2", conv_kind="all_one")
    names = [name for name, _ in model.named_parameters()]
    assert not any("conv.weight" in name for name in names)
    assert any("conv.bias" in name for name in names)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(tokens(8)).square().mean().backward()
    optimizer.step()
    for layer in model.layers:
        assert torch.equal(layer.mixer.conv.weight, torch.ones_like(layer.mixer.conv.weight))
    quiet = make("mamba2", conv_kind="all_one", conv_bias=False)
    assert not any("conv" in name for name, _ in quiet.named_parameters())


def test_convolution_kinds_see_what_they_should() -> None:
    """The output at one step, as the input at it and before it changes."""
    x = torch.randn(1, 8, 160, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kind, reach, symmetric in (("standard", 4, False), ("all_one", 4, True), ("none", 1, True)):
        conv = make("mamba2", conv_kind=kind).layers[0].mixer.conv
        x = x[:, :, : make("mamba2").config.pattern[0].conv_dim]
        out = conv(x, None, False)[0]
        for back in range(6):
            other = x.clone()
            other[:, 6 - back] += 1
            moved = not torch.allclose(conv(other, None, False)[0][:, 6], out[:, 6])
            assert moved == (back < reach), (kind, back)
        swapped = x.clone()
        swapped[:, [5, 6]] = x[:, [6, 5]]
        same = torch.allclose(conv(swapped, None, False)[0][:, 7], out[:, 7])
        assert same == symmetric, kind


def test_positional_encodings() -> None:
    repeated = torch.full((1, 6), 3)
    plain, learned = make("mamba2"), make("mamba2", "learned")
    sines = make("mamba2", "sinusoidal")
    assert not any("positions" in name for name, _ in sines.named_parameters())
    table = sines.positions.weight.float()  # type: ignore[union-attr, operator]
    assert table.shape == (40, 16)
    assert torch.allclose(table[0, 0::2], torch.zeros(8)) and torch.allclose(
        table[0, 1::2], torch.ones(8)
    )
    assert table[3, 2] == pytest.approx(
        float(torch.sin(torch.tensor(3 * 10_000 ** (-2 / 16)))), abs=1e-6
    )
    with torch.no_grad():
        learned.positions.weight.zero_()  # type: ignore[union-attr]
        source = {k: v for k, v in learned.state_dict().items() if "positions" not in k}
        plain.load_state_dict(source)
        assert torch.equal(plain(repeated), learned(repeated))
        assert not torch.allclose(plain(repeated), sines(repeated))
        with pytest.raises(ValueError, match="length is 41, allowed: up to max_length 40"):
            learned(torch.zeros(1, 41, dtype=torch.int64))
        with pytest.raises(ValueError, match="length is 41"):
            learned.step(torch.zeros(1, dtype=torch.int64), learned.initial_states(1), 40)
        with pytest.raises(ValueError, match="position is -1, allowed: 0 or more"):
            learned(repeated, start=-1)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_wrong_number_of_states_is_named(count: int) -> None:
    model = make("mamba2")
    states = (model.initial_states(2) * 2)[:count]
    with pytest.raises(ValueError, match=f"states has length {count}, allowed: 3"):
        model(tokens(4), states)
    with pytest.raises(ValueError, match=f"states has length {count}, allowed: 3"):
        model.step(tokens(4)[:, 0], states)


@pytest.mark.parametrize("block", list(BLOCKS))
def test_the_config_sets_eps_of_every_norm(block: str) -> None:
    config = LanguageModelConfig(30, 2, BLOCKS[block], norm_eps=0.25)
    model = build_language_model(config, seed=0)
    norms = [module for module in model.modules() if isinstance(module, RMSNorm)]
    gated = sum(b.kind == "mamba2" for b in config.blocks)
    assert len(norms) == 2 + 1 + gated and all(norm.eps == 0.25 for norm in norms)
    x = torch.full((1, model.config.d_model), 0.5)
    # mean square 0.25 and eps 0.25: x / sqrt(0.5)
    torch.testing.assert_close(norms[-1](x), x / 0.5**0.5)


@pytest.mark.parametrize(
    ("n_layers", "vocab", "tied", "count"),
    [(4, 104, True, 67_628), (2, 201, True, 38_598), (7, 201, True, 118_933),
     (2, 201, False, 45_030), (7, 201, False, 125_365)],
)  # fmt: skip
def test_parameter_counts_of_the_protocol(
    n_layers: int, vocab: int, tied: bool, count: int
) -> None:
    config = LanguageModelConfig(vocab, n_layers, (Mamba2Config(d_model=32),), tie_embeddings=tied)
    model = build_language_model(config, seed=0)
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(p.numel() for p in model.layers[0].mixer.parameters()) == 16_035


def test_parameter_count_of_mamba1() -> None:
    block = Mamba1Config(d_model=32, d_state=128)
    model = build_language_model(LanguageModelConfig(104, 4, (block,), tie_embeddings=True), seed=0)
    assert sum(p.numel() for p in model.parameters()) == 129_184


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mamba2Config(d_model=0), "Mamba2Config.d_model is 0, allowed: at least 1"),
        (
            lambda: Mamba2Config(d_model=32, headdim=48),
            "headdim is 48, allowed: a divisor of d_inner 64",
        ),
        (lambda: Mamba2Config(d_model=32, headdim=16, n_groups=3), "n_groups is 3"),
        (lambda: Mamba2Config(d_model=32, A_min=2.0, A_max=1.0), "A_max is 1.0"),
        (
            lambda: Mamba2Config(d_model=32, conv_kind="wide"),
            "conv_kind is 'wide', allowed: standard",
        ),
        (lambda: Mamba1Config(d_model=32, dt_rank=0), "dt_rank is 0"),
        (lambda: Mamba1Config(d_model=32, dt_scale=0.0), "dt_scale is 0.0, allowed: more than 0"),
        (lambda: Mamba1Config(d_model=32, dt_max=math.inf), "dt_max is inf"),
        (lambda: Mamba1Config(d_model=32.0), "d_model is 32.0, allowed: at least 1, whole"),
        (lambda: Mamba1Config(d_model=True), "d_model is True"),
        (lambda: Mamba2Config(d_model=32, A_max=math.nan), "A_max is nan"),
        (lambda: Mamba2Config(d_model=32, headdim=16.0), "headdim is 16.0"),
        (
            lambda: Mamba1Config(d_model=32, dt_min=0.2),
            "dt_max is 0.1, allowed: at least dt_min 0.2",
        ),
        (lambda: GRUConfig(d_model=16, d_hidden=0), "GRUConfig.d_hidden is 0, allowed: at least"),
        (lambda: LanguageModelConfig(0, 1, BLOCKS["mamba1"]), "vocab_size is 0"),
        (lambda: LanguageModelConfig(9, 1, ()), "pattern is .* at least one block config"),
        (lambda: LanguageModelConfig(9, 1, (Mamba1Config(8), Mamba1Config(16))), "same d_model"),
        (
            lambda: LanguageModelConfig(9, 1, BLOCKS["mamba1"], positional_encoding="learned"),
            "max_length is None",
        ),
        (
            lambda: LanguageModelConfig(9, 1, BLOCKS["mamba1"], positional_encoding="rope"),
            "allowed: none, learned",
        ),
        (lambda: LanguageModelConfig(9, 1, list(BLOCKS["mamba1"])), "allowed: a tuple of"),
        (lambda: LanguageModelConfig(9, 1, ("mamba1",)), "pattern is .*block config"),
        (lambda: LanguageModelConfig(9, 1, BLOCKS["mamba1"], max_length=0), "max_length is 0"),
        (lambda: LanguageModelConfig(9, 1, BLOCKS["mamba1"], norm_eps=math.inf), "norm_eps is inf"),
        (lambda: InitialisationConfig(gamma=-1.0), "gamma is -1.0"),
        (lambda: InitialisationConfig(gamma=math.inf), "gamma is inf"),
        (lambda: InitialisationConfig(scope=("norms",)), "scope is .*names of embedding"),
        (lambda: InitialisationConfig(scope=("head", "head")), "scope is .*different names"),
        (lambda: InitialisationConfig(scope=["head"]), "scope is .*allowed: a tuple"),
        (lambda: InitialisationConfig(fan="in"), "fan is 'in', allowed: fan_in, output"),
    ],
)
def test_bad_configs_are_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
