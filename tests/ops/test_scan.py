"""Mamba-1's scan: the reference against the definition, every backend against the reference."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import math
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lib.ops import backends, chunked_scan
from lib.ops.scan import selective_scan, selective_state_step
from tests.ops.compare import TOLERANCE, Inputs, assert_close, assert_same, draw, flatten

LENGTHS = (1, 2, 3, 7, 8, 127, 128, 129, 1000)
BATCH, CHANNELS, STATES = 2, 6, 3
FULL = {"delta_softplus": True, "return_last_state": True}
reference = partial(selective_scan, backend="reference")


def scan_inputs(length: int, kind: str = "varying", b: int = BATCH, seed: int = 0) -> Inputs:
    """All inputs of the scan; B and C constant, varying, or varying in groups."""
    d, n = CHANNELS, STATES
    m = {"constant": (d, n), "varying": (b, n, length), "grouped": (b, 2, n, length)}[kind]
    inputs = draw(
        {"u": (b, d, length), "delta": (b, d, length), "A": (d, n), "B": m, "C": m, "D": (d,),
         "z": (b, d, length), "delta_bias": (d,), "initial_state": (b, d, n)}, seed,
    )  # fmt: skip
    inputs["A"] = -inputs["A"].abs() - 0.125
    return inputs


def by_definition(t: Inputs) -> tuple[Tensor, Tensor]:
    """The recurrence, number by number, for B and C of shape (b, n, l)."""
    a = {name: tensor.numpy() for name, tensor in t.items()}
    b, d, length = a["u"].shape
    y, state = np.zeros((b, d, length)), a["initial_state"].copy()
    for i in range(b):
        for j in range(d):
            for time in range(length):
                step = math.log1p(math.exp(a["delta"][i, j, time] + a["delta_bias"][j]))
                u, z = a["u"][i, j, time], a["z"][i, j, time]
                for k in range(a["A"].shape[1]):
                    state[i, j, k] *= math.exp(step * a["A"][j, k])
                    state[i, j, k] += step * a["B"][i, k, time] * u
                    y[i, j, time] += a["C"][i, k, time] * state[i, j, k]
                y[i, j, time] = (y[i, j, time] + a["D"][j] * u) * z / (1 + math.exp(-z))
    return torch.from_numpy(y), torch.from_numpy(state)


def test_the_reference_is_the_definition() -> None:
    inputs = scan_inputs(5)
    for actual, expected in zip(reference(**inputs, **FULL), by_definition(inputs), strict=True):
        assert_close(actual, expected, 1e-13)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_chunked_equals_the_reference(length: int, dtype: torch.dtype) -> None:
    run = {**FULL, "backend": "chunked"}
    inputs = scan_inputs(length)
    assert_same(partial(selective_scan, **run), partial(reference, **FULL), inputs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_reference_in_low_precision(dtype: torch.dtype) -> None:
    assert_same(partial(reference, **FULL), partial(reference, **FULL), scan_inputs(33), dtype)


@pytest.mark.parametrize("B_kind", ["constant", "varying", "grouped"])
@pytest.mark.parametrize("C_kind", ["constant", "varying", "grouped"])
def test_all_shapes_of_B_and_C(B_kind: str, C_kind: str) -> None:
    inputs = {**scan_inputs(11, B_kind), "C": scan_inputs(11, C_kind)["C"]}
    assert_same(
        partial(selective_scan, backend="chunked", **FULL), partial(reference, **FULL), inputs
    )
    # a constant B or C is one that varies but does not change
    if B_kind == "constant" and C_kind == "varying":
        per_channel = inputs["B"].expand(BATCH, -1, -1)[..., None].expand(-1, -1, -1, 11)
        same = {**inputs, "B": per_channel}
        assert_close(reference(**same), reference(**inputs), 1e-14)


@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 13])
@pytest.mark.parametrize("segment", [1, 2, 4, 100])
def test_any_cut_into_chunks_and_segments(
    chunks: int, segment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_scan, "plan", lambda *_: (chunks, segment))
    assert_same(
        partial(selective_scan, backend="chunked", **FULL),
        partial(reference, **FULL),
        scan_inputs(13, "grouped"),
    )


def test_a_large_batch_is_scanned_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = chunked_scan.Sizes(step=8, batch=2 * CHANNELS * STATES, segment=64)
    monkeypatch.setattr(chunked_scan, "CPU", sizes)
    assert_same(
        partial(selective_scan, backend="chunked", **FULL),
        partial(reference, **FULL),
        scan_inputs(9, b=5),
    )


@given(length=st.integers(1, 5000), entries=st.integers(1, 10**8))
def test_the_plan_is_within_bounds(length: int, entries: int) -> None:
    for device in ("cpu", "cuda"):
        chunks, segment = chunked_scan.plan(length, entries, torch.device(device))
        assert 1 <= chunks <= max(1, math.isqrt(length))
        assert 1 <= segment <= -(-length // chunks)


@pytest.mark.parametrize("optional", ["D", "z", "delta_bias", "initial_state", "all"])
def test_optional_inputs_may_be_left_out(optional: str) -> None:
    inputs = scan_inputs(10)
    for name in ("D", "z", "delta_bias", "initial_state"):
        if optional in (name, "all"):
            del inputs[name]
    for softplus in (False, True):
        run = {"delta_softplus": softplus}
        chunked = partial(selective_scan, backend="chunked", **run)
        assert_same(chunked, partial(reference, **run), inputs)


@pytest.mark.parametrize(("backend", "chunks"), [("reference", 1), ("chunked", 1), ("chunked", 3)])
def test_gradients_are_derivatives(
    backend: str, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_scan, "plan", lambda *_: (chunks, 2))
    inputs = {name: t.requires_grad_() for name, t in scan_inputs(7, b=1).items()}

    def run(*tensors: Tensor) -> Any:
        return selective_scan(**dict(zip(inputs, tensors, strict=True)), **FULL, backend=backend)

    assert torch.autograd.gradcheck(run, tuple(inputs.values()))


def test_second_derivatives_need_the_reference() -> None:
    inputs = {name: t.requires_grad_() for name, t in scan_inputs(4, b=1).items()}
    for backend in ("reference", "chunked"):
        y = selective_scan(**inputs, backend=backend)
        (grad,) = torch.autograd.grad(y.square().sum(), inputs["A"], create_graph=True)
        if backend == "reference":
            assert torch.autograd.grad(grad.sum(), inputs["A"])[0].abs().sum() > 0
        else:
            with pytest.raises(RuntimeError, match="once_differentiable"):
                grad.sum().backward()


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@given(cut=st.integers(1, 19))
def test_split_in_two_is_the_whole(backend: str, cut: int) -> None:
    inputs = scan_inputs(20)
    run = partial(selective_scan, backend=backend, **FULL)
    y, last = run(**inputs)
    over_time = ("u", "delta", "B", "C", "z")
    first = {k: v[..., :cut] if k in over_time else v for k, v in inputs.items()}
    second = {k: v[..., cut:] if k in over_time else v for k, v in inputs.items()}
    y_first, middle = run(**first)
    y_second, end = run(**{**second, "initial_state": middle})
    assert_close(torch.cat([y_first, y_second], dim=2), y, 1e-13)
    assert_close(end, last, 1e-13)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ["varying", "grouped"])
def test_steps_are_the_whole(kind: str, dtype: torch.dtype) -> None:
    exact = scan_inputs(12, kind)
    y, last = reference(**exact, **FULL)
    t = {name: tensor.to(dtype) for name, tensor in exact.items()}
    state = exact["initial_state"].to(last.dtype if dtype == torch.float64 else torch.float32)
    out = []
    for i in range(12):
        at = {name: t[name][..., i] for name in ("u", "delta", "B", "C", "z")}
        y_i, state = selective_state_step(
            state, **at, A=t["A"], D=t["D"], delta_bias=t["delta_bias"], delta_softplus=True
        )
        assert y_i.dtype == dtype
        out.append(y_i)
    assert_close(torch.stack(out, dim=2), y, TOLERANCE[dtype][0])
    assert_close(state, last, TOLERANCE[dtype][0])


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@given(moment=st.integers(0, 29))
def test_the_future_does_not_reach_the_past(backend: str, moment: int) -> None:
    inputs = scan_inputs(30)
    changed = dict(inputs)
    for name in ("u", "delta", "B", "C", "z"):
        changed[name] = inputs[name].clone()
        changed[name][..., moment] += 1.0
    run = partial(selective_scan, delta_softplus=True, backend=backend)
    before, after = run(**inputs), run(**changed)
    assert torch.equal(before[..., :moment], after[..., :moment])
    assert not torch.allclose(before[..., moment], after[..., moment])


@pytest.mark.parametrize("pad", [1, 30])
def test_padding_on_the_right_changes_nothing_before_it(pad: int) -> None:
    inputs = scan_inputs(40)
    padded = {k: F.pad(v, (0, pad)) if v.shape[-1] == 40 else v for k, v in inputs.items()}
    short, long = (selective_scan(**t, delta_softplus=True) for t in (inputs, padded))
    assert_close(long[..., :40], short, 1e-14)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("exponent", [-1000.0, -1e-6, 0.0])
def test_extreme_decays_stay_finite(backend: str, exponent: float) -> None:
    inputs = {k: v.float() for k, v in scan_inputs(50).items()}
    inputs["A"] = torch.full_like(inputs["A"], exponent)
    inputs["delta"] = torch.ones_like(inputs["delta"])
    del inputs["delta_bias"]
    leaves = {k: v.requires_grad_() for k, v in inputs.items()}
    outputs = selective_scan(**leaves, return_last_state=True, backend=backend)
    sum(o.sum() for o in outputs).backward()
    assert all(o.isfinite().all() for o in outputs)
    assert all(v.grad is not None and v.grad.isfinite().all() for v in leaves.values())
    if exponent == -1000.0:  # nothing of the past is left: each output is its own input's
        own = torch.einsum("bnl,bnl->bl", inputs["B"], inputs["C"])[:, None] * inputs["u"]
        own = (own + inputs["D"][:, None] * inputs["u"]) * F.silu(inputs["z"])
        assert_close(outputs[0], own, 1e-6)


def test_dtypes_of_results() -> None:
    for dtype in TOLERANCE:
        inputs = {name: t.to(dtype) for name, t in scan_inputs(4).items()}
        for backend in ("reference", "chunked"):
            y, last = selective_scan(**inputs, return_last_state=True, backend=backend)
            assert y.dtype == dtype
            assert last.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # parameters in float32 beside activations in bfloat16, as under autocast
    mixed = {**inputs, "A": inputs["A"].float(), "D": inputs["D"].float()}
    assert selective_scan(**mixed).dtype == torch.bfloat16


def test_vmap_over_runs_is_a_loop_over_runs() -> None:
    runs = [scan_inputs(9, "grouped", seed=seed) for seed in range(3)]
    shared = runs[0]["u"]  # an input that all runs share

    def loss(t: Inputs) -> Tensor:
        y, last = selective_scan(u=shared, **t, **FULL, backend="chunked")
        return y.square().sum() + last.square().sum()

    for run in runs:
        del run["u"]
    stacked = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    values = torch.vmap(loss)(stacked)
    grads = torch.vmap(torch.func.grad(loss))(stacked)
    for i, run in enumerate(runs):
        assert_close(values[i], loss(run), 1e-13)
        for name, expected in torch.func.grad(loss)(run).items():
            assert_close(grads[name][i], expected, 1e-12, name)


@pytest.mark.parametrize(("backend", "chunks"), [("reference", 1), ("chunked", 1), ("chunked", 3)])
def test_compiles_without_graph_breaks(
    backend: str, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_scan, "plan", lambda *_: (chunks, 2))
    torch.compiler.reset()
    run = partial(selective_scan, backend=backend, **FULL)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_same(compiled, partial(reference, **FULL), scan_inputs(7))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("delta", (2, 6, 7)), ("A", (3, 6)), ("A", (6,)), ("B", (2, 4, 8)), ("B", (2, 3, 7)),
     ("B", (5, 3)), ("C", (2, 4, 3, 8)), ("C", (2, 0, 3, 8)), ("D", (5,)), ("z", (2, 6, 1)),
     ("delta_bias", (1,)), ("initial_state", (2, 3, 6)), ("u", (6, 8)), ("u", (2, 6, 0))],
)  # fmt: skip
def test_bad_shapes_are_named(name: str, shape: tuple[int, ...]) -> None:
    inputs = scan_inputs(8)
    inputs[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"^{name} has .*allowed"):
        selective_scan(**inputs)


@pytest.mark.parametrize("name", ["u", "A", "B", "C"])
def test_complex_inputs_are_refused(name: str) -> None:
    inputs = scan_inputs(8)
    inputs[name] = inputs[name] * 1j
    with pytest.raises(ValueError, match=f"^{name} is torch.complex128, allowed: real"):
        selective_scan(**inputs)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("B", (6, 3)), ("B", (3,)), ("C", (2, 4, 3)), ("state", (2, 3, 6)), ("u", (2, 6, 1)),
     ("delta", (2, 5)), ("z", (1, 6)), ("A", (5, 3))],
)  # fmt: skip
def test_bad_shapes_of_a_step_are_named(name: str, shape: tuple[int, ...]) -> None:
    t = scan_inputs(1)
    step: dict[str, Tensor] = {k: t[k][..., 0] for k in ("u", "delta", "B", "C", "z")}
    step |= {"A": t["A"], "state": t["initial_state"]}
    step[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"^{name} has .*allowed"):
        selective_state_step(**step)


def test_backends_are_chosen_and_refused_openly() -> None:
    inputs = scan_inputs(8)
    with backends.recording() as used:
        selective_scan(**inputs)
        one = {k: v[..., :1] if v.shape[-1] == 8 else v for k, v in inputs.items()}
        selective_scan(**one)
    assert used == {"selective_scan": ["chunked", "reference"]}
    with pytest.raises(ValueError, match="allowed: auto, fused, reference, mamba_ssm, chunked"):
        selective_scan(**inputs, backend="quick")
    with pytest.raises(backends.BackendError, match=r"mamba_ssm' of selective_scan.*use chunked"):
        selective_scan(**inputs, backend="mamba_ssm")


@pytest.mark.parametrize(
    ("fact", "value", "reason"),
    [("initial_state", True, "initial_state"), ("dtype", torch.float64, "float64"),
     ("last_state_grad", True, "gradient of the last state")],
)  # fmt: skip
def test_mamba_ssm_says_what_it_cannot_do(
    fact: str, value: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "mamba_ssm_error", lambda: None)  # as if it were installed
    gpu = torch.device("cuda")
    facts = {"length": 8, "dtype": torch.float32, "initial_state": False, "last_state_grad": False}
    ask = partial(backends.resolve, "selective_scan", device=gpu)
    assert ask("auto", **facts) == ask("mamba_ssm", **facts) == "mamba_ssm"
    with pytest.raises(backends.BackendError, match=f"{reason}.*'chunked'"):
        ask("mamba_ssm", **{**facts, fact: value})
    assert ask("auto", **{**facts, fact: value}) == "chunked"


def test_mamba_ssm_is_called_in_its_own_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for its kernel: arguments arrive, and no gradient is lost in silence."""
    seen: list[dict[str, Any]] = []

    def selective_scan_fn(*tensors: Tensor, **rest: Any) -> Any:
        seen.append({**dict(zip(("u", "delta", "A", "B", "C"), tensors, strict=True)), **rest})
        return selective_scan(*tensors, **rest, backend="reference")

    module = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = selective_scan_fn  # type: ignore[attr-defined]
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    registered = backends._OPS["selective_scan"]
    present = dataclasses.replace(registered["mamba_ssm"], missing=backends.never)
    monkeypatch.setitem(registered, "mamba_ssm", present)

    inputs = {name: t.bfloat16() for name, t in scan_inputs(9, "grouped").items()}
    del inputs["initial_state"]
    run = partial(selective_scan, delta_softplus=True, backend="mamba_ssm")
    exact = partial(reference, delta_softplus=True)
    assert torch.equal(run(**inputs), exact(**inputs))
    # the kernel wants activations in one dtype and parameters in float32
    assert {seen[0][k].dtype for k in ("u", "delta", "B", "C", "z")} == {torch.bfloat16}
    assert {seen[0][k].dtype for k in ("A", "D", "delta_bias")} == {torch.float32}
    inputs["u"].requires_grad_()
    assert run(**inputs).requires_grad
    with pytest.raises(backends.BackendError, match=r"no gradient of the last state; .*'chunked'"):
        run(**inputs, return_last_state=True)
    with torch.no_grad():
        assert torch.equal(run(**inputs, return_last_state=True)[1], reference(**inputs, **FULL)[1])


