"""The selective scan as a matrix: entry by entry, and applied it is the scan."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib.ops.scan import selective_scan
from lib.ops.scan_matrix import apply_scan_matrix, scan_matrix
from lib.ops.ssd import ssd_matrix
from tests.ops.compare import TOLERANCE, Inputs, assert_close, draw

BATCH, CHANNELS, STATES, LENGTH = 2, 4, 3, 6


def inputs(groups: int | None = None) -> Inputs:
    over_time = (STATES, LENGTH) if groups is None else (groups, STATES, LENGTH)
    t = draw(
        {"u": (BATCH, CHANNELS, LENGTH), "delta": (BATCH, CHANNELS, LENGTH),
         "A": (CHANNELS, STATES), "B": (BATCH, *over_time), "C": (BATCH, *over_time),
         "D": (CHANNELS,)}
    )  # fmt: skip
    return {**t, "A": -t["A"].abs() - 0.125, "delta": t["delta"].abs()}


def kept() -> Tensor:
    return torch.rand(BATCH, LENGTH, LENGTH, generator=torch.Generator().manual_seed(3)) < 0.6


@pytest.mark.parametrize("keep", [None, kept()], ids=["whole", "kept"])
def test_the_matrix_entry_by_entry(keep: Tensor | None) -> None:
    t = inputs()
    S = scan_matrix(t["delta"], t["A"], t["B"], t["C"], keep)
    assert S.shape == (BATCH, CHANNELS, LENGTH, LENGTH)
    for b in range(BATCH):
        for d in range(CHANNELS):
            for i in range(LENGTH):
                for j in range(LENGTH):
                    counted = [
                        k for k in range(j + 1, i + 1) if keep is None or bool(keep[b, i, k])
                    ]
                    decay = torch.exp(t["A"][d] * t["delta"][b, d, counted].sum())
                    entry = (decay * t["C"][b, :, i] * t["B"][b, :, j]).sum()
                    assert float(S[b, d, i, j]) == pytest.approx(float(entry) * (i >= j), abs=1e-13)


@pytest.mark.parametrize("groups", [None, 1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_matrix_applied_is_the_scan(groups: int | None, dtype: torch.dtype) -> None:
    exact = inputs(groups)
    t = {name: tensor.to(dtype) for name, tensor in exact.items()}
    S = scan_matrix(t["delta"], t["A"], t["B"], t["C"])
    assert S.dtype == dtype
    expected = selective_scan(**exact, backend="reference")
    y = apply_scan_matrix(S, t["u"], t["delta"], t["D"])
    assert_close(y, expected, TOLERANCE[dtype][0])
    without = apply_scan_matrix(S, t["u"], t["delta"])
    assert_close(without + t["D"][:, None] * t["u"], expected, TOLERANCE[dtype][0])


def test_one_decay_a_channel_is_the_matrix_of_mamba2() -> None:
    t = inputs(groups=2)
    A = t["A"][:, 0]
    ours = scan_matrix(t["delta"], A[:, None].expand(-1, STATES), t["B"], t["C"])
    over_time = (M.permute(0, 3, 1, 2) for M in (t["B"], t["C"]))
    assert_close(ours, ssd_matrix(t["delta"].transpose(1, 2), A, *over_time), 1e-13)


def test_slow_decay_after_a_strong_one_is_exact() -> None:
    delta = torch.tensor([1.0, 1000.0, 1e-3, 1e-3])[None, None]
    ones = torch.ones(1, 1, 4)
    S = scan_matrix(delta, -torch.ones(1, 1), ones, ones)
    assert float(S[0, 0, 3, 1]) == pytest.approx(0.998001999, abs=1e-7)
    assert float(S[0, 0, 1, 0]) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": torch.ones(2, 4)}, r"delta has shape \(2, 4\), allowed: \(b, d, l\)"),
        ({"A": -torch.ones(3, 3)}, r"A has shape \(3, 3\), allowed: \(d=4, n\)"),
        ({"B": torch.ones(2, 3, 5)}, r"B has shape \(2, 3, 5\)"),
        ({"C": torch.ones(2, 3, 3, 6)}, r"C has 3 groups, allowed: a divisor of the 4 channels"),
        ({"A": torch.ones(4, 3, dtype=torch.complex64)}, r"A is torch.complex64, allowed: real"),
        ({"keep": torch.ones(5, 5)}, r"keep has shape \(5, 5\), allowed: \(l=6, l\) or"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    t = inputs()
    given = {name: t[name] for name in ("delta", "A", "B", "C")}
    with pytest.raises(ValueError, match=message):
        scan_matrix(**{**given, **change})


def test_shapes_of_what_it_is_applied_to() -> None:
    t = inputs()
    S = scan_matrix(t["delta"], t["A"], t["B"], t["C"])
    with pytest.raises(ValueError, match=r"^S has shape .*allowed"):
        apply_scan_matrix(S[:, :, :5], t["u"], t["delta"])
    with pytest.raises(ValueError, match=r"^delta has shape .*allowed"):
        apply_scan_matrix(S, t["u"], t["delta"][:, :2])
