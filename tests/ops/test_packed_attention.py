"""Attention from one projection's output, convolved on the way, by Triton kernels, against the
formulas in float64: in the interpreter, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.models.attention import AttentionMixer
from lib.models.config import AttentionConfig
from lib.ops import backends
from lib.ops import packed_attention as module
from lib.ops.packed_attention import OP, packed_attention, packed_facts
from tests.ops.compare import TOLERANCE, Inputs, assert_close, assert_same, draw, gradients

MISSING = backends.triton_missing("cpu")
on_cpu = pytest.mark.skipif(MISSING is not None, reason="needs Triton and its interpreter")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DTYPES = [dtype for dtype in TOLERANCE if dtype != torch.float64]
NAMES = ("qkv", "weight", "bias")


def inputs(
    b: int, length: int, h: int, e: int, p: int, taps: int, bias: bool = True, seed: int = 0
) -> Inputs:
    channels = 2 * h * e + h * p
    shapes: dict[str, tuple[int, ...]] = {"qkv": (b, length, channels)}
    if taps:
        shapes["weight"] = (channels, taps)
        if bias:
            shapes["bias"] = (channels,)
    return draw(shapes, seed)


def by(backend: str, heads: int, e: int, **options: bool) -> Callable[..., Tensor]:
    def run(**tensors: Tensor) -> Tensor:
        qkv, weight, bias = (tensors.get(name) for name in NAMES)
        assert qkv is not None
        return packed_attention(qkv, weight, bias, heads, e, backend=backend, **options)

    return run


def formula(heads: int, e: int, causal: bool = True, last: bool = False) -> Callable[..., Tensor]:
    """By the library's convolution and attention."""

    def run(qkv: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        length, channels = qkv.shape[1:]
        if weight is not None:
            padded = F.pad(qkv.mT, (weight.shape[1] - 1, 0))
            qkv = F.silu(F.conv1d(padded, weight[:, None], bias, groups=channels)).mT
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in qkv.split([heads * e, heads * e, channels - 2 * heads * e], -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(-2)
        return y[:, length - 1 :] if last else y

    return run


@on_cpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "taps"), [(1, 4), (3, 2), (8, 4), (8, 0)])
def test_equals_the_formula(length: int, taps: int, dtype: torch.dtype) -> None:
    for causal, last in ((True, False), (False, False), (True, True)):
        assert_same(
            by("fused", 2, 8, causal=causal, last=last), formula(2, 8, causal, last),
            inputs(3, length, 2, 8, 6, taps), dtype,
        )  # fmt: skip


@pytest.mark.parametrize("taps", [0, 2, 4, 7])
def test_the_reference_is_the_formula(taps: int) -> None:
    for length in (1, 8, 19):
        for causal, last in ((True, False), (False, False), (True, True)):
            assert_same(
                by("reference", 2, 8, causal=causal, last=last), formula(2, 8, causal, last),
                inputs(3, length, 2, 8, 6, taps), torch.float64,
            )  # fmt: skip


@on_cpu
@given(
    b=st.integers(1, 5), length=st.integers(1, 8), h=st.integers(1, 2), e=st.integers(1, 20),
    p=st.integers(1, 20), taps=st.sampled_from([0, 2, 3, 4]), bias=st.booleans(),
    causal=st.booleans(), last=st.booleans(), numbers=st.sampled_from([16, 128]),
    width=st.sampled_from([8, 32]),
)  # fmt: skip
@settings(max_examples=10, phases=[Phase.generate])
def test_any_shape(
    b: int, length: int, h: int, e: int, p: int, taps: int, bias: bool, causal: bool, last: bool,
    numbers: int, width: int,
) -> None:  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SIZES", replace(module.SIZES, numbers=numbers, width=width))
        assert_same(
            by("fused", h, e, causal=causal, last=last), formula(h, e, causal, last),
            inputs(b, length, h, e, p, taps, bias), torch.float32,
        )  # fmt: skip


