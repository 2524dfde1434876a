"""Softmax attention over a few tokens, of very many sequences: a reference, and Triton kernels.

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
from lib.ops.checks import among, compute_dtype, expect, expect_real
from lib.ops.kernel_calls import (
    ceil_div,
    channels_last,
    launch,
    over_runs,
    power_of_two,
    strided,
)

OP = "attention"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LENGTHS, WIDTHS = range(1, 9), range(1, 129)  # beyond which registers do not hold a sequence


@dataclass(frozen=True)
class Sizes:
    """Sizes of the kernels' work.

    Attributes:
        numbers: of queries, or of values, in a program: as many sequences as that makes.
        warps: of a program. One needs no other's sums: at 8 tokens of 32 and 64 channels it is 756
            instructions a sequence forward and 1,456 backward, by count of an H100's.
    """

    numbers: int = 1024
    warps: int = 1


SIZES = Sizes()


def short_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, *, backend: str = "auto"
) -> Tensor:
    """softmax(q k^T / sqrt(e)) v (arXiv 1706.03762, eq. 1), of each query over the keys up to its
    own, or over all.

    Args:
        q: (b, h, l, e), the last l of the c + l tokens of k (b, h, c + l, e), v (b, h, c + l, p).
        backend: "auto", "reference", or "fused": c + l at most 8, e and p at most 128.

    Returns:
        (b, l, h, p) in v's dtype.

    Raises:
        ValueError: a shape or type that does not fit.
        BackendError: a named backend that is missing or cannot serve the call.
    """
    expect("q", q, "b h l e")
    b, h, queries, e = q.shape
    expect("k", k, "b h l e", b=b, h=h, e=e)
    length = k.shape[2]
    expect("v", v, "b h l p", b=b, h=h, l=length)
    if queries > length:
        raise ValueError(f"q has {queries} tokens, allowed: up to {length}, those of k")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        expect_real(name, tensor)
    name = backends.resolve(OP, backend, device=q.device, **attention_facts(q, k, v))
    out: Tensor = backends.call(OP, name)(q, k, v, causal)
    return out


def _reference(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The formula, in float32 or wider."""
    S = attention_matrix(q, k, causal)
    return (S @ v.to(S.dtype)).transpose(1, 2).to(v.dtype)


def _fused(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    one_run = (channels_last(t[None]) for t in (q, k, v))
    return _attend(*one_run, q.shape[3] ** -0.5, causal).squeeze(0)


def attention_matrix(q: Tensor, k: Tensor, causal: bool = True) -> Tensor:
    """softmax(q k^T / sqrt(e)), in float32 or wider: how much of each key a query takes.

    q (b, h, l, e), the last l of the c + l keys (b, h, c + l, e), to (b, h, l, c + l).
    """
    wide, length = compute_dtype(q), q.shape[2]
    scores = q.to(wide) @ k.to(wide).transpose(2, 3) * q.shape[3] ** -0.5
    if causal:
        hidden = ~visible(length, k.shape[2] - length, q.device)
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1)


def visible(length: int, kept: int, device: torch.device) -> Tensor:
    """(l, c + l) bool: the last l of c + l tokens see themselves and all before."""
    return torch.ones(length, kept + length, dtype=torch.bool, device=device).tril(kept)


def attention_facts(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Any]:
    """Facts of a call by which a backend says whether it can serve it."""
    return {
        "length": q.shape[2], "kept": k.shape[2] - q.shape[2], "dtype": v.dtype,
        "widths": (q.shape[3], v.shape[3]),
    }  # fmt: skip


def _sizes(q: Tensor, v: Tensor, causal: bool) -> tuple[int, dict[str, Any]]:
    """Programs, and the kernels' constants."""
    r, b, h, queries, e = q.shape
    length, p = v.shape[3:]
    wide = {"QB": power_of_two(queries), "EB": power_of_two(e), "PB": power_of_two(p)}
    seq = max(1, SIZES.numbers // (wide["QB"] * max(wide["EB"], wide["PB"])))
    constants = {
        "L": length, "Q": queries, "E": e, "P": p, **wide, "SEQ": seq, "CAUSAL": causal,
    }  # fmt: skip
    return ceil_div(b * h, seq) * r, {**constants, "num_warps": SIZES.warps}


def _empty(like: Tensor, tokens: int | None = None) -> Tensor:
    """For (r, b, h, l, e), or of other l: heads next to each other, as the projections around have
    them."""
    r, b, h, length, e = like.shape
    return like.new_empty(r, b, length if tokens is None else tokens, h, e).transpose(2, 3)


@torch.library.custom_op("mamba_book::short_attention", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """y (r, b, l, h, p) of q (r, b, h, l, e), k (r, b, h, c + l, e) and v (r, b, h, c + l, p)."""
    from lib.ops.triton.short_attention import attend

    y = _empty(v, q.shape[3])
    programs, constants = _sizes(q, v, causal)
    launch(attend, programs, *strided(q, k, v, y), *q.shape[1:3], scale, **constants)
    return y.transpose(2, 3)


@torch.library.custom_op("mamba_book::short_attention_backward", mutates_args=())
def _backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool
) -> list[Tensor]:
    """Gradients of q, k and v; dy (r, b, l, h, p)."""
    from lib.ops.triton.short_attention import attend_backward

    grads = [_empty(t) for t in (q, k, v)]
    programs, constants = _sizes(q, v, causal)
    dy = channels_last(dy).transpose(2, 3)
    given = strided(dy, q, k, v, *grads)
    launch(attend_backward, programs, *given, *q.shape[1:3], scale, **constants)
    return grads


@_attend.register_fake
def _(q, k, v, scale, causal):  # type: ignore[no-untyped-def]
    return _empty(v, q.shape[3]).transpose(2, 3)


@_backward.register_fake
def _(dy, q, k, v, scale, causal):  # type: ignore[no-untyped-def]
    return [_empty(t) for t in (q, k, v)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale, ctx.causal = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return (*_backward(dy, *ctx.saved_tensors, ctx.scale, ctx.causal), None, None)


_attend.register_autograd(_gradients, setup_context=_save)
_attend.register_vmap(over_runs(_attend))
_backward.register_vmap(over_runs(_backward))


def unfit(facts: dict[str, Any]) -> str | None:
    """Why no kernel of attention over a few tokens serves a call's type or heads, or None."""
    if facts["dtype"] not in DTYPES:
        return f"dtype is {facts['dtype']}, allowed: float32, bfloat16, float16; use reference"
    if not all(among(width, WIDTHS) for width in facts["widths"]):
        return f"widths of a head are {facts['widths']}, allowed: 1..128; use reference"
    return None


def _refuses(facts: dict[str, Any]) -> str | None:
    if facts["length"] < 1 or not among(facts["kept"] + facts["length"], LENGTHS):
        length = f"{facts['length']}, {facts['kept']} kept"
        return f"length is {length}, allowed: 1..8 together; use reference"
    return unfit(facts)


backends.register(OP, "reference", _reference, prefers=lambda facts: True)
backends.register(
    OP, "fused", _fused, refuses=_refuses, first=True,
    missing=lambda device: backends.triton_missing(device.type, "reference"),
    # fewer queries than keys have not run on a GPU: only where somebody prefers it
    prefers=lambda facts: facts["device"].type == "cuda" and not facts["kept"],
)  # fmt: skip
