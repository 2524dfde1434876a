"""The Mamba-2 block as one op: its Triton kernels against the composition of the other ops, in the
interpreter, and on a GPU where there is one. Sizes are tiny because the interpreter is slow."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.ops import backends, fused_block
from lib.ops.block import OP, mamba2_block
from tests.ops.compare import TOLERANCE, Inputs, assert_close, draw, gradients

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MISSING = backends.missing(OP, "fused", DEVICE)
needs_kernels = pytest.mark.skipif(MISSING is not None, reason=f"fused block: {MISSING}")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
reference = partial(mamba2_block, backend="reference")
fused = partial(mamba2_block, backend="fused")


def block_inputs(
    b: int = 3, length: int = 5, m: int = 16, d: int = 16, n: int = 16, taps: int = 4,
    seed: int = 0,
) -> Inputs:  # fmt: skip
    channels = d + 2 * n
    inputs = draw(
        {"x": (b, length, m), "norm_weight": (m,), "in_weight": (2 * d + 2 * n + 1, m),
         "conv_weight": (channels, taps), "conv_bias": (channels,), "dt_bias": (1,),
         "A_log": (1,), "D": (1,), "gate_weight": (d,), "out_weight": (m, d)}, seed,
    )  # fmt: skip
    for name in ("in_weight", "out_weight", "conv_weight"):
        inputs[name] = inputs[name] / 4
    # an output near zero would be blown up by the gated norm, and every rounding with it
    inputs["D"] = inputs["D"].abs() + 1
    return inputs


def assert_agree(inputs: Inputs, dtype: torch.dtype = torch.float32, **options: Any) -> None:
    """fused in `dtype` against the reference in float64: the output and every gradient."""
    out, grads = gradients(partial(reference, **options), inputs)
    given_inputs = {name: t.to(DEVICE, dtype) for name, t in inputs.items()}
    leaves = {name: t.detach().clone().requires_grad_() for name, t in given_inputs.items()}
    found = fused(**leaves, **options)
    weights = torch.randn(
        out[0].shape, generator=torch.Generator().manual_seed(99), dtype=torch.float64
    )
    loss = (found * weights.to(found)).sum()
    found_grads = torch.autograd.grad(loss, list(leaves.values()))
    value, gradient = TOLERANCE[dtype]
    assert found.dtype == dtype
    assert_close(found, out[0], value, "out")
    largest = max(grad.abs().max().item() for grad in grads.values())
    for (name, leaf), grad in zip(leaves.items(), found_grads, strict=True):
        assert grad.dtype == leaf.dtype
        if grad.numel() == 1:  # a sum of numbers of both signs, as large as other gradients
            assert abs(grad.item() - grads[name].item()) <= gradient * largest, name
        else:
            assert_close(grad, grads[name], gradient, name)


@needs_kernels
@pytest.mark.parametrize("last_only", [False, True], ids=["all", "last"])
@pytest.mark.parametrize(
    ("b", "length", "m", "d", "n", "taps"),
    [(1, 1, 16, 16, 16, 4), (3, 5, 16, 32, 16, 4), (2, 8, 32, 16, 32, 3), (5, 4, 16, 16, 16, 2)],
)
def test_equals_the_reference(
    b: int, length: int, m: int, d: int, n: int, taps: int, last_only: bool
) -> None:
    assert_agree(block_inputs(b, length, m, d, n, taps), last_only=last_only)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_half_precision_has_float32_inside(dtype: torch.dtype) -> None:
    assert_agree(block_inputs(4, 6), dtype)


@needs_kernels
@settings(max_examples=5)
@given(
    b=st.integers(1, 5), length=st.integers(1, 6), taps=st.integers(2, 4),
    last_only=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_the_reference_anywhere(
    b: int, length: int, taps: int, last_only: bool, seed: int
) -> None:
    assert_agree(block_inputs(b, length, taps=taps, seed=seed), last_only=last_only)


@needs_kernels
def test_programs_of_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large batches have them; the last program's tiles reach past the batch."""
    monkeypatch.setattr(fused_block, "PROGRAMS", 1)
    assert_agree(block_inputs(35, 4))


@needs_kernels
def test_norm_and_convolution_bias_may_be_absent() -> None:
    inputs = {name: t.float().to(DEVICE) for name, t in block_inputs().items()}
    inputs["norm_weight"] = inputs["conv_bias"] = None  # type: ignore[assignment]
    assert_close(fused(**inputs), reference(**inputs), 3e-6)


def run_op(inputs: Inputs) -> Tensor:
    names = ("x", "norm_weight", "in_weight", "conv_weight", "conv_bias", "dt_bias", "A_log", "D",
             "gate_weight", "out_weight")  # fmt: skip
    return mamba2_block(*(inputs[name] for name in names), backend="fused")


