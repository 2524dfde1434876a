"""The least time that a device needs for some work: bytes, multiply-adds and exponentials.

Each kind of work has a rate of its own, and at best all overlap, so the floor is the longest of
them. Bytes count every input once and every output once, whatever an implementation reads again.
Nominal rates come from the vendor's data sheets; where a rate can be measured in the same run, the
measured one counts. A device that is not in the table has measured rates only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from lib.bench.measure import clock_of

# fp32-accurate products on tensor cores take three tf32 products each
EXACT_PRODUCTS = 3


@dataclass(frozen=True)
class Work:
    """What has to be done at least.

    Attributes:
        read, written: bytes, each tensor once.
        fmas: multiply-adds (or lone products or sums) in float32 outside of matrix products.
        products: multiply-adds inside of matrix products, which tensor cores can take.
        half_products: the same of products whose inputs are in half precision.
        exponentials: of the special function units.
    """

    read: float = 0
    written: float = 0
    fmas: float = 0
    products: float = 0
    half_products: float = 0
    exponentials: float = 0

    def __add__(self, other: Work) -> Work:
        ours, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Work(*(a + b for a, b in zip(ours, theirs, strict=True)))

    def __mul__(self, count: float) -> Work:
        return Work(*(count * value for value in dataclasses.astuple(self)))

    __rmul__ = __mul__

    @property
    def bytes(self) -> float:
        """Read and written."""
        return self.read + self.written

    @property
    def flops(self) -> float:
        """Floating point operations: two for each multiply-add; exponentials are no flops."""
        return 2 * (self.fmas + self.products + self.half_products)

    @property
    def intensity(self) -> float:
        """Flops for each byte."""
        return self.flops / self.bytes


@dataclass(frozen=True)
class Rates:
    """What a device can do in a second.

    Attributes:
        name: as torch names it.
        source: where the nominal rates are from, or "measured".
        bandwidth: bytes, nominal or measured (see `measured`).
        fmas: float32 multiply-adds of the plain units.
        products: float32-accurate multiply-adds of matrix products, or None: the plain units'.
        half_products: the same with inputs in half precision, or None: the plain units'.
        exponentials: or None if not known.
        measured: names of the rates that were measured.
    """

    name: str
    source: str
    bandwidth: float
    fmas: float
    products: float | None = None
    half_products: float | None = None
    exponentials: float | None = None
    measured: tuple[str, ...] = ()


# 132 SMs at 1.98 GHz; 128 float32 multiply-adds and 16 special functions a cycle and SM (NVIDIA
# H100 data sheet: 3.35 TB/s, 67 TFLOP/s float32; half of 989 (tf32) and of 1,979 (bfloat16);
# CUDA C++ Programming Guide, table of arithmetic throughput, compute capability 9.0)
_H100 = Rates(
    name="NVIDIA H100 80GB HBM3",
    source="NVIDIA H100 SXM data sheet; CUDA C++ Programming Guide, arithmetic throughput",
    bandwidth=3.35e12,
    fmas=132 * 128 * 1.98e9,
    products=494.7e12 / 2 / EXACT_PRODUCTS,
    half_products=989.4e12 / 2,
    exponentials=132 * 16 * 1.98e9,
)
KNOWN = {
    _H100.name: _H100,
    # the same chip with faster memory: 4.8 TB/s (NVIDIA H200 data sheet)
    "NVIDIA H200": dataclasses.replace(
        _H100, name="NVIDIA H200", source="NVIDIA H200 data sheet; as H100 else", bandwidth=4.8e12
    ),
}


@dataclass(frozen=True)
class Floor:
    """Least seconds, by what takes them."""

    parts: dict[str, float]

    @property
    def seconds(self) -> float:
        """The longest part: at best all overlap."""
        return max(self.parts.values())

    @property
    def limit(self) -> str:
        """What takes longest: "bytes", "multiply-adds" or "exponentials"."""
        return max(self.parts, key=lambda name: self.parts[name])


def floor(work: Work, rates: Rates) -> Floor:
    """The least time for `work` at `rates`; a rate that is not known bounds nothing.

    Matrix products take the tensor cores where the device's rate for them is known, at the price of
    float32 accuracy; else they share the plain units with everything else.
    """
    parts = {"bytes": work.bytes / rates.bandwidth}
    plain, tensor = work.fmas, 0.0
    for count, rate in (
        (work.products, rates.products), (work.half_products, rates.half_products),
    ):  # fmt: skip
        if rate is None:
            plain += count
        else:
            tensor += count / rate
    if rates.products is not None:
        parts["products"] = tensor
    parts["multiply-adds"] = plain / rates.fmas
    if rates.exponentials is not None:
        parts["exponentials"] = work.exponentials / rates.exponentials
    return Floor(parts)


def rates_of(device: torch.device) -> Rates:
    """Rates of the device in use: nominal ones where it is known, with the bandwidth measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    bandwidth = copy_bandwidth(device)
    known = KNOWN.get(name)
    if known is None:
        measured = ("bandwidth", "fmas")
        return Rates(name, "measured", bandwidth, matmul_rate(device), measured=measured)
    return dataclasses.replace(known, bandwidth=bandwidth, measured=("bandwidth",))


def clock_rate(device: torch.device) -> float | None:
    """The GPU's largest clock in Hz as the driver says it, or None where torch does not know."""
    if device.type != "cuda":
        return None
    kilohertz: Any = getattr(torch.cuda.get_device_properties(device), "clock_rate", None)
    return None if not kilohertz else 1e3 * float(kilohertz)


def copy_bandwidth(device: torch.device, repeats: int = 7) -> float:
    """Bytes a second of a copy on the device, read and written: the best of `repeats`."""
    size = 1 << (28 if device.type == "cuda" else 22)  # 1 GiB or 16 MiB of float32
    source = torch.empty(size, dtype=torch.float32, device=device).fill_(1.0)
    target = torch.empty_like(source)
    clock = clock_of(device)
    best = min(clock.time(lambda: target.copy_(source)) for _ in range(repeats))
    return 2 * source.numel() * source.element_size() / best


def matmul_rate(device: torch.device, repeats: int = 5) -> float:
    """Multiply-adds a second of a float32 matrix product: the best of `repeats`."""
    size = 4096 if device.type == "cuda" else 512
    matrix = torch.rand(size, size, device=device)
    clock = clock_of(device)
    best = min(clock.time(lambda: matrix @ matrix) for _ in range(repeats))
    return size**3 / best
