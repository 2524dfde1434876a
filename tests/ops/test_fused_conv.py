"""The convolution's Triton kernels against the reference, in the interpreter or on a GPU."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.ops import backends, fused_conv
from lib.ops.backends import triton_missing
from lib.ops.conv import causal_conv1d
from tests.ops.compare import TOLERANCE, Inputs, assert_close, assert_same, draw, gradients

FULL = {"activation": "silu", "return_final_state": True}
reference = partial(causal_conv1d, backend="reference")
fused = partial(causal_conv1d, backend="fused")
DTYPES = [dtype for dtype in TOLERANCE if dtype != torch.float64]
on_cpu = pytest.mark.skipif(
    triton_missing("cpu") is not None, reason="needs Triton and its interpreter"
)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def conv_inputs(b: int = 2, d: int = 5, length: int = 7, taps: int = 4, seed: int = 0) -> Inputs:
    """With x in a model's memory layout: (b, l, d), seen transposed."""
    inputs = draw(
        {"x": (b, length, d), "weight": (d, taps), "bias": (d,),
         "initial_state": (b, d, taps - 1)}, seed,
    )  # fmt: skip
    inputs["x"] = inputs["x"].transpose(1, 2)
    return inputs


@on_cpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "taps"), [(1, 4), (2, 4), (8, 4), (9, 2), (5, 8)])
def test_equals_the_reference(length: int, taps: int, dtype: torch.dtype) -> None:
    inputs = conv_inputs(2, 5, length, taps)
    assert_same(partial(fused, **FULL), partial(reference, **FULL), inputs, dtype)


@on_cpu
@pytest.mark.parametrize("channels_first", [False, True])
def test_what_is_made_lies_in_memory_as_what_is_read(channels_first: bool) -> None:
    """Of half a projection, whose rows have gaps, too; and so do the gradients."""
    whole = torch.randn(2, 10, 6) if channels_first else torch.randn(2, 6, 10).mT
    x = whole[:, :5].requires_grad_()
    y = fused(x, torch.randn(5, 4), torch.randn(5), "silu")
    (dx,) = torch.autograd.grad(y.sum(), x)
    expected = (30, 6, 1) if channels_first else (30, 1, 5)
    assert y.stride() == dx.stride() == expected


@on_cpu
@given(
    b=st.integers(1, 3), d=st.integers(1, 70), length=st.integers(1, 20), taps=st.integers(2, 8),
    bias=st.booleans(), state=st.booleans(), silu=st.booleans(), final=st.booleans(),
    contiguous=st.booleans(), lots=st.sampled_from([1, 2, 100]),
    steps=st.sampled_from([1, 3, 16]), rows=st.sampled_from([1, 4]),
)  # fmt: skip
@settings(max_examples=15, phases=[Phase.generate])
def test_any_shape_and_any_options(
    b: int, d: int, length: int, taps: int, bias: bool, state: bool, silu: bool, final: bool,
    contiguous: bool, lots: int, steps: int, rows: int,
) -> None:  # fmt: skip
    inputs = conv_inputs(b, d, length, taps)
    if not bias:
        del inputs["bias"]
    if not state:
        del inputs["initial_state"]
    if contiguous:
        inputs["x"] = inputs["x"].contiguous()
    options = {"activation": "silu" if silu else None, "return_final_state": final}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fused_conv, "SIZES", replace(fused_conv.SIZES, lots=lots, steps=steps, rows=rows)
        )
        assert_same(partial(fused, **options), partial(reference, **options), inputs, torch.float32)


