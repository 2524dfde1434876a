"""The backend "fused" of the causal convolution: Triton kernels with bias, SiLU and state inside.

Custom ops with a leading axis of runs, mapped by ``torch.vmap`` and kept as they are by
``torch.compile``, as in :mod:`lib.ops.scan_kernels`. Sums are in float32 and have one order, so
gradients are bit-equal from call to call. There are no second derivatives: use ``shifts``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib.ops import backends
from lib.ops.checks import among
from lib.ops.conv import OP
from lib.ops.kernel_calls import ceil_div, empty_as, launch, over_runs, power_of_two, strided

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TAPS = range(2, 9)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the kernels' work.

    Attributes:
        steps: of a stretch, at most; those of a sequence are of equal length. More are longer code
            and fewer threads, fewer are more steps read twice.
        rows, columns: stretches and channels of a tile.
        warps: of a program.
        lots: backward programs, of all runs together, each with sums of its own.
    """

    steps: int = 8
    rows: int = 4
    columns: int = 64
    warps: int = 4
    lots: int = 1056


SIZES = Sizes()


def _tile(x: Tensor, weight: Tensor, silu: bool) -> tuple[int, dict[str, Any]]:
    """Stretches of a sequence, and the kernels' constants."""
    d, taps = weight.shape[1:]
    length = x.shape[3]
    chunks = ceil_div(length, SIZES.steps)
    columns = min(SIZES.columns, max(16, power_of_two(d)))
    return chunks, {
        "CHANNELS": d, "TAPS": taps, "SILU": silu, "STEPS": ceil_div(length, chunks),
        "ROWS": SIZES.rows * SIZES.columns // columns, "COLUMNS": columns, "FAST": x.is_cuda,
        "num_warps": SIZES.warps,
    }  # fmt: skip


@torch.library.custom_op("mamba_book::causal_conv1d", mutates_args=())
def forward_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, start: Tensor | None, silu: bool
) -> Tensor:
    """Arguments as in :func:`causal_conv1d`, each with a leading axis of runs."""
    from lib.ops.triton.conv import forward

    r, b, d, length = x.shape
    y = empty_as(x)
    chunks, tile = _tile(x, weight, silu)
    programs = ceil_div(d, tile["COLUMNS"]) * ceil_div(b * chunks, tile["ROWS"]) * r
    launch(forward, programs, *strided(x, weight, bias, start, y), b, length, chunks, **tile)
    return y


@torch.library.custom_op("mamba_book::causal_conv1d_backward", mutates_args=())
def backward_op(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, start: Tensor | None, silu: bool
) -> list[Tensor]:
    """Gradients of x, weight, bias and start, empty for those that are None."""
    from lib.ops.triton.conv import backward

    r, b, d, length = x.shape
    chunks, tile = _tile(x, weight, silu)
    taps, blocks = tile["TAPS"], ceil_div(d, tile["COLUMNS"])
    tiles = ceil_div(b * chunks, tile["ROWS"])
    each = ceil_div(tiles, max(1, SIZES.lots // (blocks * r)))
    lots = ceil_div(tiles, each)
    dx = empty_as(x)
    dstart = None if start is None else start.new_empty(start.shape)
    shares = torch.empty(lots, r, taps + 1, d, dtype=torch.float32, device=x.device)
    launch(
        backward, blocks * lots * r, *strided(dy, x, weight, bias, start, dx), dstart, shares,
        b, length, chunks, lots, each, WHOLE=chunks == 1, **tile,
    )  # fmt: skip
    total = shares.sum(0)
    none = (total.new_empty(0) for _ in range(2))
    return [
        dx,
        total[:, :taps].transpose(1, 2).to(weight.dtype).contiguous(),
        next(none) if bias is None else total[:, taps].to(bias.dtype).contiguous(),
        next(none) if dstart is None else dstart,
    ]


@forward_op.register_fake
def _(x, weight, bias, start, silu):  # type: ignore[no-untyped-def]
    return empty_as(x)


@backward_op.register_fake
def _(dy, x, weight, bias, start, silu):  # type: ignore[no-untyped-def]
    none = (x.new_empty(0, dtype=torch.float32) for _ in range(2))
    return [
        empty_as(x),
        weight.new_empty(weight.shape),
        *(next(none) if t is None else t.new_empty(t.shape) for t in (bias, start)),
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    grads = backward_op(dy, *tensors, ctx.silu)
    return (*(None if t is None else g for g, t in zip(grads, tensors, strict=True)), None)


forward_op.register_autograd(_gradients, setup_context=_save)
forward_op.register_vmap(over_runs(forward_op))
backward_op.register_vmap(over_runs(backward_op))


def _fused(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None,
    initial_state: Tensor | None,
) -> Tensor:  # fmt: skip
    one_run = (None if t is None else t[None] for t in (x, weight, bias, initial_state))
    # squeeze, not [0]: the gradient of that is a copy into zeros, with other neighbours in memory
    return forward_op(*one_run, activation == "silu").squeeze(0)


def _refuses(facts: dict[str, Any]) -> str | None:
    if facts["dtype"] not in DTYPES:
        return f"dtype is {facts['dtype']}, allowed: float32, bfloat16, float16; use shifts"
    if not among(facts["taps"], TAPS):
        return f"weight has {facts['taps']} taps, allowed: 2..8; use shifts"
    return None


# in eager code shifts are a dozen passes over memory: by count a step of a small Mamba-1, its scan
# aside, takes 2.4 times as long with them; compiled they took as long as these kernels (measured,
# 12 runs, 8 steps)
backends.register(
    OP, "fused", _fused, refuses=_refuses,
    missing=lambda device: backends.triton_missing(device.type, "shifts"),
    prefers=lambda facts: facts["device"].type == "cuda", first=True,
)  # fmt: skip
