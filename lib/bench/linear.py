"""The linear maps of a training step, each alone: ``python -m lib.bench.linear EXPERIMENT``.

For whoever sets the sizes of :mod:`lib.ops.products`, or decides whether "auto" takes it. The
largest maps of an experiment's first group of runs are timed forward and backward, by the library
and by Triton kernels in several sizes, all runs at once and as a CUDA graph; errors are relative,
to float64. Nothing is recorded.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lib import runner
from lib.bench.config import StepBench
from lib.bench.kernels import headline, named_by, parser_of
from lib.bench.measure import Contestant, check, clock_of, measure
from lib.bench.variants import contestants
from lib.models.language_model import build_language_model
from lib.ops import backends
from lib.ops.linear import OP, linear
from lib.run_options import USAGE_ERROR

TOLERANCE = 1e-5  # of outputs and gradients, relative to float64: float32 adds thousands of rows
Shape = tuple[int, int, int]  # rows of a run, in, out
FORWARD = [
    {"rows": rows, "columns": columns, "warps": warps, "stages": stages}
    for (rows, columns, warps), stages in itertools.product(
        ((128, 128, 8), (64, 128, 4), (128, 64, 8), (64, 256, 8)), (2, 3)
    )
]
GRADIENTS = ("rows", "columns", "width", "warps")
BACKWARD = [
    {
        "lots": lots,
        **{f"gradient_{name}": size for name, size in zip(GRADIENTS, sizes, strict=True)},
    }
    for sizes, lots in itertools.product(
        ((32, 128, 128, 8), (64, 64, 128, 8), (32, 128, 64, 8), (64, 64, 64, 8)), (528, 1056)
    )
]


def shapes_of(bench: StepBench, device: torch.device) -> Counter[Shape]:
    """The maps that a run's forward pass calls on `device`, and how often; those inside of fused
    blocks are none."""
    found: Counter[Shape] = Counter()
    plain = backends.call(OP, "reference")

    def seen(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found[len(rows) // 2 * bench.batch, weight.shape[1], weight.shape[0]] += 1
        out: Tensor = plain(rows, weight, bias)
        return out

    model = build_language_model(bench.model, seed=bench.seed, device=device)
    with backends.preferring(OP, "reference"), backends.called(OP, "reference", seen):
        tokens = torch.zeros(2, bench.length, dtype=torch.int64, device=device)
        with torch.no_grad():
            model(tokens, last_token_only=True)
    return found


def call_of(
    backend: str, given: Sequence[Tensor], backward: bool
) -> Callable[[], Sequence[Tensor]]:
    """The map of all runs, or its gradients, by one backend; of x, weight, and the output's
    gradient."""
    *inputs, dy = given
    leaves = [t.clone().requires_grad_(backward) for t in inputs]
    mapped = torch.vmap(lambda x, weight: linear(x, weight, backend=backend))
    if not backward:
        return lambda: [mapped(*leaves)]
    out = mapped(*leaves)
    return lambda: torch.autograd.grad(out, leaves, dy, retain_graph=True)


def show(shape: Shape, calls: int, bench: StepBench, device: torch.device) -> None:
    """Print the times of one map, the fastest first."""
    rows, k, n = shape
    draw = torch.Generator().manual_seed(0)
    given = [
        torch.randn(bench.runs, *size, generator=draw).to(device)
        for size in ((rows, k), (n, k), (rows, n))
    ]
    for backward in (False, True):
        exact = list(call_of("reference", [t.double() for t in given], backward)())
        found, failed = contestants(
            OP, call_of("reference", given, backward), {"reference": {}}, device
        )
        if backends.missing(OP, "tensor_cores", device) is None:
            sizes = {named(one): one for one in (BACKWARD if backward else FORWARD)}
            ours, others = contestants(OP, call_of("tensor_cores", given, backward), sizes, device)
            found, failed = [*found, *ours], {**failed, **others}
        errors, refused = check([Contestant("float64", (), lambda e=exact: e), *found], TOLERANCE)  # type: ignore[misc]
        found = [one for one in found if one.name in errors]
        timings = measure(found, clock_of(device), repeats=bench.repeats, errors=errors)
        both = 2 if backward else 1
        products_of = both * bench.runs * rows * k * n
        moved = 4 * bench.runs * (both * rows * (k + n) + n * k)
        print(f"{rows} x {k} -> {n}, {calls} a step, {'backward' if backward else 'forward'}")
        for timing in sorted(timings, key=lambda one: one.median):
            seconds = timing.median / 1e3
            print(
                f"{timing.median:10.4f} ms {2e-12 * products_of / seconds:7.1f} TFLOP/s "
                f"{1e-12 * moved / seconds:6.2f} TB/s  error {timing.error:.0e}  {timing.name}"
            )
        for name, why in (failed | refused).items():
            print(f"           {name}: {why}")


def named(variant: dict[str, int]) -> str:
    """Sizes as the command line of :mod:`lib.bench.variants` takes them."""
    return ",".join(f"{name}={size}" for name, size in variant.items())


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0 well, 2 misused."""
    parser = parser_of("linear", __doc__)
    parser.add_argument("--top", type=int, default=4, help="maps, most work first (default: 4)")
    arguments: Any = parser.parse_args(argv)
    try:
        bench, device = named_by(arguments)
    except (ValueError, runner.RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    print(headline(arguments.experiment, bench))
    reason = backends.missing(OP, "tensor_cores", device)
    if reason is not None:
        print(f"tensor_cores: {reason}")
    found = shapes_of(bench, device)
    work = sorted(found, key=lambda shape: -found[shape] * shape[0] * shape[1] * shape[2])
    for shape in work[: arguments.top]:
        show(shape, found[shape], bench, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
