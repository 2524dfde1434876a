"""Kernels of softmax attention over a few tokens, from queries, keys and values side by side as one
projection makes them, with the short convolution and SiLU on the way.

What lies between a projection and the next is wide and, at 8 tokens, cheap to make again: so
neither what is convolved nor scores are ever written, but for their gradients. A program takes a
few sequences of one head, and keeps rows, a token of each, in registers: a lane has neighbouring
channels of one sequence. Heads are cut into parts of W channels, so that all rows lie alike and
lanes exchange sums alone, where rows begin at multiples of 16 bytes. Each sum has one order.

Counts of the compiled code (sm_90, float32; 8 tokens, queries of 32 channels, values of 64, four
taps), for 4 sequences: 2,595 instructions forward, 5,031 and 3,166 backward, loads of 16 bytes, no
shared memory. Backward there are two kernels with the scores' gradients between them: one alone
spilt registers, and took twice as long to compile.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no starred expressions)
from __future__ import annotations

import triton
import triton.language as tl

from lib.ops.triton.conv import later, weighted
from lib.ops.triton.elementwise import sigmoid


@triton.jit
def place(batch, heads, SEQ: tl.constexpr):
    """A program's run, head, lot, and its sequences (seq, 1) with whether they are there."""
    lots = (batch + SEQ - 1) // SEQ
    pid = tl.program_id(0)
    run = (pid // (lots * heads)).to(tl.int64)
    lot = pid // heads % lots
    b = lot * SEQ + tl.arange(0, SEQ)[:, None]
    return run, pid % heads, lot, b.to(tl.int64), b < batch


@triton.jit
def part_of(
    number, begin, SIZE: tl.constexpr, W: tl.constexpr, CHANNELS: tl.constexpr, SEQ: tl.constexpr
):  # fmt: skip
    """Channels (SEQ, W), the same in each row, of part `number` of a head's SIZE, which begin at
    `begin`; CHANNELS, of which there is none, beyond them. All rows, since what is loaded by them
    then lies in threads as sequences do."""
    within = number * W + tl.arange(0, W)[None, :] + tl.zeros((SEQ, W), tl.int32)
    d = begin + within
    if SIZE % W:
        d = tl.where(within < SIZE, d, CHANNELS)
    return d


@triton.jit
def kernel_of(weight, weight_s, bias, bias_s, run, d, ok, TAPS: tl.constexpr):
    """Tap j, which meets the input j steps before, for each j; and the bias. No taps, no kernel."""
    taps = ()
    constant = 0.0
    for j in tl.static_range(TAPS):
        at = weight + run * weight_s[0] + (TAPS - 1 - j) * weight_s[1] + d
        taps = taps + (tl.load(at, mask=ok, other=0.0).to(tl.float32),)
    if bias is not None:
        constant = tl.load(bias + run * bias_s[0] + d, mask=ok, other=0.0)
        constant = constant.to(tl.float32)
    return taps, constant


@triton.jit
def nothing(ROWS: tl.constexpr, SEQ: tl.constexpr, W: tl.constexpr):
    """ROWS rows of zeros."""
    out = ()
    for _ in tl.static_range(ROWS):
        out = out + (tl.zeros((SEQ, W), tl.float32),)
    return out


@triton.jit
def rows_of(
    x, step, taps, constant, ok, FIRST: tl.constexpr, L: tl.constexpr, SEQ: tl.constexpr,
    W: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Rows FIRST to L - 1 of the input x, or of its convolution after SiLU."""
    TAPS: tl.constexpr = len(taps)
    xs = nothing(TAPS, SEQ, W)
    out = ()
    for t in tl.static_range(L):
        if t > FIRST - TAPS or t >= FIRST:
            row = tl.load(x + t * step, mask=ok, other=0.0).to(tl.float32)
            if TAPS:
                xs = later(xs, row)
            if t >= FIRST:
                if TAPS:
                    row = weighted(xs, taps, constant)
                    row = row * sigmoid(row, FAST)
                out = out + (row,)
    return out


@triton.jit
def back_through(
    to_rows, x, step, dx, dx_step, taps, constant, own, d, ok, FIRST: tl.constexpr,
    L: tl.constexpr, CHANNELS: tl.constexpr, SEQ: tl.constexpr, W: tl.constexpr, BIAS: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """Write what :func:`rows_of` makes of gradients of its rows: those of x to dx, and this
    program's share of those of the taps, the first of `weight` first, and of the bias to `own`."""
    TAPS: tl.constexpr = len(taps)
    if not TAPS:
        for t in tl.static_range(L):
            row = tl.zeros((SEQ, W), tl.float32)
            if t >= FIRST:
                row = to_rows[t - FIRST]
            tl.store(dx + t * dx_step, row, mask=ok)
    else:
        xs = nothing(TAPS, SEQ, W)
        slopes = nothing(TAPS, SEQ, W)
        dtaps = nothing(TAPS, SEQ, W)
        dconstant = tl.zeros((SEQ, W), tl.float32)
        for t in tl.static_range(L + TAPS - 1):
            slope = tl.zeros((SEQ, W), tl.float32)
            if t < L:
                xs = later(xs, tl.load(x + t * step, mask=ok, other=0.0).to(tl.float32))
                if t >= FIRST:
                    value = weighted(xs, taps, constant)
                    gate = sigmoid(value, FAST)
                    value = value * gate
                    slope = to_rows[t - FIRST] * (gate + value * (1.0 - gate))
                    more = ()
                    for j in tl.static_range(TAPS):
                        more = more + (dtaps[j] + slope * xs[TAPS - 1 - j],)
                    dtaps = more
                    dconstant += slope
            slopes = later(slopes, slope)
            if t >= TAPS - 1:
                total = taps[0] * slopes[0]
                for j in tl.static_range(1, TAPS):
                    total += taps[j] * slopes[j]
                tl.store(dx + (t - TAPS + 1) * dx_step, total, mask=ok)
        # every row has the sum, and the first one writes it
        one = (tl.arange(0, SEQ)[:, None] == 0) & (d < CHANNELS)
        for j in tl.static_range(TAPS):
            share = tl.broadcast_to(tl.sum(dtaps[j], 0, keep_dims=True), (SEQ, W))
            tl.store(own + (TAPS - 1 - j) * CHANNELS + d, share, mask=one)
        if BIAS:
            share = tl.broadcast_to(tl.sum(dconstant, 0, keep_dims=True), (SEQ, W))
            tl.store(own + TAPS * CHANNELS + d, share, mask=one)


@triton.jit
def input_rows(
    x, x_s, weight, weight_s, bias, bias_s, run, b, d, ok, FIRST: tl.constexpr, L: tl.constexpr,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, SEQ: tl.constexpr, W: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """Rows of the channels d of x (r, b, l, c), convolved where there are taps."""
    taps, constant = kernel_of(weight, weight_s, bias, bias_s, run, d, d < CHANNELS, TAPS)
    at = x + run * x_s[0] + b * x_s[1] + d
    return rows_of(at, x_s[2], taps, constant, ok & (d < CHANNELS), FIRST, L, SEQ, W, FAST)


@triton.jit
def shares(
    x, x_s, weight, weight_s, bias, bias_s, run, h, heads, b, ok, scale, FIRST: tl.constexpr,
    L: tl.constexpr, E: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr, SEQ: tl.constexpr,
    W: tl.constexpr, CAUSAL: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """How much the query of each row from FIRST on takes of each key that it sees: for each query a
    tuple of (seq, 1)."""
    scores = ()
    for part in tl.static_range((E + W - 1) // W):
        d = part_of(part, h * E, E, W, CHANNELS, SEQ)
        q = input_rows(
            x, x_s, weight, weight_s, bias, bias_s, run, b, d, ok, FIRST, L, CHANNELS, TAPS, SEQ, W,
            FAST,
        )  # fmt: skip
        d = part_of(part, (heads + h) * E, E, W, CHANNELS, SEQ)
        k = input_rows(
            x, x_s, weight, weight_s, bias, bias_s, run, b, d, ok, 0, L, CHANNELS, TAPS, SEQ, W,
            FAST,
        )  # fmt: skip
        more = ()
        for i in tl.static_range(FIRST, L):
            row = ()
            for j in tl.static_range(L):
                if j <= i or not CAUSAL:
                    score = tl.sum(q[i - FIRST] * k[j], 1, keep_dims=True) * scale
                    if part > 0:
                        score += scores[i - FIRST][j]
                    row = row + (score,)
            more = more + (row,)
        scores = more
    out = ()
    for i in tl.static_range(L - FIRST):
        top = scores[i][0]
        for j in tl.static_range(1, len(scores[i])):
            top = tl.maximum(top, scores[i][j])
        weights = ()
        total = tl.zeros((SEQ, 1), tl.float32)
        for j in tl.static_range(len(scores[i])):
            weight_j = tl.exp(scores[i][j] - top)
            total += weight_j
            weights = weights + (weight_j,)
        row = ()
        for j in tl.static_range(len(scores[i])):
            row = row + (weights[j] / total,)
        out = out + (row,)
    return out


@triton.jit
def to_seen(
    weights, rows, QUERIES: tl.constexpr, L: tl.constexpr, SEQ: tl.constexpr, W: tl.constexpr
):
    """For each token, the sum of the queries' rows by what each takes of it."""
    out = ()
    for j in tl.static_range(L):
        total = tl.zeros((SEQ, W), tl.float32)
        for i in tl.static_range(QUERIES):
            if j < len(weights[i]):
                total += weights[i][j] * rows[i]
        out = out + (total,)
    return out


@triton.jit
def own_sums(
    sums, run, lot, batch, heads, CHANNELS: tl.constexpr, TAPS: tl.constexpr, SEQ: tl.constexpr
):  # fmt: skip
    """A program's place in sums (lots, r, TAPS + 1, CHANNELS), which is empty without taps."""
    if TAPS:
        runs = tl.num_programs(0) // (heads * ((batch + SEQ - 1) // SEQ))
        sums += ((lot * runs + run) * (TAPS + 1)) * CHANNELS
    return sums


@triton.jit
def packed_attend(
    x, x_s, weight, weight_s, bias, bias_s, y, y_s, batch, heads, scale, FIRST: tl.constexpr,
    L: tl.constexpr, E: tl.constexpr, P: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr,
    SEQ: tl.constexpr, W: tl.constexpr, CAUSAL: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """x (r, b, L, CHANNELS), of h heads' queries, then keys, E channels each, then values, P each;
    weight (r, TAPS, CHANNELS) and bias (r, CHANNELS), or None without taps; to y (r, b, L - FIRST,
    h P), all with channels next to each other. SEQ sequences of a head a program. Grid: (heads,
    lots of sequences, runs), flat."""
    run, h, _, b, ok = place(batch, heads, SEQ)
    weights = shares(
        x, x_s, weight, weight_s, bias, bias_s, run, h, heads, b, ok, scale, FIRST, L, E, CHANNELS,
        TAPS, SEQ, W, CAUSAL, FAST,
    )  # fmt: skip
    for part in tl.static_range((P + W - 1) // W):
        d = part_of(part, 2 * heads * E + h * P, P, W, CHANNELS, SEQ)
        v = input_rows(
            x, x_s, weight, weight_s, bias, bias_s, run, b, d, ok, 0, L, CHANNELS, TAPS, SEQ, W,
            FAST,
        )  # fmt: skip
        at = y + run * y_s[0] + b * y_s[1] + (d - 2 * heads * E)
        for i in tl.static_range(L - FIRST):
            total = weights[i][0] * v[0]
            for j in tl.static_range(1, len(weights[i])):
                total += weights[i][j] * v[j]
            tl.store(at + i * y_s[2], total, mask=ok & (d < CHANNELS))


@triton.jit
def packed_values_backward(
    dy, dy_s, x, x_s, weight, weight_s, bias, bias_s, dx, dx_s, sums, of_scores, batch, heads,
    scale, FIRST: tl.constexpr, L: tl.constexpr, E: tl.constexpr, P: tl.constexpr,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, SEQ: tl.constexpr, W: tl.constexpr,
    CAUSAL: tl.constexpr, PAIRS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Of :func:`packed_attend`'s x, gradients of values; those of scores, to of_scores (r, b, h,
    PAIRS), a query's next to each other; and shares of those of the taps and the bias of values, in
    sums (lots, r, TAPS + 1, CHANNELS)."""
    run, h, lot, b, ok = place(batch, heads, SEQ)
    weights = shares(
        x, x_s, weight, weight_s, bias, bias_s, run, h, heads, b, ok, scale, FIRST, L, E, CHANNELS,
        TAPS, SEQ, W, CAUSAL, FAST,
    )  # fmt: skip
    own = own_sums(sums, run, lot, batch, heads, CHANNELS, TAPS, SEQ)
    # what each share would gain from more of it
    ups = ()
    for part in tl.static_range((P + W - 1) // W):
        d = part_of(part, 2 * heads * E + h * P, P, W, CHANNELS, SEQ)
        here = ok & (d < CHANNELS)
        at = dy + run * dy_s[0] + b * dy_s[1] + (d - 2 * heads * E)
        up = ()
        for i in tl.static_range(L - FIRST):
            up = up + (tl.load(at + i * dy_s[2], mask=here, other=0.0).to(tl.float32),)
        taps, constant = kernel_of(weight, weight_s, bias, bias_s, run, d, d < CHANNELS, TAPS)
        at = x + run * x_s[0] + b * x_s[1] + d
        v = rows_of(at, x_s[2], taps, constant, here, 0, L, SEQ, W, FAST)
        more = ()
        for i in tl.static_range(L - FIRST):
            row = ()
            for j in tl.static_range(len(weights[i])):
                of_share = tl.sum(up[i] * v[j], 1, keep_dims=True)
                if part > 0:
                    of_share += ups[i][j]
                row = row + (of_share,)
            more = more + (row,)
        ups = more
        to_values = to_seen(weights, up, L - FIRST, L, SEQ, W)
        back_through(
            to_values, at, x_s[2], dx + run * dx_s[0] + b * dx_s[1] + d, dx_s[2], taps, constant,
            own, d, here, 0, L, CHANNELS, SEQ, W, bias is not None, FAST,
        )  # fmt: skip
    at = of_scores + ((run * batch + b) * heads + h) * PAIRS
    for i in tl.static_range(L - FIRST):
        mean = weights[i][0] * ups[i][0]
        for j in tl.static_range(1, len(weights[i])):
            mean += weights[i][j] * ups[i][j]
        for j in tl.static_range(len(weights[i])):
            tl.store(at + j, weights[i][j] * (ups[i][j] - mean) * scale, mask=ok)
        at += len(weights[i])


@triton.jit
def packed_keys_backward(
    x, x_s, weight, weight_s, bias, bias_s, dx, dx_s, sums, of_scores, batch, heads,
    FIRST: tl.constexpr, L: tl.constexpr, E: tl.constexpr, CHANNELS: tl.constexpr,
    TAPS: tl.constexpr, SEQ: tl.constexpr, W: tl.constexpr, CAUSAL: tl.constexpr,
    PAIRS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """The same of queries and keys, from the gradients of scores."""
    run, h, lot, b, ok = place(batch, heads, SEQ)
    own = own_sums(sums, run, lot, batch, heads, CHANNELS, TAPS, SEQ)
    at = of_scores + ((run * batch + b) * heads + h) * PAIRS
    slopes = ()
    for i in tl.static_range(FIRST, L):
        row = ()
        for j in tl.static_range(L):
            if j <= i or not CAUSAL:
                row = row + (tl.load(at + j, mask=ok, other=0.0),)
        slopes = slopes + (row,)
        at += len(row)
    x += run * x_s[0] + b * x_s[1]
    dx += run * dx_s[0] + b * dx_s[1]
    for part in tl.static_range((E + W - 1) // W):
        of_keys = part_of(part, (heads + h) * E, E, W, CHANNELS, SEQ)
        there = ok & (of_keys < CHANNELS)
        key_taps, key_constant = kernel_of(
            weight, weight_s, bias, bias_s, run, of_keys, of_keys < CHANNELS, TAPS
        )
        k = rows_of(x + of_keys, x_s[2], key_taps, key_constant, there, 0, L, SEQ, W, FAST)
        to_queries = ()
        for i in tl.static_range(L - FIRST):
            total = slopes[i][0] * k[0]
            for j in tl.static_range(1, len(slopes[i])):
                total += slopes[i][j] * k[j]
            to_queries = to_queries + (total,)
        d = part_of(part, h * E, E, W, CHANNELS, SEQ)
        here = ok & (d < CHANNELS)
        taps, constant = kernel_of(weight, weight_s, bias, bias_s, run, d, d < CHANNELS, TAPS)
        back_through(
            to_queries, x + d, x_s[2], dx + d, dx_s[2], taps, constant, own, d, here, FIRST, L,
            CHANNELS, SEQ, W, bias is not None, FAST,
        )  # fmt: skip
        q = rows_of(x + d, x_s[2], taps, constant, here, FIRST, L, SEQ, W, FAST)
        to_keys = to_seen(slopes, q, L - FIRST, L, SEQ, W)
        back_through(
            to_keys, x + of_keys, x_s[2], dx + of_keys, dx_s[2], key_taps, key_constant, own,
            of_keys, there, 0, L, CHANNELS, SEQ, W, bias is not None, FAST,
        )  # fmt: skip
