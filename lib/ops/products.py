"""Products of float32 matrices on tensor cores, each as three in tf32: a custom op for ensembles.

A number is split in two, x = x1 + x2, of 11 bits each, which tf32 holds exactly; of x y the sum
x1 y1 + x1 y2 + x2 y1 is taken, and 2^-22 of it is left out. Tensor cores then multiply what
float32's own multiply-adds would take more than twice as long for (by count, see
:mod:`lib.ops.triton.product`). Results are bit-equal from call to call: a long sum is made in
slices, which are added in one order.

Nothing takes these products by itself yet: earlier forms gained little or lost exactness
(``book/reference/speed_log.yml``), this one has been compiled and tested, not measured. Once it
has, :func:`lib.ops.linear.linear` takes them where :func:`pays` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib.ops import backends
from lib.ops.kernel_calls import ceil_div, launch, over_runs, power_of_two


@dataclass(frozen=True)
class Sizes:
    """Sizes of the kernel's work, and where it is used.

    Attributes:
        rows, columns: of a program's tile; fewer columns where the product has fewer.
        steps: of the sum between two loads.
        warps, stages: of a program, and tiles whose loads are under way at once. With 4 warps a
            tile of 128 x 128 spills.
        programs: as many as there should be, where the sum is long enough to be cut: two for each
            of 132 processors.
        slice: the fewest steps of a slice.
        used: whether :func:`pays` ever says so (off until measured).
        least_rows, least: of the products that then pay: rows, and both sides of the weight.
    """

    rows: int = 128
    columns: int = 128
    steps: int = 32
    warps: int = 8
    stages: int = 3
    programs: int = 264
    slice: int = 512
    used: bool = False
    least_rows: int = 4096
    least: int = 64


OP, NAME = "product", "tf32x3"
SIZES = Sizes()
MOST = 2**31  # numbers of one run's matrix, whose places are counted in 32 bits


def pays(rows: Tensor, weight: Tensor) -> bool:
    """Whether ``rows @ weight.T`` (m, k), (n, k) should be made by :func:`product`."""
    return SIZES.used and backends.suits(
        OP, NAME, device=rows.device, rows=rows.shape[0], side=min(weight.shape),
        dtypes={rows.dtype, weight.dtype},
    )  # fmt: skip


def _prefers(facts: dict[str, Any]) -> bool:
    if facts["device"].type != "cuda" or torch.is_autocast_enabled("cuda"):
        return False
    plain = facts["dtypes"] == {torch.float32}
    return plain and facts["rows"] >= SIZES.least_rows and facts["side"] >= SIZES.least


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for a (m, k) and b (k, n) in float32, with gradients; under ``torch.vmap`` all runs in
    one launch.

    Raises:
        ValueError: shapes that do not fit, another dtype, or a matrix of 2^31 numbers and more.
        BackendError: no Triton for the device.
    """
    for name, t in (("a", a), ("b", b)):
        if t.dim() != 2 or t.dtype != torch.float32:
            raise ValueError(
                f"{name} is {tuple(t.shape)} in {t.dtype}, allowed: a matrix in torch.float32"
            )
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"b has {b.shape[0]} rows, allowed: {a.shape[1]}, the columns of a")
    most = max(a.numel(), b.numel(), a.shape[0] * b.shape[1])
    if most >= MOST:
        raise ValueError(f"a matrix has {most} numbers, allowed: fewer than {MOST}")
    backends.resolve(OP, NAME, device=a.device)  # for records
    return _product(a[None], b[None]).squeeze(0)


@torch.library.custom_op("mamba_book::product", mutates_args=())
def _product(a: Tensor, b: Tensor) -> Tensor:
    """(r, m, k) and (r, k, n) to (r, m, n)."""
    from lib.ops.triton.product import product as kernel

    (r, m, k), n = a.shape, b.shape[2]
    columns = max(16, min(SIZES.columns, power_of_two(n)))
    tiles = ceil_div(m, SIZES.rows) * ceil_div(n, columns)
    slices = max(1, min(k // SIZES.slice, SIZES.programs // max(1, tiles * r)))
    each = ceil_div(ceil_div(k, slices), SIZES.steps) * SIZES.steps
    slices = max(1, ceil_div(k, each)) if k else 1
    out = torch.empty(slices, r, m, n, dtype=torch.float32, device=a.device)
    if out.numel():
        unit = 4 if _in_fours(a, b) else 1
        rows = [t.stride(2) == 1 for t in (a, b)]
        in_units = [
            [step if axis == (2 if row else 1) else step // unit
             for axis, step in enumerate(t.stride())]
            for t, row in zip((a, b), rows, strict=True)
        ]  # fmt: skip
        launch(
            kernel, tiles * slices * r, a, *in_units[0], b, *in_units[1], out, r, m // unit,
            n // unit, k // unit, slices, EACH=each, TM=SIZES.rows, TN=columns, TK=SIZES.steps,
            UNIT=unit, A_ROWS=rows[0], B_ROWS=rows[1], num_warps=SIZES.warps,
            num_stages=SIZES.stages,
        )  # fmt: skip
    return out[0] if slices == 1 else out.sum(0)


def _in_fours(*matrices: Tensor) -> bool:
    """Whether four neighbours in memory can always be read at once: sizes, and strides other than
    theirs, are multiples of four, and all begins at one of 16 bytes."""
    return all(
        t.data_ptr() % 16 == 0
        and sorted(step % 4 for step in t.stride()) == [0, 0, 1] and 1 in t.stride()[1:]
        and all(size % 4 == 0 for size in t.shape[1:])
        for t in matrices
    )  # fmt: skip


@_product.register_fake
def _(a, b):  # type: ignore[no-untyped-def]
    return a.new_empty(a.shape[0], a.shape[1], b.shape[2])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    a, b = ctx.saved_tensors
    wanted_a, wanted_b = ctx.needs_input_grad
    return (
        _product(grad, b.mT) if wanted_a else None,
        _product(a.mT, grad) if wanted_b else None,
    )


_product.register_autograd(_gradients, setup_context=_save)
_product.register_vmap(over_runs(_product))
backends.register(OP, "reference", torch.matmul)
backends.register(
    OP, NAME, product,
    missing=lambda device: backends.triton_missing(device.type, "torch.matmul"), prefers=_prefers,
)  # fmt: skip
