"""The selective scan: our fused kernel against mamba_ssm's, a compiled recurrence and chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lib.bench.compare import compare
from lib.bench.config import ScanBench
from lib.bench.measure import Contestant
from lib.bench.peers import Missing
from lib.bench.works import scan_work
from lib.experiments import Outcome
from lib.models.mamba1 import makes_apart
from lib.ops import backends
from lib.ops.scan import OP, selective_scan

# a compiler unrolls the recurrence step by step: its time to compile grows with the length
LONGEST_COMPILED = 8
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def ours(device: str) -> str:
    """The backend that stands for us on a device."""
    return "fused" if device == "cuda" else "chunked"


def run(bench: ScanBench) -> Outcome:
    """Time all backends of the scan on one shape."""
    torch._dynamo.reset()  # shapes of earlier benchmarks count towards its limit of versions
    sets = [inputs(bench, index) for index in range(bench.input_sets)]
    names = {"cuda": ("fused", "mamba_ssm", "chunked"), "cpu": ("chunked", "reference")}[
        bench.device
    ]
    builders: dict[str, Callable[[], Contestant]] = {
        name: _builder(bench, name, sets) for name in names
    }
    if bench.device == "cuda":
        builders["compiled"] = lambda: _compiled(bench, sets)
    size = 2 if bench.dtype == "bfloat16" else 4
    work = scan_work(
        bench.batch, bench.d_inner, bench.length, bench.d_state, size, bench.direction == "both"
    )
    return compare(
        bench, builders, ours=ours(bench.device), work=work, tolerance=TOLERANCE[bench.dtype],
        op=OP,
    )  # fmt: skip


def inputs(bench: ScanBench, index: int) -> dict[str, Tensor]:
    """One set: the scan's arguments as they come at initialisation, and y's gradient; in memory as
    our Mamba-1 hands them over: channels as neighbours, B and C products of their own or, where
    they are narrow, cut out of one."""
    device, kind = torch.device(bench.device), getattr(torch, bench.dtype)
    generator = torch.Generator(device).manual_seed(1000 * bench.seed + index)
    b, d, length, n = bench.batch, bench.d_inner, bench.length, bench.d_state

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    if makes_apart(d, n):
        B, C = (draw(b, length, n).to(kind) for _ in range(2))
    else:
        projected = draw(b, length, -(-d // 32) + 2 * n).to(kind)
        B, C = projected[..., -2 * n : -n], projected[..., -n:]
    out = {
        "u": draw(b, length, d).to(kind).mT,
        "delta": draw(b, length, d).to(kind).mT,
        "A": -torch.arange(1, n + 1, device=device).float().repeat(d, 1),
        "B": B.mT,
        "C": C.mT,
        "D": torch.ones(d, device=device),
        "delta_bias": draw(d) - 3.0,
        "y_grad": draw(b, length, d).to(kind).mT,
    }
    return _leaves(bench, out)


def official_layout(bench: ScanBench, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers with steps as neighbours, as mamba_ssm's Mamba-1 hands them to its kernel:
    the copies that take it there are not counted against it."""
    return _leaves(bench, {name: value.contiguous() for name, value in given.items()})


def _leaves(bench: ScanBench, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    wanted = bench.direction == "both"
    return {
        name: value.detach().requires_grad_(wanted and name in NAMES)
        for name, value in tensors.items()
    }


def _builder(bench: ScanBench, name: str, sets: list[dict[str, Tensor]]) -> Any:
    def build() -> Contestant:
        try:
            backends.resolve(
                OP, name, device=sets[0]["u"].device, length=bench.length, initial_state=False,
                dtype=sets[0]["u"].dtype, last_state_grad=False,
            )  # fmt: skip
        except ValueError as error:  # no backend of that name
            raise Missing(str(error)) from error
        given = sets
        if name == "mamba_ssm":
            given = [official_layout(bench, tensors) for tensors in sets]
        return _contestant(bench, name, given, lambda **args: selective_scan(**args, backend=name))

    return build


def _compiled(bench: ScanBench, sets: list[dict[str, Tensor]]) -> Contestant:
    if bench.length > LONGEST_COMPILED:
        raise Missing(f"unrolls its steps, so it is compiled up to length {LONGEST_COMPILED} only")

    def scan(**given: Any) -> Tensor:
        return selective_scan(**given, backend="reference")

    found = torch.compile(scan, dynamic=False, fullgraph=True)
    return _contestant(bench, "compiled", sets, found, "reference under torch.compile")


def _contestant(
    bench: ScanBench, name: str, sets: list[dict[str, Tensor]], scan: Any, note: str = ""
) -> Contestant:
    def call(given: dict[str, Tensor]) -> Callable[[], Sequence[Tensor]]:
        arguments = {key: given[key] for key in NAMES}

        def forward() -> Sequence[Tensor]:
            with torch.no_grad():
                return (scan(**arguments, delta_softplus=True),)

        def both() -> Sequence[Tensor]:
            y = scan(**arguments, delta_softplus=True)
            return (y, *torch.autograd.grad(y, list(arguments.values()), given["y_grad"]))

        return both if bench.direction == "both" else forward

    calls = tuple(call(given) for given in sets)
    calls[0]()  # what is compiled, or broken, shows here and not while others are timed
    return Contestant(name, calls, calls[0], note=note)
