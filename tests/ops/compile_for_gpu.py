"""Compiles the kernels for an H100 on a machine that has none, and prints what came of them.

``test_compiled.py`` runs this in a process of its own, without Triton's interpreter. Nothing is
launched: the ops' results here are whatever memory held.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from lib.ops import backends, long_scan, segments
from lib.ops.block import mamba2_block
from lib.ops.conv import causal_conv1d
from lib.ops.linear import linear
from lib.ops.lookup import short_rows
from lib.ops.packed_attention import packed_attention
from lib.ops.scan import selective_scan
from lib.ops.short_attention import short_attention

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
found: dict[str, dict[str, Any]] = {}
case = ""


class NoDevice:
    """What Triton asks of a driver before it launches."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
    """In place of a launch."""
    if "FAST" in options:
        options["FAST"] = True  # as for tensors on a GPU
    kernel = run(self, *arguments, grid=grid, warmup=True, **options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True,
            check=True,
        ).stdout  # fmt: skip
    numbers = {
        name: int(re.search(rf"{key}:(\d+)", usage)[1])  # type: ignore[index]
        for name, key in (("registers", "REG"), ("stack", "STACK"), ("shared", "SHARED"))
    }
    numbers["shared"] = kernel.metadata.shared  # what a launch asks for, not what is fixed
    numbers["inner_lanes"] = exchanged_among_inner_lanes(kernel.asm["ttgir"])
    found[f"{self.__name__} {case}"] = numbers
    return kernel


def exchanged_among_inner_lanes(code: str) -> bool:
    """Whether all tensors (d, J) that lanes exchange by ``shfl.bfly`` lie as `lanes.across` takes
    for granted: a warp's lanes along d and J, of which J is the inner axis."""
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", code, re.MULTILINE))
    inner = r"threadsPerWarp = \[(\d+), (\d+), 1\], warpsPerCTA = \[1, 1, 1\], order = \[2, 1, 0\]"
    for size, parent in re.findall(
        r'"shfl\.sync\.bfly.*-> tensor<(\d+x\d+)xf32, #ttg\.slice<\{dim = 2, parent = (#\w+)\}',
        code,
    ):
        lanes = re.search(inner, layouts[parent])
        if lanes is None or size != f"{lanes[1]}x{lanes[2]}":
            return False
    return code.count('= tt.elementwise_inline_asm "shfl.sync.bfly') == len(
        re.findall(r'"shfl\.sync\.bfly.*#ttg\.slice<\{dim = 2', code)
    )


def both_ways(run: Any, *tensors: Tensor | None, **options: Any) -> None:
    """Forward and backward."""
    leaves = [None if t is None else t.requires_grad_() for t in tensors]
    out = run(*leaves, **options)
    # ones, not a sum's gradient, which is one number spread over all places
    torch.autograd.grad(out, [t for t in leaves if t is not None], torch.ones_like(out))


def scan(length: int, n: int, dtype: torch.dtype, b: int = 2, d: int = 64) -> None:
    def over_time(size: int) -> Tensor:
        return torch.ones(b, length, size, dtype=dtype).mT

    both_ways(
        selective_scan, over_time(d), over_time(d), -torch.ones(d, n), over_time(n), over_time(n),
        torch.ones(d), over_time(d), torch.ones(d), delta_softplus=True, backend="fused",
    )  # fmt: skip


def block(length: int = 8, m: int = 32, d: int = 64, n: int = 128) -> None:
    shapes = ((2048, length, m), (m,), (2 * d + 2 * n + 1, m), (d + 2 * n, 4), (d + 2 * n,),
              (1,), (1,), (1,), (d,), (m, d))  # fmt: skip
    both_ways(mamba2_block, *map(torch.ones, shapes), backend="fused")


if __name__ == "__main__":
    driver.set_active(NoDevice())
    run = JITFunction.run
    JITFunction.run = compile_only
    backends._without_triton = lambda kind: None
    for n in (16, 24, 64, 128):
        case = f"l8-n{n}-float32"
        scan(8, n, torch.float32)
    long_scan.SIZES = replace(long_scan.SIZES, most=128, backward_most=128)
    cases = ("l512-n16-bfloat16", "l257-n16-float32", "l64-n128-float32", "l33-n16-bfloat16-wide")
    for case in cases:
        length, n, dtype, *wide = case.split("-")
        scan(int(length[1:]), int(n[1:]), getattr(torch, dtype), d=1024 if wide else 64)
    case = "l8-e32-p64"
    q, k, v = (torch.ones(64, 1, 8, size) for size in (32, 32, 64))
    both_ways(short_attention, q, k, v, backend="fused")
    case = "l8-e32-p64-last"
    both_ways(short_attention, q[:, :, -1:], k, v, backend="fused")
    for conv in (True, False):
        case = "l8-e32-p64-conv" if conv else "l8-e32-p64-plain-last"
        both_ways(
            packed_attention, torch.ones(64, 8, 128), torch.ones(128, 4) if conv else None,
            torch.ones(128) if conv else None, heads=1, headdim_qk=32, last=not conv,
            backend="fused",
        )  # fmt: skip
    for k, n in ((32, 128), (128, 512), (512, 128)):
        case = f"{k}-{n}"
        both_ways(linear, torch.ones(16384, k), torch.ones(n, k), backend="tensor_cores")
    case = "m32"
    short_rows(torch.ones(2, 201, 32), torch.zeros(2, 16384, dtype=torch.int64))
    case = "ends"
    over_time = [torch.ones(4, 1, 512, size, dtype=torch.bfloat16).mT for size in (64, 64, 16)]
    u, delta, B = over_time
    segments._ends(u, delta, -torch.ones(4, 64, 16), B[:, :, None], torch.ones(4, 64), True)
    case = "l8"
    block()
    both_ways(
        causal_conv1d, torch.ones(2, 64, 8), torch.ones(64, 4), torch.ones(64),
        activation="silu", backend="fused",
    )  # fmt: skip
    print(json.dumps(found))
