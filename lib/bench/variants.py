"""Sizes of kernels beside each other: ``python -m lib.bench.variants WHAT SIZES ...``.

For whoever makes a kernel faster. What a kernel's work is cut into stands in its module's SIZES.
Each variant names some of them; it and the module's own are checked against each other, captured as
CUDA graphs on a GPU, and timed in turns, so that a device that warms up or clocks down meets all
alike. (Timed one after the other, the same kernel differed by a fifth on an H200.) Nothing is
recorded.

    python -m lib.bench.variants scan --pass backward programs=1056 steps=4,registers=128
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lib import runner
from lib.bench.measure import Contestant, captured, check, clock_of, first_line, measure
from lib.ops import fused_conv, long_scan, packed_attention, products, scan_kernels
from lib.run_options import USAGE_ERROR

OWN = "as it is"
MODULES: dict[str, tuple[ModuleType, ...]] = {
    "scan": (scan_kernels, long_scan), "conv": (fused_conv,), "linear": (products,),
    "attention": (packed_attention,),
}  # fmt: skip
PASSES = ("forward", "backward")
Call = Callable[[], Sequence[Tensor]]


def variant_of(what: str, text: str) -> dict[str, Any]:
    """``steps=4,registers=none`` as names to values.

    Raises:
        ValueError: no pairs, a name that no SIZES of `what` has, or a value of another kind.
    """
    known = {name: value for module in MODULES[what] for name, value in _fields(module).items()}
    found: dict[str, Any] = {}
    for pair in text.split(","):
        name, equals, value = pair.partition("=")
        if not equals or name not in known:
            raise ValueError(f"variant is {text!r}, allowed: NAME=VALUE,... of {', '.join(known)}")
        found[name] = _value(name, value, known[name])
    return found


def _fields(module: ModuleType) -> dict[str, Any]:
    return dataclasses.asdict(module.SIZES)


def _value(name: str, text: str, own: Any) -> Any:
    words = {"none": None, "true": True, "false": False}
    kinds = (bool,) if isinstance(own, bool) else (int, type(None))
    value = words[text] if text in words else int(text) if text.isdecimal() else text
    if type(value) not in kinds:
        allowed = "true, false" if kinds == (bool,) else "a whole number, none"
        raise ValueError(f"{name} is {text!r}, allowed: {allowed}")
    return value


@contextmanager
def sizes(what: str, variant: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the kernels of `what` have the sizes of `variant`."""
    before = [(module, module.SIZES) for module in MODULES[what]]
    try:
        for module, own in before:
            mine = {name: v for name, v in variant.items() if name in _fields(module)}
            module.SIZES = dataclasses.replace(own, **mine)  # type: ignore[attr-defined]
        yield
    finally:
        for module, own in before:
            module.SIZES = own  # type: ignore[attr-defined]


def scan_passes(arguments: argparse.Namespace, device: torch.device) -> dict[str, Call]:
    """The scan of Mamba-1's training step, with bias, softplus, D and gate, all in float32."""
    draw = torch.Generator(device).manual_seed(1)
    r, b, d = arguments.runs, arguments.batch, arguments.channels
    length, n = arguments.length, arguments.entries

    def over_time(*size: int) -> Tensor:
        return torch.randn(r, b, *size, generator=draw, device=device)

    u, delta, z, dy = (over_time(length, d).mT for _ in range(4))
    B, C = (over_time(1, length, n).mT for _ in range(2))
    A = -torch.rand(r, d, n, generator=draw, device=device) * n
    D, bias = (torch.randn(r, d, generator=draw, device=device) for _ in range(2))
    given = (u, delta, A, B, C, D, z, bias - 3.0, None)

    def forward() -> tuple[Tensor, ...]:
        return scan_kernels.forward_op(*given, True, False, True)

    def backward() -> list[Tensor]:
        # states between chunks are of the variant's own chunks, whichever kernels make them
        own = tuple(module.SIZES for module in MODULES["scan"])
        if own not in kept:
            kept[own] = forward()[2:]
        return scan_kernels.backward_op(dy, None, *given, *kept[own], True, False)

    kept: dict[Any, tuple[Tensor, ...]] = {}
    return {"forward": lambda: forward()[:1], "backward": lambda: backward()[:8]}


def conv_passes(arguments: argparse.Namespace, device: torch.device) -> dict[str, Call]:
    """The convolution of a block, with four taps, bias and SiLU, all in float32."""
    draw = torch.Generator(device).manual_seed(1)
    r, b, d, length = arguments.runs, arguments.batch, arguments.channels, arguments.length
    x, dy = (torch.randn(r, b, length, d, generator=draw, device=device).mT for _ in range(2))
    weight, bias = (torch.randn(r, d, *k, generator=draw, device=device) for k in ((4,), ()))
    given = (x, weight, bias, None, True)
    return {
        "forward": lambda: (fused_conv.forward_op(*given),),
        "backward": lambda: fused_conv.backward_op(dy, *given)[:3],
    }