@on_cpu
def test_results_are_bit_equal_from_call_to_call() -> None:
    inputs = {name: t.float() for name, t in conv_inputs().items()}
    first, second = (gradients(partial(fused, **FULL), inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert all(torch.equal(first[1][name], second[1][name]) for name in inputs)


@on_cpu
def test_split_in_two_is_the_whole() -> None:
    inputs = {name: t.float() for name, t in conv_inputs(length=12).items()}
    y, final = fused(**inputs, **FULL)
    for cut in (1, 2, 9):
        first, state = fused(**{**inputs, "x": inputs["x"][:, :, :cut]}, **FULL)
        rest = {**inputs, "x": inputs["x"][:, :, cut:], "initial_state": state}
        second, end = fused(**rest, **FULL)
        assert_close(torch.cat([first, second], dim=2), y, 1e-6)
        assert torch.equal(end, final)


@on_cpu
def test_the_future_does_not_reach_the_past() -> None:
    inputs = {name: t.float() for name, t in conv_inputs(1, 3, 12).items()}
    before = fused(**inputs, activation="silu")
    for moment in (0, 5, 11):
        changed = {**inputs, "x": inputs["x"].clone()}
        changed["x"][:, :, moment] += 1.0
        after = fused(**changed, activation="silu")
        assert torch.equal(before[:, :, :moment], after[:, :, :moment])
        assert torch.equal(before[:, :, moment + 4 :], after[:, :, moment + 4 :])
        assert not torch.allclose(before[:, :, moment], after[:, :, moment])


def mapped(run: Any, **t: Tensor) -> Any:
    return torch.vmap(lambda t: run(**t, **FULL))(t)


@on_cpu
def test_vmap_over_runs_is_a_loop_over_runs() -> None:
    runs = [{k: t.float() for k, t in conv_inputs(seed=seed).items()} for seed in range(3)]
    stacked = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    outputs, grads = gradients(partial(mapped, fused), stacked)
    looped, expected = gradients(
        lambda **t: tuple(
            torch.stack(out)
            for out in zip(
                *(fused(**{k: v[i] for k, v in t.items()}, **FULL) for i in range(3)), strict=True
            )
        ),
        stacked,
    )
    assert all(torch.equal(a, e) for a, e in zip(outputs, looped, strict=True))
    for name, grad in grads.items():
        assert_close(grad, expected[name], 1e-6, name)


@on_cpu
def test_compiles_without_graph_breaks() -> None:
    torch.compiler.reset()
    run = partial(fused, **FULL)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager_decomp_partition")
    assert_same(compiled, partial(reference, **FULL), conv_inputs(), torch.float32)


@on_cpu
def test_the_op_keeps_the_rules_of_custom_ops() -> None:
    t = {name: x.float()[None].detach().requires_grad_() for name, x in conv_inputs().items()}
    torch.library.opcheck(
        fused_conv.forward_op, (t["x"], t["weight"], t["bias"], t["initial_state"], True)
    )
    torch.library.opcheck(fused_conv.forward_op, (t["x"], t["weight"], None, None, False))


@on_cpu
def test_second_derivatives_need_another_backend() -> None:
    inputs = {name: t.float().requires_grad_() for name, t in conv_inputs().items()}
    y = fused(**inputs)
    (grad,) = torch.autograd.grad(y.square().sum(), inputs["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("dtype", "taps", "reason"),
    [(torch.float64, 4, "dtype is torch.float64, allowed"),
     (torch.float32, 9, r"weight has 9 taps, allowed: 2\.\.8"),
     (torch.float32, 1, r"weight has 1 taps, allowed: 2\.\.8")],
)  # fmt: skip
def test_what_it_cannot_do_it_says(
    dtype: torch.dtype, taps: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = backends._OPS["causal_conv1d"]
    present = replace(registered["fused"], missing=backends.never)
    monkeypatch.setitem(registered, "fused", present)
    inputs = {name: t.to(dtype) for name, t in conv_inputs(taps=taps).items()}
    with pytest.raises(backends.BackendError, match=f"'fused'.*{reason}.*use shifts"):
        fused(**inputs)


def test_auto_takes_it_on_a_gpu_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = backends._OPS["causal_conv1d"]
    present = replace(registered["fused"], missing=backends.never)
    monkeypatch.setitem(registered, "fused", present)

    def auto(device: str, dtype: torch.dtype = torch.float32, taps: int = 4) -> str:
        facts = {"length": 8, "dtype": dtype, "taps": taps}
        return backends.resolve("causal_conv1d", "auto", device=torch.device(device), **facts)

    assert auto("cuda") == auto("cuda", torch.bfloat16, 8) == "fused"
    assert auto("cuda", torch.float64) == auto("cuda", taps=1) == auto("cuda", taps=9) == "shifts"
    assert auto("cpu") == "shifts"


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("taps", [2, 4, 8])
@pytest.mark.parametrize("length", [1, 8, 129])
def test_on_the_gpu(length: int, taps: int, dtype: torch.dtype) -> None:
    inputs = conv_inputs(9, 100, length, taps)
    assert_same(partial(fused, **FULL), partial(reference, **FULL), inputs, dtype, "cuda")


@pytest.mark.gpu
@on_gpu
def test_vmap_compile_and_equal_bits_on_the_gpu() -> None:
    runs = [{k: t.float().cuda() for k, t in conv_inputs(9, 64, seed=s).items()} for s in range(3)]
    stacked = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    run = partial(mapped, fused)
    values, grads = gradients(run, stacked)
    for _ in range(2):
        again, grads_again = gradients(run, stacked)
        assert all(torch.equal(a, e) for a, e in zip(values, again, strict=True))
        assert all(torch.equal(grads[name], grads_again[name]) for name in grads)
    torch.compiler.reset()
    compiled, compiled_grads = gradients(torch.compile(run, fullgraph=True), stacked)
    assert_close(compiled[0], values[0], 1e-6)
    for name, grad in compiled_grads.items():
        assert_close(grad, grads[name], 1e-6, name)
    for i, one in enumerate(runs):
        assert_close(values[0][i], fused(**one, **FULL)[0], 1e-6)
