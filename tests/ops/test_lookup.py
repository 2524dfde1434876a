"""Rows of a table: the same numbers as the library's, and gradients that do not depend on luck."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.ops import backends
from lib.ops import lookup as module
from lib.ops.lookup import in_one_run, lookup, short_rows

on_cpu = pytest.mark.skipif(
    backends.triton_missing("cpu") is not None, reason="needs Triton and its interpreter"
)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def _inputs(runs: int, v: int, m: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(runs, v, m, generator=draw, dtype=torch.float64, requires_grad=True)
    return table, torch.randint(v, (runs, *shape), generator=draw)


def _gradient(rows: Tensor, table: Tensor) -> Tensor:
    weights = torch.arange(rows.numel(), device=rows.device).view(rows.shape).cos()
    (gradient,) = torch.autograd.grad((rows * weights.to(rows.dtype)).sum(), table)
    return gradient


@settings(deadline=None, max_examples=25)
@given(
    runs=st.integers(1, 3), v=st.integers(1, 9), m=st.integers(1, 5),
    shape=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    name=st.sampled_from(["reference", "short_rows"]),
)  # fmt: skip
def test_the_op_equals_the_library_for_every_run(
    runs: int, v: int, m: int, shape: tuple[int, ...], name: str
) -> None:
    table, index = _inputs(runs, v, m, shape)
    with backends.preferring(module.OP, name):
        mapped = torch.vmap(in_one_run)(table, index)
    expected = torch.stack([F.embedding(i, t) for t, i in zip(table, index, strict=True)])
    assert torch.equal(mapped, expected)
    torch.testing.assert_close(_gradient(mapped, table), _gradient(expected, table))
    alone, plain = in_one_run(table[0], index[0]), lookup(table[0], index[0])
    assert torch.equal(alone, expected[0]) and torch.equal(plain, expected[0])
    torch.testing.assert_close(_gradient(alone, table), _gradient(plain, table))


def test_runs_may_share_a_table_or_an_index() -> None:
    table, index = _inputs(3, 5, 4, (6,))
    one = torch.vmap(in_one_run, in_dims=(None, 0))(table[0], index)
    assert torch.equal(one, table[0][index])
    torch.testing.assert_close(_gradient(one, table), _gradient(table[0][index], table))
    same = torch.vmap(in_one_run, in_dims=(0, None))(table, index[0])
    assert torch.equal(same, table[:, index[0]])
    torch.testing.assert_close(_gradient(same, table), _gradient(table[:, index[0]], table))


def test_a_part_of_a_wider_product_can_be_a_table() -> None:
    wide = torch.randn(3, 7, 10, dtype=torch.float64, requires_grad=True)
    index = torch.randint(7, (3, 12), generator=torch.Generator().manual_seed(1))
    mapped = torch.vmap(lambda t, i: in_one_run(t[:, 2:5], i))(wide, index)
    expected = torch.stack([t[i, 2:5] for t, i in zip(wide, index, strict=True)])
    assert torch.equal(mapped, expected)
    torch.testing.assert_close(_gradient(mapped, wide), _gradient(expected, wide))


@on_cpu
@settings(deadline=None, max_examples=12)
@given(
    runs=st.integers(1, 3), v=st.integers(1, 9), m=st.integers(1, 40), n=st.integers(0, 30),
    numbers=st.sampled_from([64, 128, 4096]), kind=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_short_rows_are_the_tables(
    runs: int, v: int, m: int, n: int, numbers: int, kind: torch.dtype
) -> None:
    table, index = _inputs(runs, v, m, (n,))
    table = table.detach().to(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUMBERS", numbers)
        found = short_rows(table.mT.contiguous().mT, index.int())  # with other neighbours in memory
    assert found.dtype == kind and found.is_contiguous()
    expected = torch.stack([t[i] for t, i in zip(table, index, strict=True)])
    assert torch.equal(found, expected)


@on_cpu
def test_a_number_of_no_row_gets_no_number() -> None:
    table, index = torch.zeros(2, 3, 5), torch.tensor([[0, 3, 2], [-1, 1, 0]])
    found = short_rows(table, index)
    assert torch.equal(
        found.isnan().all(2), torch.tensor([[False, True, False], [True, False, False]])
    )
    assert torch.equal(found.isnan().all(2), found.isnan().any(2))


@on_cpu
@pytest.mark.parametrize(
    ("m", "prefers", "ours"), [(128, True, True), (129, True, False), (8, False, False)]
)
def test_short_rows_are_ours_where_somebody_says_so(
    m: int, prefers: bool, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(module, "short_rows", lambda *t: called.append(t) or short_rows(*t))
    table, index = torch.randn(1, 3, m), torch.tensor([[2, 0]])
    with (
        backends.preferring(module.OP, "short_rows" if prefers else "reference"),
        backends.recording() as used,
    ):
        assert torch.equal(module._rows(table, index), table[:, [2, 0]])
    assert bool(called) == ours
    assert used == ({module.OP: ["short_rows"]} if ours else {})
    if prefers and not ours:
        with pytest.raises(backends.BackendError, match=r"has 516 bytes, allowed: 1\.\.512"):
            backends.resolve(module.OP, "short_rows", device=torch.device("cpu"), bytes=4 * m)


def test_compiled_it_stays_one_op_forward_and_backward() -> None:
    table, index = _inputs(2, 6, 3, (8,))
    graphs = []

    def seen(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph

    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    def inner(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        return make_boxed_func(seen(graph, inputs).forward)

    compiled = torch.compile(
        lambda t, i: torch.vmap(in_one_run)(t, i) * 2, backend=aot_autograd(fw_compiler=inner)
    )
    rows = compiled(table, index)
    gradient = _gradient(rows, table)
    expected = torch.vmap(in_one_run)(table, index) * 2
    assert torch.equal(rows, expected)
    torch.testing.assert_close(gradient, _gradient(expected, table))
    forward, backward = graphs
    assert "mamba_book.lookup.default" in forward
    assert "mamba_book.lookup_backward.default" in backward


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_it_keeps_the_tables_dtype(kind: torch.dtype) -> None:
    table, index = _inputs(1, 5, 4, (9,))
    narrow = table[0].detach().to(kind).requires_grad_()
    rows = in_one_run(narrow, index[0].int())
    assert rows.dtype == kind and torch.equal(rows, narrow[index[0]])
    assert _gradient(rows, narrow).dtype == kind


def test_what_is_no_table_or_index_is_named() -> None:
    with pytest.raises(ValueError, match=r"table has shape \(3,\), allowed: \(v, m\)"):
        lookup(torch.zeros(3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"index has dtype torch.float32, allowed: int64, int32"):
        lookup(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(IndexError):
        lookup(torch.zeros(3, 2), torch.tensor([3]))


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(("runs", "rows"), [(3, 600), (3, 30_000), (1, 30_000), (40, 5_000)])
def test_on_a_gpu_gradients_are_exact_and_bit_equal(runs: int, rows: int) -> None:
    """Where the compiler's own kernel adds as rows come, and so does PyTorch's if a table has few
    rows. Exact means as on a processor."""
    table, index = _inputs(runs, 40, 33, (rows,))
    seed = torch.randn(runs, rows, 33, generator=torch.Generator().manual_seed(1)).double()
    (exact,) = torch.autograd.grad(torch.vmap(lookup)(table, index), table, seed)
    narrow = table.detach().float().cuda().requires_grad_()
    rows_of = torch.stack([t[i] for t, i in zip(table.detach().float(), index, strict=True)])
    for name in backends.backends(module.OP):
        with backends.preferring(module.OP, name):
            assert torch.equal(torch.vmap(lookup)(narrow, index.cuda()).cpu(), rows_of)
    compiled = torch.compile(lambda t, i: torch.vmap(lookup)(t, i) * 1.5, dynamic=False)
    given = (index.cuda(), seed.float().cuda() / 1.5)
    found = [
        torch.autograd.grad(compiled(narrow, given[0]), narrow, given[1])[0].cpu() for _ in range(3)
    ]
    assert (found[0].double() - exact).norm() <= 1e-6 * exact.norm()
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
