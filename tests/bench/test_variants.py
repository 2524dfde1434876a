from __future__ import annotations

import re

import pytest

from lib.bench import variants
from lib.ops import (
    backends,
    fused_conv,
    long_scan,
    packed_attention,
    products,
    scan_kernels,
)

MISSING = backends.triton_missing("cpu")
on_cpu = pytest.mark.skipif(MISSING is not None, reason="needs Triton and its interpreter")
SMALL = ["--runs", "2", "--batch", "2", "--channels", "8", "--entries", "16", "--device", "cpu"]


@on_cpu
@pytest.mark.parametrize(
    ("what", "sizes"),
    [
        ("scan", ["steps=4", "backward_tile=64"]), ("conv", ["steps=3", "rows=1"]),
        ("linear", ["rows=16,depth=16", "gradient_rows=16,lots=3"]),
        ("attention", ["width=8", "numbers=64,registers=168"]),
    ],
)  # fmt: skip
def test_variants_are_checked_and_timed_beside_the_own_sizes(
    what: str, sizes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    modules = (scan_kernels, long_scan, fused_conv, products, packed_attention)
    before = [module.SIZES for module in modules]
    assert variants.main([what, *sizes, *SMALL, "--repeats", "1"]) == 0
    assert [module.SIZES for module in modules] == before
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * (2 + len(sizes))
    head, own, *others = lines[: 2 + len(sizes)]
    assert head.startswith(f"{what}, forward: microseconds a run")
    row = r"  (\S.*?) +([\d.]+)  \[([\d.]+), ([\d.]+)\]  +([\d.]+) *"
    found = [re.fullmatch(row, line) for line in (own, *others)]
    assert [match[1] for match in found if match] == [variants.OWN, *sizes]
    assert found[0] is not None and found[0][5] == "1.00"


@on_cpu
def test_variants_of_long_sequences_start_from_their_own_states(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of the two modules of the scan only one has what differs, and its chunks are others."""
    sizes = f"backward_steps={long_scan.SIZES.backward_steps // 2}"
    command = ["scan", sizes, "--pass", "backward", "--length", "33", *SMALL, "--repeats", "1"]
    assert variants.main(command) == 0
    _, own, other = capsys.readouterr().out.splitlines()
    assert own.split()[0] == "as" and sizes in other and "differs" not in other
    assert re.search(r"\[[\d.]+, [\d.]+\]", other)  # timed


@on_cpu
def test_what_does_not_run_or_differs_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scan_kernels.forward_op

    def wrong(*given):  # type: ignore[no-untyped-def]
        if scan_kernels.SIZES.tile == 32:
            raise RuntimeError("no such tile")
        y, *rest = real(*given)
        return y * (2 if scan_kernels.SIZES.steps == 2 else 1), *rest

    monkeypatch.setattr(scan_kernels, "forward_op", wrong)
    command = ["scan", "tile=32", "steps=2", "steps=4", "--pass", "forward", *SMALL]
    assert variants.main([*command, "--repeats", "1"]) == 0
    head, own, third, *said = capsys.readouterr().out.splitlines()
    assert "scan, forward" in head and own.split()[0] == "as" and "steps=4" in third
    assert any("tile=32" in line and "RuntimeError: no such tile" in line for line in said)
    assert any("steps=2" in line and "differs from as it is" in line for line in said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scan", "tile"], r"variant is 'tile', allowed: NAME=VALUE,... of steps, tile"),
        (["scan", "colour=3"], "variant is 'colour=3', allowed"),
        (["scan", "steps=many"], "steps is 'many', allowed: a whole number, none"),
        (["scan", "hold=3"], "hold is '3', allowed: true, false"),
        (["scan", "steps=4", "--pass", "sideways"], "'sideways', allowed: forward, backward"),
        (["scan", "steps=4", "--batch", "0"], "batch is 0, allowed: 1 or more"),
        (["scan", "steps=4", "--device", "moon"], "device"),
    ],
)
def test_misuse_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variants.main(arguments) == variants.USAGE_ERROR
    assert message in capsys.readouterr().err
