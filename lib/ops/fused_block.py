"""The backend "fused" of the Mamba-2 block: Triton kernels for short sequences, many runs at once.

Two custom ops, forward and backward, both with a leading axis of runs. ``torch.vmap`` over a model
puts its axis there, so an ensemble of runs is one launch; ``torch.compile`` leaves them as they
are. Forward: one kernel, which writes u (2 d + 2 n columns a token) for the backward pass and
reads none of it. Backward: two kernels go from the output's gradient to u's, each to its own
columns, computing all but one number a pair of positions again, and one projects that back. So u
crosses memory twice and so does its gradient, which is what the time is spent on: 25 MB a run,
layer and crossing at the experiments' shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lib.ops import backends
from lib.ops.block import OP
from lib.ops.checks import among
from lib.ops.kernel_calls import over_runs

# Sizes of programs. Forward: warps (8 sequences each) and columns at a time, 8 or 16. Backward:
# tokens of a tile, tiles a program, columns of a product, stages of loads ahead; for what lies
# between the projections, sequences of a tile and states at a time.
FORWARD = {"WARPS": 2, "STEP": 16}
PROJECT_BACKWARD = {"TOKENS": 64, "WIDE": 64, "TILES": 2, "STAGES": 1, "num_warps": 4}
OUT_BACKWARD = {"TOKENS": 64, "TILES": 16, "num_warps": 4}
GATE_BACKWARD = {"ROWS": 8, "num_warps": 4, "maxnreg": 168}  # three programs a multiprocessor
STATES_BACKWARD = {"ROWS": 4, "CHUNK": 32, "TILES": 8, "num_warps": 4}
PROGRAMS = 1024  # several for each multiprocessor, before a program takes more than one tile
LENGTHS, WIDTHS, INNER, TAPS = range(1, 17), (16, 32, 64), (16, 32, 64, 128), range(2, 5)
STATES = (16, 32, 64, 128, 256)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Precision:
    """How the products of projections are made: exact (three tf32 products, float32's accuracy) or
    one tf32 product. Everything else is float32 arithmetic in either case."""

    exact = True


class Sizes:
    """Sizes of a call, and the constants of kernels that follow from them."""

    def __init__(
        self, x: Tensor, in_weight: Tensor, conv_weight: Tensor, gate_weight: Tensor, first: int
    ) -> None:
        self.r, self.b, self.length, self.m = x.shape
        self.p = gate_weight.shape[1]
        self.n = (in_weight.shape[1] - 1 - 2 * self.p) // 2
        self.taps = conv_weight.shape[2]
        self.first, self.left = first, self.length - first
        self.channels, self.columns = self.p + 2 * self.n, 2 * self.p + 2 * self.n
        self.pairs = _power(self.length * (self.length + 1) // 2, 16)  # a number a pair
        self.common = {
            "L": self.length, "FIRST": first, "M": self.m, "P": self.p, "N": self.n,
            "TAPS": self.taps,
        }  # fmt: skip
        self.fast = {"PAIRS": self.pairs, "FAST": x.is_cuda}

    def tokens(self, sequences: int) -> int:
        """A power of two that holds the wanted positions of so many sequences."""
        return _power(sequences * self.left, 16)

    def tiles(self, number: int, most: int) -> int:
        """Tiles a program, of so many in each run."""
        tiles = 1
        while tiles < most and self.r * number >= 2 * tiles * PROGRAMS:
            tiles *= 2
        return tiles

    @property
    def forward(self) -> dict[str, int]:
        """Constants of the forward kernel."""
        positions = _power(self.length, 2)
        warps = FORWARD["WARPS"]
        while warps > 1 and warps * positions * self.m > 1024:  # 64 KB of shared memory for x
            warps //= 2
        return {
            **self.common, **self.fast, **FORWARD, "WARPS": warps, "num_warps": warps,
            "LP": positions, "TOKENS": self.tokens(8 * warps), "EVEN": self.b % (8 * warps) == 0,
        }  # fmt: skip

    def project(self, plan: dict[str, int]) -> dict[str, int]:
        """Constants of a projection's kernel by one of the plans above."""
        return {**self.common, **plan, "WIDE": min(plan["WIDE"], self.p, self.n)}

    @property
    def out_shares(self) -> list[tuple[int, ...]]:
        """Gradients in a share of `out_backward`: out_weight, gate_weight."""
        return [(self.m, self.p), (self.p,)]

    @property
    def gate_shares(self) -> list[tuple[int, ...]]:
        """Gradients in a share of `gate_backward`: the convolution of X (a line a tap, oldest
        first, and the bias), A_log, D, nothing."""
        return [(self.taps + 1, self.p), (1,), (1,), (self.p - 2,)]

    @property
    def states_shares(self) -> list[tuple[int, ...]]:
        """Gradients in a share of `states_backward`: the convolution of B and C."""
        return [(self.taps + 1, 2 * self.n)]

    @property
    def project_shares(self) -> list[tuple[int, ...]]:
        """Gradients in a share of `project_in_backward`: in_weight, norm_weight, dt_bias."""
        return [(self.columns + 1, self.m), (self.m,), (1,)]


def _power(least: int, start: int) -> int:
    """The first of start, 2 start, 4 start ... that is `least` or more."""
    while start < least:
        start *= 2
    return start


def _over(total: int, part: int) -> int:
    return -(-total // part)


@torch.library.custom_op("mamba_book::mamba2_block", mutates_args=())
def _forward(
    x: Tensor, norm_weight: Tensor | None, in_weight: Tensor, conv_weight: Tensor,
    conv_bias: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, gate_weight: Tensor,
    out_weight: Tensor, eps: float, first: int, exact: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Arguments as in :func:`mamba2_block`, each with a leading axis of runs. Returns the output
    and what the backward pass reads: u, what dt is made from, dt, G, and the gate's output before
    its norm."""
    from lib.ops.triton import block_forward

    s = Sizes(x, in_weight, conv_weight, gate_weight, first)
    out, *kept = _outputs(x, s)
    u, raw, dt, G, gated = kept
    norm = x if norm_weight is None else norm_weight
    plan = s.forward
    block_forward.forward[(_over(s.b, 8 * plan["WARPS"]), s.r)](
        x, norm, in_weight, dt_bias, conv_weight, conv_bias, A_log, D, gate_weight, out_weight,
        u, raw, dt, G, gated, out, s.b, eps,
        NORM=norm_weight is not None, EXACT=exact, **plan,
    )  # fmt: skip
    return out, u, raw, dt, G, gated


def _outputs(x: Tensor, s: Sizes) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    wide: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    return (
        x.new_empty(s.r, s.b, s.left, s.m),
        torch.empty(s.r, s.b, s.length, s.columns, **wide),
        torch.empty(s.r, s.b, s.length, **wide),
        torch.empty(s.r, s.b, s.length, **wide),
        torch.empty(s.r, s.b, s.pairs, **wide),
        torch.empty(s.r, s.b, s.left, s.p, **wide),
    )


@torch.library.custom_op("mamba_book::mamba2_block_backward", mutates_args=())
def _backward(
    dout: Tensor, x: Tensor, norm_weight: Tensor | None, in_weight: Tensor, conv_weight: Tensor,
    conv_bias: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, gate_weight: Tensor,
    out_weight: Tensor, u: Tensor, raw: Tensor, dt: Tensor, G: Tensor, gated: Tensor,
    eps: float, first: int, exact: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradient of x, and those of the weights in four tensors, as :class:`Sizes` lays them out."""
    from lib.ops.triton import block_backward, block_project

    s = Sizes(x, in_weight, conv_weight, gate_weight, first)
    wide: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    du, d_dt, dG, dx = (torch.empty_like(t) for t in (u, raw, G, x))

    plan = OUT_BACKWARD
    tiles = s.tiles(_over(s.b * s.left, plan["TOKENS"]), plan["TILES"])
    programs = _over(s.b * s.left, plan["TOKENS"] * tiles)
    out_share = torch.empty(s.r, programs, _total(s.out_shares), **wide)
    block_backward.out_backward[(programs, s.r)](
        dout, gated, gate_weight, out_weight, out_share, s.b, eps,
        L=s.length, FIRST=first, M=s.m, P=s.p, EXACT=exact, **{**plan, "TILES": tiles},
    )  # fmt: skip

    plan = GATE_BACKWARD
    # four channels a thread; two of long sequences, which hold more positions
    rows = max(2, min(plan["ROWS"], (512 if s.length <= 8 else 256) // s.p))
    programs = _over(s.b, rows)
    gate_share = torch.empty(s.r, programs, _total(s.gate_shares), **wide)
    block_backward.gate_backward[(programs, s.r)](
        dout, u, dt, conv_weight, conv_bias, A_log, D, gate_weight, out_weight, G,
        du, d_dt, dG, gate_share, s.b, eps,
        TOKENS=s.tokens(rows), EVEN=s.b % rows == 0, EXACT=exact,
        **{**s.common, **s.fast, **plan, "ROWS": rows},
    )  # fmt: skip

    plan = STATES_BACKWARD
    chunk = min(plan["CHUNK"], s.n)
    tiles = s.tiles(_over(s.b, plan["ROWS"]) * (s.n // chunk), plan["TILES"])
    programs = _over(s.b, plan["ROWS"] * tiles)
    states_share = torch.empty(s.r, programs, _total(s.states_shares), **wide)
    block_backward.states_backward[(programs * (s.n // chunk), s.r)](
        u, conv_weight, conv_bias, dG, du, states_share, s.b,
        L=s.length, FIRST=first, P=s.p, N=s.n, TAPS=s.taps, EVEN=s.b % (plan["ROWS"] * tiles) == 0,
        **{**s.fast, **plan, "CHUNK": chunk, "TILES": tiles},
    )  # fmt: skip

    plan = PROJECT_BACKWARD
    programs = _over(_over(s.b * s.length, plan["TOKENS"]), plan["TILES"])
    project_share = torch.empty(s.r, programs, _total(s.project_shares), **wide)
    block_project.project_in_backward[(programs, s.r)](
        dout, x, x if norm_weight is None else norm_weight, in_weight, raw, du, d_dt, dx,
        project_share, s.b, eps,
        NORM=norm_weight is not None, EXACT=exact, **s.project(plan),
    )  # fmt: skip
    return dx, project_share.sum(1), out_share.sum(1), gate_share.sum(1), states_share.sum(1)


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _total(shapes: list[tuple[int, ...]]) -> int:
    return sum(_count(shape) for shape in shapes)


def _take(whole: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    parts = whole.split([_count(shape) for shape in shapes], 1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


@_forward.register_fake
def _(  # type: ignore[no-untyped-def]
    x, norm_weight, in_weight, conv_weight, conv_bias, dt_bias, A_log, D, gate_weight, out_weight,
    eps, first, exact,
):  # fmt: skip
    return _outputs(x, Sizes(x, in_weight, conv_weight, gate_weight, first))


@_backward.register_fake
def _(  # type: ignore[no-untyped-def]
    dout, x, norm_weight, in_weight, conv_weight, conv_bias, dt_bias, A_log, D, gate_weight,
    out_weight, u, raw, dt, G, gated, eps, first, exact,
):  # fmt: skip
    s = Sizes(x, in_weight, conv_weight, gate_weight, first)
    wide: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    kinds = (s.project_shares, s.out_shares, s.gate_shares, s.states_shares)
    return (torch.empty_like(x), *(torch.empty(s.r, _total(kind), **wide) for kind in kinds))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)  # or zeros as large as u are made for nothing
    *tensors, ctx.eps, ctx.first, ctx.exact = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _gradients(ctx: Any, dout: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    x, norm_weight, *weights = tensors[:10]
    dx, project_share, out_share, gate_share, states_share = _backward(
        dout.contiguous(), *tensors, ctx.eps, ctx.first, ctx.exact
    )
    s = Sizes(x, weights[0], weights[1], weights[6], ctx.first)
    d_in, d_norm, d_dt_bias = _take(project_share, s.project_shares)
    d_out, d_gate = _take(out_share, s.out_shares)
    d_X, *ones, _ = _take(gate_share, s.gate_shares)
    sums = torch.cat([d_X, *_take(states_share, s.states_shares)], 2)
    d_conv, d_conv_bias = sums[:, :-1].transpose(1, 2), sums[:, -1]
    grads = [d_in, d_conv, d_conv_bias, d_dt_bias, *ones, d_gate, d_out]
    return (
        dx,
        None if norm_weight is None else d_norm.to(norm_weight.dtype),
        *(grad.to(weight.dtype) for grad, weight in zip(grads, weights, strict=True)),
        None, None, None,
    )  # fmt: skip


_forward.register_autograd(_gradients, setup_context=_save)


_forward.register_vmap(over_runs(_forward, dense=True))
_backward.register_vmap(over_runs(_backward, dense=True))


def _fused(
    x: Tensor, norm_weight: Tensor | None, in_weight: Tensor, conv_weight: Tensor,
    conv_bias: Tensor | None, dt_bias: Tensor, A_log: Tensor, D: Tensor, gate_weight: Tensor,
    out_weight: Tensor, eps: float, last_only: bool,
) -> Tensor:  # fmt: skip
    if conv_bias is None:
        conv_bias = conv_weight.new_zeros(conv_weight.shape[0])
    weights = (in_weight, conv_weight, conv_bias, dt_bias, A_log, D, gate_weight, out_weight)
    out = _forward(
        x.contiguous()[None],
        None if norm_weight is None else norm_weight.contiguous()[None],
        *(w.contiguous()[None] for w in weights),
        eps,
        x.shape[1] - 1 if last_only else 0,
        Precision.exact,
    )[0]
    return out.squeeze(0)


def _refuses(facts: dict[str, Any]) -> str | None:
    limits = (
        ("length", LENGTHS, "1..16"), ("d_model", WIDTHS, "16, 32, 64"),
        ("d_inner", INNER, "16, 32, 64, 128"), ("d_state", STATES, "16, 32, 64, 128, 256"),
        ("taps", TAPS, "2..4"), ("dtype", DTYPES, "float32, bfloat16, float16"),
    )  # fmt: skip
    for name, allowed, text in limits:
        if not among(facts[name], allowed):
            return f"{name} is {facts[name]}, allowed: {text}; use reference"
    return None


backends.register(
    OP, "fused", _fused, refuses=_refuses,
    missing=lambda device: backends.triton_missing(device.type, instead="reference"),
    prefers=lambda facts: facts["device"].type == "cuda", first=True,
)  # fmt: skip
