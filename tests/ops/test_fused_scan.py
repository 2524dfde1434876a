"""The scan's Triton kernels against the reference: in the interpreter, and on a GPU where there is
one. Sizes are tiny because the interpreter takes a millisecond an operation."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.ops import backends, fused_scan, long_scan, scan_kernels
from lib.ops.scan import selective_scan
from tests.ops.compare import TOLERANCE, Inputs, assert_close, assert_same, draw, gradients

FULL = {"delta_softplus": True, "return_last_state": True}
reference = partial(selective_scan, backend="reference")
fused = partial(selective_scan, backend="fused")
DTYPES = [dtype for dtype in TOLERANCE if dtype != torch.float64]
OVER_TIME = ("u", "delta", "B", "C", "z")
OPTIONS: dict[str, Any] = {
    "b": st.integers(1, 2), "d": st.integers(1, 5), "n": st.integers(1, 20),
    "groups": st.sampled_from([None, 1, 2]),
    "left_out": st.sets(st.sampled_from(["D", "z", "delta_bias", "initial_state"])),
    "softplus": st.booleans(), "last": st.booleans(), "transposed": st.booleans(),
}  # fmt: skip
MISSING = backends.triton_missing("cpu")
on_cpu = pytest.mark.skipif(MISSING is not None, reason="needs Triton and its interpreter")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def scan_inputs(
    b: int = 2, d: int = 5, n: int = 6, length: int = 5, groups: int | None = None, seed: int = 0
) -> Inputs:
    m = (b, n, length) if groups is None else (b, groups, n, length)
    inputs = draw(
        {"u": (b, d, length), "delta": (b, d, length), "A": (d, n), "B": m, "C": m, "D": (d,),
         "z": (b, d, length), "delta_bias": (d,), "initial_state": (b, d, n)}, seed,
    )  # fmt: skip
    inputs["A"] = -inputs["A"].abs() - 0.125
    return inputs


def use_long(monkeypatch: pytest.MonkeyPatch, **sizes: Any) -> None:
    """Sequences of several chunks by the kernels made for those, whatever the state's size."""
    whole = {"most": 128, "backward_most": 128, "several": 12, **sizes}
    monkeypatch.setattr(long_scan, "SIZES", replace(long_scan.SIZES, **whole))


