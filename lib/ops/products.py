"""The backend "tensor_cores" of the linear map: Triton kernels, float32 as three tf32 products.

Custom ops with a leading axis of runs, mapped by ``torch.vmap`` and kept as they are by
``torch.compile``, as in :mod:`lib.ops.scan_kernels`. For a given number of runs every sum has one
order, so gradients are bit-equal from call to call. Of finite numbers a product has float32's
accuracy; what meets an infinity is NaN. There are no second derivatives: use ``reference``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib.ops import backends
from lib.ops.kernel_calls import ceil_div, launch, over_runs, power_of_two, strided
from lib.ops.linear import OP


@dataclass(frozen=True)
class Sizes:
    """Sizes of the kernels' work.

    Attributes:
        rows, columns, depth: of a tile of a product, and of what is summed over at a time.
        stages: loads of what is summed over that are under way at once.
        warps: of a program with the widest tile; those of narrower ones have fewer, but 4.
        gradient_rows: what a weight's gradient sums over at a time.
        gradient_columns, gradient_width: of a tile of it.
        gradient_stages, gradient_warps: as above.
        lots: programs for a weight's gradient, of all runs together, each with a sum of its own.
    """

    rows: int = 128
    columns: int = 128
    depth: int = 32
    stages: int = 3
    warps: int = 8
    gradient_rows: int = 32
    gradient_columns: int = 128
    gradient_width: int = 128
    gradient_stages: int = 3
    gradient_warps: int = 8
    lots: int = 1056


SIZES = Sizes()


def _part(size: int, most: int) -> int:
    """A power of two that `size` fits into, from 16, which a tensor core takes, to `most`."""
    return min(most, max(16, power_of_two(size)))


def _warps(most: int, numbers: int, largest: int) -> int:
    """Of a tile of so many numbers, where one of the largest size has `most`: a power of two."""
    return max(4, most * numbers // largest)


def _multiply(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """Write x (r, i, k) times weight (r, k, n) to y (r, i, n)."""
    from lib.ops.triton.products import rows_product

    r, rows, k = x.shape
    n, s = weight.shape[2], SIZES
    columns, depth = _part(n, s.columns), _part(k, s.depth)
    programs = ceil_div(n, columns) * ceil_div(rows, s.rows) * r
    if not k:
        return y.zero_()
    if programs:
        launch(
            rows_product, programs, *strided(x, weight, y), rows,
            K=k, N=n, ROWS=s.rows, COLUMNS=columns, DEPTH=depth,
            STAGES=min(s.stages, ceil_div(k, depth)), num_warps=_warps(s.warps, columns, s.columns),
        )  # fmt: skip
    return y


def _sum_of_products(dy: Tensor, x: Tensor) -> Tensor:
    """The sum over rows of dy (r, i, n) times x (r, i, k): (r, n, k)."""
    from lib.ops.triton.products import weight_gradient

    r, rows, k = x.shape
    n, s = dy.shape[2], SIZES
    columns, width = _part(n, s.gradient_columns), _part(k, s.gradient_width)
    tiles = ceil_div(n, columns) * ceil_div(k, width)
    if not (r and rows and tiles):
        return dy.new_zeros(r, n, k)
    steps = ceil_div(rows, s.gradient_rows)
    each = ceil_div(steps, max(1, s.lots // (tiles * r)))
    lots = ceil_div(steps, each)
    share = torch.empty(r, lots, n, k, dtype=torch.float32, device=x.device)
    launch(
        weight_gradient, tiles * lots * r, *strided(dy, x), share, rows,
        K=k, N=n, ROWS=s.gradient_rows, COLUMNS=columns, WIDTH=width, EACH=each,
        STAGES=min(s.gradient_stages, each),
        num_warps=_warps(
            s.gradient_warps, columns * width, s.gradient_columns * s.gradient_width
        ),
    )  # fmt: skip
    return share.sum(1)


@torch.library.custom_op("mamba_book::linear", mutates_args=())
def forward_op(x: Tensor, weight: Tensor) -> Tensor:
    """x (r, i, k) times the transpose of weight (r, n, k): (r, i, n)."""
    y = x.new_empty(*x.shape[:2], weight.shape[1])
    return _multiply(x, weight.mT, y)


@torch.library.custom_op("mamba_book::linear_backward", mutates_args=())
def backward_op(
    dy: Tensor, x: Tensor, weight: Tensor, wants_x: bool, wants_weight: bool
) -> list[Tensor]:
    """Gradients of x and weight, empty for those that nobody wants."""
    dx = _multiply(dy, weight, torch.empty_like(x)) if wants_x else x.new_empty(0)
    return [dx, _sum_of_products(dy, x) if wants_weight else x.new_empty(0)]


@forward_op.register_fake
def _(x, weight):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:2], weight.shape[1])


@backward_op.register_fake
def _(dy, x, weight, wants_x, wants_weight):  # type: ignore[no-untyped-def]
    return [
        torch.empty_like(x) if wants_x else x.new_empty(0),
        weight.new_empty(weight.shape) if wants_weight else x.new_empty(0),
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    wanted = ctx.needs_input_grad
    grads = backward_op(dy, *ctx.saved_tensors, *wanted)
    return tuple(grad if wants else None for grad, wants in zip(grads, wanted, strict=True))


forward_op.register_autograd(_gradients, setup_context=_save)
forward_op.register_vmap(over_runs(forward_op))
backward_op.register_vmap(over_runs(backward_op))


def _on_tensor_cores(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # squeeze, not [0]: the gradient of that is a copy into zeros
    out = forward_op(rows[None], weight[None]).squeeze(0)
    return out if bias is None else out + bias


def _refuses(facts: dict[str, Any]) -> str | None:
    if facts["autocast"]:
        return "autocast wants products in half precision; use reference"
    for name in ("dtype", "weight_dtype"):
        if facts[name] != torch.float32:
            return f"{name} is {facts[name]}, allowed: torch.float32; use reference"
    return None


backends.register(
    OP, "tensor_cores", _on_tensor_cores, refuses=_refuses, first=True,
    missing=lambda device: backends.triton_missing(device.type, "reference"),
    # "auto" takes it where somebody says so: it has not been measured (see lib.bench.linear)
    prefers=lambda facts: False,
)  # fmt: skip
