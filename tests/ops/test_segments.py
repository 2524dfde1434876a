"""Few long sequences, cut into segments that are scanned at once, against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lib.ops import long_scan
from lib.ops import segments as module
from lib.ops.segments import how_many
from tests.ops.compare import TOLERANCE, Inputs, assert_close
from tests.ops.test_fused_scan import (
    DTYPES,
    FULL,
    OPTIONS,
    channels_last,
    fused,
    inputs_and_options,
    on_cpu,
    on_gpu,
    reference,
    scan_inputs,
    use_long,
)

SMALL = {"segment": 8, "fewest_segments": 2, "filled": 24}


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Segments even where sequences are short. Into how many, by call."""
    with pytest.MonkeyPatch.context() as patch:
        yield counted(patch)


def counted(patch: pytest.MonkeyPatch) -> list[int]:
    use_long(patch, **SMALL)
    counts: list[int] = []
    whole = module.in_segments

    def watched(count: int, *arguments: Any) -> Any:
        counts.append(count)
        return whole(count, *arguments)

    patch.setattr(module, "in_segments", watched)
    return counts


def same(inputs: Inputs, dtype: torch.dtype = torch.float32, **options: Any) -> None:
    """Without gradients, equal to the reference on the same numbers in float64."""
    given = {name: t.to(dtype) for name, t in inputs.items()}
    exact = {name: t.double() for name, t in given.items()}
    with torch.no_grad():
        found, expected = fused(**given, **options), reference(**exact, **options)
    if not options.get("return_last_state"):
        found, expected = (found,), (expected,)
    assert found[0].dtype == dtype and all(t.dtype == torch.float32 for t in found[1:])
    for have, want in zip(found, expected, strict=True):
        assert_close(have, want, TOLERANCE[dtype][0])


@pytest.mark.parametrize(
    ("sequences", "channels", "length", "count"),
    [
        (1, 1536, 65_536, 11), (1, 1536, 5000, 4), (1, 1536, 4000, 1), (2, 1536, 65_536, 5),
        (8, 1536, 65_536, 1), (1, 64, 131_072, 128), (1000, 8, 131_072, 1), (1, 1536, 512, 1),
    ],
)  # fmt: skip
def test_how_many(sequences: int, channels: int, length: int, count: int) -> None:
    assert how_many(sequences, channels, 16, length) == count


@on_cpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "count"), [(64, 8), (67, 8), (16, 2), (23, 2)])
def test_equal_to_the_reference(
    length: int, count: int, dtype: torch.dtype, cut: list[int]
) -> None:
    inputs = channels_last(scan_inputs(1, 5, 16, length))
    same(inputs, dtype, **FULL)
    assert cut == [count]


@on_cpu
@given(length=st.integers(17, 60), **OPTIONS)
@settings(max_examples=8, phases=[Phase.generate])
def test_any_options(**drawn: Any) -> None:
    inputs, options = inputs_and_options(**drawn)
    with pytest.MonkeyPatch.context() as patch:
        counts = counted(patch)
        same(inputs, **options)
    assert len(counts) == 1 and counts[0] >= 2


@on_cpu
def test_only_where_nothing_needs_a_gradient(cut: list[int]) -> None:
    inputs = {name: t.float() for name, t in scan_inputs(1, 3, 4, 40).items()}
    whole = fused(**inputs, **FULL)
    assert not cut
    with torch.no_grad():
        parts = fused(**inputs, **FULL)
    assert cut == [5]
    for a, b in zip(parts, whole, strict=True):
        assert_close(a, b, 1e-6)


@on_cpu
@pytest.mark.parametrize("exponent", [-1000.0, -1e-6, 0.0])
def test_extreme_decays_stay_finite(exponent: float, cut: list[int]) -> None:
    inputs = scan_inputs(1, 3, 4, 40)
    inputs["A"] = torch.full_like(inputs["A"], exponent)
    same(inputs, **FULL)
    assert cut


@on_cpu
def test_a_model_s_layout_is_kept_without_a_copy(cut: list[int]) -> None:
    """What a model multiplies next: channels as neighbours, also behind a last, odd piece."""
    for length in (40, 43):
        inputs = {k: t.float() for k, t in channels_last(scan_inputs(1, 6, 4, length)).items()}
        with torch.no_grad():
            y = fused(**inputs, delta_softplus=True)
        assert y.stride(1) == 1
    assert cut == [5, 5]


@on_cpu
def test_vmap_over_runs_is_a_loop_over_runs(cut: list[int]) -> None:
    runs = [
        {name: t.float() for name, t in scan_inputs(1, 3, 4, 26, seed=s).items()} for s in (0, 1)
    ]
    stacked = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    with torch.no_grad():
        found = torch.vmap(lambda t: fused(**t, **FULL))(stacked)
        for i, one in enumerate(runs):
            for have, want in zip(found, fused(**one, **FULL), strict=True):
                assert_close(have[i], want, 1e-6)
    assert cut == [3, 3, 3]


@on_cpu
def test_the_ends_of_segments(cut: list[int]) -> None:
    """The op by itself, and the rules of custom ops."""
    t = {name: t.float() for name, t in scan_inputs(2, 3, 4, 19).items()}
    names = ("u", "delta", "A")
    given = [t[name][None] for name in names] + [t["B"][None, :, None].mT.contiguous().mT]
    last, total = module._ends(*given, t["delta_bias"][None], True)
    wanted = {name: t[name] for name in (*names, "B", "C", "delta_bias")}
    assert_close(last[0], reference(**wanted, **FULL)[1], 1e-6)
    steps = torch.nn.functional.softplus(t["delta"] + t["delta_bias"][:, None])
    assert_close(total[0], steps.sum(2), 1e-6)
    torch.library.opcheck(module._ends, (*given, t["delta_bias"][None], True))
    torch.library.opcheck(module._ends, (*given, None, False))


@on_cpu
def test_compiled_for_states_of_several_sizes() -> None:
    """From the second on a compiler leaves a size open; what is refused is then decided by
    comparisons."""
    torch.compiler.reset()

    def run(t: Inputs) -> Any:
        return fused(**t, **FULL)

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    with torch.no_grad():
        for n in (4, 8, 16):
            inputs = {k: t.float() for k, t in channels_last(scan_inputs(1, 4, n, 21)).items()}
            for a, b in zip(compiled(inputs), run(inputs), strict=True):
                assert torch.equal(a, b)


# --- on a GPU ------------------------------------------------------------------------------------


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [16, 64])
def test_one_long_prompt_on_the_gpu(
    n: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is cut by default, against the same kernel walking along the whole."""
    inputs = {
        name: t.to("cuda", dtype) for name, t in channels_last(scan_inputs(1, 256, n, 9001)).items()
    }
    assert how_many(1, 256, n, 9001) == 8
    with torch.no_grad():
        found = fused(**inputs, **FULL)
        compiled = torch.compile(lambda t: fused(**t, **FULL), fullgraph=True)(inputs)
        never = replace(long_scan.SIZES, fewest_segments=10_000)
        monkeypatch.setattr(long_scan, "SIZES", never)
        whole = fused(**inputs, **FULL)
    for a, b, c in zip(found, whole, compiled, strict=True):
        assert_close(a, b, 1e-5 if a.dtype == torch.float32 else 2e-3)
        assert_close(c, b, 1e-5 if a.dtype == torch.float32 else 2e-3)