@pytest.fixture(params=["short", "long"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels for short sequences, which know chunks too, and those for long ones."""
    if request.param == "long":
        use_long(monkeypatch)
    else:
        use_long(monkeypatch, most=0, backward_most=0)


def channels_last(inputs: Inputs) -> Inputs:
    """The same numbers in a model's memory layout: (b, l, d) and (b, l, n), seen transposed."""
    return {
        name: t.transpose(-1, -2).contiguous().transpose(-1, -2) if name in OVER_TIME else t
        for name, t in inputs.items()
    }


@on_cpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("b", "d", "n", "length"),
    [(1, 3, 16, 1), (3, 5, 24, 5), (2, 9, 16, 8), (1, 4, 24, 19)],
)
def test_equals_the_reference(b: int, d: int, n: int, length: int, dtype: torch.dtype) -> None:
    inputs = scan_inputs(b, d, n, length)
    assert_same(partial(fused, **FULL), partial(reference, **FULL), inputs, dtype)


@on_cpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("b", "d", "n", "length"),
    [(2, 5, 16, 19), (1, 9, 24, 16), (1, 3, 2, 10), (1, 2, 100, 9), (1, 40, 16, 17)],
)
def test_long_sequences_equal_the_reference(
    b: int, d: int, n: int, length: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_long(monkeypatch)
    inputs = channels_last(scan_inputs(b, d, n, length))
    assert_same(partial(fused, **FULL), partial(reference, **FULL), inputs, dtype)


@on_cpu
@given(length=st.integers(9, 18), **OPTIONS)
@settings(max_examples=5, phases=[Phase.generate])
def test_long_sequences_with_any_options(**drawn: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_long(patch)
        any_options(**drawn)


@on_cpu
@pytest.mark.parametrize(
    "sizes",
    [
        {"warps": 2}, {"narrow": 0, "backward_filled": 2}, {"backward_filled": 1},
        {"backward_most": 0}, {"steps": 4, "backward_steps": 4}, {"backward_steps": 4},
        {"backward_steps": 2, "narrow": 0},
    ],
)  # fmt: skip
def test_any_cut_of_long_sequences(sizes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Several warps and sequences a program, a backward pass by the other kernels, other chunks."""
    use_long(monkeypatch, **sizes)
    inputs = channels_last(scan_inputs(2, 9, 12, 21))
    run = partial(fused, **FULL)
    assert_same(run, partial(reference, **FULL), inputs, torch.float32)
    cast = {name: t.float() for name, t in inputs.items()}
    first, second = (gradients(run, cast) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert all(torch.equal(first[1][name], second[1][name]) for name in inputs)


@on_cpu
def test_places_of_channels_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 2^31 numbers they are counted in 64 bits; here all are, wherever they lie."""
    use_long(monkeypatch)
    wide = torch.empty(1, 1, 2**16, 2**15, device="meta")
    assert long_scan.placing(UL=wide)["FAR"] and not long_scan.placing(UL=wide[:, :, 1:])["FAR"]
    near = long_scan.placing

    def far(**tensors: Tensor | None) -> dict[str, Any]:
        return {**near(**tensors), "FAR": True}

    monkeypatch.setattr(long_scan, "placing", far)
    inputs = scan_inputs(1, 3, 4, 11)
    assert_same(partial(fused, **FULL), partial(reference, **FULL), inputs, torch.float32)


@given(
    length=st.integers(1, 5000), n=st.integers(1, 256), most=st.sampled_from([0, 32, 128]),
    backward_most=st.sampled_from([0, 32, 128]),
)  # fmt: skip
def test_which_kernels_serve(length: int, n: int, most: int, backward_most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_long(patch, most=most, backward_most=backward_most)
        forward, backward = (long_scan.serves(length, n, 8, backward=b) for b in (False, True))
        assert forward >= backward  # the backward kernels for long ones need their chunks
        assert forward == (length > 8 and n <= most)
        for channels, warps in ((None, 1), (512, 1), (513, 2)):
            tile = long_scan.cut(n, length, channels)
            assert tile["num_warps"] == warps
            entries = 2 if length >= 12 and n <= 64 and channels is None else 4
            if n <= 128:
                assert tile["NB"] >= n and tile["J"] * entries == tile["NB"]
                assert tile["DB"] * tile["J"] == 32 * tile["num_warps"]


@on_cpu
def test_half_precision_too() -> None:
    """float16 holds the inputs' 8 bits, and 3 more of the results."""
    inputs = scan_inputs()
    expected, expected_grads = gradients(partial(reference, **FULL), inputs)
    half = {name: t.half() for name, t in inputs.items()}
    actual, grads = gradients(partial(fused, **FULL), half)
    assert [t.dtype for t in actual] == [torch.float16, torch.float32]
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, 2e-3)
    for name, grad in grads.items():
        assert grad.dtype == torch.float16
        assert_close(grad, expected_grads[name], 3e-3, name)


@on_cpu
def test_parameters_may_be_wider_than_activations() -> None:
    inputs = {name: t.bfloat16() for name, t in scan_inputs().items()}
    for name in ("A", "D", "delta_bias", "delta"):
        inputs[name] = inputs[name].float()
    outputs, grads = gradients(partial(fused, **FULL), inputs)
    assert [t.dtype for t in outputs] == [torch.bfloat16, torch.float32]
    assert all(grads[name].dtype == inputs[name].dtype for name in inputs)
    exact, exact_grads = gradients(partial(reference, **FULL), inputs)
    assert_close(outputs[0], exact[0], 6e-3)
    for name, grad in grads.items():
        assert_close(grad, exact_grads[name], 1.2e-2, name)


@on_cpu
@given(length=st.integers(1, 10), **OPTIONS)
@settings(max_examples=5, phases=[Phase.generate])  # shrinking would take minutes
def test_any_shape_and_any_options(**drawn: Any) -> None:
    any_options(**drawn)


def any_options(**drawn: Any) -> None:
    inputs, options = inputs_and_options(**drawn)
    assert_same(partial(fused, **options), partial(reference, **options), inputs, torch.float32)


def inputs_and_options(
    b: int, d: int, n: int, length: int, groups: int | None, left_out: set[str], softplus: bool,
    last: bool, transposed: bool,
) -> tuple[Inputs, dict[str, bool]]:  # fmt: skip
    """What OPTIONS drew, as arguments of the scan."""
    inputs = scan_inputs(b, d * (groups or 1), n, length, groups)
    for name in left_out:
        del inputs[name]
    if transposed:
        inputs = channels_last(inputs)
    if not softplus:
        inputs["delta"] = inputs["delta"].abs()  # states would grow without bound
    return inputs, {"delta_softplus": softplus, "return_last_state": last}


@on_cpu
def test_groups_of_one_of_B_and_C() -> None:
    inputs = {**scan_inputs(d=6), "C": scan_inputs(d=6, groups=3)["C"]}
    assert_same(partial(fused, **FULL), partial(reference, **FULL), inputs, torch.float32)


@on_cpu
@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": 8}, {"programs": 1}, {"steps": 3}, {"hold": False, "backward_tile": 64},
        {"warps": 0}, {"small_tile": 32, "small_entries": 4},
    ],
)  # fmt: skip
def test_any_cut_into_programs_and_chunks(
    sizes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several parts of the channels, several sequences a program, several chunks."""
    small = {"tile": 32, "forward_entries": 8, "backward_tile": 32, "backward_entries": 8}
    monkeypatch.setattr(scan_kernels, "SIZES", replace(scan_kernels.SIZES, **(small | sizes)))
    inputs = channels_last(scan_inputs(2, 9, 12, 4))
    assert_same(partial(fused, **FULL), partial(reference, **FULL), inputs, torch.float32)


@on_cpu
@pytest.mark.parametrize("shape", [(7, 32, 8, 5), (5, 4, 128, 8), (2, 8, 32, 17)], ids=str)
def test_whole_tiles_of_several_sequences_and_runs(
    shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a model's: channels and entries fill their tiles, so that nothing is masked, and a program
    adds the sequences of its run to one sum for A."""
    monkeypatch.setattr(scan_kernels, "SIZES", replace(scan_kernels.SIZES, programs=4))
    inputs = channels_last(scan_inputs(*shape))
    assert_same(partial(fused, **FULL), partial(reference, **FULL), inputs, torch.float32)
    two = [channels_last(scan_inputs(*shape, seed=seed)) for seed in (1, 2)]
    both = {name: torch.stack([one[name] for one in two]) for name in two[0]}

    def mapped(scan: Any) -> Any:
        return lambda **given: torch.vmap(lambda given: scan(**given, **FULL))(given)

    assert_same(mapped(fused), mapped(reference), both, torch.float32)


@given(
    groups=st.integers(1, 300), b=st.integers(1, 5000), channels=st.integers(1, 3000),
    tile=st.sampled_from([1, 4, 8, 32]),
)  # fmt: skip
def test_programs_share_the_work(groups: int, b: int, channels: int, tile: int) -> None:
    part, each = scan_kernels._share(groups, b, channels, tile)
    assert part % tile == 0 and tile <= part <= max(tile, scan_kernels.SIZES.channels)
    assert 1 <= each <= b
    programs = groups * -(-channels // part) * -(-b // each)
    fewest = groups * -(-channels // part)  # with all sequences in one program
    assert programs <= max(scan_kernels.SIZES.programs, fewest)


@given(
    groups=st.integers(1, 100), b=st.integers(1, 5000), parts=st.integers(1, 200),
    warps=st.sampled_from([1, 2]),
)  # fmt: skip
def test_long_programs_fill_the_waves_in_which_they_run(
    groups: int, b: int, parts: int, warps: int
) -> None:
    at_once = 1584 // warps

    def waves(each: int) -> int:
        return -(-(-(-b // each) * groups * parts) // at_once)

    each = long_scan.share(groups, b, parts, warps)
    assert 1 <= each <= b
    assert waves(each) <= max(long_scan.WAVES, waves(b))
    # no number of sequences that needs as few waves would take less time
    others = [k for k in range(1, b + 1) if waves(k) <= long_scan.WAVES] or [b]
    assert waves(each) * each == min(waves(k) * k for k in others)


@pytest.mark.parametrize(
    ("b", "parts", "each"), [(1024, 24, 32), (512, 16, 11), (256, 24, 8), (8, 96, 1), (32, 96, 4)]
)
def test_long_programs_of_known_shapes(b: int, parts: int, each: int) -> None:
    """Each fits one wave of 792 programs of two warps; with one sequence less a program there would
    be a second."""
    assert long_scan.share(1, b, parts, 2) == each
    assert -(-b // each) * parts <= 792
    assert each == 1 or -(-b // (each - 1)) * parts > 792


@on_cpu
def test_results_are_bit_equal_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_kernels, "SIZES", replace(scan_kernels.SIZES, programs=2))
    inputs = {name: t.float() for name, t in scan_inputs(3, 3, 6, 3).items()}
    first, second = (gradients(partial(fused, **FULL), inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert all(torch.equal(first[1][name], second[1][name]) for name in inputs)


@on_cpu
def test_the_future_does_not_reach_the_past(kernels: None) -> None:
    inputs = {name: t.float() for name, t in scan_inputs(1, 3, 4, 11).items()}
    before = fused(**inputs, delta_softplus=True)
    for moment in (0, 7, 8, 10):
        changed = {k: v.clone() if k in OVER_TIME else v for k, v in inputs.items()}
        for name in OVER_TIME:
            changed[name][..., moment] += 1.0
        after = fused(**changed, delta_softplus=True)
        assert torch.equal(before[..., :moment], after[..., :moment])
        assert not torch.allclose(before[..., moment], after[..., moment])


@on_cpu
@pytest.mark.parametrize("length", [7, 11])
def test_without_gradients_nothing_is_kept_for_them(length: int, kernels: None) -> None:
    inputs = {name: t.float() for name, t in scan_inputs(1, 3, 4, length).items()}
    kept: list[tuple[int, int]] = []
    op = scan_kernels.forward_op

    def watched(*arguments: Any) -> Any:
        out = op(*arguments)
        kept.append((out[2].numel(), out[3].numel()))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_kernels, "forward_op", watched)
        with torch.no_grad():
            without = fused(**inputs, **FULL)
        assert all(torch.equal(a, b) for a, b in zip(without, fused(**inputs, **FULL), strict=True))
    between = 3 * 4 * (length > 8)  # the state between two chunks
    scratch = between if long_scan.SIZES.most == 0 else 0
    assert kept == [(scratch, 0), (between, length * 3)]


@on_cpu
def test_a_first_state_without_a_gradient_is_not_given_one(
    kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One from a frozen encoder, which is as large as many steps of everything else."""
    written: list[int] = []
    op = scan_kernels.backward_op

    def watched(*arguments: Any) -> Any:
        out = op(*arguments)
        written.append(out[8].numel())
        return out

    monkeypatch.setattr(scan_kernels, "backward_op", watched)
    inputs = {name: t.float() for name, t in scan_inputs(2, 3, 4, 12).items()}
    found = []
    for frozen in ((), ("initial_state",)):
        leaves = {k: t.clone().requires_grad_(k not in frozen) for k, t in inputs.items()}
        y, last = fused(**leaves, **FULL)
        (y.square().sum() + last.square().sum()).backward()
        found.append({k: t.grad for k, t in leaves.items()})
    assert written == [2 * 3 * 4, 0] and found[1].pop("initial_state") is None
    for name, grad in found[1].items():
        assert grad is not None and torch.equal(grad, found[0][name]), name


@on_cpu
def test_split_in_two_is_the_whole(kernels: None) -> None:
    inputs = {name: t.float() for name, t in scan_inputs(2, 3, 4, 12).items()}
    y, last = fused(**inputs, **FULL)
    first = {k: v[..., :9] if k in OVER_TIME else v for k, v in inputs.items()}
    second = {k: v[..., 9:] if k in OVER_TIME else v for k, v in inputs.items()}
    y_first, middle = fused(**first, **FULL)
    y_second, end = fused(**{**second, "initial_state": middle}, **FULL)
    assert_close(torch.cat([y_first, y_second], dim=2), y, 1e-6)
    assert_close(end, last, 1e-6)


@on_cpu
@pytest.mark.parametrize("exponent", [-1000.0, -1e-6, 0.0])
def test_extreme_decays_stay_finite(exponent: float) -> None:
    inputs = {k: v.float() for k, v in scan_inputs(1, 3, 4, 9).items()}
    inputs["A"] = torch.full_like(inputs["A"], exponent)
    outputs, grads = gradients(partial(fused, **FULL), inputs)
    assert all(t.isfinite().all() for t in (*outputs, *grads.values()))
    expected, _ = gradients(partial(reference, **FULL), inputs)
    assert_close(outputs[0], expected[0], 3e-6)


@on_cpu
def test_one_output_is_enough_for_gradients() -> None:
    inputs = {name: t.float() for name, t in scan_inputs().items()}
    for which in (0, 1):
        only = lambda run, **t: run(**t, **FULL)[which]  # noqa: B023, E731
        assert_same(partial(only, fused), partial(only, reference), inputs, torch.float32)


@on_cpu
def test_vmap_over_runs_is_a_loop_over_runs(kernels: None) -> None:
    runs = [
        {name: t.float() for name, t in channels_last(scan_inputs(1, 3, 5, 9, seed=seed)).items()}
        for seed in range(2)
    ]
    shared = runs[0]["u"]  # an input that all runs share
    for run in runs:
        del run["u"]

    names = list(runs[0])
    stacked = {name: torch.stack([run[name] for run in runs]) for name in names}
    together, grads = gradients(
        lambda u, **t: torch.vmap(lambda t: fused(u=u, **t, **FULL))(t), {"u": shared, **stacked}
    )
    # gradients() weights the outputs; the same weights for the loop
    looped, expected = gradients(
        lambda u, **t: tuple(
            torch.stack(out)
            for out in zip(
                *(fused(u=u, **{k: v[i] for k, v in t.items()}, **FULL) for i in range(2)),
                strict=True,
            )
        ),
        {"u": shared, **stacked},
    )
    for a, e in zip(together, looped, strict=True):
        assert torch.equal(a, e)
    assert_close(grads["u"], expected["u"], 1e-6)  # a sum over runs
    for name in names:
        assert torch.equal(grads[name], expected[name]), name


@on_cpu
def test_compiles_without_graph_breaks() -> None:
    torch.compiler.reset()
    run = partial(fused, **FULL)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager_decomp_partition")
    inputs = channels_last(scan_inputs(1, 3, 6, 9))
    assert_same(compiled, partial(reference, **FULL), inputs, torch.float32)


@on_cpu
def test_the_ops_keep_the_rules_of_custom_ops(kernels: None) -> None:
    """Shapes and strides of the fake, gradients under tracing, no hidden aliases."""
    t = {name: x.float()[None] for name, x in channels_last(scan_inputs(1, 2, 3, 9)).items()}
    tensors = [t[k] for k in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")]
    tensors[3:5] = [x[:, :, None] for x in tensors[3:5]]
    tensors = [x.detach().requires_grad_() for x in tensors]
    torch.library.opcheck(scan_kernels.forward_op, (*tensors, True, True, True))
    none: list[Any] = [*tensors[:5], None, None, None, None]
    torch.library.opcheck(
        scan_kernels.forward_op,
        (*none, False, False, False),
        test_utils=("test_schema", "test_faketensor"),
    )


@on_cpu
def test_second_derivatives_need_the_reference() -> None:
    inputs = {name: t.float().requires_grad_() for name, t in scan_inputs(1, 2, 3, 3).items()}
    y = fused(**inputs)
    (grad,) = torch.autograd.grad(y.square().sum(), inputs["A"], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"u": torch.zeros(2, 5, 5, dtype=torch.float64)}, "dtype is torch.float64, allowed"),
     ({"B": torch.zeros(5, 6)}, "constant, allowed"),
     ({"A": torch.zeros(5, 257), "B": torch.zeros(2, 257, 5), "C": torch.zeros(2, 257, 5),
       "initial_state": torch.zeros(2, 5, 257)}, r"d_state is 257, allowed: 1\.\.256")],
)  # fmt: skip
def test_what_it_cannot_do_it_says(
    change: dict[str, Tensor], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = backends._OPS["selective_scan"]
    present = replace(registered["fused"], missing=backends.never)
    monkeypatch.setitem(registered, "fused", present)
    inputs = {name: t.float() for name, t in scan_inputs().items()} | change
    with pytest.raises(backends.BackendError, match=f"'fused'.*{reason}.*chunked"):
        fused(**inputs)
    assert selective_scan(**inputs).shape == (2, 5, 5)  # "auto" finds the one that can


def test_groups_that_differ_are_refused() -> None:
    facts = {"dtype": torch.float32, "d_state": 16, "groups": (2, 4)}
    assert "2 and 4 groups, allowed" in str(fused_scan._refuses(facts))
    assert fused_scan._refuses({**facts, "groups": (1, 4)}) is None


def test_auto_takes_it_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = backends._OPS["selective_scan"]
    for name in ("fused", "mamba_ssm"):
        present = replace(registered[name], missing=backends.never)
        monkeypatch.setitem(registered, name, present)
    facts = {"length": 8, "dtype": torch.float32, "initial_state": False, "last_state_grad": False,
             "d_state": 16, "groups": (1, 1)}  # fmt: skip
    ask = partial(backends.resolve, "selective_scan", "auto")
    assert ask(device=torch.device("cuda"), **facts) == "fused"
    assert ask(device=torch.device("cpu"), **facts) == "chunked"
    wide = {**facts, "dtype": torch.float64}
    assert ask(device=torch.device("cuda"), **wide) == "chunked"


def test_without_the_interpreter_it_is_missing_on_a_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    backends._without_triton.cache_clear()
    try:
        with pytest.raises(backends.BackendError, match=r"missing: .*run on a GPU.*use chunked"):
            fused(**{name: t.float() for name, t in scan_inputs().items()})
    finally:
        backends._without_triton.cache_clear()


# --- on a GPU ------------------------------------------------------------------------------------


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [16, 24, 128, 256])
@pytest.mark.parametrize("length", [1, 5, 8, 19, 129])
def test_on_the_gpu(length: int, n: int, dtype: torch.dtype, kernels: None) -> None:
    for groups in (None, 2):
        inputs = channels_last(scan_inputs(3, 70, n, length, groups))
        run, exact = partial(fused, **FULL), partial(reference, **FULL)
        assert_same(run, exact, inputs, dtype, "cuda")


@pytest.mark.gpu
@on_gpu
def test_the_experiments_shape_on_the_gpu() -> None:
    """Batch 2048, 64 channels, 8 steps, 128 entries: the shape that the kernels are made for."""
    inputs = {name: t.cuda() for name, t in channels_last(scan_inputs(2048, 64, 128, 8)).items()}
    for name in ("z", "delta_bias", "initial_state"):
        del inputs[name]
    inputs["delta"] = inputs["delta"].abs()
    expected, expected_grads = gradients(reference, inputs)
    cast = {name: t.float() for name, t in inputs.items()}
    runs = [gradients(fused, cast) for _ in range(3)]
    assert_close(runs[0][0][0], expected[0], 3e-6)
    for name, grad in runs[0][1].items():
        assert_close(grad, expected_grads[name], 3e-5, name)
        assert all(torch.equal(grad, again[1][name]) for again in runs[1:])
    assert all(torch.equal(runs[0][0][0], again[0][0]) for again in runs[1:])


@pytest.mark.gpu
@on_gpu
def test_vmap_and_compile_on_the_gpu(kernels: None) -> None:
    runs = [
        {
            name: t.float().cuda()
            for name, t in channels_last(scan_inputs(3, 64, 16, 9, seed=seed)).items()
        }
        for seed in range(3)
    ]

    def run(**t: Tensor) -> Any:
        return torch.vmap(lambda t: fused(**t, **FULL))(t)

    stacked = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    torch.compiler.reset()
    values, grads = gradients(torch.compile(run, fullgraph=True), stacked)
    expected, expected_grads = gradients(run, stacked)
    for a, e in zip(values, expected, strict=True):
        assert_close(a, e, 1e-6)
    for name, grad in grads.items():
        assert_close(grad, expected_grads[name], 1e-6, name)
    for i, one in enumerate(runs):
        assert_close(values[0][i], fused(**one, **FULL)[0], 1e-6)
