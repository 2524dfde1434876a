"""The attention block alone: its formula, its positions, its convolution, its weights S."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import silu
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from lib.models import attention
from lib.models.attention import AttentionMixer, moved, rotate
from lib.models.config import AttentionConfig
from lib.models.layers import Activation

M = 16
CONFIGS = {
    "plain": AttentionConfig(M, n_heads=2),
    "widths": AttentionConfig(M, n_heads=2, d_qk=8, d_v=24, bias=True),
    "rotary": AttentionConfig(M, n_heads=2, rope_theta=100.0),
    "conv": AttentionConfig(M, d_qk=8, d_v=24, rope_theta=100.0, conv_kind="standard"),
    "all_one": AttentionConfig(M, n_heads=4, conv_kind="all_one", conv_bias=False),
}


def make(config: AttentionConfig, seed: int = 0) -> AttentionMixer:
    """A block in float64, every weight drawn."""
    mixer, generator = AttentionMixer(config).double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in mixer.parameters():
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.4 * draw)
    return mixer


def inputs(length: int = 9, seed: int = 1, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, M, generator=generator, dtype=torch.float64)


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's kernel for short sequences too, as on a GPU."""
    monkeypatch.setattr(attention, "OPEN_LENGTH", 0)


def watch(mixer: AttentionMixer, edit: Any = lambda S: None) -> list[Tensor]:
    """Hook S; gives the list in which it is kept."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, given: Any, S: Tensor) -> Tensor | None:
        seen.append(S)
        return edit(S)

    mixer.act_S.register_forward_hook(hook)
    return seen


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("bias", [False, True])
def test_equals_torchs_multihead_attention(bias: bool) -> None:
    mixer = make(AttentionConfig(M, n_heads=4, bias=bias))
    theirs = nn.MultiheadAttention(M, 4, bias=bias, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(mixer.in_proj.weight)
        theirs.out_proj.weight.copy_(mixer.out_proj.weight)
        if bias:
            theirs.in_proj_bias.copy_(mixer.in_proj.bias)
            theirs.out_proj.bias.copy_(mixer.out_proj.bias)
    x = inputs()
    mask = nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64)
    expected, S = theirs(x, x, x, attn_mask=mask, average_attn_weights=False)
    close(mixer(x), expected)
    seen = watch(mixer)
    close(mixer(x), expected)
    close(seen[0], S)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_equals_the_formula_token_by_token(name: str) -> None:
    """Own widths for queries and values, and the convolution on all three, written as loops."""
    config, x = CONFIGS[name], inputs(batch=1)
    mixer = make(config)
    with torch.no_grad():
        found, qkv = mixer(x)[0], mixer.in_proj(x)[0]
        if mixer.conv is not None:
            padded = torch.cat([torch.zeros(3, config.conv_dim).double(), qkv])
            kernel = mixer.conv.kernel()
            taps = [(padded[t : t + 4] * kernel.T).sum(0) for t in range(len(qkv))]
            bias = 0 if mixer.conv.bias is None else mixer.conv.bias
            qkv = silu(torch.stack(taps) + bias)
        e, p, h = config.headdim_qk, config.headdim_v, config.n_heads
        parts = []
        for head in range(h):
            q = qkv[:, head * e : (head + 1) * e]
            k = qkv[:, h * e + head * e : h * e + (head + 1) * e]
            v = qkv[:, 2 * h * e + head * p : 2 * h * e + (head + 1) * p]
            if config.rope_theta is not None:
                q, k = (turned(part, config.rope_theta) for part in (q, k))
            rows = []
            for i in range(len(q)):
                odds = [math.exp(float(q[i] @ k[j]) / math.sqrt(e)) for j in range(i + 1)]
                rows.append(sum(w / sum(odds) * v[j] for j, w in enumerate(odds)))
            parts.append(torch.stack(rows))  # type: ignore[arg-type]
        expected = mixer.out_proj(torch.cat(parts, 1))
    close(found, expected)


def turned(x: Tensor, theta: float) -> Tensor:
    """Rotary positions as products of complex numbers."""
    length, e = x.shape
    pairs = torch.complex(x[:, : e // 2], x[:, e // 2 :])
    for t in range(length):
        for i in range(e // 2):
            angle = t * theta ** (-2 * i / e)
            pairs[t, i] *= complex(math.cos(angle), math.sin(angle))
    return torch.cat([pairs.real, pairs.imag], 1)


def test_rotary_positions_equal_transformers() -> None:
    config = transformers.LlamaConfig(
        hidden_size=32, num_attention_heads=2, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )  # fmt: skip
    x = torch.randn(2, 2, 7, 16, generator=torch.Generator().manual_seed(0))
    place = torch.arange(5, 12)[None]
    cos, sin = LlamaRotaryEmbedding(config)(x, place)
    expected, _ = apply_rotary_pos_emb(x, x, cos, sin)
    torch.testing.assert_close(rotate(x, 5, 500.0), expected, rtol=1e-6, atol=1e-6)


def test_rotary_positions_are_relative() -> None:
    """Equal scores wherever a pair of tokens stands, and other scores at another distance."""
    q, k = (inputs(1, seed)[:, None].expand(-1, 1, 4, -1) for seed in (1, 2))
    near = (rotate(q, 0, 100.0) * rotate(k, 3, 100.0)).sum(-1)
    far = (rotate(q, 40, 100.0) * rotate(k, 43, 100.0)).sum(-1)
    close(near, far)
    assert not torch.allclose(near, (rotate(q, 0, 100.0) * rotate(k, 4, 100.0)).sum(-1))


def test_what_was_turned_can_be_moved() -> None:
    x = inputs(1, 3)[:, None].expand(-1, 2, 4, -1)
    for by in (-40, 0, 7):
        close(moved(rotate(x, 40, 100.0), by, 100.0), rotate(x, 40 + by, 100.0))
    half = moved(rotate(x, 40, 100.0).bfloat16(), -40, 100.0)
    assert half.dtype == torch.bfloat16 and half.shape == x.shape


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_open_path_equals_the_librarys(name: str) -> None:
    """Outputs, states and gradients, over a whole sequence and from a state."""
    mixer, watched, x = make(CONFIGS[name]), make(CONFIGS[name]), inputs()
    seen = watch(watched)
    for cut in (9, 4):
        first, states = mixer(x[:, :cut], return_state=True)
        other, other_states = watched(x[:, :cut], return_state=True)
        close(other, first)
        close(tuple(other_states), tuple(states))
        if cut < 9:
            close(watched(x[:, cut:], other_states), mixer(x[:, cut:], states))
            assert seen[-1].shape == (2, CONFIGS[name].n_heads, 5, 9)
    for one in (mixer, watched):
        one(x).square().sum().backward()
    for mine, theirs in zip(mixer.parameters(), watched.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, mine.grad, rtol=1e-8, atol=1e-9)
    S = seen[0]
    assert not S.triu(1).any()
    close(S.sum(-1), torch.ones_like(S[..., 0]))


@pytest.mark.usefixtures("fused")
def test_editing_S_edits_the_output() -> None:
    """A column set to zero takes that token's value away and nothing else."""
    mixer, x = make(CONFIGS["widths"]), inputs()
    values: list[Tensor] = []
    mixer.act_v.register_forward_hook(lambda module, given, v: values.append(v))
    before = mixer(x)

    def block(S: Tensor) -> Tensor:
        S = S.clone()
        S[:, :, 3:, 2] = 0
        return S

    seen = watch(mixer, block)
    after = mixer(x)
    S, v = seen[0], values[0]
    lost = (S[:, :, 3:, 2, None] * v[:, 2, :, None]).transpose(1, 2).flatten(-2)
    close(after[:, :3], before[:, :3])
    close(before[:, 3:] - after[:, 3:], lost @ mixer.out_proj.weight.T)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_activation_can_be_replaced(name: str) -> None:
    mixer, x = make(CONFIGS[name]), inputs()
    expected = mixer(x)
    names = [n for n, module in mixer.named_modules() if isinstance(module, Activation)]
    convolved = {"act_pre_conv", "act_post_conv"} if mixer.conv is not None else set()
    assert set(names) == {"act_q", "act_k", "act_v", "act_S", "act_y"} | convolved
    for hooked in names:
        handle = mixer.get_submodule(hooked).register_forward_hook(lambda m, given, out: out * 0)
        other = mixer(x)
        handle.remove()
        assert other.isfinite().all() and not torch.allclose(other, expected), hooked
        assert torch.equal(mixer(x), expected)


