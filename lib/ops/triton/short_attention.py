"""Kernels of softmax attention over a few tokens, of very many sequences.

At 8 tokens a head's scores are 64 numbers. As products of matrices that is tens of thousands of
products, each far too small for what multiplies matrices; here a program takes a few sequences,
keeps their queries in registers, and goes over keys and values one step at a time. The backward
pass makes the scores again. All in float32; every sum has one order.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no starred expressions)
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def at(base, s, run, b, h, t, e):
    """Where (run, b, h, t, e) lies in a tensor of strides s, channels next to each other."""
    return base + run * s[0] + b * s[1] + h * s[2] + t * s[3] + e


@triton.jit
def shares(
    q, k, k_s, run, b, h, e, ok, scale, L: tl.constexpr, Q: tl.constexpr, CAUSAL: tl.constexpr
):  # fmt: skip
    """How much of each key the queries (seq, i, e), the last Q of L tokens, take: L tensors
    (seq, i)."""
    i = L - Q + tl.arange(0, q.shape[1])[None, :]
    top = tl.full((q.shape[0], q.shape[1]), -float("inf"), tl.float32)
    scores = ()
    for j in tl.static_range(L):
        key = tl.load(at(k, k_s, run, b, h, j, e), mask=ok, other=0.0).to(tl.float32)
        score = tl.sum(q * key, 2) * scale
        if CAUSAL:
            score = tl.where(i >= j, score, -float("inf"))
        top = tl.maximum(top, score)
        scores = scores + (score,)
    total = tl.zeros((q.shape[0], q.shape[1]), tl.float32)
    weights = ()
    for j in tl.static_range(L):
        weight = tl.exp(scores[j] - top)
        total += weight
        weights = weights + (weight,)
    out = ()
    for j in tl.static_range(L):
        out = out + (weights[j] / total,)
    return out


@triton.jit
def place(batch, heads, SEQ: tl.constexpr):
    """A program's run, and its sequences and heads (seq, 1, 1)."""
    lots = (batch * heads + SEQ - 1) // SEQ
    run = (tl.program_id(0) // lots).to(tl.int64)
    s = tl.program_id(0) % lots * SEQ + tl.arange(0, SEQ)[:, None, None]
    return run, (s // heads).to(tl.int64), s % heads, s < batch * heads


@triton.jit
def attend(
    q, q_s, k, k_s, v, v_s, y, y_s, batch, heads, scale, L: tl.constexpr, Q: tl.constexpr,
    E: tl.constexpr, P: tl.constexpr, QB: tl.constexpr, EB: tl.constexpr, PB: tl.constexpr,
    SEQ: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """q (r, b, h, Q, e) and y (r, b, h, Q, p) of the last Q of the L tokens of k (r, b, h, L, e)
    and v (r, b, h, L, p), Q <= QB, e <= EB, p <= PB, those powers of two; SEQ sequences, or heads
    of them, a program. Grid: (lots of these, runs), flat."""
    run, b, h, ok = place(batch, heads, SEQ)
    i = tl.arange(0, QB)[None, :, None]
    e = tl.arange(0, EB)[None, None, :]
    p = tl.arange(0, PB)[None, None, :]
    here = ok & (i < Q)
    queries = tl.load(at(q, q_s, run, b, h, i, e), mask=here & (e < E), other=0.0).to(tl.float32)
    weights = shares(queries, k, k_s, run, b, h, e, ok & (e < E), scale, L, Q, CAUSAL)
    out = tl.zeros((SEQ, QB, PB), tl.float32)
    for j in tl.static_range(L):
        value = tl.load(at(v, v_s, run, b, h, j, p), mask=ok & (p < P), other=0.0).to(tl.float32)
        out += weights[j][:, :, None] * value
    tl.store(at(y, y_s, run, b, h, i, p), out, mask=here & (p < P))


@triton.jit
def attend_backward(
    dy, dy_s, q, q_s, k, k_s, v, v_s, dq, dq_s, dk, dk_s, dv, dv_s, batch, heads, scale,
    L: tl.constexpr, Q: tl.constexpr, E: tl.constexpr, P: tl.constexpr, QB: tl.constexpr,
    EB: tl.constexpr, PB: tl.constexpr, SEQ: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Gradients of q, k and v; sizes as of :func:`attend`."""
    run, b, h, ok = place(batch, heads, SEQ)
    i = tl.arange(0, QB)[None, :, None]
    e = tl.arange(0, EB)[None, None, :]
    p = tl.arange(0, PB)[None, None, :]
    here = ok & (i < Q)
    queries = tl.load(at(q, q_s, run, b, h, i, e), mask=here & (e < E), other=0.0).to(tl.float32)
    weights = shares(queries, k, k_s, run, b, h, e, ok & (e < E), scale, L, Q, CAUSAL)
    # zeros where there is no query, so that nothing comes of its shares
    up = tl.load(at(dy, dy_s, run, b, h, i, p), mask=here & (p < P), other=0.0).to(tl.float32)
    ups = ()
    mean = tl.zeros((SEQ, QB), tl.float32)
    for j in tl.static_range(L):
        value = tl.load(at(v, v_s, run, b, h, j, p), mask=ok & (p < P), other=0.0).to(tl.float32)
        of_share = tl.sum(up * value, 2)
        mean += of_share * weights[j]
        ups = ups + (of_share,)
        to_value = tl.sum(weights[j][:, :, None] * up, 1)[:, None, :]
        tl.store(at(dv, dv_s, run, b, h, j, p), to_value, mask=ok & (p < P))
    to_query = tl.zeros((SEQ, QB, EB), tl.float32)
    for j in tl.static_range(L):
        of_score = (weights[j] * (ups[j] - mean) * scale)[:, :, None]
        key = tl.load(at(k, k_s, run, b, h, j, e), mask=ok & (e < E), other=0.0).to(tl.float32)
        to_query += of_score * key
        to_key = tl.sum(of_score * queries, 1)[:, None, :]
        tl.store(at(dk, dk_s, run, b, h, j, e), to_key, mask=ok & (e < E))
    tl.store(at(dq, dq_s, run, b, h, i, e), to_query, mask=here & (e < E))