@on_cpu
def test_a_part_of_a_wider_tensor_and_gradients_spread_over_all_places() -> None:
    """Whose channels lie apart, or are one number."""
    wide = draw({"qkv": (3, 5, 44), "weight": (22, 3), "bias": (22,)})

    def of_a_part(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda qkv, **rest: run(qkv=qkv[..., ::2], **rest)

    assert_same(of_a_part(by("fused", 1, 8)), of_a_part(formula(1, 8)), wide, torch.float32)
    drawn = {name: t.float().requires_grad_() for name, t in inputs(3, 5, 1, 8, 6, 3).items()}
    found = torch.autograd.grad(by("fused", 1, 8)(**drawn).sum(), list(drawn.values()))
    wanted = torch.autograd.grad(formula(1, 8)(**drawn).sum(), list(drawn.values()))
    for a, e in zip(found, wanted, strict=True):
        assert_close(a, e, 3e-5)


@on_cpu
def test_large_scores_and_equal_results_from_call_to_call() -> None:
    drawn = {name: 4 * t for name, t in inputs(5, 8, 1, 8, 8, 4).items()}
    assert_same(by("fused", 1, 8), formula(1, 8), drawn, torch.float32)
    cast = {name: t.float() for name, t in drawn.items()}
    first, second = (gradients(by("fused", 1, 8), cast) for _ in range(2))
    assert torch.equal(first[0][0], second[0][0])
    assert all(torch.equal(first[1][name], second[1][name]) for name in cast)


@on_cpu
@pytest.mark.parametrize("taps", [0, 3])
def test_vmap_over_runs_is_a_loop_over_runs(taps: int) -> None:
    runs = [
        {name: t.float() for name, t in inputs(5, 4, 2, 4, 6, taps, seed=seed).items()}
        for seed in range(3)
    ]
    leaves = {name: torch.stack([run[name] for run in runs]).requires_grad_() for name in runs[0]}
    out = torch.vmap(lambda t: by("fused", 2, 4)(**t))(leaves)
    out.square().sum().backward()
    for index, run in enumerate(runs):
        own = {name: t.clone().requires_grad_() for name, t in run.items()}
        alone = by("fused", 2, 4)(**own)
        assert_close(out[index], alone, 1e-6)
        alone.square().sum().backward()
        for name, leaf in own.items():
            together = leaves[name].grad
            assert together is not None and leaf.grad is not None
            assert_close(together[index], leaf.grad, 1e-6, name)


@on_cpu
@pytest.mark.parametrize(
    ("names", "last"), [(("weight", "bias"), False), (("weight",), True), ((), False)]
)
def test_the_ops_keep_the_rules_of_custom_ops(names: tuple[str, ...], last: bool) -> None:
    drawn = inputs(3, 4, 1, 4, 6, 3)
    given = [drawn[n].float()[None] if n in ("qkv", *names) else None for n in NAMES]
    torch.library.opcheck(module.forward_op, (*given, 1, 4, True, last))
    leaves = [None if t is None else t.requires_grad_() for t in given]
    torch.library.opcheck(module.forward_op, (*leaves, 1, 4, True, last))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 9}, r"length is 9, allowed: 1\.\.8; use reference"),
        ({"e": 129}, r"widths of a head are \(129, 6\), allowed: 1\.\.128"),
        ({"taps": 5}, r"weight has 5 taps, allowed: 2\.\.4; use reference"),
        ({"dtype": torch.float64}, "dtype is torch.float64, allowed: float32"),
    ],
)
def test_what_it_cannot_do_it_says(
    change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = replace(backends._OPS[OP]["fused"], missing=backends.never)
    monkeypatch.setitem(backends._OPS[OP], "fused", there)
    sizes = {"b": 1, "length": 4, "h": 1, "e": 6, "p": 6, "taps": 4, **change}
    dtype = sizes.pop("dtype", torch.float32)
    drawn = {name: t.to(dtype) for name, t in inputs(**sizes).items()}
    with pytest.raises(backends.BackendError, match=message):
        by("fused", 1, sizes["e"])(**drawn)


def test_shapes_that_do_not_fit() -> None:
    qkv, weight, bias = inputs(1, 4, 2, 6, 6, 3).values()
    with pytest.raises(ValueError, match="qkv has 36 channels, allowed: for 2 heads of 9 twice"):
        packed_attention(qkv, weight, bias, 2, 9)
    with pytest.raises(ValueError, match="qkv has 36 channels, allowed: for 5 heads of 1 twice"):
        packed_attention(qkv, weight, bias, 5, 1)
    with pytest.raises(ValueError, match=r"weight has shape \(35, 3\), allowed: \(c=36, k\)"):
        packed_attention(qkv, weight[1:], bias, 2, 6)
    with pytest.raises(ValueError, match="bias has shape"):
        packed_attention(qkv, weight, bias[1:], 2, 6)
    with pytest.raises(ValueError, match=r"bias has shape \(36,\), allowed: None without a weight"):
        packed_attention(qkv, None, bias, 2, 6)


def test_of_its_own_accord_on_a_gpu_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    there = replace(backends._OPS[OP]["fused"], missing=backends.never)
    monkeypatch.setitem(backends._OPS[OP], "fused", there)
    qkv = inputs(1, 4, 2, 6, 6, 3)["qkv"]
    facts = packed_facts(qkv.float(), 3, 2, 6)
    assert facts == {"length": 4, "dtype": torch.float32, "taps": 3, "widths": (6, 6)}
    gpu = torch.device("cuda")
    half = {**facts, "dtype": torch.bfloat16}
    assert backends.resolve(OP, "auto", device=gpu, **facts) == "fused"
    assert backends.resolve(OP, "auto", device=gpu, **half) == "reference"
    for widths, name in (((32, 64), "fused"), ((33, 64), "reference"), ((32, 65), "reference")):
        wide = {**facts, "widths": widths}
        assert backends.resolve(OP, "auto", device=gpu, **wide) == name
    assert backends.resolve(OP, "auto", device=torch.device("cpu"), **facts) == "reference"
    with backends.preferring(OP, "fused"):
        assert backends.resolve(OP, "auto", device=gpu, **half) == "fused"
        for other in (facts, half):
            assert not backends.suits(OP, "fused", device=gpu, **{**other, "length": 9})


CONFIGS = {
    "plain": AttentionConfig(8, n_heads=2, d_v=12), "all tokens": AttentionConfig(8, causal=False),
    "conv": AttentionConfig(8, n_heads=2, conv_kind="standard"),
    "palindromic": AttentionConfig(8, conv_kind="palindromic"),
    "all one": AttentionConfig(8, conv_kind="all_one", conv_bias=False),
}  # fmt: skip


def randomised(config: AttentionConfig) -> AttentionMixer:
    mixer = AttentionMixer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return mixer


@on_cpu
@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_block_takes_it_where_it_is_preferred(name: str) -> None:
    mixer = randomised(CONFIGS[name])
    x = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = [p for p in mixer.parameters() if p.requires_grad]

    def outcome() -> list[Tensor]:
        y = mixer(x)
        whole = torch.autograd.grad(y.square().sum(), [x, *weights])
        if not mixer.config.causal:
            return [y, *whole]
        last = mixer.last(x)
        return [y, *whole, last, *torch.autograd.grad(last.square().sum(), [x, *weights])]

    with backends.recording() as used:
        expected = outcome()
    assert OP not in used
    with backends.preferring(OP, "fused"):
        with backends.recording() as used:
            found = outcome()
        assert used[OP] == ["fused"] and "causal_conv1d" not in used
        for a, e in zip(found, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
        torch.compiler.reset()
        compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)(x)
        torch.testing.assert_close(compiled, expected[0], rtol=1e-4, atol=1e-5)


@on_cpu
def test_states_turned_positions_longer_texts_and_watchers_get_another() -> None:
    mixer = randomised(CONFIGS["conv"])
    short, long = torch.ones(2, 5, 8), torch.ones(2, 9, 8)
    with backends.preferring(OP, "fused"), torch.no_grad():
        with backends.recording() as used:
            _, state = mixer(long, return_state=True)
            mixer(short, state)
            mixer(long)
            mixer.last(long)
            AttentionMixer(AttentionConfig(8, rope_theta=100.0))(short)
            handle = mixer.act_q.register_full_backward_hook(lambda *_: None)
            mixer(short)
            handle.remove()
            for name in (
                "act_pre_conv",
                "act_post_conv",
                "act_q",
                "act_k",
                "act_v",
                "act_S",
                "conv",
            ):
                handle = getattr(mixer, name).register_forward_hook(lambda *_: None)
                mixer(short)
                handle.remove()
            assert OP not in used
        seen: list[Tensor] = []
        handle = mixer.act_y.register_forward_hook(lambda _module, _given, out: seen.append(out))
        with backends.recording() as used:
            mixer(short)
        assert used[OP] == ["fused"] and seen[0].shape == (2, 5, 2, 4)
        handle.remove()


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    ("dtype", "heads", "e", "p", "taps", "bias", "last"),
    [
        (torch.float32, 1, 32, 64, 4, True, False), (torch.float32, 1, 32, 64, 4, True, True),
        (torch.float32, 1, 32, 64, 0, False, False), (torch.float32, 2, 24, 100, 2, False, False),
        (torch.bfloat16, 1, 32, 64, 4, True, False),
    ],
)  # fmt: skip
def test_on_the_gpu(
    dtype: torch.dtype, heads: int, e: int, p: int, taps: int, bias: bool, last: bool
) -> None:
    """The first is that of the book's models; each compiles for some seconds, so there are few."""
    assert_same(
        by("fused", heads, e, last=last), formula(heads, e, last=last),
        inputs(1333, 8, heads, e, p, taps, bias), dtype, "cuda",
    )  # fmt: skip


@pytest.mark.gpu
@on_gpu
def test_runs_on_the_gpu() -> None:
    """As an ensemble calls it, with weights of their own."""
    runs = [inputs(1333, 8, 1, 32, 64, 4, seed=seed) for seed in range(3)]
    stacked = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}

    def mapped(**t: Tensor) -> Tensor:
        return torch.vmap(lambda one: by("fused", 1, 32)(**one))(t)

    def looped(**t: Tensor) -> Tensor:
        parts = [{name: one[k] for name, one in t.items()} for k in range(3)]
        return torch.stack([formula(1, 32)(**part) for part in parts])

    assert_same(mapped, looped, stacked, torch.float32, "cuda")
