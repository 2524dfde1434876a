"""Softmax attention over a few tokens from one projection's output, with the short convolution on
the way: a reference of other ops, and Triton kernels.

These are custom ops with a leading axis of runs, mapped by ``torch.vmap`` and kept as they are by
``torch.compile``, as in :mod:`lib.ops.scan_kernels`. Everything is in float32 without tensor cores;
gradients are bit-equal from call to call, and there are no second derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib.ops import backends
from lib.ops.checks import among, expect, expect_real
from lib.ops.conv import causal_conv1d
from lib.ops.kernel_calls import (
    ceil_div,
    channels_last,
    launch,
    over_runs,
    power_of_two,
    strided,
)
from lib.ops.short_attention import LENGTHS, short_attention, unfit

OP = "packed_attention"
TAPS = range(2, 5)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the kernels' work.

    Attributes:
        numbers: of a row of all of a program's sequences: 4 for each thread if 128.
        width: most channels of a part of a head.
        warps: of a program.
        registers: most registers of a backward thread; None for as many as it likes.
    """

    numbers: int = 128
    width: int = 32
    warps: int = 1
    registers: int | None = None


SIZES = Sizes()


def packed_attention(
    qkv: Tensor, weight: Tensor | None, bias: Tensor | None, heads: int, headdim_qk: int, *,
    causal: bool = True, last: bool = False, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """softmax(q k^T / sqrt(e)) v (arXiv 1706.03762, eq. 1) with q, k and v of
    SiLU(conv(qkv)) (arXiv 2509.17514, section 4.3), or of qkv as it is.

    Args:
        qkv: (b, l, h e + h e + h p): queries of all heads, keys, values.
        weight: (channels, k) of the causal convolution, whose last tap meets a step's own input;
            None for neither convolution nor SiLU.
        bias: (channels,), of the convolution.
        heads, headdim_qk: h and e.
        causal: whether a query sees the keys up to its own alone.
        last: the query of the last token alone.
        backend: "auto", "reference", or "fused": l at most 8, e and p at most 128, 2 to 4 taps.

    Returns:
        (b, l, h p), or (b, 1, h p), in qkv's dtype.

    Raises:
        ValueError: a shape or type that does not fit.
        BackendError: a named backend that is missing or cannot serve the call.
    """
    expect("qkv", qkv, "b l c")
    expect_real("qkv", qkv)
    channels = qkv.shape[2]
    rest = channels - 2 * heads * headdim_qk
    if heads < 1 or headdim_qk < 1 or rest < heads or rest % heads:
        raise ValueError(
            f"qkv has {channels} channels, allowed: for {heads} heads of {headdim_qk} twice "
            "those and as many values for each head, one or more"
        )
    if weight is not None:
        expect("weight", weight, "c k", c=channels)
        expect("bias", bias, "c", c=channels)
    elif bias is not None:
        raise ValueError(f"bias has shape {tuple(bias.shape)}, allowed: None without a weight")
    facts = packed_facts(qkv, 0 if weight is None else weight.shape[1], heads, headdim_qk)
    name = backends.resolve(OP, backend, device=qkv.device, **facts)
    out: Tensor = backends.call(OP, name)(qkv, weight, bias, heads, headdim_qk, causal, last)
    return out


def packed_facts(qkv: Tensor, taps: int, heads: int, headdim_qk: int) -> dict[str, Any]:
    """Facts of a call, without a convolution of no taps, by which a backend says whether it can
    serve it."""
    return {
        "length": qkv.shape[1], "dtype": qkv.dtype, "taps": taps,
        "widths": (headdim_qk, (qkv.shape[2] - 2 * heads * headdim_qk) // heads),
    }  # fmt: skip


def _reference(
    qkv: Tensor, weight: Tensor | None, bias: Tensor | None, heads: int, headdim_qk: int,
    causal: bool, last: bool,
) -> Tensor:  # fmt: skip
    """By the references of the ops that it joins."""
    if weight is not None:
        x = qkv.transpose(1, 2)
        qkv = causal_conv1d(x, weight, bias, "silu", backend="reference").transpose(1, 2)
    size = heads * headdim_qk
    parts = qkv.split([size, size, qkv.shape[2] - 2 * size], dim=-1)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    if last:
        q = q[:, :, -1:]
    return short_attention(q, k, v, causal, backend="reference").flatten(-2)


def _fused(
    qkv: Tensor, weight: Tensor | None, bias: Tensor | None, heads: int, headdim_qk: int,
    causal: bool, last: bool,
) -> Tensor:  # fmt: skip
    one_run = (None if t is None else t[None] for t in (qkv, weight, bias))
    return forward_op(*one_run, heads, headdim_qk, causal, last).squeeze(0)


def _sizes(
    x: Tensor, weight: Tensor | None, heads: int, e: int, causal: bool, last: bool
) -> tuple[int, dict[str, Any]]:
    """Lots of sequences, and the kernels' constants."""
    batch, length, channels = x.shape[1:]
    p = (channels - 2 * heads * e) // heads
    wide = min(SIZES.width, max(power_of_two(e), power_of_two(p)))
    seq = max(1, SIZES.numbers // wide)
    return ceil_div(batch, seq), {
        "FIRST": length - 1 if last else 0, "L": length, "E": e, "P": p, "CHANNELS": channels,
        "TAPS": 0 if weight is None else weight.shape[2], "SEQ": seq, "W": wide, "CAUSAL": causal,
        "FAST": x.is_cuda, "num_warps": SIZES.warps,
    }  # fmt: skip


def _as_kernels_take(
    x: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Channels, which come last, next to each other."""
    given = (x, None if weight is None else weight.mT, bias)
    return tuple(None if t is None else channels_last(t) for t in given)


def _empty(x: Tensor, heads: int, e: int, last: bool) -> Tensor:
    r, b, length, channels = x.shape
    return x.new_empty(r, b, 1 if last else length, channels - 2 * heads * e)


@torch.library.custom_op("mamba_book::packed_attention", mutates_args=())
def forward_op(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, heads: int, e: int, causal: bool,
    last: bool,
) -> Tensor:  # fmt: skip
    """Arguments as in :func:`packed_attention`, each with a leading axis of runs."""
    from lib.ops.triton.packed_attention import packed_attend

    y = _empty(x, heads, e, last)
    lots, constants = _sizes(x, weight, heads, e, causal, last)
    given = _as_kernels_take(x, weight, bias)
    launch(
        packed_attend, x.shape[0] * lots * heads, *strided(*given, y), x.shape[1], heads, e**-0.5,
        **constants,
    )  # fmt: skip
    return y


@torch.library.custom_op("mamba_book::packed_attention_backward", mutates_args=())
def backward_op(
    dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, heads: int, e: int,
    causal: bool, last: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of x, weight and bias, empty for those that are None."""
    from lib.ops.triton.packed_attention import packed_keys_backward, packed_values_backward

    r, b, length, channels = x.shape
    lots, constants = _sizes(x, weight, heads, e, causal, last)
    dx = x.new_empty(x.shape)
    taps = constants["TAPS"]
    sums = x.new_empty(lots if taps else 0, r, taps + 1, channels, dtype=torch.float32)
    queries = 1 if last else length
    pairs = queries * (queries + 1) // 2 if causal and not last else queries * length
    of_scores = x.new_empty(r, b, heads, pairs, dtype=torch.float32)
    given = (*_as_kernels_take(x, weight, bias), dx)
    more = {"PAIRS": pairs, "maxnreg": SIZES.registers}
    written = (sums, of_scores, b, heads)
    launch(
        packed_values_backward, r * lots * heads, *strided(channels_last(dy), *given), *written,
        e**-0.5, **constants, **more,
    )  # fmt: skip
    del constants["P"]
    launch(packed_keys_backward, r * lots * heads, *strided(*given), *written, **constants, **more)
    if weight is None:
        return [dx, *(x.new_empty(0, dtype=torch.float32) for _ in range(2))]
    dweight = sums[:, :, :taps].sum(0).transpose(1, 2).to(weight.dtype).contiguous()
    if bias is None:
        return [dx, dweight, x.new_empty(0, dtype=torch.float32)]
    return [dx, dweight, sums[:, :, taps].sum(0).to(bias.dtype)]


@forward_op.register_fake
def _(x, weight, bias, heads, e, causal, last):  # type: ignore[no-untyped-def]
    return _empty(x, heads, e, last)


@backward_op.register_fake
def _(dy, x, weight, bias, heads, e, causal, last):  # type: ignore[no-untyped-def]
    none = (x.new_empty(0, dtype=torch.float32) for _ in range(2))
    return [
        x.new_empty(x.shape),
        *(next(none) if t is None else t.new_empty(t.shape) for t in (weight, bias)),
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.heads, ctx.e, ctx.causal, ctx.last = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    grads = backward_op(dy, *tensors, ctx.heads, ctx.e, ctx.causal, ctx.last)
    given = (None if t is None else g for g, t in zip(grads, tensors, strict=True))
    return (*given, None, None, None, None)


forward_op.register_autograd(_gradients, setup_context=_save)
forward_op.register_vmap(over_runs(forward_op))
backward_op.register_vmap(over_runs(backward_op))


def _refuses(facts: dict[str, Any]) -> str | None:
    if not among(facts["length"], LENGTHS):
        return f"length is {facts['length']}, allowed: 1..8; use reference"
    if facts["taps"] and not among(facts["taps"], TAPS):
        return f"weight has {facts['taps']} taps, allowed: 2..4; use reference"
    return unfit(facts)


def _timed(facts: dict[str, Any]) -> bool:
    """Whether a call is like those that it was timed by: a training step of 36 runs of 3 layers
    took an H200 5.65 ms with it, and 6.94 by the ops that it joins (``packed_attention=reference``
    prefers those). Of wider heads backward kernels take minutes to compile, and spill."""
    queries, values = facts["widths"]
    return facts["dtype"] == torch.float32 and queries <= 32 and values <= 64


backends.register(OP, "reference", _reference, prefers=lambda facts: True)
backends.register(
    OP, "fused", _fused, refuses=_refuses, first=True,
    missing=lambda device: backends.triton_missing(device.type, "reference"),
    prefers=lambda facts: facts["device"].type == "cuda" and _timed(facts),
)  # fmt: skip
