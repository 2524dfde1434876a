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
def softplus(x, FAST: tl.constexpr = False):
    """log(1 + exp(x)), without overflow, to two units of float32's last place, tiny or not.

    log(1 + t) for t = exp(-|x|), 0 to 1, is t times a polynomial that is exact at 0 (fitted for the
    least relative error, 3e-8): the hardware's logarithm is 1e-5 off near 1.
    """
    t = exp(-tl.abs(x), FAST)
    p = 0.005364724900573492 * t - 0.030065398663282394
    p = p * t + 0.07920390367507935
    p = p * t - 0.13753749430179596
    p = p * t + 0.1915363073348999
    p = p * t - 0.24857157468795776
    p = p * t + 0.333213210105896
    p = p * t - 0.49999648332595825
    p = p * t + 1.0
    return tl.maximum(x, 0.0) + t * p
