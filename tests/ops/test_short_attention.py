"""Attention over a few tokens by Triton kernels, against the formula in float64: in the
interpreter, and on a GPU where there is one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.models.attention import AttentionMixer
from lib.models.config import AttentionConfig
from lib.ops import backends
from lib.ops import short_attention as module
from lib.ops.short_attention import OP, short_attention
from tests.ops.compare import TOLERANCE, Inputs, assert_close, assert_same, draw, gradients

MISSING = backends.triton_missing("cpu")
on_cpu = pytest.mark.skipif(MISSING is not None, reason="needs Triton and its interpreter")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
fused = partial(short_attention, backend="fused")
reference = partial(short_attention, backend="reference")
DTYPES = [dtype for dtype in TOLERANCE if dtype != torch.float64]


def formula(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    """By the library."""
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return y.transpose(1, 2)


def inputs(b: int, h: int, length: int, e: int, p: int, seed: int = 0) -> Inputs:
    sizes = {"q": (b, h, length, e), "k": (b, h, length, e), "v": (b, h, length, p)}
    return draw(sizes, seed)


def of_the_last(given: Inputs, queries: int) -> Inputs:
    """The queries of the last tokens alone."""
    return {**given, "q": given["q"][:, :, -queries:]}


def formula_of_the_last(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    """By the library, which has a query for each key."""
    rest = q.new_zeros(*q.shape[:2], k.shape[2] - q.shape[2], q.shape[3])
    return formula(torch.cat([rest, q], 2), k, v, causal)[:, -q.shape[2] :]


def as_a_model(given: Inputs) -> Inputs:
    """Cut out of one projection (b, l, channels), heads next to each other."""
    b, h, length, _ = given["q"].shape
    flat = [t.transpose(1, 2).reshape(b, length, -1) for t in given.values()]
    parts = torch.cat(flat, -1).split([t.shape[-1] for t in flat], -1)
    cut = {
        name: part.unflatten(-1, (h, -1)).transpose(1, 2)
        for name, part in zip(given, parts, strict=True)
    }
    return cut


@on_cpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 3, 5, 8])
def test_equals_the_formula(length: int, dtype: torch.dtype) -> None:
    for causal in (True, False):
        assert_same(
            lambda c=causal, **t: fused(**t, causal=c),
            lambda c=causal, **t: formula(**t, causal=c),
            as_a_model(inputs(3, 2, length, 8, 6)), dtype,
        )  # fmt: skip


@on_cpu
@given(
    length=st.integers(1, 8),
    data=st.data(),
    causal=st.booleans(),
    numbers=st.sampled_from([1, 512]),
)
@settings(max_examples=8, phases=[Phase.generate])
def test_the_last_queries_alone(
    length: int, data: st.DataObject, causal: bool, numbers: int
) -> None:
    drawn = of_the_last(as_a_model(inputs(5, 2, length, 8, 6)), data.draw(st.integers(1, length)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SIZES", replace(module.SIZES, numbers=numbers))
        for run in (fused, reference):
            assert_same(
                partial(run, causal=causal), partial(formula_of_the_last, causal=causal), drawn,
                torch.float32,
            )  # fmt: skip


@pytest.mark.parametrize("length", [1, 8, 19])
def test_the_reference_is_the_formula(length: int) -> None:
    for causal in (True, False):
        assert_same(
            partial(reference, causal=causal), partial(formula, causal=causal),
            as_a_model(inputs(3, 2, length, 8, 6)), torch.float64,
        )  # fmt: skip
    assert backends.resolve(OP, "auto", device=torch.device("cpu"), length=8) == "reference"


@on_cpu
@given(
    b=st.integers(1, 5), h=st.integers(1, 3), length=st.integers(1, 8), e=st.integers(1, 20),
    p=st.integers(1, 20), causal=st.booleans(), numbers=st.sampled_from([1, 256, 2048]),
    cut=st.booleans(),
)  # fmt: skip
@settings(max_examples=8, phases=[Phase.generate])
def test_any_shape(
    b: int, h: int, length: int, e: int, p: int, causal: bool, numbers: int, cut: bool
) -> None:
    drawn = inputs(b, h, length, e, p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SIZES", replace(module.SIZES, numbers=numbers))
        assert_same(
            lambda **t: fused(**t, causal=causal),
            lambda **t: formula(**t, causal=causal),
            as_a_model(drawn) if cut else drawn, torch.float32,
        )  # fmt: skip


@on_cpu
def test_large_scores_and_equal_results_from_call_to_call() -> None:
    drawn = {name: 4 * t for name, t in inputs(2, 1, 8, 8, 8).items()}
    assert_same(fused, formula, drawn, torch.float32)
    cast = {name: t.float() for name, t in drawn.items()}
    first, second = (gradients(fused, cast) for _ in range(2))
    assert torch.equal(first[0][0], second[0][0])
    assert all(torch.equal(first[1][name], second[1][name]) for name in cast)


@on_cpu
def test_vmap_over_runs_is_a_loop_over_runs() -> None:
    runs = [
        {name: t.float() for name, t in as_a_model(inputs(2, 2, 5, 4, 6, seed)).items()}
        for seed in range(3)
    ]
    stacked = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    leaves = {name: t.clone().requires_grad_() for name, t in stacked.items()}
    out = torch.vmap(lambda t: fused(**t))(leaves)
    out.square().sum().backward()
    for index, run in enumerate(runs):
        own_leaves = {name: t.clone().requires_grad_() for name, t in run.items()}
        alone = fused(**own_leaves)
        assert_close(out[index], alone, 1e-6)
        alone.square().sum().backward()
        for name, leaf in own_leaves.items():
            assert_close(leaves[name].grad[index], leaf.grad, 1e-6, name)  # type: ignore[index,arg-type]


@on_cpu
@pytest.mark.parametrize("queries", [5, 1])
def test_the_ops_keep_the_rules_of_custom_ops(queries: int) -> None:
    drawn = of_the_last(inputs(2, 2, 5, 4, 6), queries)
    q, k, v = (t.float()[None] for t in drawn.values())
    torch.library.opcheck(module._attend, (q, k, v, 0.5, True))
    leaves = [t.requires_grad_() for t in (q, k, v)]
    torch.library.opcheck(module._attend, (*leaves, 0.5, True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 9}, r"length is 9, 0 kept, allowed: 1\.\.8 together; use reference"),
        ({"e": 129}, r"widths of a head are \(129, 6\), allowed: 1\.\.128"),
        ({"dtype": torch.float64}, "dtype is torch.float64, allowed: float32"),
    ],
)
def test_what_it_cannot_do_it_says(
    change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = replace(backends._OPS[OP]["fused"], missing=backends.never)
    monkeypatch.setitem(backends._OPS[OP], "fused", there)
    sizes = {"b": 1, "h": 1, "length": 4, "e": 6, "p": 6, **change}
    dtype = sizes.pop("dtype", torch.float32)
    with pytest.raises(backends.BackendError, match=message):
        fused(*(t.to(dtype) for t in inputs(**sizes).values()))


def test_shapes_that_do_not_fit() -> None:
    q, k, v = inputs(1, 2, 4, 6, 6).values()
    with pytest.raises(ValueError, match="k has shape"):
        fused(q, k[:, :1], v)
    with pytest.raises(ValueError, match="v has shape"):
        fused(q, k, v[:, :, :3])
    with pytest.raises(ValueError, match="q has 4 tokens, allowed: up to 3, those of k"):
        fused(q, k[:, :, :3], v[:, :, :3])


def preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = replace(backends._OPS[OP]["fused"], prefers=lambda facts: True)
    monkeypatch.setitem(backends._OPS[OP], "fused", kernels)


@on_cpu
@pytest.mark.parametrize(
    "config",
    [
        AttentionConfig(8, n_heads=2, d_v=12, rope_theta=100.0),
        AttentionConfig(8, conv_kind="standard"), AttentionConfig(8, causal=False),
    ],
)  # fmt: skip
def test_a_block_takes_it_where_a_gpu_would(
    config: AttentionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixer = AttentionMixer(config)
    x = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = []
    for there in (False, True):
        if there:
            preferred(monkeypatch)
        with backends.recording() as used:
            y = mixer(x)
        assert (used.get(OP) == ["fused"]) == there
        grads = torch.autograd.grad(y.square().sum(), [x, *mixer.parameters()])
        found.append((y.detach(), grads))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()
    compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled, found[1][0], rtol=1e-5, atol=1e-6)


@on_cpu
def test_longer_texts_states_and_watchers_get_another(monkeypatch: pytest.MonkeyPatch) -> None:
    preferred(monkeypatch)
    mixer = AttentionMixer(AttentionConfig(8))
    short, long = torch.zeros(2, 5, 8), torch.zeros(2, 9, 8)
    with backends.recording() as used, torch.no_grad():
        _, state = mixer(long, return_state=True)
        mixer(short, state)
        mixer.last(long)
        handle = mixer.act_S.register_forward_hook(lambda *_: None)
        mixer(short)
        handle.remove()
        assert OP not in used
        mixer(short)
        assert used[OP] == ["fused"]
    with backends.recording() as used, torch.no_grad():
        last = mixer.last(short)
        assert used[OP] == ["fused"]
        torch.testing.assert_close(last, mixer(short)[:, -1:])


def test_fewer_queries_than_keys_only_where_somebody_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        backends._OPS[OP], "fused", replace(backends._OPS[OP]["fused"], missing=backends.never)
    )
    facts = {"length": 1, "kept": 7, "dtype": torch.float32, "widths": (32, 64)}
    gpu = torch.device("cuda")
    assert backends.resolve(OP, "auto", device=gpu, **facts) == "reference"
    assert backends.resolve(OP, "auto", device=gpu, **{**facts, "kept": 0}) == "fused"
    with backends.preferring(OP, "fused"):
        assert backends.suits(OP, "fused", device=gpu, **facts)
        assert not backends.suits(OP, "fused", device=gpu, **{**facts, "kept": 8})
        assert not backends.suits(OP, "fused", device=gpu, **{**facts, "length": 0})
    with backends.preferring(OP, "reference"):
        assert not backends.suits(OP, "fused", device=gpu, **{**facts, "kept": 0})


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "e", "p"), [(8, 32, 64), (5, 24, 100), (8, 128, 128)])
def test_on_the_gpu(length: int, e: int, p: int, dtype: torch.dtype) -> None:
    for causal in (True, False):
        assert_same(
            lambda c=causal, **t: fused(**t, causal=c),
            lambda c=causal, **t: formula(**t, causal=c),
            as_a_model(inputs(700, 2, length, e, p)), dtype, "cuda",
        )  # fmt: skip
        assert_same(
            lambda c=causal, **t: fused(**t, causal=c),
            lambda c=causal, **t: formula_of_the_last(**t, causal=c),
            of_the_last(as_a_model(inputs(700, 2, length, e, p)), 1), dtype, "cuda",
        )  # fmt: skip
