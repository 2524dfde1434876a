"""Products of float32 matrices on tensor cores. Triton's interpreter multiplies in float32, so here
stand shapes, places, gradients and order; how exact three products in tf32 are, a GPU says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.ops import backends, products
from lib.ops.linear import linear
from lib.ops.products import pays, product

MISSING = backends.triton_missing("cpu")
on_cpu = pytest.mark.skipif(MISSING is not None, reason="needs Triton and its interpreter")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def matrix(rows: int, columns: int, seed: int, turned: bool = False, **where: Any) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    size = (columns, rows) if turned else (rows, columns)
    found = torch.randn(*size, generator=draw, dtype=torch.float64)
    return found.mT.to(**where) if turned else found.to(**where)


def small(monkeypatch: pytest.MonkeyPatch, **sizes: Any) -> None:
    """Tiles of which the tests' matrices have several, and slices of long sums."""
    few: dict[str, Any] = {"rows": 16, "columns": 16, "steps": 16, "slice": 32, "programs": 64}
    monkeypatch.setattr(products, "SIZES", replace(products.SIZES, **{**few, **sizes}))


@on_cpu
@given(
    m=st.integers(1, 40), k=st.integers(1, 150), n=st.integers(1, 40),
    turned=st.tuples(st.booleans(), st.booleans()), programs=st.sampled_from([1, 7, 64]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_any_shape_and_any_strides(
    m: int, k: int, n: int, turned: tuple[bool, bool], programs: int
) -> None:
    exact = matrix(m, k, 1, turned[0]), matrix(k, n, 2, turned[1])
    a, b = (t.float().requires_grad_() for t in exact)
    weights = matrix(m, n, 3)
    with pytest.MonkeyPatch.context() as patch:
        small(patch, programs=programs)
        out = product(a, b)
        grads = torch.autograd.grad((out * weights).sum(), (a, b))
        again = product(a, b)
    assert torch.equal(out, again)
    expected = exact[0] @ exact[1], weights @ exact[1].mT, exact[0].mT @ weights
    for mine, theirs in zip((out, *grads), expected, strict=True):
        scale = theirs.abs().max() + 1
        assert (mine - theirs).abs().max() < 1e-5 * scale


@on_cpu
def test_a_long_sum_is_cut_only_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[tuple[int, int, int]] = []

    def launched(kernel: Any, count: int, *arguments: Any, **constants: Any) -> None:
        cut.append((count, arguments[-1], constants["EACH"]))

    monkeypatch.setattr(products, "launch", launched)
    r, m, k, n = 6, 29_696, 128, 772  # a layer of the inverse task: 1,024 sequences of 29 tokens
    x, grad, weight = (torch.empty(r, *shape, device="meta") for shape in ((m, k), (m, n), (n, k)))
    for a, b in ((x, weight.mT), (grad, weight), (grad.mT, x)):
        products._product._init_fn(a, b)
    assert cut[0] == (232 * 7 * 6, 1, 128) and cut[1] == (232 * 6, 1, 800)
    count, slices, each = cut[2]
    assert count == 7 * 6 * slices and slices == 6 and each % 32 == 0
    assert slices * each >= m > (slices - 1) * each


@on_cpu
def test_under_vmap_all_runs_are_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    x = torch.stack([matrix(20, 40, seed, dtype=torch.float32) for seed in range(3)])
    weight = torch.stack([matrix(24, 40, seed, dtype=torch.float32) for seed in range(3, 6)])
    launches: list[int] = []
    start = products.launch

    def counted(kernel: Any, count: int, *arguments: Any, **constants: Any) -> None:
        launches.append(count)
        start(kernel, count, *arguments, **constants)

    monkeypatch.setattr(products, "launch", counted)
    out = torch.vmap(lambda a, b: product(a, b.t()))(x, weight)
    assert len(launches) == 1
    torch.testing.assert_close(out, x @ weight.mT, rtol=1e-5, atol=1e-5)
    shared = torch.vmap(product, in_dims=(0, None))(x, weight[0].t())
    torch.testing.assert_close(shared, x @ weight[0].t(), rtol=1e-5, atol=1e-5)


@on_cpu
def test_the_op_keeps_the_rules_of_custom_ops() -> None:
    a, b = (matrix(18, 18, seed, dtype=torch.float32)[None] for seed in (1, 2))
    torch.library.opcheck(products._product, (a.requires_grad_(), b.mT.requires_grad_()))


@on_cpu
def test_a_linear_map_takes_them_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    x, weight, bias = matrix(30, 20, 1), matrix(24, 20, 2), matrix(1, 24, 3)[0]
    taken: list[tuple[int, ...]] = []

    def said(rows: Tensor, weight: Tensor) -> bool:
        taken.append(tuple(rows.shape))
        return True

    monkeypatch.setattr(products, "pays", said)
    inputs = [t.float().requires_grad_() for t in (x.reshape(5, 6, 20), weight, bias)]
    with backends.recording() as used:
        out = linear(*inputs)
    assert used == {"product": ["tf32x3"]}  # and a record says so
    assert taken == [(30, 20)] and out.shape == (5, 6, 24)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = F.linear(*exact)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    found, wanted = (torch.autograd.grad(y.square().sum(), t) for y, t in
                     ((out, inputs), (expected, exact)))  # fmt: skip
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


def test_nothing_takes_them_before_they_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu(torch.Tensor):
        device = torch.device("cuda")  # type: ignore[assignment]

    def on_a_gpu(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(rows, columns, dtype=dtype).as_subclass(OnGpu)  # type: ignore[return-value]

    rows, weight = on_a_gpu(4096, 64), on_a_gpu(64, 64)
    assert not pays(rows, weight)
    monkeypatch.setattr(products, "SIZES", replace(products.SIZES, used=True))
    monkeypatch.setattr(backends, "triton_missing", lambda *_: None)
    assert pays(rows, weight) and not pays(torch.zeros(4096, 64), weight)
    assert not pays(rows[:4095], weight) and not pays(rows, on_a_gpu(63, 64))
    assert not pays(rows, on_a_gpu(64, 64, torch.float64))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(4, 2), r"b has 4 rows, allowed: 3, the columns of a"),
        (torch.zeros(3), torch.zeros(3, 2), r"a is \(3,\) in torch.float32, allowed: a matrix"),
        (torch.zeros(2, 3), torch.zeros(3, 2).double(), r"b is \(3, 2\) in torch.float64"),
        (torch.zeros(2**16, 1, device="meta"), torch.zeros(1, 2**15, device="meta"),
         r"a matrix has 2147483648 numbers, allowed: fewer than 2147483648"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(a: Tensor, b: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        product(a, b)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("shape", [(29_696, 128, 772), (29_696, 256, 128), (5_000, 100, 70)])
def test_on_the_gpu_nearly_as_exact_as_the_library(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    exact = matrix(m, k, 1, device="cuda"), matrix(n, k, 2, device="cuda").mT
    a, b = (t.float().requires_grad_() for t in exact)
    weights = matrix(m, n, 3, device="cuda")
    expected = exact[0] @ exact[1], weights @ exact[1].mT, exact[0].mT @ weights
    mine, theirs = (
        (out.detach(), *torch.autograd.grad((out * weights.float()).sum(), (a, b)))
        for out in (product(a, b), a @ b)
    )
    for ours, library, truth in zip(mine, theirs, expected, strict=True):
        error, least = ((t - truth).norm() / truth.norm() for t in (ours, library))
        assert error < 8 * least and error < 2e-6
