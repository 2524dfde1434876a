"""Rows of a table by number, as of an embedding, with gradients that are bit-equal on a GPU.

A custom op with a leading axis of runs, mapped by ``torch.vmap`` and kept as it is by
``torch.compile``, as in :mod:`lib.ops.scan_kernels`: what the compiler makes of an embedding's
gradient adds rows as they come (atomically), so that two trainings of one model differ in their
last bits, and after thousands of steps in what they learn.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops import backends
from lib.ops.checks import expect, expect_real
from lib.ops.kernel_calls import ceil_div, launch, over_runs, power_of_two, strided

OP = "lookup"
SHORT = 512  # bytes of a row, up to which our own kernel can serve
NUMBERS = 4096  # of a program of it


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]``; on a GPU without second derivatives, forward mode or ``torch.func``'s
    transforms but vmap.

    Args:
        table: (v, m).
        index: (...), integers in [0, v).

    Returns:
        (..., m) in the table's dtype.

    What a number of no row gets on a GPU, and where its gradient goes, is not defined.

    Raises:
        ValueError: a table that is no matrix of real numbers, or an index that is no integer.
    """
    expect("table", table, "v m")
    expect_real("table", table)
    if index.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"index has dtype {index.dtype}, allowed: int64, int32")
    return in_one_run(table, index) if table.is_cuda else F.embedding(index, table)


def in_one_run(table: Tensor, index: Tensor) -> Tensor:
    """:func:`lookup` by the custom op, on any device."""
    return _rows(table[None], index.reshape(1, -1)).view(*index.shape, table.shape[1])


def _of_all(index: Tensor, v: int) -> Tensor:
    """Numbers (r, n) of rows of r tables as numbers (r n,) of rows of one, in 32 bits if they fit:
    all bits are sorted by."""
    r = index.shape[0]
    index = index.to(torch.int32 if r * v < 2**31 else torch.int64)
    runs = torch.arange(r, device=index.device, dtype=index.dtype)
    return (index + v * runs[:, None]).flatten()


@torch.library.custom_op("mamba_book::lookup", mutates_args=())
def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows (r, n, m) of table (r, v, m) by index (r, n)."""
    facts = {"bytes": table.shape[2] * table.element_size()}
    if backends.suits(OP, "short_rows", device=table.device, **facts):
        backends.resolve(OP, "short_rows", device=table.device, **facts)  # for records
        return short_rows(table, index)
    return _reference(table, index)


def _reference(table: Tensor, index: Tensor) -> Tensor:
    rows = F.embedding(_of_all(index, table.shape[1]), table.reshape(-1, table.shape[2]))
    return rows.unflatten(0, index.shape)


def short_rows(table: Tensor, index: Tensor) -> Tensor:
    """The same by a kernel of ours; of a number of no row NaN."""
    from lib.ops.triton.lookup import rows_of

    r, v, m = table.shape
    out = table.new_empty(*index.shape, m)
    columns = power_of_two(m)
    rows = NUMBERS // columns
    if out.numel():
        launch(
            rows_of, ceil_div(index.shape[1], rows) * r, *strided(table, index), out,
            index.shape[1], V=v, M=m, ROWS=rows, COLUMNS=columns,
        )  # fmt: skip
    return out


@torch.library.custom_op("mamba_book::lookup_backward", mutates_args=())
def _sums(dy: Tensor, index: Tensor, v: int) -> Tensor:
    """The table's gradient (r, v, m) of dy (r, n, m), by PyTorch's own kernels."""
    r, _, m = dy.shape
    rows = r * v
    if dy.is_cuda:
        # of many numbers of few rows PyTorch 2.11 makes sums atomically; of as many rows as four
        # times a GPU's processors it never does, but sorts, and sums in two passes
        device = torch.cuda.get_device_properties(dy.device)
        rows = max(rows, 4 * device.multi_processor_count)
    given = (dy.reshape(-1, m), _of_all(index, v), rows, -1, False)
    sums: Tensor = torch.ops.aten.embedding_dense_backward(*given)
    return sums[: r * v].view(r, v, m)


@_rows.register_fake
def _(table, index):  # type: ignore[no-untyped-def]
    return table.new_empty(*index.shape, table.shape[2])


@_sums.register_fake
def _(dy, index, v):  # type: ignore[no-untyped-def]
    return dy.new_empty(dy.shape[0], v, dy.shape[2])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, index = inputs
    ctx.v = table.shape[1]
    ctx.save_for_backward(index)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    (index,) = ctx.saved_tensors
    return _sums(dy, index, ctx.v), None


_rows.register_autograd(_gradients, setup_context=_save)
_rows.register_vmap(over_runs(_rows))
_sums.register_vmap(over_runs(_sums))


def _refuses(facts: dict[str, Any]) -> str | None:
    if not 0 < facts["bytes"] <= SHORT:
        return f"a row has {facts['bytes']} bytes, allowed: 1..{SHORT}; use reference"
    return None


backends.register(OP, "reference", _reference, prefers=lambda facts: True)
backends.register(
    OP, "short_rows", short_rows, refuses=_refuses, first=True,
    missing=lambda device: backends.triton_missing(device.type, "reference"),
    # "auto" takes it where somebody says so: it has not been measured
    prefers=lambda facts: False,
)  # fmt: skip