def linear_passes(arguments: argparse.Namespace, device: torch.device) -> dict[str, Call]:
    """A linear map by tensor cores, in float32."""
    draw = torch.Generator(device).manual_seed(1)
    rows, k, n = arguments.batch * arguments.length, arguments.channels, arguments.entries
    x, weight, dy = (
        torch.randn(arguments.runs, *size, generator=draw, device=device)
        for size in ((rows, k), (n, k), (rows, n))
    )
    return {
        "forward": lambda: (products.forward_op(x, weight),),
        "backward": lambda: products.backward_op(dy, x, weight, True, True),
    }


def attention_passes(arguments: argparse.Namespace, device: torch.device) -> dict[str, Call]:
    """Attention of one head with its convolution of four taps, all in float32."""
    draw = torch.Generator(device).manual_seed(1)
    r, e, p = arguments.runs, arguments.channels, arguments.entries
    shape, c = (r, arguments.batch, arguments.length), 2 * e + p
    x, weight, bias, dy = (
        torch.randn(*size, generator=draw, device=device)
        for size in ((*shape, c), (r, c, 4), (r, c), (*shape, p))
    )
    given = (x, weight, bias, 1, e, True, False)
    return {
        "forward": lambda: (packed_attention.forward_op(*given),),
        "backward": lambda: packed_attention.backward_op(dy, *given),
    }


MADE = {
    "scan": scan_passes, "conv": conv_passes, "linear": linear_passes,
    "attention": attention_passes,
}  # fmt: skip


def contestants(
    what: str, call: Call, variants: Mapping[str, Mapping[str, Any]], device: torch.device
) -> tuple[list[Contestant], dict[str, str]]:
    """The variants that run, and name to reason of those that do not."""
    found, failed = [], {}
    for name, variant in variants.items():

        def lap(variant: Mapping[str, Any] = variant) -> Sequence[Tensor]:
            with sizes(what, variant):
                return call()

        contestant = Contestant(name, (lap,), lap)
        try:
            lap()
            found.append(captured(contestant) if device.type == "cuda" else contestant)
        except Exception as error:  # sizes that a compiler, or the device, does not take
            failed[name] = first_line(error)
    return found, failed


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0 well, 2 misused."""
    parser = argparse.ArgumentParser(prog="python -m lib.bench.variants", description=__doc__)
    parser.add_argument("what", choices=MODULES)
    parser.add_argument("variants", nargs="+", metavar="NAME=VALUE,...")
    parser.add_argument("--pass", dest="passes", action="append", help="all by default")
    for name, default, text in (
        ("runs", 12, "at once"), ("batch", 2048, "sequences"), ("length", 8, "steps of each"),
        ("channels", 64, "of the scan or the convolution, of a linear map's input, or of queries"),
        ("entries", 128, "of the scan's state, of a linear map's output, or of values"),
        ("repeats", 15, "of each"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments = parser.parse_args(argv)
    what = arguments.what
    try:
        for name in ("runs", "batch", "length", "channels", "entries", "repeats"):
            if getattr(arguments, name) < 1:
                raise ValueError(f"{name} is {getattr(arguments, name)}, allowed: 1 or more")
        unknown = sorted(set(arguments.passes or ()) - set(PASSES))
        if unknown:
            raise ValueError(f"pass is {unknown[0]!r}, allowed: {', '.join(PASSES)}")
        variants: dict[str, dict[str, Any]] = {OWN: {}}
        variants |= {text: variant_of(what, text) for text in arguments.variants}
        device = torch.device(runner.choose_device(arguments.device))
    except (ValueError, runner.RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    calls = MADE[what](arguments, device)
    for chosen in arguments.passes or PASSES:
        print(f"{what}, {chosen}: microseconds a run, quartiles, times as fast as it is")
        running, failed = contestants(what, calls[chosen], variants, device)
        errors, refused = check(running, 1e-4)
        running = [one for one in running if one.name in errors]
        timings = measure(running, clock_of(device), repeats=arguments.repeats, errors=errors)
        for timing in timings:
            low, high = (1e3 * t / arguments.runs for t in timing.quartiles)
            mine = 1e3 * timing.median / arguments.runs
            print(
                f"  {timing.name:40} {mine:9.1f}  [{low:.1f}, {high:.1f}]"
                f"  {timings[0].median / timing.median:5.2f}  {timing.note}"
            )
        for name, why in (failed | refused).items():
            print(f"  {name:40} {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