# --- other implementations -----------------------------------------------------------------------


def oracle_inputs() -> Inputs:
    inputs = {name: t.float() for name, t in scan_inputs(37).items()}
    del inputs["initial_state"]  # neither oracle takes one
    return inputs


def assert_equals_oracle(oracle: Callable[..., Any]) -> None:
    inputs = oracle_inputs()
    expected = oracle(**inputs, **FULL)
    for backend in ("reference", "chunked"):
        actual = selective_scan(**inputs, **FULL, backend=backend)
        for a, e in zip(actual, flatten(expected), strict=True):
            assert_close(a, e, 3e-6, backend)


def test_equals_transformers() -> None:
    """transformers' slow path, whose name and arguments differ between versions."""
    from transformers.models.mamba import modeling_mamba

    scan = getattr(modeling_mamba, "mamba_selective_scan", None)
    if scan is None:
        pytest.skip("this version of transformers has no function for the scan alone")

    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", *FULL)
    assert_equals_oracle(lambda **t: scan(*(t[name] for name in names)))


def test_equals_mamba_ssm_reference() -> None:
    """mamba_ssm's own plain function, taken out of its source: importing it needs a GPU build."""
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("mamba_ssm is not installed")
    file = Path(spec.submodule_search_locations[0]) / "ops" / "selective_scan_interface.py"
    found = [
        node
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "selective_scan_ref"
    ]
    einops = pytest.importorskip("einops")
    names: dict[str, Any] = {
        "torch": torch, "F": F, "rearrange": einops.rearrange, "repeat": einops.repeat
    }  # fmt: skip
    exec(compile(ast.Module(found, []), str(file), "exec"), names)
    assert_equals_oracle(names["selective_scan_ref"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", [1, 8, 129, 1000])
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_on_the_gpu(backend: str, length: int, dtype: torch.dtype) -> None:
    run = partial(selective_scan, backend=backend, **FULL)
    assert_same(run, partial(reference, **FULL), scan_inputs(length), dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("length", [1, 8, 129, 1000])
@pytest.mark.parametrize("kind", ["varying", "grouped"])
def test_mamba_ssm_on_the_gpu(kind: str, length: int) -> None:
    missing = backends.missing("selective_scan", "mamba_ssm", torch.device("cuda"))
    if missing:
        pytest.skip(missing)
    inputs = scan_inputs(length, kind)
    del inputs["initial_state"]
    run = partial(selective_scan, delta_softplus=True, backend="mamba_ssm")
    exact = partial(reference, delta_softplus=True)
    assert_same(run, exact, inputs, torch.float32, "cuda")
    with torch.no_grad():
        cast = {name: t.cuda().float() for name, t in inputs.items()}
        last = selective_scan(**cast, **FULL, backend="mamba_ssm")[1]
    assert_close(last, reference(**inputs, **FULL)[1], 3e-6)
