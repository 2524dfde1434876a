"""Functions of single numbers that the kernels share."""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(x, FAST: tl.constexpr):
    """1 / (1 + exp(-x)). FAST: the hardware's exponential and reciprocal as they are, 2^-22 off;
    the interpreter does not know them."""
    if FAST:
        return tl.inline_asm_elementwise(
            """{ .reg .f32 t;
            mul.ftz.f32 t, $1, 0fBFB8AA3B;
            ex2.approx.ftz.f32 t, t;
            add.ftz.f32 t, t, 0f3F800000;
            rcp.approx.ftz.f32 $0, t; }""",
            "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        return tl.sigmoid(x)


@triton.jit
def exp(x, FAST: tl.constexpr):
    """exp(x), for FAST by the hardware's exponential alone, as in :func:`sigmoid`."""
    if FAST:
        return tl.inline_asm_elementwise(
            """{ .reg .f32 t;
            mul.ftz.f32 t, $1, 0f3FB8AA3B;
            ex2.approx.ftz.f32 $0, t; }""",
            "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        return tl.exp(x)


@triton.jit
def exp2(x, FAST: tl.constexpr):
    """2^x. FAST: the hardware's instruction as it is (2^-22 off), with results below 2^-126 as 0,
    instead of three more instructions for them; the interpreter does not know it."""
    if FAST:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.exp2(x)


@triton.jit
def softplus(x):
    """log(1 + exp(x)), without overflow, to float32's precision where it is tiny too."""
    tail = tl.exp(-tl.abs(x))
    # log(1 + t) loses t's digits when t is small: four terms of its series do not
    series = tail * (1.0 - tail * (0.5 - tail * (1.0 / 3.0 - tail * 0.25)))
    return tl.maximum(x, 0.0) + tl.where(tail < 1e-2, series, tl.log(1.0 + tail))
