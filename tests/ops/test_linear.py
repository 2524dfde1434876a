"""The linear map of ensembles: the same numbers as F.linear, by fewer and larger products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lib.ops import linear as module
from lib.ops.linear import in_slices, linear

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
RUNS, BATCH, LENGTH, M, N = 3, 6, 8, 10, 7


def _inputs(shape: tuple[int, ...] = (BATCH, LENGTH, M)) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    sizes = (RUNS, *shape), (RUNS, N, M), (RUNS, N)
    x, weight, bias = (
        torch.randn(*size, generator=draw, dtype=torch.float64, requires_grad=True)
        for size in sizes
    )
    return x, weight, bias


def _gradients(out: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        (out * torch.arange(out.numel()).view(out.shape).cos()).sum(), inputs
    )


@pytest.mark.parametrize("shape", [(M,), (5, M), (BATCH, LENGTH, M), (0, LENGTH, M)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_equals_the_library_for_any_number_of_axes(shape: tuple[int, ...], has_bias: bool) -> None:
    x, weight, bias = (t[0] for t in _inputs(shape))
    used = bias if has_bias else None
    inputs = (x, weight, bias) if has_bias else (x, weight)
    out, expected = linear(x, weight, used), F.linear(x, weight, used)
    torch.testing.assert_close(out, expected)
    for mine, theirs in zip(_gradients(out, inputs), _gradients(expected, inputs), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("transposed", [False, True])
def test_under_vmap_a_run_is_one_product(transposed: bool) -> None:
    """No product for each sequence, whose copies of the weight took half of a training step."""
    x, weight, bias = _inputs()
    if transposed:
        x = x.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    mapped = torch.vmap(lambda *tensors: linear(*tensors))
    torch.testing.assert_close(mapped(x, weight, bias), torch.vmap(F.linear)(x, weight, bias))
    graph = make_fx(mapped)(x, weight, bias).graph
    products = [node for node in graph.nodes if "bmm" in str(node.target)]
    assert len(products) == 1
    assert products[0].meta["tensor_meta"].shape == (RUNS, BATCH * LENGTH, N)


@pytest.mark.parametrize("has_bias", [True, False])
def test_slices_change_no_number_and_make_the_gradient_in_parts(
    monkeypatch: pytest.MonkeyPatch, has_bias: bool
) -> None:
    monkeypatch.setattr(module, "SLICES", 4)
    x, weight, bias = (t[0] for t in _inputs((4 * 9, M)))
    used = bias if has_bias else None
    inputs = (x, weight, bias) if has_bias else (x, weight)
    out, expected = in_slices(x, weight, used), F.linear(x, weight, used)
    assert out.shape == (4, 9, N)
    torch.testing.assert_close(out.flatten(0, 1), expected)
    pairs = zip(_gradients(out.flatten(0, 1), inputs), _gradients(expected, inputs), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)


def test_slices_keep_the_dtype_of_the_product() -> None:
    rows, weight = torch.randn(64, M), torch.randn(N, M)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = in_slices(rows, weight, torch.zeros(N))
        assert out.dtype == F.linear(rows, weight, torch.zeros(N)).dtype == torch.bfloat16


def test_shapes_alone_are_mapped_too() -> None:
    x, weight = torch.empty(2, 5, M, device="meta"), torch.empty(N, M, device="meta")
    assert linear(x, weight).shape == (2, 5, N)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("rows", [4096, 4100, 512])
def test_on_a_gpu_in_float32(rows: int) -> None:
    x, weight, bias = (t.cuda() for t in _inputs((rows, M)))
    exact = torch.vmap(F.linear)(x, weight, bias)
    narrow = [t.detach().float().requires_grad_() for t in (x, weight, bias)]
    out = torch.vmap(linear)(*narrow)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5)
    seed = torch.randn_like(exact)
    mine = torch.autograd.grad(out, narrow, seed.float())
    for a, b in zip(mine, torch.autograd.grad(exact, (x, weight, bias), seed), strict=True):
        assert (a.double() - b).norm() <= 1e-5 * b.norm()