@pytest.mark.parametrize(("length", "calls"), [(128, 0), (129, 1)])
def test_the_librarys_kernel_runs_beyond_short_sequences(
    length: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, kernel = 0, F.scaled_dot_product_attention

    def counted(*args: Any, **options: Any) -> Tensor:
        nonlocal made
        made += 1
        return kernel(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    make(CONFIGS["plain"])(inputs(length, batch=1))
    assert made == calls


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_librarys_kernel_is_given_channels_side_by_side(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fast forms refuse any other layout and, without a word, torch takes the slow one."""
    strides, kernel = set(), F.scaled_dot_product_attention

    def seen(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
        strides.update(part.stride(-1) for part in (q, k, v))
        return kernel(q, k, v, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", seen)
    make(CONFIGS[name])(inputs())
    assert strides == {1}


@pytest.mark.usefixtures("fused")
def test_a_caller_s_choice_of_kernels_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs by length are measured with flash attention or not at all."""
    held, kernel = [], F.scaled_dot_product_attention

    def seen(*args: Any, **options: Any) -> Tensor:
        flags = torch.backends.cuda
        held.append((flags.flash_sdp_enabled(), flags.math_sdp_enabled()))
        return kernel(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", seen)
    mixer = make(CONFIGS["plain"])
    for chosen in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(chosen):
            mixer(inputs())
    assert held == [(True, False), (False, True)]


def test_no_activation_passes_through_in_step() -> None:
    mixer = make(CONFIGS["conv"])
    for module in mixer.modules():
        if isinstance(module, Activation):
            module.register_forward_hook(lambda m, given, out: pytest.fail("reached"))
    state = mixer.initial_state(2, torch.device("cpu"), torch.float64)
    mixer.step(inputs(1)[:, 0], state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 0}, "AttentionConfig.d_model is 0, allowed: at least 1, whole"),
        ({"n_heads": True}, "n_heads is True, allowed: at least 1, whole"),
        ({"n_heads": 3}, r"d_qk is None, allowed: None \(d_model 16\) or whole, in multiples of n"),
        ({"n_heads": 4, "d_qk": 6}, "d_qk is 6, allowed: .*in multiples of n_heads 4"),
        ({"n_heads": 4, "d_v": 6}, "d_v is 6, allowed: .*in multiples of n_heads 4"),
        ({"d_v": 0}, "d_v is 0, allowed"),
        ({"d_qk": 8.0}, "d_qk is 8.0, allowed"),
        ({"conv_kind": "wide"}, "conv_kind is 'wide', allowed: standard, all_one"),
        ({"d_conv": 0}, "d_conv is 0"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0, allowed: None, or more than 0 and finite"),
        ({"rope_theta": math.inf}, "rope_theta is inf"),
        ({"d_qk": 5, "rope_theta": 1e4}, "rope_theta is 10000.0, .*an even headdim_qk, 5"),
    ],
)
def test_bad_configs_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionConfig(**{"d_model": 16, **change})


def test_sizes_of_the_papers_inverse_task() -> None:
    """arXiv 2509.17514, appendix: width 128, queries and keys 128, values 256, one head."""
    config = AttentionConfig(128, d_qk=128, d_v=256)
    assert (config.headdim_qk, config.headdim_v, config.conv_dim) == (128, 256, 512)
    count = sum(p.numel() for p in AttentionMixer(config).parameters())
    assert count == 128 * (128 + 128 + 256) + 256 * 128


@pytest.mark.parametrize("length", [9, attention.OPEN_LENGTH + 2])
def test_without_a_mask_every_token_sees_all(length: int) -> None:
    config = dataclasses.replace(CONFIGS["plain"], causal=False)
    mixer, x = make(config), inputs(length)
    q, k, v = mixer.in_proj(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / 8**0.5).softmax(-1)
    close(mixer(x), mixer.out_proj((weights @ v).transpose(1, 2).flatten(-2)))
    seen = watch(mixer)
    mixer(x)
    close(seen[0], weights)


def test_without_a_mask_there_is_nothing_to_go_on_from() -> None:
    mixer = make(dataclasses.replace(CONFIGS["plain"], causal=False))
    state = mixer.initial_state(2, torch.device("cpu"), torch.float64)
    x = inputs()
    for call in (
        lambda: mixer(x, return_state=True), lambda: mixer(x, state),
        lambda: mixer.step(x[:, 0], state),
    ):  # fmt: skip
        with pytest.raises(
            ValueError, match="causal is False, allowed: True to go on from a state"
        ):
            call()
