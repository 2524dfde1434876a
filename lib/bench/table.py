"""Tables of a benchmark's record, for the terminal and for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = ("contestant", "ms", "quartiles", "times ours", "floor share", "difference", "note")
TIE, EVEN = 0.01, "even"


def contestants_of(metrics: Mapping[str, Any]) -> list[str]:
    """Names of the contestants that were timed, fastest first."""
    found = [name.removesuffix(".ms") for name in metrics if name.endswith(".ms")]
    return sorted(found, key=lambda name: float(metrics[f"{name}.ms"]))


def rows(metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> list[list[str]]:
    """One row a contestant, fastest first, then the floor, then those that are absent."""
    out = []
    for name in contestants_of(metrics):
        out.append([
            f"{name} (ours)" if name == facts.get("ours") else name,
            number(metrics[f"{name}.ms"]),
            f"{number(metrics[f'{name}.ms_low'])} to {number(metrics[f'{name}.ms_high'])}",
            times(metrics, name),
            f"{metrics[f'{name}.floor_share']:.1%}",
            f"{metrics[f'{name}.error']:.0e}",
            facts.get("notes", {}).get(name, ""),
        ])  # fmt: skip
    if "floor_ms" in metrics:
        limits = {
            name.removeprefix("floor_ms."): value
            for name, value in metrics.items()
            if name.startswith("floor_ms.")
        }
        limit = max(limits, key=lambda name: limits[name]) if limits else ""
        out.append(["floor", number(metrics["floor_ms"]), "", "", "100.0%", "", limit])
    for name, reason in facts.get("absent", {}).items():
        out.append([name, "absent", "", "", "", "", reason])
    return out


def times(metrics: Mapping[str, Any], name: str) -> str:
    """How many times as long as ours: "3.42 (3.40 to 3.45)", with a word where that is a tie, or
    nothing for ours."""
    if f"ratio.{name}" not in metrics:
        return ""
    low, high = metrics[f"ratio.{name}.low"], metrics[f"ratio.{name}.high"]
    tie = f", {EVEN}" if is_even(metrics, name) else ""
    return f"{metrics[f'ratio.{name}']:.3g} ({low:.3g} to {high:.3g}){tie}"


def is_even(metrics: Mapping[str, Any], name: str) -> bool:
    """Whether the quartiles of a contestant's ratio come within TIE of 1 or lie on both sides: then
    the record does not tell who is faster."""
    low, high = metrics[f"ratio.{name}.low"], metrics[f"ratio.{name}.high"]
    return bool(low < 1 + TIE and high > 1 - TIE)


def number(value: float) -> str:
    """Three significant digits without an exponent: "0.0123", "1.23", "123"."""
    if value == 0:
        return "0"
    digits = 3
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if whole:
        return f"{value:.{max(0, digits - whole)}f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def text(title: str, header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table as aligned lines under a title."""
    lines = [list(header), *[list(row) for row in body]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    aligned = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([title, *(f"  {line}" for line in aligned)])