@needs_kernels
def test_runs_under_vmap_equal_each_alone() -> None:
    """Ensembles: an axis of runs over every argument, gradients included."""
    runs = [{k: v.float().to(DEVICE) for k, v in block_inputs(seed=s).items()} for s in range(3)]
    stacked = {k: torch.stack([run[k] for run in runs]).requires_grad_() for k in runs[0]}
    found = torch.vmap(run_op)(stacked)
    found.square().sum().backward()
    for number, run in enumerate(runs):
        leaves = {k: v.clone().requires_grad_() for k, v in run.items()}
        alone = run_op(leaves)
        assert_close(found[number], alone, 1e-6)
        alone.square().sum().backward()
        for name, leaf in leaves.items():
            assert leaf.grad is not None and stacked[name].grad is not None
            assert_close(stacked[name].grad[number], leaf.grad, 1e-5, name)


@needs_kernels
def test_one_argument_may_be_shared_by_the_runs() -> None:
    inputs = {k: v.float().to(DEVICE) for k, v in block_inputs().items()}
    batches = torch.stack([inputs["x"], 2 * inputs["x"]])
    found = torch.vmap(lambda x: run_op({**inputs, "x": x}))(batches)
    for number in range(2):
        assert_close(found[number], run_op({**inputs, "x": batches[number]}), 1e-6)


@needs_kernels
def test_gradients_are_bit_equal_from_call_to_call() -> None:
    inputs = {k: v.float() for k, v in block_inputs(5, 5).items()}
    first, second = (
        gradients(fused, {k: v.to(DEVICE) for k, v in inputs.items()}) for _ in range(2)
    )
    assert torch.equal(first[0][0], second[0][0])
    for name, grad in first[1].items():
        assert torch.equal(grad, second[1][name]), name


@needs_kernels
def test_a_token_never_changes_what_came_before() -> None:
    inputs = {k: v.float().to(DEVICE) for k, v in block_inputs(2, 6).items()}
    before = fused(**inputs)
    inputs["x"] = inputs["x"].clone()
    inputs["x"][:, 4] += 1
    after = fused(**inputs)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


@needs_kernels
def test_compiles_whole() -> None:
    torch.compiler.reset()
    inputs = {k: v.float().to(DEVICE) for k, v in block_inputs(2, 4).items()}
    compiled = torch.compile(run_op, backend="aot_eager_decomp_partition", fullgraph=True)
    found, grads = gradients(lambda **kw: compiled(kw), inputs)
    expected, wanted = gradients(lambda **kw: run_op(kw), inputs)
    assert_close(found[0], expected[0], 1e-6)
    for name, grad in wanted.items():
        assert_close(grads[name], grad, 1e-5, name)


@needs_kernels
@pytest.mark.parametrize(
    ("sizes", "named"),
    [({"length": 17}, "length is 17"), ({"m": 48}, "d_model is 48"), ({"d": 48}, "d_inner is 48"),
     ({"n": 48}, "d_state is 48"), ({"taps": 5}, "taps is 5")],
)  # fmt: skip
def test_refuses_what_it_cannot_serve_and_names_who_can(sizes: dict[str, int], named: str) -> None:
    inputs = {k: v.float().to(DEVICE) for k, v in block_inputs(**sizes).items()}
    with pytest.raises(backends.BackendError, match=f"{named}.*use reference"):
        fused(**inputs)


@needs_kernels
def test_refuses_float64() -> None:
    inputs = {k: v.to(DEVICE) for k, v in block_inputs().items()}
    with pytest.raises(backends.BackendError, match=r"dtype is torch\.float64.*use reference"):
        fused(**inputs)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [("x", (3, 5), "x has shape"), ("gate_weight", (15,), "out_weight has shape"),
     ("in_weight", (66, 16), "in_weight has 66 rows"), ("D", (2,), "D has shape"),
     ("conv_weight", (47, 4), "conv_weight has shape"), ("x", (3, 0, 16), "x has length 0")],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_named(name: str, shape: tuple[int, ...], message: str) -> None:
    inputs = {**block_inputs(), name: torch.zeros(shape, dtype=torch.float64)}
    with pytest.raises(ValueError, match=message):
        reference(**inputs)


def test_auto_takes_the_reference_on_a_processor() -> None:
    inputs = {k: v.float() for k, v in block_inputs().items()}
    with backends.recording() as used:
        mamba2_block(**inputs)
    assert used[OP] == ["reference"]


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("last_only", [False, True], ids=["all", "last"])
def test_the_experiments_shape_on_the_device(last_only: bool) -> None:
    assert_agree(block_inputs(2048, 8, 32, 64, 128), last_only=last_only)


@needs_gpu
@pytest.mark.gpu
def test_one_tf32_product_is_as_far_off_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = block_inputs(256, 8, 32, 64, 128)
    expected = reference(**inputs)
    single = {k: v.float().to(DEVICE) for k, v in inputs.items()}
    exact = (fused(**single).double().cpu() - expected).norm() / expected.norm()
    monkeypatch.setattr(fused_block.Precision, "exact", False)
    cut = (fused(**single).double().cpu() - expected).norm() / expected.norm()
    assert exact < 3e-6 < cut < 1e-2
